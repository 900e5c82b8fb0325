"""Which blocks may be entered without a look at the guest's mappings, and what becomes of them when these change."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from emu.dbt.block import Block
from emu.dbt.cache import CodeCache, CodeKey

_PAGE_SHIFT = 12


class Reach:
    """Which blocks of the kernel's can be entered from another page without the dispatcher's check of their mapping.

    Chained exits and jump tables assume that a linear address still means the same memory; after a change of guest
    mappings exactly those blocks for which that is no longer so are withdrawn. User code, whose mappings change with
    every switch of address spaces, is only reached from other pages through jump tables of each address space's own.
    """

    def __init__(self, cache: CodeCache) -> None:
        self._cache = cache
        self._pages: dict[CodeKey, tuple[int, set[Block]]] = {}  # -> physical page, blocks
        self._groups: dict[int, set[CodeKey]] = {}  # by the first address of what one topmost table entry maps at least
        self._tops: dict[int, int] = {}  # the guest's topmost entries for them, when their pages were last looked at

    def add(self, block: Block, top_entry: Callable[[int], int]) -> None:
        self._add(block, block.linear, block.physical, top_entry)
        if block.split:
            self._add(block, (block.linear | 0xFFF) + 1, block.spans[1][0], top_entry)

    def _add(self, block: Block, linear: int, physical: int, top_entry: Callable[[int], int]) -> None:
        key = (linear >> _PAGE_SHIFT, block.mode.user)
        entry = self._pages.get(key)
        if entry is None:
            entry = self._pages[key] = (physical >> _PAGE_SHIFT, set())
            group = linear & -(1 << (39 if linear >> 32 else 22))
            if group not in self._groups:
                self._groups[group] = set()
                self._tops[group] = top_entry(group)
            self._groups[group].add(key)
        entry[1].add(block)

    def switch(self, top_entry: Callable[[int], int], lookup: Callable[[int, bool], int]) -> None:
        """The address space is another one: look at the pages for which its topmost table says something else."""
        for group, keys in self._groups.items():
            top = top_entry(group)
            if top != self._tops[group]:
                self._tops[group] = top
                self.revalidate(lookup, list(keys))

    def revalidate(self, lookup: Callable[[int, bool], int], keys: Iterable[CodeKey] | None = None) -> None:
        """After a change of mappings: withdraw the blocks of pages that `lookup(linear, user)` now finds elsewhere.

        `lookup` returns the physical page number, or -1 where nothing can be executed. `keys` limits it to some pages.
        """
        for key in list(self._pages if keys is None else keys):
            entry = self._pages.get(key)
            if entry is not None and lookup(key[0] << _PAGE_SHIFT, bool(key[1])) != entry[0]:
                for block in entry[1]:
                    if block.valid:
                        self._cache.withdraw(block)
                del self._pages[key]

    def clear(self) -> None:
        self._pages.clear()
        self._groups.clear()
        self._tops.clear()
