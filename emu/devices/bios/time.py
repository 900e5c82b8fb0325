"""INT 1Ah and the wait of INT 15h: ticks, the real-time clock's time, date and alarm, and the PCI BIOS beside them."""

from __future__ import annotations

from collections.abc import Callable

from emu.bus import Bus
from emu.clock import Clock
from emu.devices.bios import bda
from emu.devices.bios.call import Call, Memory
from emu.devices.bios.pcibios import PciBios
from isa.x86.state import RAX, RCX, RDX

_CMOS_INDEX, _CMOS_DATA = 0x70, 0x71
_REGISTER_B, _REGISTER_C = 0x0B, 0x0C
# Bits of register B (Motorola MC146818).
_SET, _PERIODIC, _ALARM, _BINARY, _24_HOURS, _SUMMER_TIME = 1 << 7, 1 << 6, 1 << 5, 1 << 2, 1 << 1, 1 << 0
_SECONDS, _MINUTES, _HOURS, _DAY, _MONTH, _YEAR, _CENTURY = 0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32
_ALARM_SECONDS, _ALARM_MINUTES, _ALARM_HOURS = 0x01, 0x03, 0x05
_IRQ2, _IRQ8 = 1 << 2, 1 << 0  # bits of the two interrupt mask registers


class Time:
    """The services that tell what time it is, and set it."""

    def __init__(self, memory: Memory, ports: Bus, clock: Clock) -> None:
        self._memory = memory
        self._ports = ports
        self._clock = clock
        self._deadline = 0
        self._pci = PciBios(ports)
        self._functions: dict[int, Callable[[Call], bool]] = {
            0x00: self._get_ticks,
            0x01: self._set_ticks,
            0x02: self._get_time,
            0x03: self._set_time,
            0x04: self._get_date,
            0x05: self._set_date,
            0x06: self._set_alarm,
            0x07: self._reset_alarm,
        }

    def call(self, call: Call) -> None:
        """INT 1Ah; what it lacks, or what fails, answers with carry."""
        if call.high(RAX) == 0xB1:
            self._pci.call(call)
            return
        function = self._functions.get(call.high(RAX))
        call.carry(function is None or not function(call))

    # -- waiting ------------------------------------------------------------------------------------------------

    def begin_wait(self, call: Call) -> None:
        """INT 15h AH=86h: CX:DX microseconds from now, with the periodic clock interrupt on to end each HLT."""
        self._deadline = self._clock.now() + (call.word(RCX) << 16 | call.word(RDX)) * 1000
        call.carry(False)
        self._periodic(True)

    def poll_wait(self, call: Call) -> None:
        """Answer the ROM's loop: 1 once the time has passed."""
        over = self._clock.now() >= self._deadline
        if over:
            self._periodic(False)
        call.answer(int(over))

    def _periodic(self, on: bool) -> None:
        register = self._cmos(_REGISTER_B)
        self._put(_REGISTER_B, register | _PERIODIC if on else register & ~_PERIODIC)
        if on:
            self._unmask()

    def _unmask(self) -> None:
        """Let the clock's interrupt through."""
        self._cmos(_REGISTER_C)  # reading it drops an interrupt left from before
        self._ports.write(0x21, 1, self._ports.read(0x21, 1) & ~_IRQ2)
        self._ports.write(0xA1, 1, self._ports.read(0xA1, 1) & ~_IRQ8)

    # -- ticks, time and date ------------------------------------------------------------------------------------

    def _get_ticks(self, call: Call) -> bool:
        ticks = self._memory.read(bda.TICKS, 4)
        call.set_word(RCX, ticks >> 16)
        call.set_word(RDX, ticks)
        call.set_low(RAX, self._memory.read(bda.MIDNIGHT, 1))
        self._memory.write(bda.MIDNIGHT, 1, 0)
        return True

    def _set_ticks(self, call: Call) -> bool:
        self._memory.write(bda.TICKS, 4, call.word(RCX) << 16 | call.word(RDX))
        self._memory.write(bda.MIDNIGHT, 1, 0)
        return True

    def _get_time(self, call: Call) -> bool:
        call.set_word(RCX, self._bcd(_HOURS) << 8 | self._bcd(_MINUTES))
        call.set_word(RDX, self._bcd(_SECONDS) << 8 | self._cmos(_REGISTER_B) & _SUMMER_TIME)
        return True

    def _set_time(self, call: Call) -> bool:
        """CH, CL and DH in BCD; DL tells about summer time. The clock then counts in BCD and 24 hours."""
        flags = _24_HOURS | call.low(RDX) & _SUMMER_TIME
        self._set(flags, {_HOURS: call.high(RCX), _MINUTES: call.low(RCX), _SECONDS: call.high(RDX)})
        return True

    def _get_date(self, call: Call) -> bool:
        call.set_word(RCX, self._bcd(_CENTURY) << 8 | self._bcd(_YEAR))
        call.set_word(RDX, self._bcd(_MONTH) << 8 | self._bcd(_DAY))
        return True

    def _set_date(self, call: Call) -> bool:
        flags = _24_HOURS | self._cmos(_REGISTER_B) & _SUMMER_TIME
        fields = {_CENTURY: call.high(RCX), _YEAR: call.low(RCX), _MONTH: call.high(RDX), _DAY: call.low(RDX)}
        self._set(flags, fields)
        return True

    def _set(self, flags: int, fields: dict[int, int]) -> None:
        """Write time registers, with the clock stopped and in the format of `flags`; interrupts stay enabled."""
        enabled = self._cmos(_REGISTER_B) & (_PERIODIC | _ALARM)
        self._put(_REGISTER_B, flags | enabled)  # a running clock changes to the format
        self._put(_REGISTER_B, _SET | flags | enabled)
        for register, value in fields.items():
            self._put(register, value)
        self._put(_REGISTER_B, flags | enabled)

    def _set_alarm(self, call: Call) -> bool:
        """CH, CL and DH in BCD: INT 4Ah then; False where an alarm is set already."""
        register = self._cmos(_REGISTER_B)
        if register & _ALARM:
            return False
        binary = bool(register & _BINARY)
        when = ((_ALARM_HOURS, call.high(RCX)), (_ALARM_MINUTES, call.low(RCX)), (_ALARM_SECONDS, call.high(RDX)))
        for at, value in when:
            self._put(at, (value >> 4) * 10 + (value & 0x0F) if binary else value)
        self._put(_REGISTER_B, register & ~_SET | _ALARM)
        self._unmask()
        return True

    def _reset_alarm(self, call: Call) -> bool:
        self._put(_REGISTER_B, self._cmos(_REGISTER_B) & ~_ALARM)
        return True

    def _put(self, index: int, value: int) -> None:
        self._ports.write(_CMOS_INDEX, 1, index)
        self._ports.write(_CMOS_DATA, 1, value)

    def _cmos(self, index: int) -> int:
        self._ports.write(_CMOS_INDEX, 1, index)
        return self._ports.read(_CMOS_DATA, 1)

    def _bcd(self, index: int) -> int:
        """A time register in BCD, whatever register B says the chip holds."""
        value = self._cmos(index)
        if self._cmos(_REGISTER_B) & _BINARY:
            return value // 10 << 4 | value % 10
        return value
