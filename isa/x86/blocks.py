"""Remembers the interpreter's bound blocks by physical address and drops exactly those whose bytes are written."""

from __future__ import annotations

from collections.abc import Callable
from operator import length_hint
from typing import Final

from isa.x86.operands import Op

_BLOCK_LIMIT: Final = 20_000  # blocks remembered before the store starts afresh
_SPACE_LIMIT: Final = 256

BlockKey = tuple[int, int, int, int]  # guest-physical address, offset in CS, mode, limit of CS
SpaceKey = tuple[int, int, int, bool]  # mode, base and limit of CS, user privilege
Space = dict[int, "Block"]


class Block:
    """Bound instructions that run one after the other.

    `operations` are their closures, `pcs` their offsets in CS and that of the instruction behind the last
    (one more than `count`). `system` marks a single system instruction. `spans` are the guest-physical byte ranges
    (start, end) they were decoded from, one a page; `second` is the address of the second page, or -1.
    """

    __slots__ = ("count", "key", "links", "operations", "pcs", "second", "spans", "system")

    def __init__(self, key: BlockKey, operations: list[Op], pcs: list[int], system: bool) -> None:
        self.key, self.operations, self.pcs, self.system = key, operations, pcs, system
        self.count = len(operations)
        self.spans: list[tuple[int, int]] = []
        self.second = -1
        self.links: set[tuple[SpaceKey, int]] = set()


class BlockStore:
    """All blocks of one interpreter, and which of them can be reached by offset alone in an address space.

    `watch` and `unwatch` start and end the write trace of a page number. While the interpreter runs a block it sets
    `running`, `operations` (the list being iterated) and `cursor` (its iterator).
    """

    def __init__(self, watch: Callable[[int], None], unwatch: Callable[[int], None]) -> None:
        self._watch, self._unwatch = watch, unwatch
        self._blocks: dict[BlockKey, Block] = {}
        self._pages: dict[int, set[Block]] = {}
        self._covered: dict[int, int] = {}  # page number -> bit n is set where byte n belongs to a block
        self._spaces: dict[SpaceKey, Space] = {}
        self.running: Block | None = None
        self.operations: list[Op] = []
        self.cursor = iter(self.operations)

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, key: BlockKey) -> Block | None:
        return self._blocks.get(key)

    def add(self, block: Block) -> None:
        """Remember `block`, whose spans lie in RAM, and trace writes to its pages."""
        if len(self._blocks) >= _BLOCK_LIMIT:
            for old in list(self._blocks.values()):
                self.drop(old)
        self._blocks[block.key] = block
        for start, end in block.spans:
            page = start >> 12
            if page not in self._pages:
                self._pages[page] = set()
                self._covered[page] = 0
                self._watch(page)
            self._pages[page].add(block)
            self._covered[page] |= _bits(start, end)

    def drop(self, block: Block) -> None:
        """Forget `block`; if it is running, it ends behind the instruction that is being executed."""
        del self._blocks[block.key]
        for key, pc in block.links:
            space = self._spaces.get(key)
            if space is not None and space.get(pc) is block:
                del space[pc]
        for start, _ in block.spans:
            page = start >> 12
            users = self._pages[page]
            users.remove(block)
            if users:
                self._covered[page] = 0
                for other in users:
                    for first, last in other.spans:
                        if first >> 12 == page:
                            self._covered[page] |= _bits(first, last)
            else:
                del self._pages[page], self._covered[page]
                self._unwatch(page)
        if block is self.running:
            del self.operations[len(self.operations) - length_hint(self.cursor) :]

    def written(self, gpa: int, size: int) -> None:
        """Drop the blocks that hold any byte of [gpa, gpa+size)."""
        end = gpa + size
        while gpa < end:
            page = gpa >> 12
            stop = min(end, page + 1 << 12)
            covered = self._covered.get(page)
            if covered is not None and covered & _bits(gpa, stop):
                for block in list(self._pages[page]):
                    if any(first < stop and gpa < last for first, last in block.spans):
                        self.drop(block)
            gpa = stop

    # -- by offset ----------------------------------------------------------------------------------------------

    def space(self, key: SpaceKey) -> Space:
        """The blocks reachable by their offset in CS while the translation of addresses does not change."""
        found = self._spaces.get(key)
        if found is None:
            if len(self._spaces) >= _SPACE_LIMIT:
                self._spaces.clear()
            found = self._spaces[key] = {}
        return found

    def link(self, key: SpaceKey, pc: int, block: Block) -> None:
        """Make `block` reachable at `pc` in the space of `key`."""
        self._spaces[key][pc] = block
        block.links.add((key, pc))

    def unlink_all(self) -> None:
        """Addresses may mean something else now: every block has to be found by its physical address again."""
        for space in self._spaces.values():
            space.clear()


def _bits(start: int, end: int) -> int:
    """Bit mask of the page offsets of [start, end), which lie in one page."""
    return (1 << end - start) - 1 << (start & 0xFFF)
