"""The reference counts of a qcow2 image's clusters: allocation at the file's end, and release.

Whatever is written here is written before anything refers to a cluster, and after nothing does any more; so a process
that dies leaves clusters without an owner at worst, never two owners of one.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Final

from emu.disk.header import REFCOUNT_TABLE_AT, Header
from emu.disk.host import HostFile

_TYPES: Final = {3: "B", 4: "H", 5: "I", 6: "Q"}  # of `array`, by the order of a count's bits
_OFFSET: Final = ~0x1FF
_MOST_TABLE: Final = 8 << 20  # bytes, as in QEMU


def big_endian(raw: bytes, kind: str = "Q") -> array[int]:
    """The numbers of a table as the image holds them."""
    numbers = array(kind, raw)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def to_bytes(numbers: array[int]) -> bytes:
    """The inverse of `big_endian`."""
    swapped = numbers[:]
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped.tobytes()


class Refcounts:
    """The counts of a writable image; new clusters lie behind all that the file held when it was opened."""

    def __init__(self, file: HostFile, header: Header) -> None:
        """GuestFileError where the file ends within the refcount table, or has none."""
        self._file, self._bits, self._order = file, header.cluster_bits, header.refcount_order
        self._table_offset, clusters = header.refcount_table_offset, header.refcount_table_clusters
        raw = file.read(self._table_offset, clusters << self._bits)
        if not clusters or len(raw) != clusters << self._bits:
            raise file.error(
                f"truncated: the qcow2 refcount table needs {clusters} clusters at {self._table_offset:#x}, "
                f"but the file has {file.size} bytes"
            )
        self._table = big_endian(raw)
        self._per_block = (8 << self._bits) >> self._order
        self._blocks: dict[int, array[int]] = {}
        self._next = -(-file.size >> self._bits)

    # -- counts ------------------------------------------------------------------------------------------------

    def _block(self, number: int) -> array[int]:
        """A refcount block that the table names: its counts, or its bytes where a count is less than one."""
        block = self._blocks.get(number)
        if block is None:
            offset = self._table[number] & _OFFSET
            if offset & (1 << self._bits) - 1:
                raise self._file.failure(f"qcow2 refcount block at {offset:#x}, where no cluster begins")
            raw = self._file.read(offset, 1 << self._bits).ljust(1 << self._bits, b"\0")
            block = self._blocks[number] = big_endian(raw, self._type)
        return block

    @property
    def _type(self) -> str:
        return _TYPES.get(self._order, "B")

    def _place(self, index: int) -> tuple[int, int, int]:
        """Where a block holds a count: number in the array, how far to shift it, and its mask."""
        if self._order >= 3:
            return index, 0, -1
        number, within = divmod(index, 8 >> self._order)  # the lowest bits come first
        return number, within << self._order, (1 << (1 << self._order)) - 1

    def _get(self, cluster: int) -> int:
        number, index = divmod(cluster, self._per_block)
        if number >= len(self._table) or not self._table[number] & _OFFSET:
            return 0
        at, shift, mask = self._place(index)
        return self._block(number)[at] >> shift & mask

    def _set(self, cluster: int, count: int) -> None:
        """Change a count whose block is there, in the file first."""
        number, index = divmod(cluster, self._per_block)
        block, (at, shift, mask) = self._block(number), self._place(index)
        value = count if mask < 0 else block[at] & ~(mask << shift) | count << shift
        offset = (self._table[number] & _OFFSET) + at * block.itemsize
        self._file.write(offset, value.to_bytes(block.itemsize, "big"))
        block[at] = value

    # -- allocation --------------------------------------------------------------------------------------------

    def allocate(self) -> int:
        """File offset of a new cluster with a count of 1, whose bytes read as zeros; DiskError where it fails."""
        while True:
            cluster = self._next
            number = cluster // self._per_block
            if number >= len(self._table):
                self._grow_table()
            elif not self._table[number] & _OFFSET:
                self._add_block(number)
            else:
                self._next += 1
                if not self._get(cluster):  # else one that a process which died had allocated
                    self._set(cluster, 1)
                    return cluster << self._bits

    def release(self, offset: int, length: int = 1) -> None:
        """Count one owner less of every cluster that [offset, offset+length) touches."""
        for cluster in range(offset >> self._bits, (offset + length - 1 >> self._bits) + 1):
            if count := self._get(cluster):
                self._set(cluster, count - 1)

    def _new_block(self, number: int, owned: range) -> array[int]:
        """Block `number` with a count of 1 for those of the clusters `owned` that it holds."""
        block = big_endian(bytes(1 << self._bits), self._type)
        first = number * self._per_block
        for cluster in range(max(owned.start, first), min(owned.stop, first + self._per_block)):
            at, shift, _ = self._place(cluster - first)
            block[at] |= 1 << shift
        return block

    def _add_block(self, number: int) -> None:
        """Make the next cluster the block that counts it."""
        cluster = self._next
        block = self._new_block(number, range(cluster, cluster + 1))
        self._file.write(cluster << self._bits, to_bytes(block))
        self._file.write(self._table_offset + 8 * number, (cluster << self._bits).to_bytes(8, "big"))
        self._table[number] = cluster << self._bits
        self._blocks[number] = block
        self._next += 1

    def _grow_table(self) -> None:
        """Put a table twice as large, and the blocks that count it, behind the last cluster; then let go of the old."""
        entries = (1 << self._bits) // 8
        old_offset, old_clusters = self._table_offset, len(self._table) // entries
        first = self._next
        blocks, clusters = 1, 2 * old_clusters
        while True:  # the blocks count themselves and the table, which must have room for them
            numbers = range(first // self._per_block, (first + blocks + clusters - 1) // self._per_block + 1)
            if len(numbers) <= blocks and numbers.stop <= clusters * entries:
                break
            blocks, clusters = max(blocks, len(numbers)), max(clusters, -(-numbers.stop // entries))
        if clusters << self._bits > _MOST_TABLE:
            raise self._file.failure("the qcow2 image has no room in its refcount table for another cluster")
        owned = range(first, first + blocks + clusters)
        table = self._table[:]
        table.frombytes(bytes((clusters << self._bits) - 8 * len(table)))
        made = {number: self._new_block(number, owned) for number in numbers}
        for cluster, (number, block) in enumerate(made.items(), first):
            self._file.write(cluster << self._bits, to_bytes(block))
            table[number] = cluster << self._bits
        offset = first + blocks << self._bits
        self._file.write(offset, to_bytes(table))
        self._file.write(REFCOUNT_TABLE_AT, struct.pack(">QI", offset, clusters))
        self._table, self._table_offset, self._next = table, offset, owned.stop
        self._blocks.update(made)
        self.release(old_offset, old_clusters << self._bits)
