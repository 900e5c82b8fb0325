"""The bare machine's own 4-level page tables: fixed monitor mappings and the shadow mappings of guest pages.

Entry format: SDM vol. 3, 4.5. Guest pages are always no-execute; the user bit mirrors the guest's, because guest
kernels run at CPL 1, which paging treats as supervisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PRESENT, WRITE, USER, LARGE, NO_EXECUTE = 1, 2, 4, 1 << 7, 1 << 63
ACCESSED_DIRTY: Final = 0x60
_TABLE: Final = PRESENT | WRITE | USER
_PAGE: Final = 0x1000
_LARGE: Final = 0x20_0000
_CANONICAL: Final = (1 << 48) - 1


class PageTables:
    """Builds tables in `words` (a view of 64-bit words that the machine sees at physical address `physical`)."""

    def __init__(self, words: memoryview, physical: int) -> None:
        self._words = words
        self._physical = physical
        self._pages = len(words) * 8 // _PAGE
        self._next = 1  # page 0 is the root
        self._leaves: dict[int, int] = {}  # linear >> 21 -> word index of its page table
        self._sealed_next = 0
        self._sealed: list[tuple[int, int]] = []  # words of the fixed tables, restored by clear()

    @property
    def root(self) -> int:
        """Physical address of the root table, for CR3."""
        return self._physical

    @property
    def used(self) -> int:
        """Table pages in use."""
        return self._next

    def _table(self, index: int) -> int:
        """Word index of the table that entry `index` points to, made when missing."""
        entry = self._words[index]
        if entry & PRESENT:
            return ((entry & 0x000F_FFFF_FFFF_F000) - self._physical) >> 3
        page = self._next
        self._next += 1
        at = page * 512
        self._words[at : at + 512] = memoryview(bytes(_PAGE)).cast("Q")
        self._words[index] = self._physical + page * _PAGE | _TABLE
        return at

    def _directory(self, linear: int) -> int:
        """Word index of the page-directory entry for `linear`."""
        linear &= _CANONICAL
        pdpt = self._table(linear >> 39)
        directory = self._table(pdpt + (linear >> 30 & 511))
        return directory + (linear >> 21 & 511)

    def fix(self, linear: int, physical: int, size: int, writable: bool, executable: bool) -> None:
        """Map `size` bytes (2 MiB multiples) for the monitor, for good and at every privilege level."""
        flags = PRESENT | USER | LARGE | ACCESSED_DIRTY | (WRITE if writable else 0) | (0 if executable else NO_EXECUTE)
        for step in range(0, size, _LARGE):
            self._words[self._directory(linear + step)] = physical + step | flags

    def bar(self, linear: int) -> None:
        """Keep 2 MiB from `linear` on unmapped for good."""
        self._words[self._directory(linear)] = LARGE

    def seal(self) -> None:
        """Remember the fixed mappings as what clear() goes back to."""
        self._sealed_next = self._next
        self._sealed = [(i, self._words[i]) for i in range(self._next * 512) if self._words[i]]

    def clear(self) -> None:
        """Forget every guest mapping."""
        count = self._sealed_next * 512
        self._words[:count] = memoryview(bytes(count * 8)).cast("Q")
        for index, word in self._sealed:
            self._words[index] = word
        self._next = self._sealed_next
        self._leaves.clear()

    def map(self, linear: int, physicals: Sequence[int], writable: bool, user: bool) -> bool:
        """Map consecutive pages; a negative address skips one.

        Returns False, with nothing mapped, where the table memory is used up or the address belongs to the monitor.
        """
        flags = PRESENT | ACCESSED_DIRTY | NO_EXECUTE | (WRITE if writable else 0) | (USER if user else 0)
        words = self._words
        for physical in physicals:
            if physical >= 0:
                leaf = self._leaves.get(linear >> 21)
                if leaf is None:
                    if self._next + 3 > self._pages:
                        return False
                    directory = self._directory(linear)
                    if words[directory] & LARGE:
                        return False
                    leaf = self._leaves[linear >> 21] = self._table(directory)
                words[leaf + (linear >> 12 & 511)] = physical | flags
            linear += _PAGE
        return True

    def entry(self, linear: int) -> int:
        """The leaf entry of a guest page, 0 where there is none."""
        leaf = self._leaves.get(linear >> 21)
        return 0 if leaf is None else self._words[leaf + (linear >> 12 & 511)]

    def unmap(self, linear: int) -> bool:
        """Remove one guest page; True where it was mapped."""
        leaf = self._leaves.get(linear >> 21)
        if leaf is None:
            return False
        index = leaf + (linear >> 12 & 511)
        was = self._words[index] & PRESENT
        self._words[index] = 0
        return bool(was)
