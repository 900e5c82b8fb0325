"""Split virtqueues: the rings a driver and a device share, and the buffers in them (virtio 1.2, 2.6 and 2.7).

Nothing here trusts the driver. What it does against the rules raises RingError, which the transport turns into
DEVICE_NEEDS_RESET; a ring is bounded by its size and a chain by its table, so nothing can go on for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

MAX_SIZE: Final = 256  # entries of a queue at most; a power of two
F_INDIRECT_DESC, F_EVENT_IDX = 1 << 28, 1 << 29  # feature bits (6)

_NEXT, _WRITE, _INDIRECT = 1, 2, 4  # descriptor flags (2.7.5)
_NO_INTERRUPT = 1  # of the available ring's flags (2.7.6)
_DESCRIPTOR: Final = struct.Struct("<QIHH")
_MOST_INDIRECT: Final = 1 << 16  # `next` has 16 bits
_MOST_BYTES: Final = 1 << 32  # of a chain (2.7.5.2)
_ALIGNMENTS: Final = (16, 2, 4)  # of descriptor table, available and used ring (2.7)


class Memory(Protocol):
    """What a virtqueue needs of guest memory; `read_bytes` and `write_bytes` raise ValueError outside RAM."""

    def read(self, gpa: int, size: int) -> int: ...

    def write(self, gpa: int, size: int, value: int) -> None: ...

    def read_bytes(self, gpa: int, length: int) -> bytes: ...

    def write_bytes(self, gpa: int, data: bytes) -> None: ...


class RingError(Exception):
    """The driver broke a rule of the rings; the device can do nothing more until it is reset (2.1.2)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A buffer of a chain: guest-physical address and bytes."""

    address: int
    length: int


class Buffers:
    """One direction of a chain as a stream of bytes; `left` are those not read or written yet.

    How a driver cuts its buffers means nothing (2.7.4.1), so devices see none of it.
    """

    __slots__ = ("_at", "_memory", "_segments", "left")

    def __init__(self, memory: Memory, segments: Sequence[Segment]) -> None:
        self._memory = memory
        self._segments = [segment for segment in reversed(segments) if segment.length]
        self._at = 0  # within the last of them, which is the first in order
        self.left = sum(segment.length for segment in segments)

    def _pieces(self, length: int) -> Iterator[Segment]:
        """Advance by `length` bytes, which must be there."""
        self.left -= length
        while length:
            segment = self._segments[-1]
            piece = min(length, segment.length - self._at)
            yield Segment(segment.address + self._at, piece)
            self._at, length = self._at + piece, length - piece
            if self._at == segment.length:
                self._segments.pop()
                self._at = 0

    def read(self, length: int) -> bytes:
        """The next bytes, at most `length`; RingError where a buffer is not in RAM."""
        try:
            return b"".join(
                self._memory.read_bytes(piece.address, piece.length) for piece in self._pieces(min(length, self.left))
            )
        except ValueError as error:
            raise RingError(str(error)) from error

    def write(self, data: bytes) -> int:
        """Store as much of `data` as still fits, and tell how much; RingError where a buffer is not in RAM."""
        stored = min(len(data), self.left)
        done = 0
        try:
            for piece in self._pieces(stored):
                self._memory.write_bytes(piece.address, data[done : done + piece.length])
                done += piece.length
        except ValueError as error:
            raise RingError(str(error)) from error
        return stored

    def take_last(self) -> Buffers:
        """Cut off the last byte, as a stream of its own; `left` must not be 0."""
        last = self._segments[0]
        self._segments[0] = Segment(last.address, last.length - 1)
        if self._segments[0].length == (self._at if len(self._segments) == 1 else 0):
            del self._segments[0]
        self.left -= 1
        return Buffers(self._memory, (Segment(last.address + last.length - 1, 1),))


@dataclass(frozen=True, slots=True)
class Chain:
    """A descriptor chain: its head's number, what the device may read, and what it may write."""

    head: int
    readable: Buffers
    writable: Buffers


@dataclass(slots=True)
class QueueState:
    """What the driver set, and how far the device has come; both indices run modulo 2**16.

    `rings` are the addresses of descriptor table, available ring (the driver's) and used ring (the device's). `told` is
    the used index at the last check for an interrupt.
    """

    size: int = MAX_SIZE
    enabled: bool = False
    rings: list[int] = field(default_factory=lambda: [0, 0, 0])
    available: int = 0
    used: int = 0
    told: int = 0

    @property
    def descriptors(self) -> int:
        return self.rings[0]

    @property
    def driver(self) -> int:
        return self.rings[1]

    @property
    def device(self) -> int:
        return self.rings[2]


