"""Loads a boot sector as a BIOS does: the image is the first hard disk, its first sector runs at 0:7C00."""

from __future__ import annotations

from typing import Final

from emu.loader.image import GuestImage, LoadedGuest, LoadOptions, place
from emu.loader.symbols import SymbolTable
from emu.loader.tables import start_real
from emu.memory import GuestMemory
from isa.x86.state import RDX, X86State

SECTOR: Final = 512
SIGNATURE: Final = b"\x55\xaa"
SIGNATURE_AT: Final = 510
BOOT_ADDRESS: Final = 0x7C00
FIRST_HARD_DISK: Final = 0x80


def is_boot(data: bytes) -> bool:
    """True for whole sectors, the first of them signed."""
    return len(data) >= SECTOR and len(data) % SECTOR == 0 and data[SIGNATURE_AT:SECTOR] == SIGNATURE


def load_boot(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place the first sector; the disk behind it is the business of the BIOS services."""
    sector = image.take(0, SECTOR, "a boot sector")
    if sector[SIGNATURE_AT:] != SIGNATURE:
        raise image.error(
            f"bytes {sector[SIGNATURE_AT:].hex(' ')} at file offset {SIGNATURE_AT:#x}: a boot sector has 55 aa there"
        )
    if len(image.data) % SECTOR:
        raise image.error(f"{len(image.data)} bytes are no whole number of {SECTOR}-byte sectors")
    place(image, memory, BOOT_ADDRESS, sector, "the boot sector")
    start_real(state, 0, BOOT_ADDRESS, BOOT_ADDRESS)
    state.regs[RDX] = FIRST_HARD_DISK
    description = f"boot sector, disk image of {len(image.data) // SECTOR} sectors"
    return LoadedGuest("boot", BOOT_ADDRESS, SymbolTable(), description, bios=True)
