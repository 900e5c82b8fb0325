"""Routes port and memory-mapped accesses to devices, which see offsets in their own range."""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol

ALL_ONES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF, 8: 0xFFFFFFFFFFFFFFFF}


class Device(Protocol):
    """What a bus needs of a device: reads and writes at an offset in the range it was attached with.

    `size` is 1, 2, 4 (or 8 on the memory bus). A device that ignores an access returns ALL_ONES[size].
    """

    name: str

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class Range:
    """One attached range: `start`..`end` exclusive, whose device takes accesses of up to `width` bytes."""

    __slots__ = ("base_offset", "device", "end", "start", "width")

    def __init__(self, start: int, end: int, device: Device, base_offset: int, width: int) -> None:
        self.start, self.end, self.device, self.base_offset = start, end, device, base_offset
        self.width = width


class Bus:
    """An address space of devices; an access nobody claims reads as all ones and its write is dropped.

    An access that is wider than the device at its address takes, or that reaches beyond it, is made in halves, the low
    one first, as an ISA bus does.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._ranges: list[Range] = []
        self._starts: list[int] = []

    def attach(self, start: int, length: int, device: Device, base_offset: int = 0, width: int = 8) -> None:
        """Attach `device` at [start, start+length), its offsets from `base_offset` on; ValueError on overlap.

        `width` is the widest access in bytes that it takes in one piece.
        """
        new = Range(start, start + length, device, base_offset, width)
        for old in self._ranges:
            if new.start < old.end and old.start < new.end:
                raise ValueError(
                    f"{self.name} bus: {device.name} at {start:#x}+{length:#x} overlaps {old.device.name} "
                    f"at {old.start:#x}+{old.end - old.start:#x}"
                )
        at = bisect_right(self._starts, start)
        self._ranges.insert(at, new)
        self._starts.insert(at, start)

    def detach(self, device: Device) -> None:
        """Remove every range of `device` (a PCI BAR that moves)."""
        self._ranges = [r for r in self._ranges if r.device is not device]
        self._starts = [r.start for r in self._ranges]

    def find(self, address: int) -> Range | None:
        """The range that holds `address`, or None."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address < self._ranges[at].end:
            return self._ranges[at]
        return None

    def _free(self, address: int, size: int) -> bool:
        """True where no range begins within an access whose first byte nobody claims."""
        at = bisect_right(self._starts, address)
        return at == len(self._starts) or self._starts[at] >= address + size

    def read(self, address: int, size: int) -> int:
        found = self.find(address)
        if found is None and self._free(address, size):
            return ALL_ONES[size]
        if size > 1 and (found is None or size > found.width or address + size > found.end):
            half = size >> 1
            return self.read(address, half) | self.read(address + half, half) << half * 8
        assert found is not None  # one byte is free or not
        return found.device.read(address - found.start + found.base_offset, size) & ALL_ONES[size]

    def write(self, address: int, size: int, value: int) -> None:
        found = self.find(address)
        if found is None and self._free(address, size):
            return
        if size > 1 and (found is None or size > found.width or address + size > found.end):
            half = size >> 1
            self.write(address, half, value & ALL_ONES[half])
            self.write(address + half, half, value >> half * 8)
        else:
            assert found is not None
            found.device.write(address - found.start + found.base_offset, size, value & ALL_ONES[size])

    def ranges(self) -> list[Range]:
        return list(self._ranges)
