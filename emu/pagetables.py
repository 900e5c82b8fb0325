"""The bare machine's own 4-level page tables: the memory they are made in, and the monitor's fixed mappings.

Entry format: SDM vol. 3, 4.5. Every root holds the monitor's two windows: the one for 64-bit code by an entry of the
root itself, the one for 16- and 32-bit code by entries of the page directory that governs the last GiB below 4 GiB.
"""

from __future__ import annotations

from typing import Final

PRESENT, WRITE, USER, LARGE, NO_EXECUTE = 1, 2, 4, 1 << 7, 1 << 63
ACCESSED_DIRTY: Final = 0x60
OPEN: Final = PRESENT | WRITE | USER | 0x20  # of an entry that names a table (A is set): the rights are the leaf's
ADDRESS: Final = 0x000F_FFFF_FFFF_F000
WORDS: Final = 512  # of a table
_PAGE: Final = 0x1000
_LARGE: Final = 0x20_0000
_CANONICAL: Final = (1 << 48) - 1
_EMPTY: Final = memoryview(bytes(_PAGE)).cast("Q")


class TableMemory:
    """Pages for tables in `words`, a view of 64-bit words that the machine sees at physical address `physical`.

    A table is named by the index of its first word.
    """

    def __init__(self, words: memoryview, physical: int) -> None:
        self.words = words
        self._physical = physical
        self._next = 0
        self._free: dict[int, list[int]] = {}  # by number of pages

    @property
    def used(self) -> int:
        """Pages handed out, those given back included."""
        return self._next

    def address(self, at: int) -> int:
        """Physical address of the table at word `at`."""
        return self._physical + at * 8

    def index(self, entry: int) -> int:
        """The table that an entry points to."""
        return ((entry & ADDRESS) - self._physical) >> 3

    def allocate(self, pages: int = 1) -> int:
        """Consecutive empty tables; -1 where the memory is used up."""
        free = self._free.get(pages)
        if free:
            at = free.pop()
        else:
            at = self._next * WORDS
            if at + pages * WORDS > len(self.words):
                return -1
            self._next += pages
        for start in range(at, at + pages * WORDS, WORDS):
            self.words[start : start + WORDS] = _EMPTY
        return at

    def release(self, at: int, pages: int = 1) -> None:
        """Give tables of one `allocate` back; nothing may refer to them any more."""
        self._free.setdefault(pages, []).append(at)


class MonitorTables:
    """The root that maps nothing but the monitor, and what other roots must take from it."""

    def __init__(self, memory: TableMemory) -> None:
        self._memory = memory
        self._root = memory.allocate()

    @property
    def root(self) -> int:
        """Physical address of the root table, for CR3."""
        return self._memory.address(self._root)

    def _table(self, index: int) -> int:
        """The table that the entry at word `index` points to, made when missing."""
        words, memory = self._memory.words, self._memory
        if not words[index] & PRESENT:
            words[index] = memory.address(memory.allocate()) | OPEN
        return memory.index(words[index])

    def _directory(self, linear: int) -> int:
        """Word index of the page-directory entry for `linear`."""
        linear &= _CANONICAL
        pdpt = self._table(self._root + (linear >> 39))
        return self._table(pdpt + (linear >> 30 & 511)) + (linear >> 21 & 511)

    def fix(self, linear: int, physical: int, size: int, *, writable: bool, executable: bool, user: bool) -> None:
        """Map `size` bytes (2 MiB multiples) for the monitor, for good."""
        flags = PRESENT | LARGE | ACCESSED_DIRTY | (USER if user else 0)
        flags |= (WRITE if writable else 0) | (0 if executable else NO_EXECUTE)
        for step in range(0, size, _LARGE):
            self._memory.words[self._directory(linear + step)] = physical + step | flags

    def unfix(self, linear: int, size: int) -> None:
        """Take back what `fix` and `bar` set in a range, and the way to it where nothing else uses that."""
        memory, words = self._memory, self._memory.words
        for step in range(0, size, _LARGE):
            words[self._directory(linear + step)] = 0
        pdpt = memory.index(words[self._root + (linear >> 39 & 511)]) + (linear >> 30 & 511)
        directory = memory.index(words[pdpt])
        if not any(words[directory : directory + WORDS]):
            memory.release(directory)
            words[pdpt] = 0

    def bar(self, linear: int) -> None:
        """Keep 2 MiB from `linear` on unmapped for good."""
        self._memory.words[self._directory(linear)] = LARGE

    def map(self, linear: int, physical: int, writable: bool, user: bool) -> None:
        """Map one page for a trial of the machine, never executable."""
        flags = PRESENT | ACCESSED_DIRTY | NO_EXECUTE | (WRITE if writable else 0) | (USER if user else 0)
        table = self._table(self._directory(linear))
        self._memory.words[table + (linear >> 12 & 511)] = physical | flags

    def unmap(self, linear: int) -> None:
        """Take a 2 MiB range of trial mappings back."""
        directory = self._directory(linear)
        self._memory.release(self._memory.index(self._memory.words[directory]))
        self._memory.words[directory] = 0

    def entries(self, shift: int, linear: int) -> dict[int, int]:
        """The entries of the table on the way to `linear` whose entries map 2**`shift` bytes each."""
        linear &= _CANONICAL
        words, at = self._memory.words, self._root
        for above in (39, 30):
            if above > shift:
                at = self._memory.index(words[at + (linear >> above & 511)])
        return {slot: words[at + slot] for slot in range(WORDS) if words[at + slot]}
