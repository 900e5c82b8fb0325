"""Loads Multiboot 2 kernels (Multiboot2 Specification 2.0) and writes their boot information.

9000  information tags (up to FFFF)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from emu.loader import multiboot as one
from emu.loader.elf import MAGIC as ELF_MAGIC
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions
from emu.loader.symbols import SymbolTable
from emu.loader.tables import start_protected
from emu.memory import GuestMemory
from isa.x86.state import RAX, RBX, X86State

HEADER_MAGIC: Final = 0xE85250D6
BOOT_MAGIC: Final = 0x36D76289
SEARCH: Final = 32768  # 3.1: the header lies in the first 32768 bytes, 64-bit aligned
_I386: Final = 0  # architecture: 32-bit protected mode
_ALIGN: Final = 8  # of headers and of all tags

# Types of header tags (3.1.3 to 3.1.13).
_END, _REQUEST, _ADDRESSES, _ENTRY, _CONSOLE, _FRAMEBUFFER, _ALIGN_MODULES = range(7)
_EFI_SERVICES, _EFI_ENTRY_32, _EFI_ENTRY_64, _RELOCATABLE = range(7, 11)
_OPTIONAL: Final = 1  # flag of a header tag: a loader that does not know it may pass over it
_WHOLE_FILE: Final = 0xFFFFFFFF  # load address of a kernel that is loaded from the file's beginning

# Types of information tags (3.6).
_COMMAND_LINE, _LOADER, _MODULE, _MEMORY, _BOOT_DEVICE, _MAP, _SCREEN = 1, 2, 3, 4, 5, 6, 8
_ACPI_OLD, _ACPI_NEW, _LOAD_BASE = 14, 15, 21
_GIVEN: Final = {
    _COMMAND_LINE, _LOADER, _MODULE, _MEMORY, _BOOT_DEVICE, _MAP, _SCREEN, _ACPI_OLD, _ACPI_NEW, _LOAD_BASE,
}  # fmt: skip
_MAP_ROW: Final = struct.Struct("<QQII")
_RSDP_OLD, _RSDP_NEW = 20, 36  # bytes of the ACPI 1.0 and 2.0 structures (ACPI 6.4, 5.2.5.3)


@dataclass(frozen=True, slots=True)
class Header:
    """A Multiboot 2 header: its file offset and length."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Tag:
    """A header tag: its file offset, type, and content behind the eight bytes of type, flags and size."""

    offset: int
    kind: int
    optional: bool
    body: bytes


def find_header(data: bytes) -> Header | None:
    """The first aligned magic with a right checksum in the first 32 KiB, or None."""
    magic = struct.pack("<I", HEADER_MAGIC)
    at = data.find(magic, 0, SEARCH)
    while at >= 0:
        if at % _ALIGN == 0 and at + 16 <= len(data):
            architecture, length, checksum = struct.unpack_from("<3I", data, at + 4)
            if (HEADER_MAGIC + architecture + length + checksum) & 0xFFFFFFFF == 0:
                return Header(at, length)
        at = data.find(magic, at + 1, SEARCH)
    return None


