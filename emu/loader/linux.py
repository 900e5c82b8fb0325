"""Loads Linux kernels, and what boots like one, by the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst).

 10000  boot_params ("zero page")      20000  command line
100000  protected-mode kernel, or at its preferred address; the initrd lies as high as the kernel allows
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from emu.loader.image import GuestImage, LoadedGuest, LoadOptions, check_fits, place
from emu.loader.symbols import SymbolTable
from emu.loader.tables import GDT_LINUX_32, GDT_LINUX_64, start_long, start_protected
from emu.memory import MIB, PAGE, GuestMemory
from isa.x86.state import RSI, X86State

ZERO_PAGE: Final = 0x10000
COMMAND_LINE: Final = 0x20000
ENTRY_64: Final = 0x200  # the 64-bit entry, counted from the start of the protected-mode kernel

_SECTOR: Final = 512
_MAGIC: Final = b"HdrS"
_OLDEST: Final = 0x206  # the first protocol that says how long a command line may be
_RELOCATABLE_SINCE, _PREFERRED_SINCE, _FLAGS_64_SINCE = 0x205, 0x20A, 0x20C
_LOADED_HIGH: Final = 1 << 0
_XLF_KERNEL_64: Final = 1 << 0
_UNKNOWN_LOADER: Final = 0xFF

# Offsets of setup-header fields, in the file and in boot_params alike.
_HEADER: Final = 0x1F1
_HEADER_LENGTH: Final = 0x201  # length of what follows the magic's jump, counted from 202h
_HEADER_LIMIT: Final = 0x290  # where boot_params has other fields
_SETUP_SECTS, _SYSSIZE, _VID_MODE, _BOOT_FLAG, _VERSION = 0x1F1, 0x1F4, 0x1FA, 0x1FE, 0x206
_TYPE_OF_LOADER, _LOADFLAGS, _CODE32_START, _RAMDISK_IMAGE, _RAMDISK_SIZE = 0x210, 0x211, 0x214, 0x218, 0x21C
_CMD_LINE_PTR, _INITRD_ADDR_MAX, _KERNEL_ALIGNMENT, _RELOCATABLE = 0x228, 0x22C, 0x230, 0x234
_XLOADFLAGS, _CMDLINE_SIZE, _PREF_ADDRESS, _INIT_SIZE = 0x236, 0x238, 0x258, 0x260
_LAST_FIELD_SINCE: Final = ((_PREFERRED_SINCE, 0x264), (_OLDEST, 0x23C))

# Offsets of the other boot_params fields (Documentation/arch/x86/zero-page.rst).
_SCREEN_INFO, _ALT_MEM_K, _E820_ENTRIES, _E820_TABLE = 0x000, 0x1E0, 0x1E8, 0x2D0


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """The setup-header fields that decide how a kernel is loaded; addresses and sizes in bytes."""

    version: int
    payload: int  # file offset of the protected-mode kernel
    load_address: int
    memory_needed: int  # from load_address on, before the kernel has read the memory map
    has_64bit_entry: bool
    initrd_max: int  # highest address an initrd may occupy
    command_line_max: int


def is_linux(data: bytes) -> bool:
    """True where the setup header's magic and the boot flag stand in their places."""
    return data[0x202:0x206] == _MAGIC and data[_BOOT_FLAG : _BOOT_FLAG + 2] == b"\x55\xaa"


