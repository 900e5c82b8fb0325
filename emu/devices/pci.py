"""PCI configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2) with a host bridge and an ISA bridge."""

from __future__ import annotations

from emu.bus import ALL_ONES, Device

_ENABLE = 0x8000_0000


class PciFunction:
    """A function with a type 0 header; `bars` gives the size in bytes of each base address register (0: none).

    `writable` masks which bits of the 256 configuration bytes a guest may change.
    """

    def __init__(self, vendor: int, device: int, class_code: int, bars: tuple[tuple[int, bool], ...] = ()) -> None:
        """`class_code` is class, subclass and interface as 24 bits; a BAR is (size, is an I/O range)."""
        self.config = bytearray(256)
        self.writable = bytearray(256)
        self.config[0:2], self.config[2:4] = vendor.to_bytes(2, "little"), device.to_bytes(2, "little")
        self.config[9:12] = class_code.to_bytes(3, "little")
        self.writable[4:6] = b"\x47\x05"  # I/O, memory, master, parity, SERR and interrupt disable
        self.writable[0x0C] = self.writable[0x0D] = self.writable[0x3C] = 0xFF
        for number, (size, is_io) in enumerate(bars):
            at = 0x10 + 4 * number
            self.writable[at : at + 4] = (-size & 0xFFFFFFFF).to_bytes(4, "little") if size else bytes(4)
            self.config[at] = 1 if is_io and size else 0

    def read(self, register: int, size: int) -> int:
        return int.from_bytes(self.config[register : register + size], "little")

    def write(self, register: int, size: int, value: int) -> None:
        for at, byte in enumerate(value.to_bytes(size, "little"), register):
            mask = self.writable[at]
            self.config[at] = self.config[at] & ~mask | byte & mask


class PciConfig:
    """The address register at offset 0, the data register at offset 4; a byte at offset 1 is the reset control."""

    name = "PCI configuration"

    def __init__(self, reset_control: Device) -> None:
        self._reset_control = reset_control
        self._address = 0
        self._functions: dict[int, PciFunction] = {}
        self.add(0, PciFunction(0x8086, 0x1237, 0x060000))
        self.add(1, PciFunction(0x8086, 0x7000, 0x060100))

    def add(self, slot: int, function: PciFunction, number: int = 0) -> None:
        """Put a function into a slot (0..31) of bus 0; raises ValueError where one is already."""
        key = slot << 3 | number
        if key in self._functions:
            raise ValueError(f"PCI slot {slot}, function {number} is taken")
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
