"""Guest memory: the PC's holes, scalar and bulk accesses, read-only ranges, write traces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.bus import ALL_ONES, Bus
from emu.errors import UsageError
from emu.memory import MIB, GuestMemory, RamRegion

GIB = 1 << 30


class Recorder:
    """A device that remembers what reached it."""

    name = "recorder"

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return (0x8877665544332211 >> 8 * (offset & 7)) & ALL_ONES[size]

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


@pytest.fixture
def bus() -> Bus:
    return Bus("memory")


@pytest.fixture
def memory(bus: Bus) -> Iterator[GuestMemory]:
    made = GuestMemory(4 * MIB, bus)
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, -MIB, MIB - 1, MIB + 4096, 1 << 45])
def test_absurd_sizes_are_refused(bus: Bus, size: int) -> None:
    with pytest.raises(UsageError, match=str(size)):
        GuestMemory(size, bus)


def test_memory_above_the_hole_is_found_at_4_gib(bus: Bus) -> None:
    memory = GuestMemory(5 * GIB, bus)
    assert memory.regions() == [
        RamRegion(0, 0, 0xA0000),
        RamRegion(0xB8000, 0xB8000, 0xC0000000 - 0xB8000),
        RamRegion(4 * GIB, 3 * GIB, 2 * GIB),
    ]
    assert memory.e820()[-2:] == [(MIB, 3 * GIB - MIB, 1), (4 * GIB, 2 * GIB, 1)]
    memory.write(4 * GIB + 8, 4, 0x12345678)
    assert memory.ram[3 * GIB + 8] == 0x78
    assert memory.ram_offset(0xBFFFFFFF) == 0xBFFFF000
    assert memory.ram_offset(0xC0000000) == memory.ram_offset(6 * GIB) == -1
    assert memory.read(0xFFFFFFFC, 8) == 0xFFFFFFFF  # the hole, then the zero bytes of RAM at 4 GiB
    memory.close()


def test_one_mib_has_no_extended_memory(bus: Bus) -> None:
    memory = GuestMemory(MIB, bus)
    assert memory.e820() == [(0, 0x9FC00, 1), (0x9FC00, 0x400, 2), (0xE0000, 0x20000, 2)]
    assert memory.read(MIB, 4) == 0xFFFFFFFF
    memory.close()


def test_the_vga_window_is_mmio_and_its_text_page_is_ram(memory: GuestMemory, bus: Bus) -> None:
    device = Recorder()
    bus.attach(0xA0000, 0x18000, device)
    memory.write(0xA0010, 2, 0xBEEF)
    assert device.writes == [(0x10, 2, 0xBEEF)]
    assert memory.read(0xA0001, 4) == 0x55443322
    memory.write(0xB8000, 2, 0x0741)
    assert bytes(memory.ram[0xB8000:0xB8002]) == b"A\x07"
    assert memory.ram_offset(0xB7FFF) == -1


def test_an_access_may_straddle_ram_and_mmio(memory: GuestMemory, bus: Bus) -> None:
    device = Recorder()
    bus.attach(0xA0000, 0x1000, device)
    memory.write(0x9FFFD, 8, 0x8877665544332211)
    assert memory.read_bytes(0x9FFFD, 3) == b"\x11\x22\x33"
    assert device.writes == [(0, 4, 0x77665544), (4, 1, 0x88)]
    assert memory.read(0x9FFFD, 8) == 0x5544332211332211


def test_nothing_there_reads_as_all_ones(memory: GuestMemory) -> None:
    for size in range(1, 9):
        memory.write(0xFFFF_FFFF_FFFF, size, 0)
        assert memory.read(0xFFFF_FFFF_FFFF, size) == (1 << 8 * size) - 1


@given(st.integers(0x1000, 0x4000), st.integers(1, 8), st.integers(0, 2**64 - 1))
def test_scalars_agree_with_bytes(gpa: int, size: int, value: int) -> None:
    memory = GuestMemory(MIB, Bus("memory"))
    memory.write(gpa, size, value)
    kept = value & ((1 << 8 * size) - 1)
    assert memory.read_bytes(gpa - 1, size + 2) == b"\0" + kept.to_bytes(size, "little") + b"\0"
    assert memory.read(gpa, size) == kept
    memory.close()


def test_bulk_access_outside_ram_names_address_and_size(memory: GuestMemory) -> None:
    with pytest.raises(ValueError, match="16 bytes at guest-physical 0x3ffff8"):
        memory.write_bytes(0x3FFFF8, bytes(16))
    with pytest.raises(ValueError, match="read of 2 bytes"):
        memory.read_bytes(0x9FFFF, 2)
    with pytest.raises(ValueError, match="guest-physical -0x1"):
        memory.read_bytes(-1, 1)
    assert memory.holds(0x3FFFF0, 16)
    assert not memory.holds(0x3FFFF0, 17)


def test_read_only_memory_keeps_its_bytes(memory: GuestMemory) -> None:
    memory.write_bytes(0xF0000, b"ROM!")
    memory.protect(0xF0000, 0x10000)
    assert memory.watched(0xF0FFF)
    assert memory.write_protected(0xFFFFF)
    assert not memory.write_protected(0x100000)
    memory.write(0xF0000, 4, 0)
    memory.write(0xEFFFE, 4, 0xAABBCCDD)  # its lower half is plain RAM
    memory.write_bytes(0xEFFFC, bytes((1, 2, 3, 4, 5, 6)))
    assert memory.read_bytes(0xEFFFC, 8) == bytes((1, 2, 3, 4)) + b"ROM!"
    memory.write_bytes(0xF0000, b"new!", force=True)
    assert memory.read(0xF0000, 4) == int.from_bytes(b"new!", "little")
    with pytest.raises(ValueError, match="4 KiB"):
        memory.protect(0x100, 0x1000)


def test_write_traces_fire_after_the_bytes_changed(memory: GuestMemory) -> None:
    seen: list[tuple[int, int, int]] = []
    memory.on_watched_write = lambda gpa, size: seen.append((gpa, size, memory.read(gpa, 1)))
    memory.watch(5)
    memory.write(0x4FFF, 1, 9)
    memory.write(0x6000, 8, 9)
    assert seen == []
    memory.write(0x5004, 4, 0x21)
    memory.write(0x4FFE, 4, 0x44332211)
    memory.write_bytes(0x3000, bytes(0x2FFF) + b"\x77" + bytes(4))
    assert seen == [(0x5004, 4, 0x21), (0x5000, 2, 0x33), (0x5000, 0x1000, 0)]
    memory.unwatch(5)
    memory.write(0x5000, 1, 1)
    assert len(seen) == 3


def test_a_dropped_write_fires_no_trace(memory: GuestMemory) -> None:
    seen: list[tuple[int, int]] = []
    memory.on_watched_write = lambda gpa, size: seen.append((gpa, size))
    memory.protect(0xF0000, 0x1000)
    memory.watch(0xF0)
    memory.write(0xF0000, 4, 1)
    memory.write_bytes(0xF0000, b"x")
    assert seen == []
    memory.write_bytes(0xF0000, b"xyz", force=True)
    assert seen == [(0xF0000, 3)]


def test_watch_changes_are_announced_once(memory: GuestMemory) -> None:
    seen: list[tuple[int, bool]] = []
    memory.on_watch_change.append(lambda page, watched: seen.append((page, watched)))
    memory.watch(7)
    memory.watch(7)
    memory.unwatch(7)
    memory.unwatch(7)
    memory.protect(0x8000, 0x1000)
    memory.watch(8)
    memory.unwatch(8)  # still read-only, so still watched
    assert seen == [(7, True), (7, False), (8, True)]
    assert memory.watched(0x8123)


def test_fill(memory: GuestMemory) -> None:
    memory.fill(0x100FFE, MIB + 4, 0x5A)
    assert memory.read_bytes(0x100FFD, 3) == b"\0\x5a\x5a"
    assert memory.read_bytes(0x100FFE + MIB + 2, 4) == b"\x5a\x5a\0\0"
    with pytest.raises(ValueError, match="not all of it is RAM"):
        memory.fill(0x3FFFFF, 2)


def test_closing_leaves_a_held_view_alive(bus: Bus) -> None:
    memory = GuestMemory(MIB, bus)
    view = memory.ram[:16]
    memory.close()
    view[0] = 1
    assert view[0] == 1
