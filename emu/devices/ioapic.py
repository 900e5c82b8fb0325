"""The 82093AA I/O APIC: 24 inputs, each routed by an entry of its redirection table (datasheet, 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from emu.bus import ALL_ONES
from emu.irq import IrqLine

SIZE: Final = 0x20
INPUTS: Final = 24
_SELECT, _WINDOW = 0x00, 0x10
_ID, _VERSION, _ARBITRATION, _TABLE = 0, 1, 2, 0x10
_VERSION_VALUE: Final = (INPUTS - 1) << 16 | 0x11
_MASKED, _LEVEL, _REMOTE_IRR, _LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11
_DELIVERY: Final = 7 << 8
_FIXED, _LOWEST = 0, 1 << 8
_WRITABLE: Final = 0xFF00_0000_0001_AFFF  # all but the delivery status and the remote IRR


@dataclass(slots=True)
class IoApicState:
    """The registers, and the levels of the inputs as a bit mask."""

    select: int = 0
    id: int = 0
    lines: int = 0
    table: list[int] = field(default_factory=lambda: [_MASKED] * INPUTS)


class IoApic:
    """Sends messages by `deliver(vector, level_triggered)` where `accepts(destination, logical)` says they arrive.

    An input's level means "asserted": the polarity bit is kept without effect. Modes other than fixed and lowest
    priority send nothing: the board has no source of NMIs, and the 8259A pair is wired to the local APIC.
    """

    name = "I/O APIC"

    def __init__(self, deliver: Callable[[int, bool], None], accepts: Callable[[int, bool], bool]) -> None:
        self._deliver, self._accepts = deliver, accepts
        self.state = IoApicState()
        self._lines = [IrqLine(self._sink(number), number) for number in range(INPUTS)]

    def line(self, number: int) -> IrqLine:
        """The input `number`, 0 to 23."""
        return self._lines[number]

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC ended a level-triggered interrupt: a line that is still up asks again."""
        for number, entry in enumerate(self.state.table):
            if entry & 0xFF == vector and entry & _REMOTE_IRR:
                self.state.table[number] = entry & ~_REMOTE_IRR
                self._serve(number)

    def _sink(self, number: int) -> Callable[[bool], None]:
        def changed(level: bool) -> None:
            s, bit = self.state, 1 << number
            s.lines = s.lines | bit if level else s.lines & ~bit
            if level:
                self._serve(number)

        return changed

    def _serve(self, number: int) -> None:
        """An input is up, or its entry was opened: send its message if that is wanted. Masked edges are lost."""
        entry = self.state.table[number]
        if entry & (_MASKED | _REMOTE_IRR) or not self.state.lines >> number & 1:
            return
        if entry & _DELIVERY not in (_FIXED, _LOWEST) or not self._accepts(entry >> 56, bool(entry & _LOGICAL)):
            return
        if entry & _LEVEL:
            self.state.table[number] |= _REMOTE_IRR
        self._deliver(entry & 0xFF, bool(entry & _LEVEL))

    # -- registers ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        s = self.state
        value = 0
        if offset & ~3 == _SELECT:
            value = s.select
        elif offset & ~3 == _WINDOW:
            value = self._register(s.select)
        return value >> (offset & 3) * 8 & ALL_ONES[size]

    def _register(self, number: int) -> int:
        s = self.state
        if number in (_ID, _ARBITRATION):
            return s.id << 24
        if number == _VERSION:
            return _VERSION_VALUE
        entry = number - _TABLE
        if 0 <= entry < 2 * INPUTS:
            return s.table[entry >> 1] >> (entry & 1) * 32 & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        s = self.state
        if offset == _SELECT:
            s.select = value & 0xFF
        elif offset == _WINDOW and size == 4:
            if s.select == _ID:
                s.id = value >> 24 & 0xF
            elif 0 <= s.select - _TABLE < 2 * INPUTS:
                self._route(s.select - _TABLE, value)

    def _route(self, half: int, value: int) -> None:
        s, number, shift = self.state, half >> 1, (half & 1) * 32
        before = s.table[number]
        mask = _WRITABLE & 0xFFFF_FFFF << shift
        entry = before & ~mask | value << shift & mask
        if not entry & _LEVEL:
            entry &= ~_REMOTE_IRR
        s.table[number] = entry
        if entry & _LEVEL:
            self._serve(number)
