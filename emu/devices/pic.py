"""The pair of 8259A interrupt controllers (Intel 8259A datasheet), with the edge/level registers of a PCI chipset.

As in such chipsets, ICW1's LTIM bit (level-triggered inputs) has no effect: the edge/level registers decide. ICW3 says
what the wiring fixes anyway and is taken without effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emu.irq import IrqLine

_CASCADE = 2
_ELCR_MASK = (0xF8, 0xDE)  # IRQ 0, 1, 2, 8 and 13 are always edge-triggered


@dataclass(slots=True)
class PicState:
    """One 8259A: `lines` are the present input levels; `base` the vector of input 0; `init` the ICW expected next."""

    irr: int = 0
    isr: int = 0
    imr: int = 0
    lines: int = 0
    level: int = 0
    base: int = 0
    init: int = 0
    needs_icw4: bool = False
    single: bool = False
    auto_eoi: bool = False
    rotate_on_auto_eoi: bool = False
    special_mask: bool = False
    special_nested: bool = False
    read_isr: bool = False
    poll: bool = False
    lowest: int = 7  # the input of lowest priority


class _Pic:
    """One controller."""

    def __init__(self, master: bool) -> None:
        self.state = PicState()
        self._master = master

    def input(self, number: int, level: bool) -> None:
        s, bit = self.state, 1 << number
        rises = level and not s.lines & bit
        s.lines = s.lines | bit if level else s.lines & ~bit
        if s.level & bit:
            s.irr = s.irr | bit if level else s.irr & ~bit
        elif rises:
            s.irr |= bit
        elif not level:
            s.irr &= ~bit  # an edge-triggered request must stay up until acknowledged

    def trigger(self, level: int) -> None:
        """Choose the level-triggered inputs: these follow their lines at once."""
        s = self.state
        s.level = level
        s.irr = s.irr & ~level | s.lines & level

    def _rank(self, number: int) -> int:
        """Priority of an input: 0 is highest."""
        return (number - self.state.lowest - 1) % 8

    def request(self) -> int:
        """The input to be served next, or -1."""
        s = self.state
        waiting = s.irr & ~s.imr
        if not waiting:
            return -1
        best = min((n for n in range(8) if waiting >> n & 1), key=self._rank)
        busy = s.isr & ~s.imr if s.special_mask else s.isr
        if self._master and s.special_nested and best == _CASCADE:
            busy &= ~(1 << _CASCADE)  # a slave in service does not lock itself out, only what ranks lower
        limit = min((self._rank(n) for n in range(8) if busy >> n & 1), default=8)
        return best if self._rank(best) < limit else -1

    def acknowledge(self, number: int) -> None:
        s, bit = self.state, 1 << number
        if not s.level & bit:
            s.irr &= ~bit
        if s.auto_eoi:
            if s.rotate_on_auto_eoi:
                s.lowest = number
        else:
            s.isr |= bit

    def write(self, offset: int, value: int) -> None:
        s = self.state
        if offset:
            self._data(value)
        elif value & 0x10:  # ICW1
            s.init, s.needs_icw4, s.single = 2, bool(value & 1), bool(value & 2)
            s.imr = s.isr = 0
            s.lowest, s.special_mask, s.read_isr, s.poll = 7, False, False, False
            s.auto_eoi = s.special_nested = s.rotate_on_auto_eoi = False
            s.irr = s.lines & s.level  # an edge must come anew
        elif value & 8:  # OCW3
            if value & 0x40:
                s.special_mask = bool(value & 0x20)
            if value & 4:
                s.poll = True
            elif value & 2:
                s.read_isr = bool(value & 1)
        else:
            self._ocw2(value)

    def _data(self, value: int) -> None:
        s = self.state
        match s.init:
            case 2:
                s.base = value & 0xF8
                s.init = (4 if s.needs_icw4 else 0) if s.single else 3
            case 3:
                s.init = 4 if s.needs_icw4 else 0
            case 4:
                s.auto_eoi, s.special_nested, s.init = bool(value & 2), bool(value & 0x10), 0
            case _:
                s.imr = value

    def _ocw2(self, value: int) -> None:
        s, command, number = self.state, value >> 5, value & 7
        if command in (0, 4):
            s.rotate_on_auto_eoi = command == 4
        elif command in (1, 5):  # non-specific EOI: the highest in service
            busy = s.isr & ~s.imr if s.special_mask else s.isr
            if busy:
                number = min((n for n in range(8) if busy >> n & 1), key=self._rank)
                s.isr &= ~(1 << number)
                if command == 5:
                    s.lowest = number
        elif command in (3, 7):
            s.isr &= ~(1 << number)
            if command == 7:
                s.lowest = number
        elif command == 6:
            s.lowest = number

    def read(self, offset: int) -> int:
        s = self.state
        if s.poll:
            s.poll = False
            number = self.request()
            if number < 0:
                return 0
            self.acknowledge(number)
            return 0x80 | number
        if offset:
            return s.imr
        return s.isr if s.read_isr else s.irr


class PicPair:
    """Master and slave: offsets 0-1 master, 2-3 slave, 4-5 the edge/level registers.

    `on_change(level)` is called when the interrupt output changes.
    """

    name = "8259A pair"

    def __init__(self, on_change: Callable[[bool], None]) -> None:
        self._on_change = on_change
        self._master, self._slave = _Pic(True), _Pic(False)
        self._output = False
        self._lines = [IrqLine(self._sink(number), number) for number in range(16)]

    def _sink(self, number: int) -> Callable[[bool], None]:
        def changed(level: bool) -> None:
            (self._master if number < 8 else self._slave).input(number & 7, level)
            self._update()

        return changed

    def line(self, number: int) -> IrqLine:
        """The input `number`, 0 to 15 (2 is the cascade and serves nobody else)."""
        return self._lines[number]

    def pending(self) -> bool:
        """The level of the interrupt output."""
        return self._output

    def acknowledge(self) -> int:
        """The CPU's acknowledge cycle: the vector; input 7 (spurious) where the request has gone."""
        master, slave = self._master, self._slave
        number = master.request()
        if number < 0:
            vector = master.state.base | 7
        else:
            master.acknowledge(number)
            vector = master.state.base | number
            if number == _CASCADE:
                inner = slave.request()
                if inner >= 0:
                    slave.acknowledge(inner)
                vector = slave.state.base | (inner if inner >= 0 else 7)
                # a slave that holds back another request, having ended this one itself, must give the master an edge
                master.input(_CASCADE, False)
        self._update()
        return vector

    def _update(self) -> None:
        self._master.input(_CASCADE, self._slave.request() >= 0)
        output = self._master.request() >= 0
        if output != self._output:
            self._output = output
            self._on_change(output)

    def read(self, offset: int, size: int) -> int:
        if offset >= 4:
            value = (self._master if offset == 4 else self._slave).state.level
        else:
            value = (self._slave if offset & 2 else self._master).read(offset & 1)
            self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= 4:
            pic = self._master if offset == 4 else self._slave
            pic.trigger(value & _ELCR_MASK[offset - 4])
        else:
            (self._slave if offset & 2 else self._master).write(offset & 1, value)
        self._update()
