"""PCI configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2), functions and what their BARs decode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from emu.bus import ALL_ONES, Bus, Device

_ENABLE = 0x8000_0000
_COMMAND, _HEADER_TYPE, _BAR0, _INTERRUPT_LINE, _INTERRUPT_PIN = 0x04, 0x0E, 0x10, 0x3C, 0x3D
_BARS = 6
_DECODE_IO, _DECODE_MEMORY = 1 << 0, 1 << 1  # command register
_MULTIFUNCTION = 0x80
_TOP = {True: 1 << 16, False: 1 << 32}  # end of I/O and of memory space
_WATCHED = (*range(_COMMAND, _COMMAND + 2), *range(_BAR0, _BAR0 + 4 * _BARS))  # bytes that decide what is decoded


@dataclass(frozen=True, slots=True)
class Window:
    """A range that a function decodes now: which base address register gives it, where it starts, bytes, I/O or not."""

    bar: int
    start: int
    length: int
    is_io: bool


class PciFunction:
    """A function with a type 0 header.

    `writable` masks which bits of the 256 configuration bytes a guest may change. `changed`, where set, is called after
    a guest's write changed the command register or a base address register; `windows` then tells what is decoded.
    """

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        bars: tuple[tuple[int, bool], ...] = (),
        *,
        revision: int = 0,
        interrupt_pin: int = 0,
        subsystem: tuple[int, int] = (0, 0),
    ) -> None:
        """`class_code` is class, subclass and interface as 24 bits; `subsystem` is its vendor and device.

        A BAR is (size in bytes, is an I/O range); size 0 is a register that is not there. A size is a power of two, at
        least 4 for I/O and 16 for memory (6.2.5.1; ValueError). `interrupt_pin` is 1 (INTA#) to 4, or 0.
        """
        self.config = bytearray(256)
        self.writable = bytearray(256)
        self.changed: Callable[[], None] | None = None
        self.bars = bars
        self._put(0x00, 2, vendor)
        self._put(0x02, 2, device)
        self._put(0x08, 4, class_code << 8 | revision)
        self._put(0x2C, 2, subsystem[0])
        self._put(0x2E, 2, subsystem[1])
        self._put(_INTERRUPT_PIN, 1, interrupt_pin)
        self.writable[_COMMAND : _COMMAND + 2] = b"\x47\x05"  # I/O, memory, master, parity, SERR and interrupt disable
        self.writable[0x0C] = self.writable[0x0D] = self.writable[_INTERRUPT_LINE] = 0xFF
        for number, (size, is_io) in enumerate(bars):
            if not size:
                continue
            if size & size - 1 or size < (4 if is_io else 16) or number >= _BARS:
                raise ValueError(f"BAR {number} of {size} bytes: no range that a base address register can have")
            at = _BAR0 + 4 * number
            self.writable[at : at + 4] = (-size & 0xFFFFFFFF).to_bytes(4, "little")
            self.config[at] = int(is_io)

    def _put(self, register: int, size: int, value: int) -> None:
        self.config[register : register + size] = value.to_bytes(size, "little")

    def place(self, bar: int, start: int) -> None:
        """Give a base address register its value and switch its decoding on, as firmware does."""
        is_io = self.bars[bar][1]
        self._put(_BAR0 + 4 * bar, 4, start | int(is_io))
        self.config[_COMMAND] |= _DECODE_IO if is_io else _DECODE_MEMORY
        if self.changed is not None:
            self.changed()

    def windows(self) -> list[Window]:
        """The ranges that the command register and the base address registers have this function decode.

        A register that holds 0, or that was written with all ones to learn its size, gives none: software that sizes a
        register often leaves decoding on.
        """
        found = []
        for number, (size, is_io) in enumerate(self.bars):
            if not size or not self.config[_COMMAND] & (_DECODE_IO if is_io else _DECODE_MEMORY):
                continue
            at = _BAR0 + 4 * number
            start = int.from_bytes(self.config[at : at + 4], "little") & -size
            if 0 < start < _TOP[is_io] - size:
                found.append(Window(number, start, size, is_io))
        return found

    def read(self, register: int, size: int) -> int:
        return int.from_bytes(self.config[register : register + size], "little")

    def write(self, register: int, size: int, value: int) -> None:
        before = [self.config[at] for at in _WATCHED]
        for at, byte in enumerate(value.to_bytes(size, "little"), register):
            mask = self.writable[at]
            self.config[at] = self.config[at] & ~mask | byte & mask
        if self.changed is not None and before != [self.config[at] for at in _WATCHED]:
            self.changed()


class PciWindows:
    """Attaches devices to the port and memory buses where the BARs of their functions say.

    Ranges that something else holds are left to it: on the real bus both would answer, and no software wants that.
    RAM hides what lies under it.
    """

    def __init__(self, ports: Bus, memory: Bus) -> None:
        self._buses = {True: ports, False: memory}
        self._devices: list[tuple[PciFunction, dict[int, Device]]] = []

    def connect(self, function: PciFunction, devices: dict[int, Device]) -> None:
        """Have the ranges of `function` reach `devices`, by number of the BAR; each a device of its own."""
        self._devices.append((function, dict(devices)))
        function.changed = self.update
        self.update()

    def update(self) -> None:
        """Attach everything anew: a range given up may be one that another function asked for before."""
        for _, devices in self._devices:
            for device in devices.values():
                for bus in self._buses.values():
                    bus.detach(device)
        for function, devices in self._devices:
            for window in function.windows():
                if window.bar in devices:
                    with suppress(ValueError):
                        self._buses[window.is_io].attach(window.start, window.length, devices[window.bar])


class PciConfig:
    """The address register at offset 0, the data register at offset 4; a byte at offset 1 is the reset control."""

    name = "PCI configuration"

    def __init__(self, reset_control: Device, host_bridge: PciFunction) -> None:
        self._reset_control = reset_control
        self._address = 0
        self._functions: dict[int, PciFunction] = {}
        self.add(0, host_bridge)

    def add(self, slot: int, function: PciFunction, number: int = 0) -> None:
        """Put a function into a slot (0..31) of bus 0; raises ValueError where one is already.

        A slot's function 0 must be there before the others: it tells guests to look for them (6.2.1, header type).
        """
        key = slot << 3 | number
        if key in self._functions:
            raise ValueError(f"PCI slot {slot}, function {number} is taken")
        if number:
            first = self._functions.get(slot << 3)
            if first is None:
                raise ValueError(f"PCI slot {slot} has no function 0, so no guest would find function {number}")
            first.config[_HEADER_TYPE] |= _MULTIFUNCTION
        self._functions[key] = function

    def _selected(self) -> PciFunction | None:
        if not self._address & _ENABLE or self._address >> 16 & 0xFF:
            return None
        return self._functions.get(self._address >> 8 & 0xFF)

    def read(self, offset: int, size: int) -> int:
        if offset < 4:
            if size == 4 and offset == 0:
                return self._address
            return self._reset_control.read(0, size) if offset == 1 and size == 1 else ALL_ONES[size]
        function = self._selected()
        if function is None or offset + size > 8:
            return ALL_ONES[size]
        return function.read((self._address & 0xFC) + offset - 4, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset < 4:
            if size == 4 and offset == 0:
                self._address = value & 0x80FF_FFFC
            elif offset == 1 and size == 1:
                self._reset_control.write(0, 1, value)
            return
        function = self._selected()
        if function is not None and offset + size <= 8:
            function.write((self._address & 0xFC) + offset - 4, size, value)
