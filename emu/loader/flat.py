"""Loads a flat binary: bytes at an address, entered at the first of them in the mode the user names."""

from __future__ import annotations

from typing import Final

from emu.errors import UsageError
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions, place
from emu.loader.symbols import SymbolTable
from emu.loader.tables import check_clear, start_long, start_protected, start_real
from emu.memory import VGA_HOLE, GuestMemory
from isa.x86.state import X86State

DEFAULT_MODE: Final = 64
DEFAULT_ORG: Final = {16: 0x7C00, 32: 0x100000, 64: 0x100000}
_BOOT_STACK: Final = 0x7C00
_LOWEST_STACK: Final = 0x1000  # below this, a stack that grows down from the code would run into the BIOS data


def load_flat(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place the whole file at `options.org`; GuestFileError if empty or too big, UsageError for a bad org."""
    mode = DEFAULT_MODE if options.mode is None else options.mode
    org = DEFAULT_ORG[mode] if options.org is None else options.org
    if not image.data:
        raise image.error("empty: a flat binary needs at least one byte")
    if org < 0 or org >= 1 << 32:
        raise UsageError(f"--org {org:#x}: a flat binary starts between 0 and 0xffffffff")
    check_clear(image, mode, org, len(image.data), "the flat binary")
    if mode == 16 and org + len(image.data) > VGA_HOLE:
        raise image.error(
            f"a real-mode binary of {len(image.data)} bytes at {org:#x} does not fit below {VGA_HOLE:#x}, the end of "
            f"conventional memory"
        )
    place(image, memory, org, image.data, "the flat binary")
    if mode == 16:
        _start_real(state, org)
    elif mode == 32:
        start_protected(memory, state, org)
    else:
        start_long(memory, state, org)
    description = f"flat {mode}-bit binary, {len(image.data)} bytes at {org:#x}"
    return LoadedGuest("flat", org, SymbolTable(), description, bios=mode == 16)


def _start_real(state: X86State, org: int) -> None:
    if org > 0xFFFF:
        start_real(state, org >> 4, org & 0xF, _BOOT_STACK, data=org >> 4)
    else:
        start_real(state, 0, org, org if org >= _LOWEST_STACK else _BOOT_STACK)