def load_multiboot2(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place the kernel, its initrd as the first module, and the boot information; enter it in protected mode."""
    header = find_header(image.data)
    if header is None:
        raise image.error(
            f"no Multiboot 2 header: expected {HEADER_MAGIC:#x} with a right checksum, aligned to 8, in the first "
            f"{min(SEARCH, len(image.data))} bytes"
        )
    architecture = image.u32(header.offset + 4, "the Multiboot 2 architecture")
    if architecture != _I386:
        raise image.error(f"Multiboot 2 header at {header.offset:#x} is for architecture {architecture}, not i386 (0)")
    tags = {tag.kind: tag for tag in _tags(image, header)}
    for tag in tags.values():
        _check(image, tag)
    if _ADDRESSES in tags:
        entry, end, base = _place_by_addresses(image, memory, header, tags)
        symbols, kind = SymbolTable(), "address tag"
    else:
        if not image.data.startswith(ELF_MAGIC):
            raise image.error(f"Multiboot 2 header at {header.offset:#x}: no address tag, and the file is no ELF file")
        executable = one.place_elf(image, memory)
        entry = _entry(tags) if _ENTRY in tags else executable.entry
        end, base = executable.end(), min(segment.physical for segment in executable.segments)
        symbols, kind = executable.symbols(image.data), f"ELF{executable.bits}"
    modules = one.place_initrd(image, memory, end, options.initrd)
    _write_info(image, memory, options, modules, base)
    start_protected(memory, state, entry)
    state.regs[RAX] = BOOT_MAGIC
    state.regs[RBX] = one.INFO
    return LoadedGuest("multiboot2", entry, symbols, f"Multiboot 2 kernel ({kind})")


def _tags(image: GuestImage, header: Header) -> Iterator[Tag]:
    at, end = header.offset + 16, header.offset + header.length
    while at < end:
        kind, flags, size = struct.unpack("<HHI", image.take(at, 8, "a Multiboot 2 header tag"))
        if kind == _END:
            return
        if size < 8 or at + size > end:
            raise image.error(f"Multiboot 2 header tag of type {kind} at {at:#x} has {size} bytes")
        yield Tag(at, kind, bool(flags & _OPTIONAL), image.take(at + 8, size - 8, "a Multiboot 2 header tag"))
        at += -(-size // _ALIGN) * _ALIGN
    raise image.error(f"the Multiboot 2 header at {header.offset:#x} has no end tag in its {header.length} bytes")


def _check(image: GuestImage, tag: Tag) -> None:
    """Refuse what is asked for in earnest and not there."""
    where = f"Multiboot 2 header tag of type {tag.kind} at {tag.offset:#x}"
    least = {_ADDRESSES: 16, _ENTRY: 4, _CONSOLE: 4, _FRAMEBUFFER: 12}.get(tag.kind, 0)
    if len(tag.body) < least:
        raise image.error(f"{where} has {len(tag.body) + 8} bytes; it needs {least + 8}")
    if tag.optional:
        return
    if tag.kind == _REQUEST:
        wanted = {kind for (kind,) in struct.iter_unpack("<I", tag.body[: len(tag.body) & -4])}
        if wanted - _GIVEN:
            raise image.error(f"{where} requires information {sorted(wanted - _GIVEN)} that vemu lacks")
    elif tag.kind == _FRAMEBUFFER and struct.unpack_from("<I", tag.body, 8)[0]:
        raise image.error(f"{where} requires graphics; vemu has text only")
    elif tag.kind == _EFI_SERVICES or tag.kind > _RELOCATABLE:
        raise image.error(f"{where} requires what vemu lacks")


def _entry(tags: dict[int, Tag]) -> int:
    entry: int = struct.unpack_from("<I", tags[_ENTRY].body)[0]
    return entry


def _place_by_addresses(
    image: GuestImage, memory: GuestMemory, header: Header, tags: dict[int, Tag]
) -> tuple[int, int, int]:
    """Entry, end and beginning in memory of a kernel placed by its address tag (3.1.5)."""
    tag = tags[_ADDRESSES]
    if _ENTRY not in tags:
        raise image.error(f"Multiboot 2 header at {header.offset:#x} has an address tag but no entry tag")
    header_address, load, load_end, bss_end = struct.unpack_from("<4I", tag.body)
    if load == _WHOLE_FILE:
        load = header_address - header.offset & 0xFFFFFFFF
    fields = (header_address, load, load_end, bss_end, _entry(tags))
    return *one.place_by_addresses(image, memory, header.offset, tag.offset + 8, fields), load


def _tag(kind: int, body: bytes) -> bytes:
    size = len(body) + 8
    return struct.pack("<II", kind, size) + body + bytes(-size % _ALIGN)


def _write_info(
    image: GuestImage, memory: GuestMemory, options: LoadOptions, modules: list[tuple[int, int]], base: int
) -> None:
    rows = memory.e820()
    tags = [
        _tag(_COMMAND_LINE, one.checked_command_line(image, options.append) + b"\0"),
        _tag(_LOADER, b"vemu\0"),
        *(_tag(_MODULE, struct.pack("<II", *module) + b"\0") for module in modules),
        _tag(_MEMORY, struct.pack("<II", *one.memory_sizes(memory))),
        _tag(_BOOT_DEVICE, struct.pack("<3I", one.FIRST_DISK >> 24, 0xFFFFFFFF, 0xFFFFFFFF)),
        _tag(_MAP, struct.pack("<II", _MAP_ROW.size, 0) + b"".join(_MAP_ROW.pack(*row, 0) for row in rows)),
        _tag(_SCREEN, struct.pack("<Q3IBBH", *one.TEXT_SCREEN, 0)),
        _tag(_LOAD_BASE, struct.pack("<I", base)),
    ]
    if options.rsdp:
        for kind, length in ((_ACPI_OLD, _RSDP_OLD), (_ACPI_NEW, _RSDP_NEW)):
            tags.append(_tag(kind, memory.read_bytes(options.rsdp, length)))
    tags.append(_tag(_END, b""))
    content = b"".join(tags)
    memory.write_bytes(one.INFO, struct.pack("<II", len(content) + 8, 0) + content)
