"""Shadow tables: a host table for every guest table in use, shared by all address spaces that share the guest's.

Rights are gathered on the way down and stand in the leaves; entries that name tables are open. So a guest table that is
reached with different rights has a shadow table for each. Linear addresses play no part, but for the two tables on the
way to the monitor's window for 32-bit code, whose entries (`preset`) come back where the guest's go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from emu.pagetables import ACCESSED_DIRTY, ADDRESS, LARGE, NO_EXECUTE, OPEN, PRESENT, WORDS, WRITE, TableMemory

CodeKey = tuple[int, int]  # linear page number, and for user code the number of its address space, else 0
LEAF: Final = PRESENT | ACCESSED_DIRTY | NO_EXECUTE
REGION: Final = 21  # binary logarithm of what a large entry maps
LOWER, UPPER = 1, 2  # halves of the addresses
ROOT: Final = 39  # shift of a 4-level root, each of whose halves stands for one
_NONE: Final[Mapping[int, int]] = {}


def _numbers(bits: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


class TablesFull(Exception):
    """The memory for tables is used up."""


class Table:
    """A shadow table: `pages` host pages from word `at` on, whose slots stand for 2**`shift` bytes in the guest's view.

    `gpa` is the guest's table, or -1 for a part of a larger page, which begins at `frame`. `rights` are WRITE and USER
    as granted down to here. `entries` holds the guest's entries as they were when the shadow was made from them; it is
    right for the slots in use; `changed` are the slots in which they differed when they were last compared. `code` has,
    by guest slot, the pages whose code was looked up through it. `half` is UPPER where the table may serve addresses of
    the upper half; without 4-level paging all are taken for such.
    """

    __slots__ = (
        "at", "changed", "children", "code", "entries", "frame", "gpa", "half", "key", "leaves", "pages", "preset",
        "refs", "rights", "shift",
    )  # fmt: skip

    def __init__(self, key: object, at: int, pages: int, shift: int, rights: int, gpa: int, frame: int) -> None:
        self.key, self.at, self.pages, self.shift = key, at, pages, shift
        self.rights, self.gpa, self.frame = rights, gpa, frame
        self.preset = _NONE
        self.entries = bytearray()
        self.changed: list[int] = []
        self.children: dict[int, Table] = {}  # by word within the table
        self.code: dict[int, set[CodeKey]] = {}
        self.refs = 0
        self.leaves = 0  # words that are leaves, a bit for each
        self.half = LOWER

    @property
    def used(self) -> bool:
        """Whether any word came from a guest's entry."""
        return bool(self.leaves or self.children)

    def serve_upper(self) -> None:
        """The table, and what hangs on it, may be met on the way to the upper half of addresses."""
        if self.half == LOWER:
            self.half = UPPER
            for child in self.children.values():
                child.serve_upper()


