"""The 8254 interval timer (Intel 8254 datasheet) and port B, which gates its third counter."""

from __future__ import annotations

from dataclasses import dataclass

from emu.clock import Alarm, Clock
from emu.irq import IrqLine

HZ = 1_193_182
_NS = 1_000_000_000
_REFRESH_NS = 15_085  # half the period of the DRAM refresh toggle of port B


@dataclass(slots=True)
class CounterState:
    """One counter; times are in ticks of its CLK input since reset, counts in 1..65536 (10000 in BCD).

    `control` is bits 5-0 of the last control word. `count` is the count register, `period` what the counting element
    was loaded with at tick `origin`; 0: nothing since the control word. `switch` is the tick at which a count written
    in mode 2 or 3 takes over, `loaded_at` the one from which the status no longer shows a null count, `held` what had
    been counted when the gate stopped it. A latch holds what a read must return before the live count.
    """

    control: int = 0x36
    gate: bool = True
    count: int = 0
    period: int = 0
    origin: int = 0
    switch: int | None = None
    loaded_at: int | None = None
    held: int | None = None
    write_low: int | None = None  # the low byte of a count half written
    read_high: bool = False
    latch: int | None = None
    status: int | None = None


class Counter:
    """One counter of the 8254; every method takes the present tick as `now`."""

    def __init__(self, gate: bool) -> None:
        self.state = CounterState(gate=gate)

    @property
    def mode(self) -> int:
        """0 to 5; the control word's 6 and 7 mean 2 and 3."""
        mode = self.state.control >> 1 & 7
        return mode if mode < 6 else mode - 4

    @property
    def _access(self) -> int:
        """1 low byte, 2 high byte, 3 low then high."""
        return self.state.control >> 4 & 3

    # -- counting ----------------------------------------------------------------------------------------------

    def _settle(self, now: int) -> None:
        """Let a count that was waiting for the end of a period (mode 3: half a period) take over."""
        s = self.state
        if s.switch is None or now < s.switch:
            return
        # a half period that begins with OUT low is the second half of one that began earlier
        falls = (s.switch - s.origin) % s.period != 0
        s.period, s.origin, s.switch = s.count, s.switch - ((s.count + 1) // 2 if falls else 0), None

    def _elapsed(self, now: int) -> int:
        s = self.state
        return s.held if s.held is not None else max(now - s.origin, 0)

    def value(self, now: int) -> int:
        """The counting element, as a read returns it."""
        self._settle(now)
        s = self.state
        if not s.period:
            return 0
        modulus = 10000 if s.control & 1 else 0x10000
        elapsed = self._elapsed(now)
        if self.mode == 2:
            value = s.period - elapsed % s.period
        elif self.mode == 3:  # counts by two, once in each half of the period; an odd count less one
            high = (s.period + 1) // 2
            at = elapsed % s.period
            value = (s.period & ~1) - 2 * (at if at < high else at - high)
        else:
            value = s.period - elapsed  # and on through the wrap
        value %= modulus
        return int(str(value), 16) if s.control & 1 else value

    def out(self, now: int) -> bool:
        """The OUT pin."""
        self._settle(now)
        s = self.state
        if not s.period:
            return self.mode != 0
        elapsed = self._elapsed(now)
        match self.mode:
            case 0 | 1:
                return elapsed >= s.period
            case 2:
                return s.held is not None or elapsed % s.period != s.period - 1
            case 3:
                return s.held is not None or elapsed % s.period < (s.period + 1) // 2
            case _:
                return elapsed != s.period or s.held is not None

    def next_rise(self, now: int) -> int | None:
        """The tick after `now` at which OUT next rises if nothing is written, or None."""
        self._settle(now)
        s = self.state
        if not s.period or s.held is not None:
            return None
        if self.mode in (2, 3):
            if s.period == 1:
                return None  # illegal there: OUT never moves
            rise = s.origin + ((max(now, s.origin) - s.origin) // s.period + 1) * s.period
            return rise if s.switch is None or s.switch >= rise else s.switch + s.count // 2
        rise = s.origin + s.period + (1 if self.mode in (4, 5) else 0)
        return rise if rise > now else None

    # -- the gate ----------------------------------------------------------------------------------------------

    def set_gate(self, gate: bool, now: int) -> None:
        """Drive the GATE pin (datasheet, figure 21: what a low level and a rising edge do in each mode)."""
        self._settle(now)
        s = self.state
        if gate == s.gate:
            return
        s.gate = gate
        if gate and self.mode in (0, 4):
            if s.held is not None:  # goes on where it stopped
                s.origin, s.held = max(now - s.held, s.loaded_at or 0), None
        elif gate:
            if s.count:  # a rising edge starts the count anew
                self._load(now + 1)
        elif self.mode not in (1, 5) and s.period:
            s.held = self._elapsed(now)
            if s.switch is not None:  # only the next rising edge loads the new count
                s.switch = s.loaded_at = None

    def _load(self, at: int) -> None:
        s = self.state
        s.period, s.origin, s.loaded_at, s.switch, s.held = s.count, at, at, None, None

    # -- registers ---------------------------------------------------------------------------------------------

    def program(self, control: int) -> None:
        """A control word: OUT goes to its first level, and nothing counts until a count is written."""
        self.state = CounterState(control=control & 0x3F, gate=self.state.gate)

    def write(self, value: int, now: int) -> None:
        """A byte of the count; it reaches the counting element with the next CLK at the earliest."""
        s = self.state
        if self._access == 3:
            if s.write_low is None:
                s.write_low = value
                if self.mode == 0:
                    s.period = 0  # the first byte stops the count and lowers OUT at once
                return
            value, s.write_low = value << 8 | s.write_low, None
        elif self._access == 2:
            value <<= 8
        self._settle(now)
        if s.control & 1:
            value = int("".join(str(min(value >> shift & 15, 9)) for shift in (12, 8, 4, 0)))
        s.count = value or (10000 if s.control & 1 else 0x10000)
        s.loaded_at = None
        if s.period and now < s.origin:  # the element is about to be loaded in any case
            self._load(now + 1)
        elif self.mode in (1, 5):
            return  # waits for the gate's edge
        elif self.mode in (2, 3) and s.period:
            if s.held is None:  # waits for the end of the period
                s.switch = s.loaded_at = self._boundary(now)
            return
        else:
            self._load(now + 1)
        if not s.gate and self.mode not in (1, 5):
            s.held = 0

    def _boundary(self, now: int) -> int:
        """The tick after `now` at which a new count takes over in modes 2 and 3."""
        s = self.state
        start = now - (now - s.origin) % s.period
        fall = start + (s.period + 1) // 2
        return fall if self.mode == 3 and now < fall else start + s.period

    def latch_count(self, now: int) -> None:
        if self.state.latch is None:
            self.state.latch = self.value(now)

    def latch_status(self, now: int) -> None:
        s = self.state
        if s.status is None:
            null = s.loaded_at is None or now < s.loaded_at
            s.status = self.out(now) << 7 | null << 6 | s.control

    def read(self, now: int) -> int:
        """A byte: of the latched status, else of the latched count, else of the live one."""
        s = self.state
        if s.status is not None:
            value, s.status = s.status, None
            return value
        value = self.value(now) if s.latch is None else s.latch
        if self._access == 3:
            high, s.read_high = s.read_high, not s.read_high
        else:
            high = self._access == 2
        if high or self._access == 1:
            s.latch = None
        return value >> 8 if high else value & 0xFF


class Pit:
    """Three counters at offsets 0 to 2 and the control word at 3; OUT of counter 0 drives `line`."""

    name = "8254"

    def __init__(self, clock: Clock, line: IrqLine) -> None:
        self._clock, self._line = clock, line
        self.counters = (Counter(True), Counter(True), Counter(False))
        self._alarm: Alarm | None = None

    def _now(self) -> int:
        return self._clock.now() * HZ // _NS

    def output(self, number: int) -> bool:
        """The OUT pin of a counter."""
        return self.counters[number].out(self._now())

    def set_gate(self, gate: bool) -> None:
        """The gate of counter 2; the others' are tied high."""
        self.counters[2].set_gate(gate, self._now())

    # -- the interrupt -----------------------------------------------------------------------------------------

    def _arm(self, now: int) -> None:
        """Ask for the next rising edge of counter 0: in whole ticks, so that no error builds up.

        Where the host is late, edges that have passed are not made up for: the interrupt controller would have
        merged them into one.
        """
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        rise = self.counters[0].next_rise(now)
        if rise is not None:
            self._alarm = self._clock.at(-(-rise * _NS // HZ), self._edge)

    def _edge(self) -> None:
        self._rise()
        self._arm(self._now())

    def _rise(self) -> None:
        # OUT's low phases in modes 2 to 5 are left out: a guest that is slow to accept an interrupt keeps it
        self._line.set(False)
        self._line.set(True)

    def _written(self, before: bool, now: int) -> None:
        """Counter 0 was written at tick `now`; `before` is what OUT was."""
        counter = self.counters[0]
        after = counter.out(now)
        if after and not before:
            self._rise()
        elif not after and counter.mode == 0:
            self._line.set(False)
        self._arm(now)

    # -- registers ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if offset == 3:
            return 0xFF
        return self.counters[offset].read(self._now())

    def write(self, offset: int, size: int, value: int) -> None:
        # All of it happens at one tick: were the clock read anew, a host that pauses this process in between would make
        # a single pulse (mode 4) pass before it is waited for, and a guest that waits for it in turn hang.
        now = self._now()
        before = self.counters[0].out(now)
        if offset == 3:
            touched = self._control(value, now)
        else:
            self.counters[offset].write(value, now)
            touched = offset == 0
        if touched:
            self._written(before, now)

    def _control(self, value: int, now: int) -> bool:
        """A control word, latch or read-back command; tells whether it programmed counter 0."""
        select = value >> 6
        if select == 3:  # read-back
            for number, counter in enumerate(self.counters):
                if value >> number + 1 & 1:
                    if not value & 0x20:
                        counter.latch_count(now)
                    if not value & 0x10:
                        counter.latch_status(now)
        elif not value & 0x30:
            self.counters[select].latch_count(now)
        else:
            self.counters[select].program(value)
            return select == 0
        return False


class PortB:
    """Port 61h: gate of counter 2 and speaker (bits 0, 1), refresh toggle (4), output of counter 2 (5)."""

    name = "port B"

    def __init__(self, pit: Pit, clock: Clock) -> None:
        self._pit, self._clock = pit, clock
        self._value = 0

    def read(self, offset: int, size: int) -> int:
        refresh = self._clock.now() // _REFRESH_NS & 1
        return self._value | refresh << 4 | self._pit.output(2) << 5

    def write(self, offset: int, size: int, value: int) -> None:
        self._value = value & 0x0F
        self._pit.set_gate(bool(value & 1))
