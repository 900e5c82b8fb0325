"""The MC146818 real-time clock and CMOS memory (Motorola MC146818 datasheet; CMOS layout of the IBM AT)."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from emu.bus import ALL_ONES
from emu.clock import Alarm, Clock
from emu.irq import IrqLine

_SECOND = 1_000_000_000
_UIP_NS = 244_000  # update in progress is seen this long before the second turns
_A, _B, _C, _D = 0x0A, 0x0B, 0x0C, 0x0D
_B_SET, _B_PIE, _B_AIE, _B_UIE, _B_BINARY, _B_24H = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
_C_IRQ, _C_PERIODIC, _C_ALARM, _C_UPDATE = 0x80, 0x40, 0x20, 0x10
_TIME = (0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32)


class Rtc:
    """Offset 0 selects a register, offset 1 is its data; `start` is the date at guest time 0 (UTC)."""

    name = "RTC"

    def __init__(self, clock: Clock, line: IrqLine, start: datetime.datetime, memory_size: int) -> None:
        self._clock, self._line = clock, line
        self._start = start
        self._index = 0
        self.cmos = bytearray(128)
        self.cmos[_A], self.cmos[_B], self.cmos[_D] = 0x26, _B_24H, 0x80
        self._sizes(memory_size)
        self._alarm: Alarm | None = None
        self._periodic_at = 0
        self._held: datetime.datetime | None = None  # the time while SET stops the clock

    def _sizes(self, size: int) -> None:
        extended = min((size - (1 << 20)) >> 10, 0xFFFF)  # KiB above 1 MiB
        above = min(max(size - (16 << 20), 0) >> 16, 0xFFFF)  # 64 KiB units above 16 MiB
        for at, value in ((0x15, 640), (0x17, extended), (0x30, extended), (0x34, above)):
            self.cmos[at : at + 2] = value.to_bytes(2, "little")
        self.cmos[0x14] = 0x06  # equipment: a colour display, a coprocessor, no floppy drive

    # -- time --------------------------------------------------------------------------------------------------

    def _now(self) -> datetime.datetime:
        return self._held or self._start + datetime.timedelta(microseconds=self._clock.now() // 1000)

    def _encode(self, value: int) -> int:
        return value if self.cmos[_B] & _B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self.cmos[_B] & _B_BINARY else (value >> 4) * 10 + (value & 15)

    def _time(self, register: int) -> int:
        now = self._now()
        if register == 0x04 and not self.cmos[_B] & _B_24H:
            return self._encode(now.hour % 12 or 12) | (0x80 if now.hour >= 12 else 0)
        fields: dict[int, Callable[[], int]] = {
            0x00: lambda: now.second, 0x02: lambda: now.minute, 0x04: lambda: now.hour,
            0x06: lambda: now.isoweekday() % 7 + 1, 0x07: lambda: now.day, 0x08: lambda: now.month,
            0x09: lambda: now.year % 100, 0x32: lambda: now.year // 100,
        }  # fmt: skip
        return self._encode(fields[register]())

    def _set_time(self, register: int, value: int) -> None:
        """Shift the date so that `register` reads `value` from now on; a date that does not exist is ignored."""
        now = self._now()
        number = self._decode(value & 0x7F if register == 0x04 else value)
        if register == 0x04 and not self.cmos[_B] & _B_24H:
            number = number % 12 + (12 if value & 0x80 else 0)
        names = {0x00: "second", 0x02: "minute", 0x04: "hour", 0x07: "day", 0x08: "month"}
        try:
            if register in names:
                new = now.replace(**{names[register]: number})  # type: ignore[arg-type]  # one of five int fields
            elif register == 0x09:
                new = now.replace(year=now.year // 100 * 100 + number)
            elif register == 0x32:
                new = now.replace(year=number * 100 + now.year % 100)
            else:
                return
        except ValueError:
            return
        if self._held is not None:
            self._held = new
        else:
            self._start += new - now

    # -- interrupts --------------------------------------------------------------------------------------------

    def _raise(self, cause: int) -> None:
        enabled = {_C_PERIODIC: _B_PIE, _C_ALARM: _B_AIE, _C_UPDATE: _B_UIE}[cause]
        self.cmos[_C] |= cause
        if self.cmos[_B] & enabled:
            self.cmos[_C] |= _C_IRQ
            self._line.set(True)

    def _period(self) -> int:
        """Nanoseconds between periodic interrupts, 0 for none (datasheet, table 5)."""
        rate = self.cmos[_A] & 15
        if not rate or not self.cmos[_B] & _B_PIE:
            return 0
        return _SECOND * (1 << (rate + 6 if rate < 3 else rate - 1)) // 32768

    def _arm(self) -> None:
        """One alarm serves the nearer of the next periodic tick and the next second, where either is enabled."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now, when = self._clock.now(), []
        period = self._period()
        if period:
            self._periodic_at = max(self._periodic_at, now - period)
            when.append(self._periodic_at + period)
        if self.cmos[_B] & (_B_AIE | _B_UIE) and not self.cmos[_B] & _B_SET:
            when.append(now // _SECOND * _SECOND + _SECOND)
        if when:
            self._alarm = self._clock.at(min(when), self._tick)

    def _tick(self) -> None:
        self._alarm = None
        now, period = self._clock.now(), self._period()
        if period and now >= self._periodic_at + period:
            self._periodic_at += period
            self._raise(_C_PERIODIC)
        if self.cmos[_B] & (_B_AIE | _B_UIE) and now % _SECOND < _UIP_NS * 40:
            self._raise(_C_UPDATE)
            wanted = (self.cmos[0x01], self.cmos[0x03], self.cmos[0x05])
            shown = (self._time(0x00), self._time(0x02), self._time(0x04))
            if all(w >= 0xC0 or w == s for w, s in zip(wanted, shown, strict=True)):
                self._raise(_C_ALARM)
        self._arm()

    # -- registers ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        ones = ALL_ONES[size] & ~0xFF
        if not offset:
            return 0xFF | ones
        register = self._index
        if register in _TIME:
            return self._time(register) | ones
        value = self.cmos[register]
        if register == _A and not self.cmos[_B] & _B_SET and self._clock.now() % _SECOND >= _SECOND - _UIP_NS:
            value |= 0x80
        elif register == _C:
            self.cmos[_C] = 0
            self._line.set(False)
        return value | ones

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if not offset:
            self._index = value & 0x7F
            return
        register = self._index
        if register in _TIME:
            self._set_time(register, value)
        elif register == _A:
            self.cmos[_A] = value & 0x7F
            self._restart()
        elif register == _B:
            if value & _B_SET and self._held is None:
                self._held = self._now()
            elif not value & _B_SET and self._held is not None:
                held, self._held = self._held, None
                self._start += held - self._now()
            self.cmos[_B] = value
            self._restart()
        elif register not in (_C, _D):
            self.cmos[register] = value

    def _restart(self) -> None:
        self._periodic_at = self._clock.now()
        self._arm()