class ShadowTables:
    """All shadow tables, and which of their entries can write to a guest-physical page.

    `lost` collects the code pages whose mapping may have changed; `stale` tells of which halves of the addresses the
    machine may remember entries that are gone. Whoever acts on them resets them.
    """

    def __init__(self, memory: TableMemory, given_up: Callable[[Table], None]) -> None:
        """`given_up` is called with a table that nothing refers to any more."""
        self._memory, self._given_up = memory, given_up
        self.words = memory.words
        self.tables: dict[object, Table] = {}
        self.lost: set[CodeKey] = set()
        self.stale = 0
        self._writers: dict[int, set[int]] = {}  # page number -> words that map it writable
        self._wide_writers: dict[int, set[int]] = {}  # the same for large entries, by region
        self._holders: dict[int, Table] = {}  # first word of a host page -> its table

    def make(
        self, key: object, pages: int, shift: int, rights: int, gpa: int = -1, frame: int = 0,
        preset: Mapping[int, int] = _NONE,
    ) -> Table:  # fmt: skip
        """A new table; TablesFull where there is no memory for it."""
        at = self._memory.allocate(pages)
        if at < 0:
            raise TablesFull
        table = self.tables[key] = Table(key, at, pages, shift, rights, gpa, frame)
        for start in range(at, at + pages * WORDS, WORDS):
            self._holders[start] = table
        table.preset = preset
        for slot, entry in preset.items():
            self.words[at + slot] = entry
        return table

    def refer(self, table: Table, slot: int, child: Table, page: int = 0) -> None:
        """Have word `slot` of `table` point to host page number `page` of `child`."""
        if table.children.get(slot) is child:
            return
        child.refs += 1
        self.clear(table, slot)
        self.words[table.at + slot] = self._memory.address(child.at + page * WORDS) | OPEN
        table.children[slot] = child
        if table.half == UPPER and (table.shift != ROOT or slot >= WORDS // 2):
            child.serve_upper()

    def put(self, table: Table, slot: int, entry: int) -> None:
        """Set a leaf: LEAF, address and rights, with LARGE for a whole region."""
        index = table.at + slot
        old = self.words[index]
        if old == entry:
            return
        if old and old | WRITE != entry:
            self.clear(table, slot)  # but not for more rights: where it lacks one the machine looks again
        self.words[index] = entry
        table.leaves |= 1 << slot
        if entry & WRITE:
            writers, shift = (self._wide_writers, REGION) if entry & LARGE else (self._writers, 12)
            writers.setdefault((entry & ADDRESS) >> shift, set()).add(index)

    def clear(self, table: Table, slot: int) -> None:
        """Take word `slot` of a table back."""
        index = table.at + slot
        entry, empty = self.words[index], table.preset.get(slot, 0)
        if entry == empty:
            return
        self.words[index] = empty
        self.stale |= table.half
        child = table.children.pop(slot, None)
        if child is not None:
            self.release(child)
        else:
            table.leaves &= ~(1 << slot)
            self._disown(entry, index)

    def release(self, table: Table) -> None:
        """One less refers to the table; with the last one it goes, and what only hangs on it."""
        table.refs -= 1
        if table.refs > 0:
            return
        del self.tables[table.key]
        self._given_up(table)
        for keys in table.code.values():
            self.lost |= keys
        for slot in _numbers(table.leaves):
            self._disown(self.words[table.at + slot], table.at + slot)
        children, table.children = table.children, {}
        for child in children.values():
            self.release(child)
        for start in range(table.at, table.at + table.pages * WORDS, WORDS):
            del self._holders[start]
        table.leaves, table.code = 0, {}
        self._memory.release(table.at, table.pages)
        self.stale |= table.half

    def _disown(self, entry: int, index: int) -> None:
        """A leaf is gone: it writes to nothing any more."""
        if entry & WRITE:
            writers, shift = (self._wide_writers, REGION) if entry & LARGE else (self._writers, 12)
            held = writers.get((entry & ADDRESS) >> shift)
            if held is not None:
                held.discard(index)

    def lower_pages(self, root: Table, most: int) -> list[int] | None:
        """The addresses of the pages in the lower half that a 4-level root maps.

        None for more than `most`, or where there are larger ones.
        """
        pages: list[int] = []
        ways = [(child, slot << ROOT) for slot, child in root.children.items() if slot < WORDS // 2]
        while ways:
            table, start = ways.pop()
            if table.shift != 12:
                ways.extend((child, start + (slot << table.shift)) for slot, child in table.children.items())
                if table.leaves or len(ways) > most:
                    return None
            elif len(pages) + table.leaves.bit_count() > most:
                return None
            else:
                pages.extend(start + (slot << 12) for slot in _numbers(table.leaves))
        return pages

    def guard(self, page: int) -> None:
        """Take back all entries that could write to a page."""
        for writers, number in ((self._writers, page), (self._wide_writers, page >> REGION - 12)):
            for index in writers.pop(number, ()):
                table = self._holders[index & -WORDS]
                self.clear(table, index - table.at)

    def lose(self, table: Table, slots: Iterable[int]) -> None:
        """The guest changed entries of a table: what came from them is void."""
        spread = 2 if table.shift == 22 else 1
        for slot in slots:
            for word in range(slot * spread, (slot + 1) * spread):
                self.clear(table, word)
            keys = table.code.pop(slot, None)
            if keys:
                self.lost |= keys
