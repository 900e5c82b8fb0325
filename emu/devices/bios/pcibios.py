"""INT 1Ah AH=B1h, the PCI BIOS (PCI BIOS Specification 2.1), over configuration mechanism 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from emu.bus import Bus
from emu.devices.bios.call import Call
from isa.x86.state import RAX, RBX, RCX, RDI, RDX, RSI

_ADDRESS, _DATA = 0xCF8, 0xCFC
_ENABLE: Final = 1 << 31
_SIGNATURE: Final = int.from_bytes(b"PCI ", "little")
_VERSION: Final = 0x0210
_MECHANISM_1: Final = 1
_OK, _UNSUPPORTED, _BAD_VENDOR, _NOT_FOUND, _BAD_REGISTER = 0x00, 0x81, 0x83, 0x86, 0x87
_HEADER, _MULTIFUNCTION = 0x0E, 0x80
_SLOTS: Final = 32  # of bus 0, the only one


class PciBios:
    """Finds functions and reads and writes their configuration; there is no 32-bit entry point."""

    def __init__(self, ports: Bus) -> None:
        self._ports = ports
        self._functions: dict[int, Callable[[Call], int]] = {
            0x01: self._present,
            0x02: self._find_device,
            0x03: self._find_class,
            0x08: lambda call: self._read(call, 1),
            0x09: lambda call: self._read(call, 2),
            0x0A: lambda call: self._read(call, 4),
            0x0B: lambda call: self._write(call, 1),
            0x0C: lambda call: self._write(call, 2),
            0x0D: lambda call: self._write(call, 4),
        }

    def call(self, call: Call) -> None:
        """Serve AL; the status goes to AH and carry."""
        function = self._functions.get(call.low(RAX) & 0x7F)  # bit 7 is set by 32-bit callers
        status = _UNSUPPORTED if function is None else function(call)
        call.set_high(RAX, status)
        call.carry(status != _OK)

    def _present(self, call: Call) -> int:
        call.set_dword(RDX, _SIGNATURE)
        call.set_low(RAX, _MECHANISM_1)
        call.set_word(RBX, _VERSION)
        call.set_low(RCX, 0)  # number of the last bus
        call.set_dword(RDI, 0)
        return _OK

    # -- configuration space -----------------------------------------------------------------------------------

    def _select(self, place: int, register: int) -> int:
        """Select a register of bus, device and function `place`; the port of its data."""
        self._ports.write(_ADDRESS, 4, _ENABLE | place << 8 | register & 0xFC)
        return _DATA + (register & 3)

    def _config(self, place: int, register: int, size: int) -> int:
        return self._ports.read(self._select(place, register), size)

    def _functions_present(self) -> Iterator[int]:
        for slot in range(_SLOTS):
            first = slot << 3
            if self._config(first, 0, 2) == 0xFFFF:
                continue
            many = self._config(first, _HEADER, 1) & _MULTIFUNCTION
            for place in range(first, first + (8 if many else 1)):
                if self._config(place, 0, 2) != 0xFFFF:
                    yield place

    def _find(self, call: Call, index: int, register: int, shift: int, wanted: int) -> int:
        """The `index`-th function whose double word at `register`, shifted right, is `wanted`: to BX."""
        found = (place for place in self._functions_present() if self._config(place, register, 4) >> shift == wanted)
        for number, place in enumerate(found):
            if number == index:
                call.set_word(RBX, place)
                return _OK
        return _NOT_FOUND

    def _find_device(self, call: Call) -> int:
        if call.word(RDX) == 0xFFFF:
            return _BAD_VENDOR
        return self._find(call, call.word(RSI), 0x00, 0, call.word(RCX) << 16 | call.word(RDX))

    def _find_class(self, call: Call) -> int:
        return self._find(call, call.word(RSI), 0x08, 8, call.dword(RCX) & 0xFFFFFF)

    def _read(self, call: Call, size: int) -> int:
        register = call.word(RDI)
        if register > 0xFF or register % size:
            return _BAD_REGISTER
        value = self._config(call.word(RBX), register, size)
        if size == 1:
            call.set_low(RCX, value)
        elif size == 2:
            call.set_word(RCX, value)
        else:
            call.set_dword(RCX, value)
        return _OK

    def _write(self, call: Call, size: int) -> int:
        register = call.word(RDI)
        if register > 0xFF or register % size:
            return _BAD_REGISTER
        self._ports.write(self._select(call.word(RBX), register), size, call.dword(RCX) & (1 << 8 * size) - 1)
        return _OK
