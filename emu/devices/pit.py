"""The 8254 interval timer (Intel 8254 datasheet) and port B, which gates its third channel."""

from __future__ import annotations

from dataclasses import dataclass

from emu.bus import ALL_ONES
from emu.clock import Alarm, Clock
from emu.irq import IrqLine

HZ = 1_193_182
_NS = 1_000_000_000
_REFRESH_NS = 15_085  # half the period of the DRAM refresh toggle of port B


@dataclass(slots=True)
class Channel:
    """One counter: `reload` 1..65536 (10000 in BCD), `start` the guest time (ns) at which counting began.

    A latch holds what a read must return before the live count; `status` is a latched status byte, or -1.
    """

    mode: int = 3
    access: int = 3  # 1 low byte, 2 high byte, 3 both
    bcd: bool = False
    reload: int = 0x10000
    start: int = 0
    loaded: bool = False
    gate: bool = True
    write_low: int = -1  # the low byte of a count half written
    read_high: bool = False
    latch: int = -1
    status: int = -1
    paused_at: int = -1  # ticks already counted when the gate closed


class Pit:
    """Three counters; channel 0 drives `line`."""

    name = "8254"

    def __init__(self, clock: Clock, line: IrqLine) -> None:
        self._clock, self._line = clock, line
        self.channels = [Channel(), Channel(), Channel(gate=False)]
        self._alarm: Alarm | None = None
        self._edges = 0  # edges of channel 0 since it was loaded

    # -- counting ----------------------------------------------------------------------------------------------

    def _ticks(self, channel: Channel) -> int:
        """Clock ticks since the count was loaded (or the gate last restarted it)."""
        if channel.paused_at >= 0:
            return channel.paused_at
        return max(self._clock.now() - channel.start, 0) * HZ // _NS

    def _count(self, channel: Channel) -> int:
        """The live counter, as read."""
        modulus = 10000 if channel.bcd else 0x10000
        if not channel.loaded:
            return 0
        ticks = self._ticks(channel)
        if channel.mode == 2:
            count = channel.reload - ticks % channel.reload
        elif channel.mode == 3:  # counts by two: the period is gone through twice
            count = channel.reload - ticks * 2 % channel.reload
        else:
            count = (channel.reload - ticks) % modulus
        count %= modulus
        return int(str(count), 16) if channel.bcd else count

    def output(self, number: int) -> bool:
        """The OUT pin of a channel."""
        channel = self.channels[number]
        if not channel.loaded:
            return channel.mode != 0
        ticks = self._ticks(channel)
        match channel.mode:
            case 0 | 1:
                return ticks >= channel.reload
            case 2:
                return ticks % channel.reload != channel.reload - 1
            case 3:
                return ticks % channel.reload < (channel.reload + 1) // 2
            case _:
                return ticks != channel.reload

    def set_gate(self, gate: bool) -> None:
        """The gate of channel 2."""
        channel = self.channels[2]
        if gate == channel.gate:
            return
        channel.gate = gate
        if gate:
            if channel.mode in (0, 4):  # goes on where it stopped
                channel.start = self._clock.now() - max(channel.paused_at, 0) * _NS // HZ
            else:  # a rising gate restarts the others
                channel.start = self._clock.now()
            channel.paused_at = -1
        elif channel.mode in (0, 2, 3, 4):
            channel.paused_at = self._ticks(channel)

    # -- the interrupt -----------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the alarm for the next rising edge of channel 0, counted from its start so that no error builds up."""
        channel = self.channels[0]
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not channel.loaded or (channel.mode not in (2, 3) and self._edges):
            return
        ticks = channel.reload * (self._edges + 1)
        self._alarm = self._clock.at(channel.start + -(-ticks * _NS // HZ), self._edge)

    def _edge(self) -> None:
        channel = self.channels[0]
        self._alarm = None
        self._edges += 1
        if channel.mode in (2, 3):
            # a host that was busy for long must not be followed by a burst of interrupts
            passed = self._ticks(channel) // channel.reload
            if passed > self._edges + 2:
                self._edges = passed
        self._line.set(False)
        self._line.set(True)
        self._arm()

    # -- registers ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        ones = ALL_ONES[size] & ~0xFF
        if offset == 3:
            return ALL_ONES[size]
        channel = self.channels[offset]
        if channel.status >= 0:
            value, channel.status = channel.status, -1
            return value | ones
        value = channel.latch if channel.latch >= 0 else self._count(channel)
        if channel.access == 1:
            channel.latch = -1
            return value & 0xFF | ones
        if channel.access == 2:
            channel.latch = -1
            return value >> 8 & 0xFF | ones
        high, channel.read_high = channel.read_high, not channel.read_high
        if high:
            channel.latch = -1
            return value >> 8 & 0xFF | ones
        return value & 0xFF | ones

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if offset == 3:
            self._control(value)
            return
        channel = self.channels[offset]
        if channel.access == 3:
            if channel.write_low < 0:
                channel.write_low = value
                return
            value, channel.write_low = value << 8 | channel.write_low, -1
        elif channel.access == 2:
            value <<= 8
        if channel.bcd:
            value = int("".join(str(min(value >> shift & 15, 9)) for shift in (12, 8, 4, 0)))
        channel.reload = value or (10000 if channel.bcd else 0x10000)
        channel.start, channel.loaded, channel.latch = self._clock.now(), True, -1
        channel.paused_at = -1 if channel.gate else 0
        if offset == 0:
            self._edges = 0
            if channel.mode == 0:
                self._line.set(False)
            self._arm()

    def _control(self, value: int) -> None:
        select = value >> 6
        if select == 3:  # read-back
            for number, channel in enumerate(self.channels):
                if value >> number + 1 & 1:
                    if not value & 0x20 and channel.latch < 0:
                        channel.latch = self._count(channel)
                    if not value & 0x10 and channel.status < 0:
                        pin = 0x80 if self.output(number) else 0
                        null = 0 if channel.loaded else 0x40
                        channel.status = pin | null | channel.access << 4 | channel.mode << 1 | channel.bcd
            return
        channel = self.channels[select]
        access = value >> 4 & 3
        if access == 0:
            if channel.latch < 0:
                channel.latch = self._count(channel)
            return
        mode = value >> 1 & 7
        channel.access, channel.mode, channel.bcd = access, mode if mode < 6 else mode - 4, bool(value & 1)
        channel.loaded, channel.write_low, channel.read_high = False, -1, False
        channel.latch = channel.status = -1
        if select == 0:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            self._line.set(False)


class PortB:
    """Port 61h: gate of channel 2 and speaker (bits 0, 1), refresh toggle (4), output of channel 2 (5)."""

    name = "port B"

    def __init__(self, pit: Pit, clock: Clock) -> None:
        self._pit, self._clock = pit, clock
        self._value = 0

    def read(self, offset: int, size: int) -> int:
        refresh = self._clock.now() // _REFRESH_NS & 1
        value = self._value | refresh << 4 | self._pit.output(2) << 5
        return value | ALL_ONES[size] & ~0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        self._value = value & 0x0F
        self._pit.set_gate(bool(value & 1))
