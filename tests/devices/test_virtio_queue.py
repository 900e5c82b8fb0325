"""Virtqueues: chains as a driver lays them out, the rings' indices, suppression of interrupts, and broken rings."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus import Bus
from emu.devices.virtio.queue import F_EVENT_IDX, F_INDIRECT_DESC, Chain, RingError, VirtQueue
from emu.memory import GuestMemory

NEXT, WRITE, INDIRECT = 1, 2, 4
TABLE, AVAIL, USED, DATA, INDIRECT_TABLE = 0x1000, 0x2000, 0x3000, 0x10000, 0x8000
SIZE = 8
MIB = 1 << 20


class Rings:
    """A queue of eight entries in 2 MiB of memory, and the driver's side of it."""

    def __init__(self, features: int = 0, size: int = SIZE) -> None:
        self.memory = GuestMemory(2 * MIB, Bus("memory"))
        self.queue = VirtQueue(self.memory)
        self.queue.features = features
        self.queue.state.size = size
        self.queue.state.rings[:] = TABLE, AVAIL, USED
        self.queue.enable()
        self.offered = 0

    def describe(self, at: int, *rows: tuple[int, int, int, int]) -> None:
        """Address, length, flags and next of descriptors from `at` on."""
        self.memory.write_bytes(at, b"".join(struct.pack("<QIHH", *row) for row in rows))

    def offer(self, head: int) -> None:
        self.memory.write(AVAIL + 4 + 2 * (self.offered % self.queue.state.size), 2, head)
        self.offered = self.offered + 1 & 0xFFFF
        self.memory.write(AVAIL + 2, 2, self.offered)

    def take(self) -> Chain:
        (chain,) = self.queue.chains()
        return chain

    def used(self, index: int) -> tuple[int, int]:
        return self.memory.read(USED + 4 + 8 * index, 4), self.memory.read(USED + 8 + 8 * index, 4)


def test_a_chain_is_two_streams() -> None:
    rings = Rings()
    rings.describe(
        TABLE,
        (DATA, 3, NEXT, 2),
        (DATA + 0x200, 4, WRITE, 0),
        (DATA + 0x100, 5, NEXT, 3),
        (DATA + 0x300, 2, NEXT | WRITE, 1),
    )
    rings.memory.write_bytes(DATA, b"abc")
    rings.memory.write_bytes(DATA + 0x100, b"defgh")
    rings.offer(0)
    chain = rings.take()
    assert (chain.head, chain.readable.left, chain.writable.left) == (0, 8, 6)
    assert (chain.readable.read(4), chain.readable.read(100), chain.readable.read(1)) == (b"abcd", b"efgh", b"")
    last = chain.writable.take_last()
    assert chain.writable.left == 5
    assert [chain.writable.write(data) for data in (b"123", b"456", b"7")] == [3, 2, 0]
    assert last.write(b"!?") == 1
    assert rings.memory.read_bytes(DATA + 0x300, 2) + rings.memory.read_bytes(DATA + 0x200, 5) == b"12345!\0"


def test_the_last_byte_may_be_a_buffer_of_its_own() -> None:
    rings = Rings()
    rings.describe(TABLE, (DATA, 2, WRITE | NEXT, 1), (DATA + 9, 0, WRITE | NEXT, 2), (DATA + 4, 1, WRITE, 0))
    rings.offer(0)
    chain = rings.take()
    last = chain.writable.take_last()
    assert (chain.writable.write(b"xyz"), last.write(b"s")) == (2, 1)
    assert rings.memory.read_bytes(DATA, 10) == b"xy\0\0s\0\0\0\0\0"
    rings.offer(2)
    single = rings.take()
    single.writable.take_last()
    assert (single.writable.left, single.writable.write(b"q")) == (0, 0)


def test_used_entries_come_in_the_order_of_completion() -> None:
    rings = Rings()
    rings.describe(TABLE, (DATA, 1, 0, 0), (DATA, 1, 0, 0))
    rings.offer(1)
    rings.offer(0)
    first, second = rings.queue.chains()
    assert rings.memory.read(USED + 2, 2) == 0
    rings.queue.push(second, 7)
    rings.queue.push(first, 9)
    assert (rings.used(0), rings.used(1)) == ((0, 7), (1, 9))
    assert rings.memory.read(USED + 2, 2) == 2
    assert list(rings.queue.chains()) == []


