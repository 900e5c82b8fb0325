"""The MC146818A real-time clock and CMOS memory (Motorola MC146818A datasheet; CMOS layout of the IBM AT)."""

from __future__ import annotations

import calendar
import datetime
from dataclasses import dataclass, field

from emu.clock import Alarm, Clock
from emu.irq import IrqLine

_SECOND = 1_000_000_000
_DAY = 86_400  # seconds
_CRYSTAL = 32_768  # ticks a second
_UIP_NS = 244_000  # update in progress is seen this long before the second turns
_A, _B, _C, _D = 0x0A, 0x0B, 0x0C, 0x0D
_A_UIP, _A_RESET = 0x80, 0x60  # both bits set: the divider is held in reset
_B_SET, _B_PIE, _B_AIE, _B_UIE, _B_BINARY, _B_24H = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
_C_IRQ, _C_PERIODIC, _C_ALARM, _C_UPDATE = 0x80, 0x40, 0x20, 0x10  # each cause stands where its enable is in B
_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DATE, _MONTH, _YEAR, _CENTURY = 0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32
_TIME = frozenset((_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DATE, _MONTH, _YEAR, _CENTURY))
_ALARM = ((0x01, _SECONDS), (0x03, _MINUTES), (0x05, _HOURS))
_LOW_TOP = 0xC000_0000  # no RAM of the board lies between here and 4 GiB
_MIB = 1 << 20


@dataclass(slots=True)
class RtcState:
    """`cmos` holds every register as the guest reads it, the time as of the last second that was worked out.

    `origin` is the guest time (ns) at which the divider chain stood at 0, so that seconds turn at whole seconds from
    there; `seen` is how far the divider had come (ns) when its events were last collected.
    """

    index: int = 0
    cmos: bytearray = field(default_factory=lambda: bytearray(128))
    origin: int = 0
    seen: int = 0


