"""INT 11h, 12h and 15h: equipment, memory sizes and map, A20, block move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.bus import Bus
from emu.devices.bios import bda
from emu.devices.bios.call import Call, Memory
from isa.x86.state import ES, RAX, RBX, RCX, RDI, RDX, RSI

_SMAP: Final = 0x534D4150
_MIB: Final = 1 << 20
_UNSUPPORTED: Final = 0x86
_A20_PORT, _A20, _A20_RESET = 0x92, 1 << 1, 1 << 0
_BY_PORT_92H: Final = 1 << 1
_OK, _MOVE_FAILED = 0x00, 0x02


class System:
    """The services that tell what the machine is; those of INT 15h return None, or a status for AH that is an error."""

    def __init__(self, memory: Memory, ports: Bus) -> None:
        self._memory = memory
        self._ports = ports
        self._extended: dict[int, Callable[[Call], int | None]] = {
            0x24: self._a20,
            0x87: self._block_move,
            0x88: self._extended_size,
            0xE8: self._big_memory,
        }

    def equipment(self, call: Call) -> None:
        """INT 11h."""
        call.set_word(RAX, self._memory.read(bda.EQUIPMENT, 2))

    def memory_size(self, call: Call) -> None:
        """INT 12h."""
        call.set_word(RAX, self._memory.read(bda.MEMORY_KB, 2))

    def extended(self, call: Call) -> None:
        """INT 15h, but for what the ROM does itself (AH=86h, C0h, C1h); what it lacks answers AH=86h with carry."""
        function = self._extended.get(call.high(RAX))
        status = _UNSUPPORTED if function is None else function(call)
        call.carry(status is not None)
        if status is not None:
            call.set_high(RAX, status)

    # -- INT 15h ------------------------------------------------------------------------------------------------

    def _a20(self, call: Call) -> int | None:
        """AX=2400h..2403h: disable, enable, tell, and by which means."""
        function, gate = call.low(RAX), self._ports.read(_A20_PORT, 1)
        if function < 0x02:
            self._ports.write(_A20_PORT, 1, gate & ~(_A20_RESET | _A20) & 0xFF | (_A20 if function else 0))
        elif function == 0x02:
            call.set_low(RAX, gate >> 1 & 1)
        elif function == 0x03:
            call.set_word(RBX, _BY_PORT_92H)
        else:
            return _UNSUPPORTED
        call.set_high(RAX, _OK)
        return None

    def _block_move(self, call: Call) -> int | None:
        """AH=87h: move CX words between the segments that rows 2 and 3 of the table at ES:SI describe."""
        table, length = call.address(ES, RSI), call.word(RCX) * 2
        source, target = (self._base(table + row) for row in (0x10, 0x18))
        if not (self._memory.holds(source, length) and self._memory.holds(target, length)):
            return _MOVE_FAILED
        self._memory.write_bytes(target, self._memory.read_bytes(source, length))
        call.set_high(RAX, _OK)
        return None

    def _base(self, descriptor: int) -> int:
        raw = self._memory.read(descriptor, 8)
        return raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000

    def _above_1_mib(self) -> int:
        """Bytes of RAM from 1 MiB up to the first hole."""
        return next((length for start, length, _ in self._memory.e820() if start == _MIB), 0)

    def _extended_size(self, call: Call) -> None:
        call.set_word(RAX, min(self._above_1_mib() >> 10, 0xFC00))  # KiB; 63 MiB at most, as callers expect

    def _big_memory(self, call: Call) -> int | None:
        match call.low(RAX):
            case 0x20:
                return self._memory_map(call)
            case 0x01 | 0x81 as function:
                set_register = call.set_word if function == 0x01 else call.set_dword
                size = self._above_1_mib()
                below, above = min(size, 15 * _MIB) >> 10, max(size - 15 * _MIB, 0) >> 16
                for reg, value in ((RAX, below), (RCX, below), (RBX, above), (RDX, above)):
                    set_register(reg, value)  # KiB from 1 to 16 MiB, then 64-KiB blocks
                return None
            case _:
                return _UNSUPPORTED

    def _memory_map(self, call: Call) -> int | None:
        """AX=E820h: one row to ES:DI; EBX is the next row, 0 at the start and after the last (ACPI 6.4, 15.1)."""
        rows, number = self._memory.e820(), call.dword(RBX)
        at = call.address(ES, RDI)
        if call.dword(RDX) != _SMAP or call.dword(RCX) < 20 or number >= len(rows) or not self._memory.holds(at, 20):
            return _UNSUPPORTED
        start, length, kind = rows[number]
        for offset, size, value in ((0, 8, start), (8, 8, length), (16, 4, kind)):
            self._memory.write(at + offset, size, value)
        call.set_dword(RAX, _SMAP)
        call.set_dword(RCX, 20)
        call.set_dword(RBX, number + 1 if number + 1 < len(rows) else 0)
        return None
