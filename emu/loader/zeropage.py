"""Builds boot_params, the "zero page" in which Linux is told of its machine (Documentation/arch/x86/zero-page.rst).

10000  boot_params      11000  random seed      20000  command line; the initrd lies as high as the kernel allows
"""

from __future__ import annotations

import struct
from typing import Final

from emu.loader.image import GuestImage, LoadOptions, place_high
from emu.memory import MIB, PAGE, GuestMemory

ZERO_PAGE: Final = 0x10000
SEED: Final = 0x11000
COMMAND_LINE: Final = 0x20000
COMMAND_LINE_LIMIT: Final = 0x10000 - 1  # characters, so that it ends below 30000h

# Offsets of setup-header fields, in a bzImage and in boot_params alike (Documentation/arch/x86/boot.rst).
SETUP: Final = 0x1F1
SETUP_LIMIT: Final = 0x290  # where boot_params has other fields
_VID_MODE, _VERSION, _TYPE_OF_LOADER, _CODE32_START, _RAMDISK_IMAGE = 0x1FA, 0x206, 0x210, 0x214, 0x218
_CMD_LINE_PTR, _SETUP_DATA = 0x228, 0x250
_SETUP_DATA_SINCE: Final = 0x209
_RNG_SEED: Final = 9  # type of a struct setup_data: since Linux 6.0, older kernels pass it over
# Offsets of the other fields.
_SCREEN_INFO, _ACPI_RSDP_ADDR, _ALT_MEM_K, _E820_ENTRIES, _E820_TABLE = 0x000, 0x070, 0x1E0, 0x1E8, 0x2D0

UNKNOWN_LOADER: Final = 0xFF


def build(memory: GuestMemory, setup: bytes, load_address: int, rsdp: int) -> bytearray:
    """A zero page around `setup`, the setup header from 1F1h on; `rsdp` is the address of ACPI's root, or 0."""
    params = bytearray(PAGE)
    params[SETUP : SETUP + len(setup)] = setup
    above = (memory.low_top - MIB) >> 10
    # 80x25 colour text in mode 3, cursor at the top: what a PC's firmware leaves (struct screen_info)
    struct.pack_into("<BBHHBB", params, _SCREEN_INFO, 0, 0, min(above, 0xFFFF), 0, 3, 80)
    struct.pack_into("<BBH", params, _SCREEN_INFO + 0xE, 25, 1, 16)
    struct.pack_into("<Q", params, _ACPI_RSDP_ADDR, rsdp)
    struct.pack_into("<I", params, _ALT_MEM_K, above)
    struct.pack_into("<H", params, _VID_MODE, 0xFFFF)
    params[_TYPE_OF_LOADER] = UNKNOWN_LOADER
    # 32 bits only, which a kernel above 4 GiB does without: it is entered by the 64-bit protocol
    struct.pack_into("<I", params, _CODE32_START, load_address if load_address >> 32 == 0 else 0)
    rows = memory.e820()
    params[_E820_ENTRIES] = len(rows)
    for number, row in enumerate(rows):
        struct.pack_into("<QQI", params, _E820_TABLE + 20 * number, *row)
    return params


def place_initrd(
    image: GuestImage, memory: GuestMemory, params: bytearray, initrd: bytes | None, floor: int, highest: int
) -> None:
    """Place the initrd on the highest page it may have: above `floor`, its last byte not above `highest`."""
    if initrd:
        start = place_high(image, memory, initrd, floor, highest + 1, "its initrd")
        struct.pack_into("<II", params, _RAMDISK_IMAGE, start, len(initrd))


def place_command_line(image: GuestImage, memory: GuestMemory, append: str, limit: int) -> int:
    """Write the command line of at most `limit` bytes, its final zero not counted; returns its address."""
    text = append.encode("utf-8", "surrogateescape")
    limit = min(limit, COMMAND_LINE_LIMIT)
    if len(text) > limit:
        raise image.error(f"a command line of {len(text)} bytes, but the kernel takes at most {limit}")
    memory.write_bytes(COMMAND_LINE, text + b"\0")
    return COMMAND_LINE


def _place_seed(memory: GuestMemory, params: bytearray, seed: bytes) -> None:
    """Give the kernel's random generator a start, where its boot protocol knows how (boot.rst, struct setup_data)."""
    if struct.unpack_from("<H", params, _VERSION)[0] >= _SETUP_DATA_SINCE:
        memory.write_bytes(SEED, struct.pack("<QII", 0, _RNG_SEED, len(seed)) + seed)
        struct.pack_into("<Q", params, _SETUP_DATA, SEED)


def finish(image: GuestImage, memory: GuestMemory, params: bytearray, options: LoadOptions, limit: int) -> int:
    """Place the random seed, the command line and the zero page that names them; returns the zero page's address."""
    if options.seed:
        _place_seed(memory, params, options.seed)
    struct.pack_into("<I", params, _CMD_LINE_PTR, place_command_line(image, memory, options.append, limit))
    memory.write_bytes(ZERO_PAGE, params)
    return ZERO_PAGE
