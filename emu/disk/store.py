"""A store of bytes behind a disk: the protocol, bytes in memory, and the copy-on-write overlay over another store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from emu.errors import GuestFileError

_BLOCK_BITS: Final = 12  # the overlay's unit: what file systems write at least
_BLOCK: Final = 1 << _BLOCK_BITS


class DiskError(GuestFileError):
    """The host or the image's own structure kept sectors from being read or written; names file and offset."""


class Store(Protocol):
    """A disk's bytes. What is read or written lies within [0, size), which callers see to; DiskError where it fails."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def flush(self) -> None:
        """Have everything written reach the medium, where there is one."""
        ...

    def close(self) -> None:
        """Let go of the file, where there is one; the last call."""
        ...


class Constant:
    """Bytes given once, which nothing writes to; zeros behind them up to `size`."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = data
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length].ljust(length, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        raise DiskError(f"write of {len(data)} bytes at {offset:#x} of a disk that cannot change")

    def flush(self) -> None:
        """Nothing is behind it."""

    def close(self) -> None:
        """Nothing is open."""


class Overlay:
    """Keeps what is written in memory and leaves the store below as it is."""

    def __init__(self, below: Store) -> None:
        self._below = below
        self._blocks: dict[int, bytearray] = {}
        self.size = below.size

    def read(self, offset: int, length: int) -> bytes:
        if not self._blocks:
            return self._below.read(offset, length)
        parts = []
        unchanged = offset  # where what comes from below begins
        for number, at, piece in pieces(offset, length, _BLOCK_BITS):
            block = self._blocks.get(number)
            if block is None:
                continue
            start = number * _BLOCK + at
            if start > unchanged:
                parts.append(self._below.read(unchanged, start - unchanged))
            parts.append(bytes(block[at : at + piece]))
            unchanged = start + piece
        if unchanged < offset + length:
            parts.append(self._below.read(unchanged, offset + length - unchanged))
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        done = 0
        for number, at, piece in pieces(offset, len(data), _BLOCK_BITS):
            block = self._blocks.get(number)
            if block is None:
                start = number * _BLOCK
                kept = b"" if piece == _BLOCK else self._below.read(start, max(0, min(_BLOCK, self.size - start)))
                block = self._blocks[number] = bytearray(kept.ljust(_BLOCK, b"\0"))
            block[at : at + piece] = data[done : done + piece]
            done += piece

    def flush(self) -> None:
        """What is in memory has no medium."""

    def close(self) -> None:
        self._below.close()


def pieces(offset: int, length: int, bits: int) -> Iterator[tuple[int, int, int]]:
    """Cut a range at multiples of 2^bits: number of the part, where in it, bytes."""
    end = offset + length
    while offset < end:
        number, at = offset >> bits, offset & (1 << bits) - 1
        piece = min((1 << bits) - at, end - offset)
        yield number, at, piece
        offset += piece
