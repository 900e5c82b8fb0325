"""Starts a firmware image as a ROM: at the top of 4 GiB, its end also below 1 MiB, the CPU as after a reset."""

from __future__ import annotations

from typing import Final

from emu.loader.image import GuestImage, LoadedGuest, LoadOptions
from emu.loader.symbols import SymbolTable
from emu.loader.tables import start_real
from emu.memory import HIGH_BASE, MIB, PAGE, GuestMemory
from isa.x86.state import CR0_ET, CS, RDX, Segment, X86State

MAX_SIZE: Final = 16 * MIB
_SHADOW: Final = 0x20000  # the last 128 KiB are seen below 1 MiB as well (440FX datasheet, 3.2.18)
_OPTION_ROMS: Final = 0xC0000
_RESET_VECTOR: Final = HIGH_BASE - 16
_SEGMENT: Final = 0xF000
_CACHE_DISABLE, _NOT_WRITE_THROUGH = 1 << 30, 1 << 29
_CPU_SIGNATURE: Final = 0x6FB


def check_size(image: GuestImage) -> int:
    """The bytes of ROM that the image needs; raises GuestFileError where it cannot be a ROM."""
    size = len(image.data)
    if not PAGE <= size <= MAX_SIZE or size % PAGE:
        raise image.error(f"{size} bytes are no firmware: a ROM has whole 4 KiB pages, {MAX_SIZE >> 20} MiB at most")
    return size


def load_firmware(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place the ROM and its copy, and put the CPU into its reset state (SDM vol. 3, table 9-1)."""
    size = check_size(image)
    memory.write_bytes(HIGH_BASE - size, image.data, force=True)
    memory.write_bytes(_OPTION_ROMS, b"\xff" * (MIB - _OPTION_ROMS))
    shadow = image.data[-_SHADOW:]
    memory.write_bytes(MIB - len(shadow), shadow)
    memory.protect(_OPTION_ROMS, MIB - _OPTION_ROMS)
    start_real(state, _SEGMENT, _RESET_VECTOR & 0xFFFF, 0)
    code = state.segs[CS]
    state.segs[CS] = Segment(_SEGMENT, _RESET_VECTOR & ~0xFFFF, code.limit, code.attr)
    state.rflags = 2
    state.cr0 = _CACHE_DISABLE | _NOT_WRITE_THROUGH | CR0_ET
    state.regs[RDX] = _CPU_SIGNATURE
    return LoadedGuest("firmware", _RESET_VECTOR, SymbolTable(), f"firmware, ROM of {size >> 10} KiB")