def load_linux(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place kernel, initrd, command line and boot_params; enter by the 64-bit entry if there is one.

    `options.mode` 32 takes the 32-bit entry of a kernel that has both.
    """
    header = parse(image)
    bits = options.mode or (64 if header.has_64bit_entry else 32)
    if bits == 64 and not header.has_64bit_entry:
        raise image.error("no 64-bit entry: XLF_KERNEL_64 is clear at file offset 0x236")
    check_fits(image, memory, header.load_address, header.memory_needed, "the kernel with its working memory")
    place(image, memory, header.load_address, image.data[header.payload :], "the kernel")
    params = _boot_params(image, memory, header)
    _place_initrd(image, memory, header, params, options.initrd)
    _place_command_line(image, memory, header, params, options.append)
    memory.write_bytes(ZERO_PAGE, params)
    if bits == 64:
        entry = header.load_address + ENTRY_64
        start_long(memory, state, entry, GDT_LINUX_64)
    else:
        entry = header.load_address
        start_protected(memory, state, entry, GDT_LINUX_32)
    state.regs[RSI] = ZERO_PAGE
    version = f"{header.version >> 8}.{header.version & 0xFF:02}"
    return LoadedGuest("linux", entry, SymbolTable(), f"Linux boot protocol {version}, {bits}-bit entry")


def parse(image: GuestImage) -> SetupHeader:
    """Read and check the setup header."""
    if image.take(_BOOT_FLAG, 2, "the boot flag") != b"\x55\xaa":
        raise image.error(f"no boot flag 55 aa at file offset {_BOOT_FLAG:#x}")
    if image.take(0x202, 4, "the setup header's magic") != _MAGIC:
        raise image.error("no setup header: expected 'HdrS' at file offset 0x202")
    version = image.u16(_VERSION, "the boot protocol version")
    if version < _OLDEST:
        raise image.error(f"boot protocol {version:#x} at file offset {_VERSION:#x}: expected {_OLDEST:#x} or newer")
    last = next(end for since, end in _LAST_FIELD_SINCE if version >= since)
    image.take(_HEADER, last - _HEADER, "the setup header")
    if not image.data[_LOADFLAGS] & _LOADED_HIGH:
        raise image.error(f"LOADED_HIGH is clear at file offset {_LOADFLAGS:#x}: expected a bzImage")
    payload = (1 + (image.data[_SETUP_SECTS] or 4)) * _SECTOR  # 0 means 4, for old images
    paragraphs = image.u32(_SYSSIZE, "syssize")
    # syssize counts 16-byte paragraphs, rounded up; a signature may follow the kernel
    image.take(payload, max(1, paragraphs * 16 - 15), "the protected-mode kernel")
    length = len(image.data) - payload
    preferred = version >= _PREFERRED_SINCE
    relocatable = version >= _RELOCATABLE_SINCE and image.data[_RELOCATABLE] != 0
    load_address = MIB
    if relocatable and preferred:
        load_address = _aligned_preference(image)
    return SetupHeader(
        version,
        payload,
        load_address,
        max(length, image.u32(_INIT_SIZE, "init_size")) if preferred else length,
        version >= _FLAGS_64_SINCE and bool(image.u16(_XLOADFLAGS, "xloadflags") & _XLF_KERNEL_64),
        image.u32(_INITRD_ADDR_MAX, "initrd_addr_max"),
        image.u32(_CMDLINE_SIZE, "cmdline_size"),
    )


def _aligned_preference(image: GuestImage) -> int:
    """A relocatable kernel's preferred address, at least 1 MiB and a multiple of its alignment."""
    preference = image.u64(_PREF_ADDRESS, "pref_address")
    alignment = image.u32(_KERNEL_ALIGNMENT, "kernel_alignment")
    if alignment & (alignment - 1) or alignment == 0:
        raise image.error(f"kernel_alignment {alignment:#x} at file offset {_KERNEL_ALIGNMENT:#x} is no power of two")
    if preference >= 1 << 32:
        raise image.error(f"pref_address {preference:#x} at file offset {_PREF_ADDRESS:#x} lies above 4 GiB")
    return -(-max(preference, MIB) // alignment) * alignment


def _boot_params(image: GuestImage, memory: GuestMemory, header: SetupHeader) -> bytearray:
    params = bytearray(PAGE)
    end = min(0x202 + image.data[_HEADER_LENGTH], _HEADER_LIMIT, len(image.data))
    params[_HEADER:end] = image.data[_HEADER:end]
    above = (memory.low_top - MIB) >> 10
    # 80x25 colour text in mode 3, cursor at the top: what a PC's firmware leaves (struct screen_info)
    struct.pack_into("<BBHHBB", params, _SCREEN_INFO, 0, 0, min(above, 0xFFFF), 0, 3, 80)
    struct.pack_into("<BBH", params, _SCREEN_INFO + 0xE, 25, 1, 16)
    struct.pack_into("<I", params, _ALT_MEM_K, above)
    struct.pack_into("<H", params, _VID_MODE, 0xFFFF)
    params[_TYPE_OF_LOADER] = _UNKNOWN_LOADER
    struct.pack_into("<I", params, _CODE32_START, header.load_address)
    rows = memory.e820()
    params[_E820_ENTRIES] = len(rows)
    for number, row in enumerate(rows):
        struct.pack_into("<QQI", params, _E820_TABLE + 20 * number, *row)
    return params


def _place_initrd(
    image: GuestImage, memory: GuestMemory, header: SetupHeader, params: bytearray, initrd: bytes | None
) -> None:
    """Place the initrd on the highest page it may have, above the kernel."""
    if not initrd:
        return
    top = min(memory.low_top, header.initrd_max + 1)
    start = (top - len(initrd)) & ~(PAGE - 1)
    floor = header.load_address + header.memory_needed
    if start < floor:
        raise image.error(
            f"its initrd of {len(initrd)} bytes does not fit between the kernel's end at {floor:#x} and {top:#x}, "
            f"with {memory.size} bytes of RAM"
        )
    place(image, memory, start, initrd, "its initrd")
    struct.pack_into("<II", params, _RAMDISK_IMAGE, start, len(initrd))


def _place_command_line(
    image: GuestImage, memory: GuestMemory, header: SetupHeader, params: bytearray, append: str
) -> None:
    text = append.encode("utf-8", "surrogateescape")
    # cmdline_size does not count the final zero
    limit = min(header.command_line_max, 0x10000 - 1)
    if len(text) > limit:
        raise image.error(f"a command line of {len(text)} bytes, but the kernel takes at most {limit}")
    memory.write_bytes(COMMAND_LINE, text + b"\0")
    struct.pack_into("<I", params, _CMD_LINE_PTR, COMMAND_LINE)