class Rtc:
    """Offset 0 selects a register, offset 1 is its data; `start` is the present date (UTC).

    `memory_size` is in bytes. Nothing runs between two accesses but the alarms of enabled interrupts: an access first
    works out what happened since the last one.
    """

    name = "RTC"

    def __init__(self, clock: Clock, line: IrqLine, start: datetime.datetime, memory_size: int) -> None:
        self._clock, self._line = clock, line
        self.state = RtcState(origin=clock.now() - start.microsecond * 1000, seen=start.microsecond * 1000)
        self.cmos = self.state.cmos
        self.cmos[_A], self.cmos[_B], self.cmos[_D] = 0x26, _B_24H, 0x80
        self._store(start)
        self.cmos[_WEEKDAY] = start.isoweekday() % 7 + 1
        self._sizes(memory_size)
        self._alarm: Alarm | None = None

    def _sizes(self, size: int) -> None:
        low = min(size, _LOW_TOP)
        extended = min((low - _MIB) >> 10, 0xFFFF)  # KiB above 1 MiB
        above = max(low - 16 * _MIB, 0) >> 16  # 64 KiB units above 16 MiB
        for at, value in ((0x15, 640), (0x17, extended), (0x30, extended), (0x34, above)):
            self.cmos[at : at + 2] = value.to_bytes(2, "little")
        self.cmos[0x5B:0x5E] = (size - low >> 16).to_bytes(3, "little")  # 64 KiB units above 4 GiB, as QEMU tells them
        self.cmos[0x14] = 0x02  # equipment: a coprocessor; a colour display, no floppy drive, no mouse

    # -- the date and time -------------------------------------------------------------------------------------

    def _encode(self, value: int) -> int:
        return value if self.cmos[_B] & _B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self.cmos[_B] & _B_BINARY else (value >> 4) * 10 + (value & 15)

    def _encode_hour(self, hour: int) -> int:
        if self.cmos[_B] & _B_24H:
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (0x80 if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self.cmos[_B] & _B_24H:
            return self._decode(value)
        return self._decode(value & 0x7F) % 12 + (12 if value & 0x80 else 0)

    def _date(self) -> datetime.datetime:
        """The date the registers hold; a date that does not exist becomes the nearest one."""
        cmos = self.cmos
        hour = self._decode_hour(cmos[_HOURS])
        year = min(max(self._decode(cmos[_CENTURY]) * 100 + self._decode(cmos[_YEAR]), 1), 9998)
        month = min(max(self._decode(cmos[_MONTH]), 1), 12)
        day = min(max(self._decode(cmos[_DATE]), 1), calendar.monthrange(year, month)[1])
        minute, second = (min(self._decode(cmos[at]), 59) for at in (_MINUTES, _SECONDS))
        return datetime.datetime(year, month, day, min(hour, 23), minute, second)

    def _store(self, date: datetime.datetime) -> None:
        """Put a date into the registers, except for the day of the week, which the chip only counts."""
        fields = (
            (_SECONDS, date.second), (_MINUTES, date.minute), (_DATE, date.day), (_MONTH, date.month),
            (_YEAR, date.year % 100), (_CENTURY, date.year // 100),
        )  # fmt: skip
        for register, value in fields:
            self.cmos[register] = self._encode(value)
        self.cmos[_HOURS] = self._encode_hour(date.hour)

    def _advance(self, seconds: int) -> None:
        """Count `seconds` on, setting the alarm flag if the time passes the alarm's."""
        before = self._date()
        after = before + datetime.timedelta(seconds=seconds)
        midnight = datetime.time()
        days = (datetime.datetime.combine(after, midnight) - datetime.datetime.combine(before, midnight)).days
        weekday = max(self._decode(self.cmos[_WEEKDAY]), 1)
        self._store(after)
        self.cmos[_WEEKDAY] = self._encode((weekday - 1 + days) % 7 + 1)
        if not self.cmos[_C] & _C_ALARM:
            first = before.hour * 3600 + before.minute * 60 + before.second + 1
            passed = range(first, first + min(seconds, _DAY))
            if any(self._is_alarm(second % _DAY) for second in passed):
                self.cmos[_C] |= _C_ALARM

    def _is_alarm(self, second: int) -> bool:
        """Whether the alarm is set for this second of the day; a byte of C0h and more matches everything."""
        shown = (self._encode(second % 60), self._encode(second // 60 % 60), self._encode_hour(second // 3600))
        return all(self.cmos[at] >= 0xC0 or self.cmos[at] == now for (at, _), now in zip(_ALARM, shown, strict=True))

    # -- events ------------------------------------------------------------------------------------------------

    def _period(self) -> int:
        """Crystal ticks between two periodic events, 0 for none (datasheet, table 5)."""
        rate = self.cmos[_A] & 15
        if not rate:
            return 0
        return 1 << (rate + 6 if rate < 3 else rate - 1)

    def _stopped(self) -> bool:
        return self.cmos[_A] & _A_RESET == _A_RESET

    def _collect(self) -> None:
        """Work out what the divider chain did since the last time; flags are set whether enabled or not."""
        if self._stopped():
            return
        s = self.state
        reached = self._clock.now() - s.origin
        period = self._period()
        if period and s.seen * _CRYSTAL // _SECOND // period != reached * _CRYSTAL // _SECOND // period:
            self.cmos[_C] |= _C_PERIODIC
        seconds = reached // _SECOND - s.seen // _SECOND
        if seconds and not self.cmos[_B] & _B_SET:
            self.cmos[_C] |= _C_UPDATE
            self._advance(seconds)
        s.seen = reached

    def _update(self) -> None:
        """Drive the interrupt from the flags, and ask for the time of the next event that would change it."""
        cmos = self.cmos
        cause = cmos[_C] & cmos[_B] & (_C_PERIODIC | _C_ALARM | _C_UPDATE)
        cmos[_C] = cmos[_C] & ~_C_IRQ | (_C_IRQ if cause else 0)
        self._line.set(bool(cause))
        # an interrupt stands until register C is read: nothing can change it before
        when = None if cause or self._stopped() else self._next_event()
        if self._alarm is not None and self._alarm.when != when:
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None and when is not None:
            self._alarm = self._clock.at(when, self._event)

    def _next_event(self) -> int | None:
        """Guest time of the next event of which register B enables the interrupt."""
        s, b, when = self.state, self.cmos[_B], []
        period = self._period()
        if b & _B_PIE and period:
            ticks = (s.seen * _CRYSTAL // _SECOND // period + 1) * period
            when.append(-(-ticks * _SECOND // _CRYSTAL))
        if b & (_B_AIE | _B_UIE) and not b & _B_SET:
            when.append(s.seen // _SECOND * _SECOND + _SECOND)
        return s.origin + min(when) if when else None

    def _event(self) -> None:
        self._alarm = None
        self._collect()
        self._update()

    # -- registers ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if not offset:
            return 0xFF
        self._collect()
        register = self.state.index
        if register == _C:
            self._update()
            value, self.cmos[_C] = self.cmos[_C], 0
        else:
            value = self.cmos[register]
            if register == _A and self._updating():
                value |= _A_UIP
        self._update()
        return value

    def _updating(self) -> bool:
        if self._stopped() or self.cmos[_B] & _B_SET:
            return False
        return self.state.seen % _SECOND >= _SECOND - _UIP_NS

    def write(self, offset: int, size: int, value: int) -> None:
        if not offset:
            self.state.index = value & 0x7F  # bit 7 masks the NMI, of which the board has no source
            return
        self._collect()
        register = self.state.index
        if register == _A:
            self._write_a(value & 0x7F)
        elif register == _B:
            self._write_b(value)
        elif register not in (_C, _D):
            self.cmos[register] = value
        self._update()

    def _write_a(self, value: int) -> None:
        was_stopped = self._stopped()
        self.cmos[_A] = value
        if was_stopped and not self._stopped():
            # the first update follows half a second after the divider is let go (datasheet, divider control)
            s = self.state
            s.origin, s.seen = self._clock.now() - _SECOND // 2, _SECOND // 2

    def _write_b(self, value: int) -> None:
        if value & _B_SET:
            value &= ~_B_UIE  # as the chip does
        elif not self.cmos[_B] & _B_SET and (value ^ self.cmos[_B]) & (_B_BINARY | _B_24H):
            # a running clock changes its format; a guest that stopped it writes all time registers anew itself
            date, weekday = self._date(), self._decode(self.cmos[_WEEKDAY])
            self.cmos[_B] = value
            self._store(date)
            self.cmos[_WEEKDAY] = self._encode(weekday)
        self.cmos[_B] = value
