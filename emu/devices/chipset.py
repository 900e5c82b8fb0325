"""The PCI functions of a PC's chipset: 440FX host bridge, PIIX3 ISA bridge and IDE, PIIX4 power management."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from emu.devices.pci import PciFunction

_INTEL: Final = 0x8086
_QEMU: Final = (0x1AF4, 0x1100)  # the subsystem by which firmware knows that this is no real board
_PAM, _PAM_WRITE = 0x59, 2
_COMMAND, _INTERRUPT_LINE = 0x04, 0x3C
_PM_BASE, _DEVICE_ACTIVITY, _PM_ENABLE = 0x40, 0x58, 0x80
_PIRQ: Final = 0x60  # four bytes that route INTA to INTD


class ShadowedMemory(Protocol):
    """What the host bridge sets of the memory below 1 MiB (multiples of 4 KiB)."""

    def protect(self, start: int, length: int) -> None: ...

    def unprotect(self, start: int, length: int) -> None: ...


class HostBridge(PciFunction):
    """The 440FX host bridge, whose PAM registers say which parts of the BIOS area can be written (datasheet, 3.2.18).

    The area is RAM that holds a copy of the firmware's ROM: only the write enable bits have an effect, and only once
    they were written. A guest that switches reads back to the ROM sees the RAM.
    """

    def __init__(self, memory: ShadowedMemory) -> None:
        super().__init__(_INTEL, 0x1237, 0x060000, subsystem=_QEMU)
        self._memory = memory
        self.writable[_PAM : _PAM + 7] = b"\xf0" + b"\xff" * 6

    def write(self, register: int, size: int, value: int) -> None:
        before = bytes(self.config[_PAM : _PAM + 7])
        super().write(register, size, value)
        for number, (old, new) in enumerate(zip(before, self.config[_PAM : _PAM + 7], strict=True)):
            for nibble in (0, 4):
                if (old ^ new) >> nibble & _PAM_WRITE:
                    start, length = _pam_range(number, nibble)
                    change = self._memory.unprotect if new >> nibble & _PAM_WRITE else self._memory.protect
                    change(start, length)


def _pam_range(number: int, nibble: int) -> tuple[int, int]:
    """What half a PAM register governs: PAM0's upper half the last 64 KiB, the others 16 KiB each from C0000h on."""
    if number == 0:
        return 0xF0000, 0x10000
    return 0xC0000 + ((number - 1) * 2 + nibble // 4) * 0x4000, 0x4000


class PowerFunction(PciFunction):
    """The power management function of the PIIX4 (82371AB datasheet, 7.1).

    `moved` is called with the base of the PM registers, or None while they are not decoded, when that changes.
    """

    def __init__(self, base: int, interrupt: int, moved: Callable[[int | None], None]) -> None:
        """Firmware left the registers at `base` and their interrupt at `interrupt`."""
        super().__init__(_INTEL, 0x7113, 0x068000, revision=3, interrupt_pin=1)
        self.config[_PM_BASE : _PM_BASE + 4] = (base | 1).to_bytes(4, "little")
        self.config[_INTERRUPT_LINE] = interrupt
        self.config[_PM_ENABLE] = 1
        # DEVACTB, APMC_EN: tells firmware that system management mode was set up already, since there is none.
        self.config[_DEVICE_ACTIVITY + 3] = 2
        self.writable[_PM_BASE : _PM_BASE + 2] = b"\xc0\xff"
        self.writable[_PM_ENABLE] = 1
        self._moved = moved

    def base(self) -> int | None:
        """Where the PM registers are in port space, None while they are switched off."""
        base = int.from_bytes(self.config[_PM_BASE : _PM_BASE + 2], "little") & 0xFFC0
        return base if self.config[_PM_ENABLE] & 1 and base else None

    def write(self, register: int, size: int, value: int) -> None:
        before = self.base()
        super().write(register, size, value)
        if self.base() != before:
            self._moved(self.base())


def isa_bridge(routes: tuple[int, int, int, int]) -> PciFunction:
    """The ISA bridge of the PIIX3; `routes` are the IRQs of INTA to INTD as firmware sets them (datasheet, 2.3.8)."""
    function = PciFunction(_INTEL, 0x7000, 0x060100)
    function.config[_PIRQ : _PIRQ + 4] = bytes(routes)
    function.writable[_PIRQ : _PIRQ + 4] = b"\x8f" * 4
    return function


def piix3_ide() -> PciFunction:
    """The IDE function of the PIIX3, without its bus master, in compatibility mode: ports and IRQs of the AT.

    Both channels decode, as firmware leaves them (IDETIM bit 15; Intel 82371SB datasheet, 2.3.9).
    """
    function = PciFunction(_INTEL, 0x7010, 0x010100)
    function.config[_COMMAND] = 1  # I/O
    function.config[0x40:0x44] = b"\x00\x80" * 2
    function.writable[0x40:0x44] = b"\xff" * 4
    return function
