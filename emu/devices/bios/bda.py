"""The BIOS data area at 0:400 and the interrupt vectors: addresses, and what a BIOS leaves in them at boot."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from emu.devices.bios.call import Memory
from emu.devices.bios.rom import ROM, ROM_SEGMENT, VECTORS
from emu.disk_image import Geometry

# Fields of the BIOS data area (IBM PS/2 and PC BIOS Interface Technical Reference, section 3).
COM_PORTS: Final = 0x400
EBDA_SEGMENT: Final = 0x40E
EQUIPMENT: Final = 0x410
MEMORY_KB: Final = 0x413
SHIFT_FLAGS: Final = 0x417
SHIFT_FLAGS_2: Final = 0x418
KEY_HEAD: Final = 0x41A
KEY_TAIL: Final = 0x41C
KEY_BUFFER: Final = 0x41E
FLOPPY_STATUS: Final = 0x441
VIDEO_MODE: Final = 0x449
COLUMNS: Final = 0x44A
PAGE_SIZE: Final = 0x44C
PAGE_START: Final = 0x44E
CURSORS: Final = 0x450
CURSOR_SHAPE: Final = 0x460
ACTIVE_PAGE: Final = 0x462
CRTC_PORT: Final = 0x463
TICKS: Final = 0x46C
MIDNIGHT: Final = 0x470
DISK_STATUS: Final = 0x474
DISK_COUNT: Final = 0x475
KEY_START: Final = 0x480
KEY_END: Final = 0x482
ROWS_MINUS_ONE: Final = 0x484
CHARACTER_HEIGHT: Final = 0x485
KEY_STATE: Final = 0x496

BASE: Final = 0x400
SIZE: Final = 0x100
EBDA: Final = 0x9FC00
CONVENTIONAL_KB: Final = EBDA >> 10

# Bits of the equipment word: FPU present, 80x25 colour at start, one serial port.
_EQUIPMENT: Final = 1 << 1 | 2 << 4 | 1 << 9
_FLOPPY_DRIVE: Final = 1 << 0  # with the number of drives less one in bits 6 and 7
# Where the EBDA keeps the parameters of hard disks 80h and 81h, and the vectors that point there.
_DISK_TABLES: Final = ((0x41, 0x3D), (0x46, 0x4D))
_ROM_BASE: Final = ROM_SEGMENT << 4
_ROM_SIZE: Final = 0x10000


def install_vectors(memory: Memory) -> None:
    """Point the interrupt vectors at the ROM's handlers; the ones it has none for stay 0:0."""
    rows = (struct.pack("<HH", offset, ROM_SEGMENT if offset else 0) for offset in VECTORS)
    memory.write_bytes(0, b"".join(rows).ljust(BASE, b"\0"))


def install_data(memory: Memory, disks: Sequence[Geometry], floppies: int = 0) -> None:
    """Fill the BIOS data area, and the EBDA: its size in KiB, and the parameter tables of the first two hard disks."""
    memory.write_bytes(BASE, bytes(SIZE))
    memory.write(EBDA, 1, 1)
    for geometry, (vector, offset) in zip(disks, _DISK_TABLES, strict=False):
        memory.write_bytes(EBDA + offset, _disk_table(geometry))
        memory.write(vector * 4, 4, EBDA >> 4 << 16 | offset)
    words = {
        COM_PORTS: 0x3F8,
        EBDA_SEGMENT: EBDA >> 4,
        EQUIPMENT: _EQUIPMENT | (_FLOPPY_DRIVE | (floppies - 1) << 6 if floppies else 0),
        MEMORY_KB: CONVENTIONAL_KB,
        KEY_HEAD: KEY_BUFFER - BASE,
        KEY_TAIL: KEY_BUFFER - BASE,
        KEY_START: KEY_BUFFER - BASE,
        KEY_END: KEY_BUFFER - BASE + 32,
        COLUMNS: 80,
        PAGE_SIZE: 0x1000,
        CURSOR_SHAPE: 0x0D0E,
        CRTC_PORT: 0x3D4,
    }
    octets = {VIDEO_MODE: 3, DISK_COUNT: len(disks), ROWS_MINUS_ONE: 24, CHARACTER_HEIGHT: 16, KEY_STATE: 0x10}
    for address, value in words.items():
        memory.write(address, 2, value)
    for address, value in octets.items():
        memory.write(address, 1, value)
    memory.write(EBDA, 1, 1)


def _disk_table(geometry: Geometry) -> bytes:
    """A fixed disk parameter table (AT technical reference, BIOS listing): the geometry, and no write compensation."""
    many_heads = 8 if geometry.heads > 8 else 0
    cylinders, heads, sectors = geometry.cylinders, geometry.heads, geometry.sectors
    return struct.pack("<HBHHBB3xHBB", cylinders, heads, 0, 0xFFFF, 0, many_heads, cylinders, sectors & 0xFF, 0)


def install_rom(memory: Memory) -> None:
    """Copy the ROM and its last 16 bytes (reset jump, date, model FCh: AT), and make all 64 KiB read-only."""
    memory.write_bytes(_ROM_BASE, ROM, force=True)
    tail = b"\xea" + struct.pack("<HH", 2 * len(VECTORS), ROM_SEGMENT) + b"01/01/26\0\xfc\0"
    memory.write_bytes(_ROM_BASE + _ROM_SIZE - 16, tail, force=True)
    memory.protect(_ROM_BASE, _ROM_SIZE)
