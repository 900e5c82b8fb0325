"""The bus: who answers an address, and accesses wider than what is there."""

from __future__ import annotations

import pytest

from emu.bus import Bus


class Recorder:
    """Answers each byte with its offset and keeps what it is asked."""

    name = "recorder"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.asked.append(("read", offset, size, 0))
        return int.from_bytes(range(offset, offset + size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.asked.append(("write", offset, size, value))


@pytest.fixture
def device() -> Recorder:
    return Recorder()


def test_nobody_answers_with_ones(device: Recorder) -> None:
    bus = Bus("port")
    bus.attach(0x10, 4, device)
    assert [bus.read(0x0C, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFFFFFF]
    bus.write(0x14, 4, 1)
    assert device.asked == []


def test_a_wide_access_to_a_narrow_device_is_made_in_pieces(device: Recorder) -> None:
    bus = Bus("port")
    bus.attach(0x10, 8, device, 1, width=1)
    assert bus.read(0x12, 4) == 0x06050403
    bus.write(0x10, 2, 0xABCD)
    assert device.asked[4:] == [("write", 1, 1, 0xCD), ("write", 2, 1, 0xAB)]


def test_an_access_takes_what_the_device_takes(device: Recorder) -> None:
    bus = Bus("port")
    bus.attach(0x10, 8, device, width=2)
    bus.write(0x10, 4, 0x11223344)
    assert device.asked == [("write", 0, 2, 0x3344), ("write", 2, 2, 0x1122)]


def test_an_access_across_an_end(device: Recorder) -> None:
    bus = Bus("port")
    bus.attach(0x10, 2, device)
    bus.attach(0x13, 1, device, 7)
    assert bus.read(0x0F, 2) == 0x00FF
    assert bus.read(0x11, 4) == 0xFF07FF01
    assert bus.read(0x0E, 8) == 0xFFFF07FF_0100FFFF


def test_ranges_do_not_overlap(device: Recorder) -> None:
    bus = Bus("port")
    bus.attach(0x10, 4, device)
    with pytest.raises(ValueError, match="overlaps"):
        bus.attach(0x13, 1, Recorder())
