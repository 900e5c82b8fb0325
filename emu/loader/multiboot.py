"""Loads Multiboot 1 kernels (Multiboot Specification 0.6.96) and writes their boot information.

9000  information structure, then memory map, module list, command line and names (up to FFFF)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from emu.loader.elf import MAGIC as ELF_MAGIC
from emu.loader.elf import Executable, parse, place_segments
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions, check_fits, place
from emu.loader.symbols import SymbolTable
from emu.loader.tables import check_clear, start_protected
from emu.memory import EBDA, MIB, PAGE, GuestMemory
from isa.x86.state import RAX, RBX, X86State

HEADER_MAGIC: Final = 0x1BADB002
BOOT_MAGIC: Final = 0x2BADB002
SEARCH: Final = 8192  # 3.1: the header lies in the first 8192 bytes, 32-bit aligned
INFO: Final = 0x9000
INFO_END: Final = 0x10000
MAX_COMMAND_LINE: Final = 4095

PAGE_ALIGN, MEMORY_INFO, VIDEO_MODE, ADDRESSES = 1 << 0, 1 << 1, 1 << 2, 1 << 16  # 3.1.2
_REQUIRED: Final = 0xFFFF  # a loader that does not know one of these bits must refuse the image
_EGA_TEXT: Final = 1
# The framebuffer, of text (type 2): address, pitch, columns, rows, bits a cell, type.
TEXT_SCREEN: Final = (0xB8000, 160, 80, 25, 16, 2)
FIRST_DISK: Final = 0x80FFFFFF  # BIOS disk 80h, no partition (3.3, boot_device)

# Bits of the information structure's flags (3.3) that say which of its fields hold something.
_HAS_MEMORY, _HAS_DEVICE, _HAS_COMMAND_LINE, _HAS_MODULES = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_HAS_MAP, _HAS_LOADER_NAME, _HAS_FRAMEBUFFER = 1 << 6, 1 << 9, 1 << 12
_INFO_FORMAT: Final = struct.Struct("<7I16x2I12xI20xQ3IBB6x")


@dataclass(frozen=True, slots=True)
class Header:
    """A Multiboot header: its file offset and flags."""

    offset: int
    flags: int


def find_header(data: bytes) -> Header | None:
    """The first aligned magic with a right checksum in the first 8 KiB, or None."""
    magic = struct.pack("<I", HEADER_MAGIC)
    at = data.find(magic, 0, SEARCH)
    while at >= 0:
        if at % 4 == 0 and at + 12 <= len(data):
            flags, checksum = struct.unpack_from("<2I", data, at + 4)
            if (HEADER_MAGIC + flags + checksum) & 0xFFFFFFFF == 0:
                return Header(at, flags)
        at = data.find(magic, at + 1, SEARCH)
    return None


def load_multiboot(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place the kernel, its initrd as the first module, and the boot information; enter it in protected mode."""
    header = find_header(image.data)
    if header is None:
        raise image.error(
            f"no Multiboot header: expected {HEADER_MAGIC:#x} with a right checksum, aligned to 4, in the first "
            f"{min(SEARCH, len(image.data))} bytes"
        )
    _check_flags(image, header)
    if header.flags & ADDRESSES:
        fields_at = header.offset + 12
        fields = struct.unpack("<5I", image.take(fields_at, 20, "the Multiboot address fields"))
        entry, end = place_by_addresses(image, memory, header.offset, fields_at, fields)
        symbols, kind = SymbolTable(), "address fields"
    else:
        if not image.data.startswith(ELF_MAGIC):
            raise image.error(f"Multiboot header at {header.offset:#x}: no address fields, and the file is no ELF file")
        executable = place_elf(image, memory)
        entry, end = executable.entry, executable.end()
        symbols, kind = executable.symbols(image.data), f"ELF{executable.bits}"
    modules = place_initrd(image, memory, end, options.initrd)
    _write_info(image, memory, options.append, modules)
    start_protected(memory, state, entry)
    state.regs[RAX] = BOOT_MAGIC
    state.regs[RBX] = INFO
    return LoadedGuest("multiboot", entry, symbols, f"Multiboot 1 kernel ({kind})")


def _check_flags(image: GuestImage, header: Header) -> None:
    unknown = header.flags & _REQUIRED & ~(PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE)
    if unknown:
        raise image.error(f"Multiboot header at {header.offset:#x} requires features {unknown:#x} that vemu lacks")
    if header.flags & VIDEO_MODE:
        mode = image.u32(header.offset + 32, "the Multiboot video mode")
        if mode != _EGA_TEXT:
            raise image.error(
                f"Multiboot header at {header.offset:#x} requires graphics (mode_type {mode}); vemu has text only"
            )