def test_indices_wrap() -> None:
    rings = Rings()
    rings.describe(TABLE, *((DATA + number, 1, 0, 0) for number in range(SIZE)))
    for turn in range(0x10000 + 5):
        rings.offer(turn % SIZE)
        chain = rings.take()
        assert chain.head == turn % SIZE
        rings.queue.push(chain, turn)
    assert rings.memory.read(USED + 2, 2) == 5
    assert rings.used(4) == (4, 0x10004)


def test_indirect_tables() -> None:
    rings = Rings(F_INDIRECT_DESC)
    rows = [(DATA + 16 * number, 2, NEXT, number + 1) for number in range(20)]  # more than the queue has
    rings.describe(INDIRECT_TABLE, *rows, (DATA + 0x400, 4, WRITE, 0))
    rings.memory.write_bytes(DATA, b"".join(bytes((number,)) * 16 for number in range(20)))
    rings.describe(TABLE, (DATA + 0x100, 1, NEXT, 3))
    rings.describe(TABLE + 3 * 16, (INDIRECT_TABLE, 21 * 16, INDIRECT | WRITE, 0))  # WRITE means nothing (2.7.5.3.2)
    rings.offer(0)
    chain = rings.take()
    assert (chain.readable.left, chain.writable.left) == (41, 4)
    assert chain.readable.read(5) == b"\x10\0\0\x01\x01"


def test_the_driver_can_ask_for_silence() -> None:
    rings = Rings()
    rings.describe(TABLE, (DATA, 1, 0, 0))
    assert not rings.queue.wants_interrupt()
    for flags, wanted in ((0, True), (1, False), (2, True)):
        rings.memory.write(AVAIL, 2, flags)
        rings.offer(0)
        rings.queue.push(rings.take(), 0)
        assert rings.queue.wants_interrupt() is wanted
        assert not rings.queue.wants_interrupt()  # told


def test_event_indices() -> None:
    rings = Rings(F_EVENT_IDX)
    rings.describe(TABLE, (DATA, 1, 0, 0))
    rings.memory.write(AVAIL, 2, 1)  # the flag means nothing then
    rings.memory.write(AVAIL + 4 + 2 * SIZE, 2, 2)  # used_event: after the third
    told = []
    for turn in range(5):
        rings.offer(0)
        rings.queue.push(rings.take(), 0)
        told.append(rings.queue.wants_interrupt())
        assert rings.memory.read(USED + 4 + 8 * SIZE, 2) == turn + 1  # avail_event
    assert told == [False, False, True, False, False]
    rings.memory.write(AVAIL + 4 + 2 * SIZE, 2, 6)
    for _ in range(3):  # several at once that pass it
        rings.offer(0)
        rings.queue.push(rings.take(), 0)
    assert rings.queue.wants_interrupt()


@pytest.mark.parametrize(
    ("features", "rows", "problem"),
    [
        (0, [(DATA, 1, NEXT, 1), (DATA, 1, NEXT, 0)], "loop"),
        (0, [(DATA, 1, NEXT, 0)], "loop"),
        (0, [(DATA, 1, NEXT, SIZE)], "descriptor 8 of"),
        (0, [(DATA, 1, WRITE | NEXT, 1), (DATA, 1, 0, 0)], "behind one to write"),
        (0, [(DATA, 0xFFFF_FFFF, NEXT, 1), (DATA, 0xFFFF_FFFF, 0, 0)], "4 GiB"),
        (0, [(INDIRECT_TABLE, 16, INDIRECT, 0)], "may be none"),
        (F_INDIRECT_DESC, [(INDIRECT_TABLE, 16, INDIRECT | NEXT, 0)], "may be none"),
        (F_INDIRECT_DESC, [(TABLE, 16, INDIRECT, 0)], "may be none"),  # an indirect table that names another
        (F_INDIRECT_DESC, [(INDIRECT_TABLE, 0, INDIRECT, 0)], "table of 0 bytes"),
        (F_INDIRECT_DESC, [(INDIRECT_TABLE, 24, INDIRECT, 0)], "table of 24 bytes"),
        (F_INDIRECT_DESC, [(INDIRECT_TABLE, 0x10_0010, INDIRECT, 0)], "table of 1048592 bytes"),
        (F_INDIRECT_DESC, [(2 * MIB, 16, INDIRECT, 0)], "not all of it is RAM"),
    ],
)
def test_malformed_chains(features: int, rows: list[tuple[int, int, int, int]], problem: str) -> None:
    rings = Rings(features)
    rings.describe(TABLE, *rows)
    rings.offer(0)
    with pytest.raises(RingError, match=problem):
        list(rings.queue.chains())


