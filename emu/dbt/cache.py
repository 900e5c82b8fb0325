"""The code cache: places translated blocks, finds them again, chains them, and drops them when their bytes change."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from emu.backends.base import Backend
from emu.dbt.block import Block, Placement
from emu.dbt.jumptables import JumpTables
from emu.dbt.store import LINK_SIZE
from isa.x86.code import Site, SiteKind
from isa.x86.rewrite import BlockMode

PAGE_SHIFT = 12
_INT = struct.Struct("<i")
_START = attrgetter("start")
Follow = Callable[[BlockMode, int], Block | None]  # finds the block at a linear address on another page
CodeKey = tuple[int, int]  # linear page number, and for user code the number of its address space, else 0
_JUMP = 5  # bytes of a jump with a 32-bit displacement
_FEW_WRITES = 2  # to a page of code, after which it is put to sleep ...
_MANY_WRITES = 1 << 12  # ... and at most so many, where that came too early again and again


@dataclass(slots=True)
class CacheCounters:
    """What happened in the cache since the start."""

    blocks: int = 0
    guest_instructions: int = 0
    guest_bytes: int = 0
    host_bytes: int = 0
    links: int = 0
    unlinks: int = 0
    invalidated: int = 0
    flushes: int = 0
    sites: int = 0  # direct exits emitted


class CodeCache:
    """Blocks by guest address and mode over a backend's code memory.

    When the memory or the jump tables are used up everything is dropped at once, so the cache never grows.
    `watch(page)` and `unwatch(page)` are called as guest-physical pages begin and cease to hold translated code.

    A page that is written to again and again goes to sleep: none of its blocks can be reached, so that writes to it
    need no trace, until `wake` compares its bytes (`page_bytes` gives them) and drops the blocks made from others.
    """

    def __init__(
        self,
        backend: Backend,
        watch: Callable[[int], None],
        unwatch: Callable[[int], None],
        limit: int | None = None,
        page_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self._backend = backend
        self._watch, self._unwatch, self._page_bytes = watch, unwatch, page_bytes
        self.asleep: dict[int, tuple[list[Block], bytes]] = {}  # page -> its blocks, and its bytes when they were right
        self._writes: dict[int, int] = {}  # to a page of code since it was woken
        self._patience: dict[int, int] = {}  # how many of them put a page to sleep that was woken before
        self._limit = min(limit or backend.layout.code_size, backend.layout.code_size)
        self._next = backend.layout.code_start
        self._blocks: defaultdict[BlockMode, dict[int, Block]] = defaultdict(dict)  # by the first byte's two addresses
        self._order: list[int] = []  # offsets of placements, ascending, for finding a block by host pc
        self._placements: list[Placement] = []
        self._pages: dict[int, set[Block]] = {}
        self._bytes: dict[int, bytearray] = {}  # page -> 1 for every byte some block was made from
        self._sites: dict[int, tuple[Block, Site] | None] = {}  # where somebody asked for one
        self.tables = JumpTables(backend)
        self.counters = CacheCounters()

    # -- finding -----------------------------------------------------------------------------------------------

    def find(self, mode: BlockMode, linear: int, physical: int) -> Block | None:
        return self._blocks[mode].get(physical << 64 | linear)

    def block_at(self, offset: int) -> Block | None:
        """The block whose code holds cache offset `offset`, valid or not."""
        number = bisect_right(self._order, offset) - 1
        if number < 0:
            return None
        blocks = self._placements[number].blocks
        at = bisect_right(blocks, offset, key=_START) - 1
        return blocks[at] if at >= 0 and offset < blocks[at].end else None

    def site(self, behind: int) -> tuple[Block, Site] | None:
        """The exit that is identified by cache offset `behind`, with its block."""
        try:
            return self._sites[behind]
        except KeyError:
            found = None
        placement = self._placement_of(behind)
        if placement is not None and not placement.opened:
            found = placement.link(behind)
            if found is None:
                self._open(placement)
                found = self._sites.get(behind)
        if behind <= self._next:  # no exit will come there
            self._sites[behind] = found
        return found

    def _open(self, placement: Placement) -> None:
        """Know all exits of a placement."""
        placement.opened = True
        for block in placement.blocks:
            for behind, site in block.sites.items():
                self._sites[behind] = (block, site)

    def _placement_of(self, behind: int) -> Placement | None:
        """The placement that holds the exit identified by `behind`."""
        number = bisect_right(self._order, behind - 1) - 1
        return self._placements[number] if number >= 0 else None

    def _known_site(self, behind: int) -> tuple[Block, Site]:
        found = self.site(behind)
        assert found is not None
        return found

    def blocks(self) -> list[Block]:
        """All valid blocks in order of translation."""
        return [block for placement in self._placements for block in placement.blocks if block.valid]

    @property
    def used(self) -> int:
        """Bytes of code memory in use."""
        return self._next - self._backend.layout.code_start

    def room(self, size: int) -> bool:
        return self._next + size <= self._limit

    @property
    def next_offset(self) -> int:
        return self._next

    # -- growing -----------------------------------------------------------------------------------------------

    def add(self, placement: Placement) -> None:
        """Have the blocks of a translation placed at `next_offset` found; the code follows by `install`."""
        made, blocks, counters = placement.translation, self._blocks[placement.mode], self.counters
        for block in placement.blocks:
            blocks[block.physical << 64 | block.linear] = block
        self._order.append(placement.at)
        self._placements.append(placement)
        self._next += len(made.host)
        for start, end in placement.spans:
            page = start >> PAGE_SHIFT
            self._holders(page).update(placement.blocks)
            self._bytes[page][start & 0xFFF : (end - 1 & 0xFFF) + 1] = b"\1" * (end - start)
        counters.blocks += len(placement.blocks)
        counters.sites += len(made.links) // LINK_SIZE
        counters.guest_instructions += placement.count
        counters.guest_bytes += len(made.raw)
        counters.host_bytes += len(made.host)

    def _holders(self, page: int) -> set[Block]:
        """The blocks of a page of code, which is watched from now on."""
        holders = self._pages.get(page)
        if holders is None:
            holders = self._pages[page] = set()
            self._bytes[page] = bytearray(1 << PAGE_SHIFT)
            self._watch(page)
        return holders

    def install(self, placements: list[Placement], follow: Follow | None) -> None:
        """Bring the code of placements that were added one behind the other.

        With `follow` their direct exits are chained to blocks that are there already.
        """
        code = []
        for placement in placements:
            host = placement.translation.moved(placement.at)
            if follow is not None:
                self._chain(placement, host, follow)
            code.append(host)
        self._backend.install(placements[0].at, b"".join(code))

    def append(self, code: bytes) -> int:
        """Install code that belongs to no block; returns its offset."""
        at = self._next
        self._backend.install(at, code)
        self._next += len(code)
        return at

    # -- chaining ----------------------------------------------------------------------------------------------

    def _chain(self, placement: Placement, host: bytearray, follow: Follow) -> None:
        """Chain the direct exits of a translation whose code `host` is yet to be installed."""
        at, mode, chained, find = placement.at, placement.mode, placement.chained, self._blocks[placement.mode].get
        base = placement.linear - placement.translation.pc
        mask = 0xFFFFFFFFFFFFFFFF if mode.mode == 64 else 0xFFFFFFFF
        page, physical = placement.linear >> PAGE_SHIFT, placement.physical & -0x1000
        for parts, pc in placement.translation.direct_exits():
            linear = pc + base & mask
            if linear >> PAGE_SHIFT == page:
                found = find((physical | linear & 0xFFF) << 64 | linear)
                if found is None or found.split:
                    continue
            else:
                found = follow(mode, linear)
                if found is None:
                    continue
            patch_at, behind = parts >> 16 & 0xFFFF, at + (parts & 0xFFFF)
            _INT.pack_into(host, patch_at, found.entry - (at + patch_at + 4))
            chained[behind] = found
            found.reached_from(behind)
        self.counters.links += len(chained)

    def link(self, behind: int, target: Block) -> None:
        """Make the direct exit identified by `behind` jump to `target`."""
        block, site = self._known_site(behind)
        self._backend.patch(site.patch_at, _INT.pack(target.entry - (site.patch_at + 4)))
        block.placement.chained[behind] = target
        target.reached_from(behind)
        self.counters.links += 1

    def unlink(self, behind: int) -> None:
        """Make a chained exit leave the cache again."""
        block, site = self._known_site(behind)
        target = block.placement.chained.pop(behind, None)
        if target is not None:
            if target.incoming is not None:
                target.incoming.discard(behind)
            if block.valid or block.physical >> PAGE_SHIFT in self.asleep:
                self._backend.patch(site.patch_at, _INT.pack(site.stub - (site.patch_at + 4)))
            self.counters.unlinks += 1

    def publish(self, block: Block) -> None:
        """Let indirect jumps of the block's mode find it."""
        self.tables.publish(block, self._pages.get(block.physical >> PAGE_SHIFT, ()))

    def withdraw(self, block: Block) -> None:
        """Take a block out of the reach of other blocks; it stays findable."""
        for behind in list(block.incoming or ()):
            self.unlink(behind)
        self.tables.drop(block)

    # -- dropping ----------------------------------------------------------------------------------------------

    def invalidate(self, block: Block) -> None:
        """Drop one block whose bytes changed."""
        if not block.valid:
            return
        self.withdraw(block)
        chained = block.placement.chained
        for behind in block.links() if chained else ():
            target = chained.pop(behind, None)
            if target is not None and target.incoming is not None:
                target.incoming.discard(behind)
        block.valid = False
        above = block.above
        if above is not None and above.valid:
            self._part(above, block)
        self._unlist(block)
        for start, _ in block.spans:
            page = start >> PAGE_SHIFT
            holders = self._pages.get(page)
            if holders is not None:
                holders.discard(block)
                if not holders:
                    del self._pages[page], self._bytes[page]
                    self._unwatch(page)
        self.counters.invalidated += 1

    def _unlist(self, block: Block) -> None:
        """Have a block found no more; a stored translation may have brought another one of the same address."""
        blocks, key = self._blocks[block.mode], block.physical << 64 | block.linear
        if blocks.get(key) is block:
            del blocks[key]

    def _part(self, above: Block, block: Block) -> None:
        """Turn the entry of a dropped block into an exit of the block that falls into it."""
        if not block.placement.opened:
            self._open(block.placement)  # the exits of `block` must not take the new one's place later
        at, leave = block.entry, self._backend.layout.leave
        prefix = b"\x66" if block.mode.mode == 16 else b""  # keeps EIP from being cut to 16 bits
        stub = at + len(prefix) + _JUMP
        # a jump that can be chained, now to what is behind it
        self._backend.patch(at, prefix + b"\xe9" + bytes(4) + leave)
        behind = stub + len(leave)
        site = Site(SiteKind.LINK, above.code.charge - 1, block.pc, stub - 4, stub)
        above.sites[behind] = site
        self._sites[behind] = (above, site)
        self.counters.sites += 1

    def written(self, physical: int, size: int) -> int:
        """Guest memory changed: drop exactly the blocks that were made from these bytes; returns how many."""
        dropped = 0
        for page in range(physical >> PAGE_SHIFT, (physical + size - 1 >> PAGE_SHIFT) + 1):
            used = self._bytes.get(page)
            if used is None:
                continue
            writes = self._writes[page] = self._writes.get(page, 0) + 1
            base = page << PAGE_SHIFT
            if used.find(1, max(physical - base, 0), physical + size - base) >= 0:  # else data beside code
                dropped += self._drop(page, physical, physical + size)
            if writes >= self._patience.get(page, _FEW_WRITES) and page in self._pages and self._page_bytes is not None:
                self._put_to_sleep(page, self._page_bytes(page))
        return dropped

    def _drop(self, page: int, low: int, high: int) -> int:
        """Drop the blocks of a page that were made from bytes of [low, high); returns how many."""
        dropped = 0
        for block in list(self._pages.get(page, ())):
            if (block.physical < high and low < block.stop) or (block.split and _meet(block.spans[1], low, high)):
                self.invalidate(block)
                dropped += 1
        return dropped

    # -- pages that are written to often -----------------------------------------------------------------------

    def _put_to_sleep(self, page: int, content: bytes) -> None:
        """Make the blocks of a page unreachable from elsewhere; the page then needs no trace of writes."""
        for block in [block for block in self._pages[page] if block.split]:
            self.invalidate(block)
        blocks = list(self._pages.get(page, ()))
        if not blocks:
            return
        for block in blocks:
            for behind in list(block.incoming or ()):
                source = self._placement_of(behind)
                if source is None or source.physical >> PAGE_SHIFT != page:
                    self.unlink(behind)
            self.tables.drop(block)
            self._unlist(block)
            block.valid = False
        self.asleep[page] = (blocks, content)
        del self._pages[page], self._bytes[page]
        self._unwatch(page)

    def wake(self, page: int) -> None:
        """Code of a page that sleeps is to run: bring back those of its blocks whose bytes are still the same."""
        blocks, then = self.asleep.pop(page)
        self._writes[page] = 0
        self._patience[page] = min(self._patience.get(page, _FEW_WRITES) * 2, _MANY_WRITES)
        holders = self._holders(page)
        used, base = self._bytes[page], page << PAGE_SHIFT
        assert self._page_bytes is not None
        now = self._page_bytes(page)
        changed = []
        for block in blocks:
            block.valid = True
            holders.add(block)
            start, end = block.physical, block.stop
            used[start - base : end - base] = b"\1" * (end - start)
            if self._blocks[block.mode].setdefault(start << 64 | block.linear, block) is not block:
                changed.append(block)  # it was made anew meanwhile
            elif now[start - base : end - base] != then[start - base : end - base]:
                changed.append(block)
        for block in changed:
            self.invalidate(block)

    def flush(self) -> None:
        """Drop everything."""
        start = self._backend.layout.code_start
        self._backend.forget(start, self._next)
        self._next = start
        for placement in self._placements:
            placement.clear()
        for page in self._pages:
            self._unwatch(page)
        self.tables.clear()
        self._blocks.clear()
        self._order.clear()
        self._placements.clear()
        self._pages.clear()
        self._bytes.clear()
        self.asleep.clear()
        self._writes.clear()
        self._patience.clear()
        self._sites.clear()
        self.counters.flushes += 1


def _meet(span: tuple[int, int], low: int, high: int) -> bool:
    return span[0] < high and low < span[1]
