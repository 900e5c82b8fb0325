"""Which guest tables are compared when the guest flushes, and which have a write trace because they stay the same.

A table that was compared often without a change gets a trace: as long as nobody writes to it there is nothing to
compare. The first write ends the trace, and the page must then stay the same for twice as long before it gets the next
one, whatever table it holds then: tables of processes that come and go settle with being compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from emu.entries import GuestEntries
from emu.memory import PAGE, GuestMemory
from emu.shadow import Table

SHADOWED: Final = 4  # owner of write traces on shadowed page tables (`GuestMemory.watch`)
PATIENCE: Final = 64  # compares without a change before the first trace: some 30 us, as the exit that ends one ...
_MOST: Final = 1 << 14  # ... and at most


class TableTraces:
    """The shadow tables that have a table of the guest's, by how its changes are noticed."""

    def __init__(self, memory: GuestMemory, entries: GuestEntries) -> None:
        self._memory, self._entries = memory, entries
        self._compared: dict[Table, int] = {}  # -> compares in a row that found no change
        self._traced: dict[int, list[Table]] = {}  # by page number; what these know is what the guest's memory holds
        self._patience: dict[int, int] = {}  # by page number, where a trace was ended by a write

    def add(self, table: Table, length: int) -> None:
        """A new shadow table was made from `length` bytes of a guest's table."""
        self._entries.copy(table, length)
        self._compared[table] = 0

    def drop(self, table: Table) -> None:
        """A shadow table is given up."""
        if self._compared.pop(table, -1) >= 0 or table.gpa < 0:
            return
        page = table.gpa >> 12
        held = self._traced[page]
        held.remove(table)
        if not held:
            del self._traced[page]
            self._memory.unwatch(page, SHADOWED)

    def changes(self) -> Iterator[tuple[Table, list[int]]]:
        """The shadow tables in use whose guest's table changed since they were compared, with the slots changed."""
        compare, patience = self._entries.compare, self._patience
        for table, quiet in list(self._compared.items()):
            if quiet and not table.used and not table.code:
                continue  # nothing came from it, and nothing is likely to
            if table not in self._compared:
                continue  # it was given up, as others' changes were acted on
            slots = compare(table)
            if slots:
                self._compared[table] = 0
                yield table, slots
            elif quiet + 1 < patience.get(table.gpa >> 12, PATIENCE) or len(table.entries) < PAGE:
                self._compared[table] = quiet + 1
            else:
                self._trace(table)

    def _trace(self, table: Table) -> None:
        """See writes to a table, which was compared just now."""
        del self._compared[table]
        page = table.gpa >> 12
        self._traced.setdefault(page, []).append(table)
        self._memory.watch(page, SHADOWED)

    def written(self, gpa: int, size: int) -> None:
        """Guest memory within one page was written to: that ends its trace, but for A and D bits set by the CPU."""
        page = gpa >> 12
        held = self._traced.get(page)
        if held is None or all(self._entries.marked(table, gpa & PAGE - 1, size) for table in held):
            return
        del self._traced[page]
        self._patience[page] = min(self._patience.get(page, PATIENCE) * 2, _MOST)
        for table in held:
            self._compared[table] = 0
        self._memory.unwatch(page, SHADOWED)