def test_malformed_rings() -> None:
    rings = Rings()
    rings.offer(SIZE)
    with pytest.raises(RingError, match="descriptor 8"):
        rings.take()
    rings.memory.write(AVAIL + 2, 2, rings.queue.state.available + SIZE + 1)
    with pytest.raises(RingError, match="9 chains in a ring of 8"):
        rings.queue.available()


@pytest.mark.parametrize("address", [2 * MIB - 1, 0xA0000 - 1, 2 * MIB, 1 << 63, (1 << 64) - 1])
def test_buffers_outside_memory(address: int) -> None:
    rings = Rings()
    rings.describe(TABLE, (address, 2, NEXT, 1), (address, 2, WRITE, 0))
    rings.offer(0)
    chain = rings.take()
    with pytest.raises(RingError, match="not all of it is RAM"):
        chain.readable.read(2)
    with pytest.raises(RingError, match="not all of it is RAM"):
        chain.writable.write(b"ab")


@pytest.mark.parametrize(
    ("size", "rings", "problem"),
    [
        (0, (TABLE, AVAIL, USED), "queue of 0"),
        (3, (TABLE, AVAIL, USED), "queue of 3"),
        (512, (TABLE, AVAIL, USED), "queue of 512"),
        (8, (TABLE + 8, AVAIL, USED), "multiple of 16"),
        (8, (TABLE, AVAIL + 1, USED), "multiple of 2"),
        (8, (TABLE, AVAIL, USED + 2), "multiple of 4"),
        (8, (2 * MIB - 112, AVAIL, USED), "not all of it is RAM"),
        (8, (TABLE, 2 * MIB - 20, USED), "not all of it is RAM"),
        (8, (TABLE, AVAIL, 2 * MIB - 68), "not all of it is RAM"),
        (8, (TABLE, AVAIL, 1 << 63), "not all of it is RAM"),
    ],
)
def test_rings_that_cannot_be(size: int, rings: tuple[int, int, int], problem: str) -> None:
    queue = VirtQueue(GuestMemory(2 * MIB, Bus("memory")))
    queue.state.size = size
    queue.state.rings[:] = rings
    with pytest.raises(RingError, match=problem):
        queue.enable()
    assert not queue.state.enabled


def test_rings_may_end_with_memory() -> None:
    queue = VirtQueue(GuestMemory(2 * MIB, Bus("memory")))
    queue.state.size = 8
    queue.state.rings[:] = 2 * MIB - 128, 2 * MIB - 128 - 22, 2 * MIB - 256 - 72
    queue.enable()
    assert queue.state.enabled


def test_a_used_ring_over_the_available_ring_ends() -> None:
    rings = Rings()
    rings.queue.state.rings[2] = AVAIL  # every used entry makes another available
    rings.describe(TABLE, *((DATA, 1, 0, 0) for _ in range(SIZE)))
    rings.offer(0)
    rings.offer(1)
    count = 0
    for chain in rings.queue.chains():
        rings.queue.push(chain, 0)
        count += 1
    assert count == 2


@given(st.binary(min_size=SIZE * 16, max_size=SIZE * 16), st.binary(min_size=24, max_size=24), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_no_content_of_the_rings_does_harm(table: bytes, ring: bytes, features: int) -> None:
    rings = Rings(features << 28)
    rings.memory.write_bytes(TABLE, table)
    rings.memory.write_bytes(AVAIL, ring)
    try:
        for chain in rings.queue.chains():
            chain.readable.read(64)
            chain.writable.write(bytes(64))
            rings.queue.push(chain, 64)
    except RingError:
        pass  # and nothing else
    rings.queue.wants_interrupt()