def place_elf(image: GuestImage, memory: GuestMemory) -> Executable:
    """Place an ELF kernel's segments, clear of the boot information."""
    executable = parse(image)
    for segment in executable.segments:
        _check_low(image, segment.physical, segment.size, f"the segment at file offset {segment.offset:#x}")
    place_segments(image, memory, executable, 32)
    return executable


def place_by_addresses(
    image: GuestImage, memory: GuestMemory, header_at: int, fields_at: int, fields: tuple[int, ...]
) -> tuple[int, int]:
    """Place a kernel by its header's address fields (3.1.3); returns its entry and its end in memory.

    `header_at` and `fields_at` are file offsets; `fields` are addresses: header, load, load end, end of BSS, entry.
    """
    header_address, load_address, load_end, bss_end, entry = fields
    start = header_at - (header_address - load_address)
    length = load_end - load_address if load_end else len(image.data) - start
    if header_address < load_address or start < 0 or length <= 0 or (bss_end and bss_end < load_address + length):
        raise image.error(
            f"Multiboot address fields at file offset {fields_at:#x} contradict each other: header "
            f"{header_address:#x}, load {load_address:#x}-{load_end:#x}, bss end {bss_end:#x}"
        )
    data = image.take(start, length, "what the Multiboot address fields load")
    end = max(bss_end, load_address + length)
    if not load_address <= entry < end:
        raise image.error(f"Multiboot entry {entry:#x} lies outside the kernel at {load_address:#x}-{end:#x}")
    _check_low(image, load_address, end - load_address, "the kernel")
    check_clear(image, 32, load_address, end - load_address, "the kernel")
    check_fits(image, memory, load_address, end - load_address, "the kernel")
    place(image, memory, load_address, data, "the kernel")
    return entry, end


def _check_low(image: GuestImage, gpa: int, length: int, what: str) -> None:
    if gpa < INFO_END and gpa + length > INFO:
        raise image.error(f"{what} at {gpa:#x} overlaps the Multiboot information at {INFO:#x}-{INFO_END - 1:#x}")
    if gpa + length > 1 << 32:
        raise image.error(f"{what} at {gpa:#x} lies above the 4 GiB that a Multiboot kernel starts in")


def place_initrd(image: GuestImage, memory: GuestMemory, end: int, initrd: bytes | None) -> list[tuple[int, int]]:
    """Place the module page-aligned behind the kernel, but not in low memory; returns (start, end) rows."""
    if initrd is None:
        return []
    start = max(-(-end // PAGE) * PAGE, MIB)
    place(image, memory, start, initrd, "its initrd")
    return [(start, start + len(initrd))]


def memory_sizes(memory: GuestMemory) -> tuple[int, int]:
    """KiB of RAM from 0 and from 1 MiB on."""
    return EBDA >> 10, (memory.low_top - MIB) >> 10


def checked_command_line(image: GuestImage, line: str) -> bytes:
    """The command line as bytes; GuestFileError where it is too long."""
    command_line = line.encode("utf-8", "surrogateescape")
    if len(command_line) > MAX_COMMAND_LINE:
        raise image.error(f"a command line of {len(command_line)} bytes; vemu passes at most {MAX_COMMAND_LINE}")
    return command_line


def _write_info(image: GuestImage, memory: GuestMemory, append: str, modules: list[tuple[int, int]]) -> None:
    # The first word is the kernel's name, as boot loaders pass it: kernels skip it (Multiboot 0.6.96, 3.3).
    command_line = checked_command_line(image, f"{image.path} {append}")
    rows = memory.e820()
    map_at = INFO + _INFO_FORMAT.size
    memory_map = b"".join(struct.pack("<IQQI", 20, *row) for row in rows)
    modules_at = map_at + len(memory_map)
    name_at = modules_at + 16 * len(modules)
    name = b"vemu\0"
    text_at = name_at + len(name)
    # A module's string is empty (the zero that ends the loader's name): an initrd is given without a command line.
    module_list = b"".join(struct.pack("<4I", start, end, name_at + len(name) - 1, 0) for start, end in modules)
    lower, upper = memory_sizes(memory)
    flags = (
        _HAS_MEMORY | _HAS_DEVICE | _HAS_COMMAND_LINE | _HAS_MODULES | _HAS_MAP | _HAS_LOADER_NAME | _HAS_FRAMEBUFFER
    )
    info = _INFO_FORMAT.pack(
        flags, lower, upper, FIRST_DISK, text_at, len(modules), modules_at,
        len(memory_map), map_at, name_at,
        *TEXT_SCREEN,
    )  # fmt: skip
    memory.write_bytes(INFO, info + memory_map + module_list + name + command_line + b"\0")
