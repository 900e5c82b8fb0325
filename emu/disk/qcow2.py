"""A qcow2 image: where its L1 and L2 tables say that a cluster's bytes are, and how a write gives it a place.

A write touches the file in the order count, data, L2 entry, release of the old cluster, each at once; a process may be
killed between any two of them (see `refcounts`).
"""

from __future__ import annotations

import zlib
from array import array
from collections import OrderedDict
from typing import Final

from emu.disk.header import AUTOCLEAR_AT, CORRUPT, DIRTY, read_header
from emu.disk.host import SECTOR, HostFile
from emu.disk.refcounts import Refcounts, big_endian, to_bytes
from emu.disk.store import pieces

# Bits of L1 and L2 entries.
_COPIED, _COMPRESSED, _ZERO = 1 << 63, 1 << 62, 1 << 0
_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00
_DEFLATE: Final = -15  # a raw stream; QEMU writes windows of 4 KiB, others may not

_CACHED_TABLES: Final = 32 << 20  # bytes of L2 tables kept, which stand for 256 GiB with the usual clusters
_CACHED_CLUSTERS: Final = 16  # decompressed ones, so that small reads in sequence do not inflate each again


class Qcow2Image:
    """The disk in `file`; where it is not `writable`, `write` must not be called."""

    def __init__(self, file: HostFile, writable: bool) -> None:
        """GuestFileError where the image is malformed, or uses what cannot be read (or written) here."""
        self._file, self._header = file, read_header(file)
        header = self._header
        self.size = -(-header.size // SECTOR) * SECTOR
        raw = file.read(header.l1_offset, 8 * header.l1_size)
        self._l1 = big_endian(raw[: len(raw) & ~7].ljust(8 * header.l1_size, b"\0"))
        self._slot_bits = header.cluster_bits - 3
        self._tables: OrderedDict[int, array[int]] = OrderedDict()
        self._most_tables = max(16, _CACHED_TABLES >> header.cluster_bits)
        self._inflated: OrderedDict[int, bytes] = OrderedDict()
        self._refcounts = self._begin_to_write() if writable else None

    def _begin_to_write(self) -> Refcounts:
        if self._header.incompatible & DIRTY:
            raise self._file.error("the qcow2 image was not closed cleanly; 'qemu-img check -r all' repairs it")
        if self._header.incompatible & CORRUPT:
            raise self._file.error("the qcow2 image is marked corrupt, so nothing may be written to it")
        refcounts = Refcounts(self._file, self._header)
        if self._header.autoclear:
            # Extensions that describe the data, as bitmaps do, no longer hold once something else writes it.
            self._file.write(AUTOCLEAR_AT, bytes(8))
        return refcounts

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """DiskError where the host, a table or a compressed cluster does not allow it."""
        parts: list[bytes] = []
        start = run = 0  # what is to be read from the file, as its clusters often follow each other
        for index, at, piece in pieces(offset, length, self._header.cluster_bits):
            entry = self._entry(index)
            host = 0 if entry & _COMPRESSED else self._data_offset(entry)
            if run and host + at == start + run and host:
                run += piece
                continue
            if run:
                parts.append(self._file.read(start, run).ljust(run, b"\0"))
                run = 0
            if entry & _COMPRESSED:
                parts.append(self._inflate(entry)[at : at + piece])
            elif host:
                start, run = host + at, piece
            else:
                parts.append(bytes(piece))
        if run:
            parts.append(self._file.read(start, run).ljust(run, b"\0"))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _entry(self, index: int) -> int:
        """The L2 entry of a cluster of the disk; 0 where there is no table."""
        table = self._table(index >> self._slot_bits)
        return 0 if table is None else table[index & (1 << self._slot_bits) - 1]

    def _table(self, number: int) -> array[int] | None:
        """The L2 table that an L1 entry names, or None where it names none."""
        offset = self._l1[number] & _OFFSET
        if not offset:
            return None
        table = self._tables.get(offset)
        if table is not None:
            self._tables.move_to_end(offset)
            return table
        size = self._header.cluster_size
        raw = b"" if offset % size else self._file.read(offset, size)
        if len(raw) != size:
            raise self._file.failure(f"qcow2 L2 table at {offset:#x}, where the file holds no whole cluster")
        return self._keep(offset, big_endian(raw))

    def _keep(self, offset: int, table: array[int]) -> array[int]:
        self._tables[offset] = table
        if len(self._tables) > self._most_tables:
            self._tables.popitem(last=False)
        return table

    def _data_offset(self, entry: int) -> int:
        """Where in the file a cluster that is not compressed is; 0 where it reads as zeros."""
        return 0 if self._reads_as_zeros(entry) else self._aligned(entry & _OFFSET)

    def _reads_as_zeros(self, entry: int) -> bool:
        if entry & _ZERO and self._header.version < 3:
            raise self._file.failure(f"qcow2 L2 entry {entry:#x}: version 2 has no zero clusters")
        return bool(entry & _ZERO)

    def _aligned(self, offset: int) -> int:
        if offset % self._header.cluster_size:
            raise self._file.failure(f"qcow2 data cluster at {offset:#x}, where no cluster begins")
        return offset

    def _compressed(self, entry: int) -> tuple[int, int]:
        """File offset of compressed data, and the bytes up to the end of the last sector that it touches."""
        width = 62 - (self._header.cluster_bits - 8)
        offset = entry & (1 << width) - 1
        sectors = (entry & _COMPRESSED - 1) >> width
        return offset, (sectors + 1) * SECTOR - offset % SECTOR

    def _inflate(self, entry: int) -> bytes:
        """The bytes of a compressed cluster."""
        key = entry & ~_COPIED
        data = self._inflated.get(key)
        if data is not None:
            self._inflated.move_to_end(key)
            return data
        offset, length = self._compressed(entry)
        size = self._header.cluster_size
        try:
            data = zlib.decompressobj(_DEFLATE).decompress(self._file.read(offset, length), size)
        except zlib.error as error:
            raise self._file.failure(f"qcow2 compressed cluster at {offset:#x} is corrupt: {error}") from error
        if len(data) != size:
            raise self._file.failure(f"qcow2 compressed cluster at {offset:#x} has {len(data)} of {size} bytes")
        self._inflated[key] = data
        if len(self._inflated) > _CACHED_CLUSTERS:
            self._inflated.popitem(last=False)
        return data

    # -- writing -----------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> None:
        """DiskError where the host or a table does not allow it; what came before is stored then."""
        done = 0
        for index, at, piece in pieces(offset, len(data), self._header.cluster_bits):
            self._write_cluster(index, at, data[done : done + piece])
            done += piece

    def _write_cluster(self, index: int, at: int, data: bytes) -> None:
        if self._refcounts is None:
            raise self._file.failure("the qcow2 image is open for reading only")
        table_offset, table = self._own_table(index >> self._slot_bits, self._refcounts)
        slot = index & (1 << self._slot_bits) - 1
        entry = table[slot]
        size = self._header.cluster_size
        compressed = bool(entry & _COMPRESSED)
        zeros = not compressed and self._reads_as_zeros(entry)
        held = 0 if compressed else self._aligned(entry & _OFFSET)  # a zero cluster may hold one in reserve
        if held and entry & _COPIED:  # nobody else's
            if not zeros:
                self._file.write(held + at, data)
                return
            self._file.write(held, (bytes(at) + data).ljust(size, b"\0"))
            self._set_entry(table_offset, table, slot, held | _COPIED)
            return
        if compressed:
            before = self._inflate(entry)
        elif held and not zeros:
            before = self._file.read(held, size).ljust(size, b"\0")
        else:
            before = b""
        new = self._refcounts.allocate()
        if before:
            self._file.write(new, before[:at] + data + before[at + len(data) :])
        else:
            self._file.write(new + at, data)  # the rest of a new cluster reads as zeros
        self._set_entry(table_offset, table, slot, new | _COPIED)
        if compressed:
            self._refcounts.release(*self._compressed(entry))
        elif held:
            self._refcounts.release(held)

    def _set_entry(self, table_offset: int, table: array[int], slot: int, entry: int) -> None:
        self._file.write(table_offset + 8 * slot, entry.to_bytes(8, "big"))
        table[slot] = entry

    def _own_table(self, number: int, refcounts: Refcounts) -> tuple[int, array[int]]:
        """File offset and entries of an L2 table that no snapshot shares, made where there is none."""
        entry, table = self._l1[number], self._table(number)
        old = entry & _OFFSET
        if table is not None and entry & _COPIED:
            return old, table
        new = refcounts.allocate()
        copy = table[:] if table is not None else big_endian(bytes(self._header.cluster_size))
        self._file.write(new, to_bytes(copy))
        self._file.write(self._header.l1_offset + 8 * number, (new | _COPIED).to_bytes(8, "big"))
        self._l1[number] = new | _COPIED
        self._keep(new, copy)
        if old:
            refcounts.release(old)
        return new, copy
