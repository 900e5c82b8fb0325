"""INT 11h, 12h, 15h and 1Ah: equipment, memory sizes and map, A20, block move, waiting, ticks and the date."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.bus import Bus
from emu.clock import Clock
from emu.devices.bios import bda
from emu.devices.bios.call import Call, Memory
from isa.x86.state import ES, RAX, RBX, RCX, RDI, RDX, RSI

_SMAP: Final = 0x534D4150
_MIB: Final = 1 << 20
_UNSUPPORTED: Final = 0x86
_A20_PORT, _A20 = 0x92, 1 << 1
_CMOS_INDEX, _CMOS_DATA = 0x70, 0x71
_REGISTER_B, _REGISTER_C = 0x0B, 0x0C
_PERIODIC, _BINARY = 1 << 6, 1 << 2  # bits of register B (Motorola MC146818)
_SECONDS, _MINUTES, _HOURS, _DAY, _MONTH, _YEAR, _CENTURY = 0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32
_IRQ2, _IRQ8 = 1 << 2, 1 << 0  # bits of the two interrupt mask registers


class System:
    """The services that tell what the machine is and what time it is there."""

    def __init__(self, memory: Memory, ports: Bus, clock: Clock) -> None:
        self._memory = memory
        self._ports = ports
        self._clock = clock
        self._deadline = 0
        self._extended: dict[int, Callable[[Call], bool]] = {
            0x24: self._a20,
            0x87: self._block_move,
            0x88: self._extended_size,
            0xE8: self._big_memory,
        }
        self._time: dict[int, Callable[[Call], None]] = {
            0x00: self._get_ticks,
            0x01: self._set_ticks,
            0x02: self._get_time,
            0x04: self._get_date,
        }

    def equipment(self, call: Call) -> None:
        """INT 11h."""
        call.set_word(RAX, self._memory.read(bda.EQUIPMENT, 2))

    def memory_size(self, call: Call) -> None:
        """INT 12h."""
        call.set_word(RAX, self._memory.read(bda.MEMORY_KB, 2))

    def extended(self, call: Call) -> None:
        """INT 15h, but for the wait (AH=86h); what it lacks answers AH=86h with carry."""
        function = self._extended.get(call.high(RAX))
        done = function is not None and function(call)
        call.carry(not done)
        if not done:
            call.set_high(RAX, _UNSUPPORTED)

    def time(self, call: Call) -> None:
        """INT 1Ah; what it lacks (the PCI BIOS, for one) answers with carry."""
        function = self._time.get(call.high(RAX))
        call.carry(function is None)
        if function is not None:
            function(call)

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
        self._ports.write(_CMOS_INDEX, 1, _REGISTER_B)
        self._ports.write(_CMOS_DATA, 1, register | _PERIODIC if on else register & ~_PERIODIC)
        if on:
            self._cmos(_REGISTER_C)  # reading it drops an interrupt left from before
            self._ports.write(0x21, 1, self._ports.read(0x21, 1) & ~_IRQ2)
            self._ports.write(0xA1, 1, self._ports.read(0xA1, 1) & ~_IRQ8)

    # -- INT 15h ------------------------------------------------------------------------------------------------

    def _a20(self, call: Call) -> bool:
        """AX=2400h..2403h: disable, enable, tell, and by which means: port 92h."""
        function, value = call.low(RAX), self._ports.read(_A20_PORT, 1)
        if function > 3:
            return False
        if function < 2:
            self._ports.write(_A20_PORT, 1, value & ~_A20 & 0xFE | (_A20 if function else 0))
        elif function == 2:
            call.set_low(RAX, int(bool(value & _A20)))
        else:
            call.set_word(RBX, 2)
        call.set_high(RAX, 0)
        return True

    def _block_move(self, call: Call) -> bool:
        """AH=87h: move CX words between the segments that rows 2 and 3 of the table at ES:SI describe."""
        table, length = call.address(ES, RSI), call.word(RCX) * 2
        source, target = (self._base(table + row) for row in (0x10, 0x18))
        if not (self._memory.holds(source, length) and self._memory.holds(target, length)):
            return False
        self._memory.write_bytes(target, self._memory.read_bytes(source, length))
        call.set_high(RAX, 0)
        return True

    def _base(self, descriptor: int) -> int:
        raw = self._memory.read(descriptor, 8)
        return raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000

    def _above_1_mib(self) -> int:
        """Bytes of RAM from 1 MiB up to the first hole."""
        return next((length for start, length, _ in self._memory.e820() if start == _MIB), 0)

    def _extended_size(self, call: Call) -> bool:
        call.set_word(RAX, min(self._above_1_mib() >> 10, 0xFC00))  # KiB; 63 MiB at most, as callers expect
        return True

    def _big_memory(self, call: Call) -> bool:
        if call.low(RAX) == 0x20:
            return self._memory_map(call)
        if call.low(RAX) == 0x01:
            size = self._above_1_mib()
            below, above = min(size, 15 * _MIB) >> 10, max(size - 15 * _MIB, 0) >> 16
            for reg, value in ((RAX, below), (RCX, below), (RBX, above), (RDX, above)):
                call.set_word(reg, value)  # KiB from 1 to 16 MiB, then 64-KiB blocks
            return True
        return False

    def _memory_map(self, call: Call) -> bool:
        """AX=E820h: one row to ES:DI; EBX is the next row, 0 at the start and after the last (ACPI 6.4, 15.1)."""
        rows, number = self._memory.e820(), call.dword(RBX)
        at = call.address(ES, RDI)
        if call.dword(RDX) != _SMAP or call.dword(RCX) < 20 or number >= len(rows) or not self._memory.holds(at, 20):
            return False
        start, length, kind = rows[number]
        for offset, size, value in ((0, 8, start), (8, 8, length), (16, 4, kind)):
            self._memory.write(at + offset, size, value)
        call.set_dword(RAX, _SMAP)
        call.set_dword(RCX, 20)
        call.set_dword(RBX, number + 1 if number + 1 < len(rows) else 0)
        return True

    # -- INT 1Ah ------------------------------------------------------------------------------------------------

    def _get_ticks(self, call: Call) -> None:
        ticks = self._memory.read(bda.TICKS, 4)
        call.set_word(RCX, ticks >> 16)
        call.set_word(RDX, ticks)
        call.set_low(RAX, self._memory.read(bda.MIDNIGHT, 1))
        self._memory.write(bda.MIDNIGHT, 1, 0)

    def _set_ticks(self, call: Call) -> None:
        self._memory.write(bda.TICKS, 4, call.word(RCX) << 16 | call.word(RDX))
        self._memory.write(bda.MIDNIGHT, 1, 0)

    def _get_time(self, call: Call) -> None:
        call.set_word(RCX, self._bcd(_HOURS) << 8 | self._bcd(_MINUTES))
        call.set_word(RDX, self._bcd(_SECONDS) << 8)

    def _get_date(self, call: Call) -> None:
        call.set_word(RCX, self._bcd(_CENTURY) << 8 | self._bcd(_YEAR))
        call.set_word(RDX, self._bcd(_MONTH) << 8 | self._bcd(_DAY))

    def _cmos(self, index: int) -> int:
        self._ports.write(_CMOS_INDEX, 1, index)
        return self._ports.read(_CMOS_DATA, 1)

    def _bcd(self, index: int) -> int:
        """A time register in BCD, whatever register B says the chip holds."""
        value = self._cmos(index)
        if self._cmos(_REGISTER_B) & _BINARY:
            return value // 10 << 4 | value % 10
        return value
