"""The guest's page-table entries that shadow tables were made from, beside what they are now.

A CPU remembers translations until they are flushed, so it is the flush at which the two are compared; that the CPU
itself set A or D bits meanwhile changes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from emu.memory import PAGE, GuestMemory
from emu.shadow import Table
from isa.x86.paging import PTE_A, PTE_D

ACCESSED_DIRTY: Final = PTE_A | PTE_D
GROUP: Final = 8  # entries of a guest table looked at together
_ENTRY: Final = {8: struct.Struct("<Q"), 4: struct.Struct("<I")}  # by width of an entry
_ENTRIES: Final = {8: struct.Struct(f"<{GROUP}Q"), 4: struct.Struct(f"<{GROUP}I")}
_PART: Final = 64  # bytes of a table of which each entry is looked at where they changed


def differs(old: int, new: int) -> bool:
    """True where an entry changed; that the CPU set A or D changes nothing."""
    return bool((old ^ new) & ~ACCESSED_DIRTY or old & ~new)


class GuestEntries:
    """Reads entries as they are (`now`) and as a shadow table knows them, each `width` bytes; 0 without paging."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.width = 0

    def _start(self, table: Table) -> int:
        return self._memory.ram_offset(table.gpa) + (table.gpa & PAGE - 1)

    def copy(self, table: Table, length: int) -> None:
        """Have a new shadow table know the `length` bytes of the guest's table."""
        start = self._start(table)
        table.entries = bytearray(self._memory.ram[start : start + length])

    def slot(self, table: Table, linear: int) -> int:
        """The guest's slot for an address."""
        return linear >> table.shift & (len(table.entries) // self.width - 1)

    def now(self, table: Table, slot: int) -> int:
        """The guest's entry as it is now."""
        entry: int = _ENTRY[self.width].unpack_from(self._memory.ram, self._start(table) + slot * self.width)[0]
        return entry

    def keep(self, table: Table, slot: int, entry: int) -> bool:
        """Have a shadow table know an entry as it is now; True where the guest changed it."""
        scalar, at = _ENTRY[self.width], slot * self.width
        old: int = scalar.unpack_from(table.entries, at)[0]
        if old == entry:
            return False
        scalar.pack_into(table.entries, at, entry)
        return differs(old, entry)

    def marked(self, table: Table, offset: int, size: int) -> bool:
        """True where a write to these bytes of the table did no more than set A or D bits of an entry.

        The shadow table then knows the entry as it is now.
        """
        slot = offset // self.width
        if (offset + size - 1) // self.width != slot:
            return False
        at, entry = slot * self.width, self.now(table, slot)
        old: int = _ENTRY[self.width].unpack_from(table.entries, at)[0]
        if old == entry or differs(old, entry):
            return False
        _ENTRY[self.width].pack_into(table.entries, at, entry)
        return True

    def around(self, table: Table, slot: int) -> Iterator[tuple[int, int]]:
        """(slot, entry as it is now) of the group that `slot` is in."""
        first = slot & -GROUP
        group = _ENTRIES[self.width].unpack_from(self._memory.ram, self._start(table) + first * self.width)
        return enumerate(group, first)

    def compare(self, table: Table) -> list[int]:
        """Have a shadow table know all entries as they are now; the slots of those that the guest changed."""
        start, kept = self._start(table), table.entries
        now = bytes(self._memory.ram[start : start + len(kept)])
        if now == kept:
            return []
        unpack, width = _ENTRY[self.width].unpack_from, self.width
        changed = self._again(table, now)
        if now == kept:
            return changed
        parts = [(0, len(kept))]  # in each of which something is different
        while parts:
            low, high = parts.pop()
            if high - low <= _PART:
                for at in range(low, high, width):
                    old, new = unpack(kept, at)[0], unpack(now, at)[0]
                    if old != new and differs(old, new):
                        changed.append(at // width)
                continue
            middle = low + high >> 1
            lower = now[low:middle] != kept[low:middle]
            if not lower or now[middle:high] != kept[middle:high]:
                parts.append((middle, high))
            if lower:
                parts.append((low, middle))
        table.entries[:] = now
        table.changed = changed[:GROUP]
        return changed

    def _again(self, table: Table, now: bytes) -> list[int]:
        """Have a shadow table know the entries that changed the last time; the slots of those that did again."""
        kept, width, changed = table.entries, self.width, []
        unpack = _ENTRY[width].unpack_from
        for slot in table.changed:
            at = slot * width
            old, new = unpack(kept, at)[0], unpack(now, at)[0]
            if old != new:
                kept[at : at + width] = now[at : at + width]
                if differs(old, new):
                    changed.append(slot)
        return changed
