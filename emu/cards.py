"""Puts virtio devices into the slots of the PCI bus, with the addresses and interrupts that firmware gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu import boards
from emu.bus import Bus
from emu.devices.pci import PciConfig, PciWindows
from emu.devices.virtio import BAR, VirtioPci
from emu.devices.virtio.transport import VirtioDevice
from emu.irq import IrqLine, SharedLine
from emu.memory import GuestMemory

_FIRST_SLOT: Final = 3  # 0 is the host bridge, 1 the ISA bridge; 2 is where PCs of this chipset have their VGA
_SPACING: Final = 0x1_0000
_INTERRUPT_LINE: Final = 0x3C
_COMMAND, _BUS_MASTER = 0x04, 1 << 2


class Cards:
    """The slots in order. `placed` says whether devices get their addresses here, as no firmware will do it."""

    def __init__(
        self,
        pci: PciConfig,
        ports: Bus,
        mmio: Bus,
        memory: GuestMemory,
        line: Callable[[int], IrqLine],
        placed: bool,
    ) -> None:
        self._pci, self._memory, self._placed = pci, memory, placed
        self._windows = PciWindows(ports, mmio)
        self._lines = {number: SharedLine(line(number)) for number in sorted(set(boards.PCI_ROUTES))}
        self._next = _FIRST_SLOT

    def add(self, device: VirtioDevice) -> None:
        """Put `device` into the next slot; its INTA# goes where the board's wiring leads (see `emu.loader.dsdt`)."""
        slot, self._next = self._next, self._next + 1
        interrupt = boards.PCI_ROUTES[(slot - 1) % len(boards.PCI_ROUTES)]
        card = VirtioPci(device, self._memory, self._lines[interrupt].line())
        self._pci.add(slot, card.function)
        self._windows.connect(card.function, {BAR: card})
        if self._placed:
            card.function.place(BAR, boards.PCI_CARDS + slot * _SPACING)
            card.function.config[_COMMAND] |= _BUS_MASTER
            card.function.config[_INTERRUPT_LINE] = interrupt