class VirtQueue:
    """One queue; `features` are those the driver accepted."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.state = QueueState()
        self.features = 0

    def reset(self) -> None:
        self.state = QueueState()
        self.features = 0

    def enable(self) -> None:
        """Begin to use the rings; RingError where their size, alignment or place is impossible.

        All of them must be RAM, which lets every later access to an index do without a check.
        """
        s = self.state
        if not 0 < s.size <= MAX_SIZE or s.size & s.size - 1:
            raise RingError(f"a queue of {s.size} entries")
        lengths = (16 * s.size, 6 + 2 * s.size, 6 + 8 * s.size)  # with the event fields
        for start, length, alignment in zip(s.rings, lengths, _ALIGNMENTS, strict=True):
            if start % alignment:
                raise RingError(f"a ring at {start:#x}, which is no multiple of {alignment}")
            self._bytes(start, length)
        s.enabled = True

    # -- what the driver made available ------------------------------------------------------------------------

    def available(self) -> int:
        """How many chains wait; RingError where the index cannot be."""
        s = self.state
        waiting = self._memory.read(s.driver + 2, 2) - s.available & 0xFFFF
        if waiting > s.size:
            raise RingError(f"{waiting} chains in a ring of {s.size}")
        return waiting

    def chains(self) -> Iterator[Chain]:
        """The chains that wait now, taken one by one.

        The driver adds none while the device works; an index that a buffer or the other ring overwrites meanwhile must
        not keep the device busy for ever.
        """
        for _ in range(self.available()):
            yield self.pop()

    def pop(self) -> Chain:
        """Take the next chain, of which `available` must have told; RingError where it is malformed."""
        s = self.state
        head = self._memory.read(s.driver + 4 + 2 * (s.available % s.size), 2)
        s.available = s.available + 1 & 0xFFFF
        if self.features & F_EVENT_IDX:  # have the driver notify of the next one (2.7.10)
            self._memory.write(s.device + 4 + 8 * s.size, 2, s.available)
        readable: list[Segment] = []
        writable: list[Segment] = []
        total = 0
        for segment, writes in self._walk(head):
            if writable and not writes:
                raise RingError("a buffer to read behind one to write")  # 2.7.4.2
            total += segment.length
            if total > _MOST_BYTES:
                raise RingError("a chain of more than 4 GiB")
            (writable if writes else readable).append(segment)
        return Chain(head, Buffers(self._memory, readable), Buffers(self._memory, writable))

    def _walk(self, head: int) -> Iterator[tuple[Segment, bool]]:
        """The descriptors from `head` on: buffer, and whether the device writes it."""
        table, entries, at, indirect = self.state.descriptors, self.state.size, head, False
        left = entries
        while True:
            if at >= entries:
                raise RingError(f"descriptor {at} of a table of {entries}")
            if not left:
                raise RingError("descriptors in a loop")
            left -= 1
            address, length, flags, following = _DESCRIPTOR.unpack(self._bytes(table + 16 * at, 16))
            if flags & _INDIRECT:  # 2.7.5.3
                if indirect or flags & _NEXT or not self.features & F_INDIRECT_DESC:
                    raise RingError("an indirect table where there may be none")
                if not length or length % 16 or length > 16 * _MOST_INDIRECT:
                    raise RingError(f"an indirect table of {length} bytes")
                table, entries, at, indirect = address, length // 16, 0, True
                left = entries
                continue
            yield Segment(address, length), bool(flags & _WRITE)
            if not flags & _NEXT:
                return
            at = following

    def _bytes(self, address: int, length: int) -> bytes:
        try:
            return self._memory.read_bytes(address, length)
        except ValueError as error:
            raise RingError(str(error)) from error

    # -- what the device used ----------------------------------------------------------------------------------

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back, of whose writable part the first `written` bytes were filled."""
        s = self.state
        self._memory.write(s.device + 4 + 8 * (s.used % s.size), 8, min(written, 0xFFFF_FFFF) << 32 | chain.head)
        s.used = s.used + 1 & 0xFFFF
        self._memory.write(s.device + 2, 2, s.used)

    def wants_interrupt(self) -> bool:
        """Whether the driver asked to hear of what `push` did since the last call (2.7.7)."""
        s = self.state
        new, old = s.used, s.told
        if new == old:
            return False
        s.told = new
        if self.features & F_EVENT_IDX:
            event = self._memory.read(s.driver + 4 + 2 * s.size, 2)
            return new - event - 1 & 0xFFFF < new - old & 0xFFFF
        return not self._memory.read(s.driver, 2) & _NO_INTERRUPT
