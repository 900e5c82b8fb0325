"""The code cache: places translated blocks, finds them again, chains them, and drops them when their bytes change."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter

from emu.backends.base import Backend
from emu.dbt.block import Block, Placement
from emu.dbt.store import LINK_SIZE
from isa.x86.code import Site, SiteKind
from isa.x86.emit import TABLE_BYTES, TABLE_SLOTS, TABLES, USER_TABLE
from isa.x86.rewrite import BlockMode

PAGE_SHIFT = 12
_WORD = struct.Struct("<Q")
_INT = struct.Struct("<i")
_START = attrgetter("start")
Follow = Callable[[BlockMode, int], Block | None]  # finds the block at a linear address on another page
CodeKey = tuple[int, int]  # linear page number, and for user code the number of its address space, else 0
_USER_TABLES = 8  # jump tables of user code at most
_MOST_SALTS = (1 << 14) - 1
_JUMP = 5  # bytes of a jump with a 32-bit displacement
_FEW_WRITES = 2  # to a page of code, after which it is put to sleep ...
_MANY_WRITES = 1 << 12  # ... and at most so many, where that came too early again and again


def _shared(mode: BlockMode) -> BlockMode | None:
    """What a jump table belongs to: a mode, or None for all modes of 16-bit code."""
    return None if mode.mode == 16 else mode


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


class JumpTable:
    """A table from guest targets to host addresses, searched by translated code (`isa.x86.incache`).

    Kernel code has one for each mode, user code one for each mode and address space; but all modes of 16-bit code share
    one, because they have 64 KiB of targets each, which are told apart by a number that is added (`CodeCache.salt`).
    """

    def __init__(self, data: memoryview, offset: int) -> None:
        self.offset = offset
        self.pages: set[int] = set()  # linear pages of user code of which all that was known is here
        self._tags = data[offset : offset + TABLE_SLOTS * 8].cast("Q")
        self._hosts = data[offset + TABLE_SLOTS * 8 : offset + TABLE_BYTES].cast("Q")
        self._filled: dict[int, int] = {}  # slot -> target
        self._targets: dict[int, int] = {}  # all targets, also those whose slot another one took -> host address
        self._tags[0] = 1  # an empty slot holds 0, which would match the target 0

    def put(self, pc: int, host: int) -> None:
        """Have jumps to `pc` find `host`; another target with the same place is found by `fetch` only from now on."""
        self._targets[pc] = host
        slot = pc % TABLE_SLOTS
        self._tags[slot] = -pc & 0xFFFFFFFFFFFFFFFF  # of which 32-bit code compares the lower half
        self._hosts[slot] = host
        self._filled[slot] = pc

    def fetch(self, pc: int) -> bool:
        """Let a target take its place again, which another one took; False where it was never put here."""
        host = self._targets.get(pc)
        if host is not None:
            self.put(pc, host)
        return host is not None

    def taken(self, pc: int) -> bool:
        return pc % TABLE_SLOTS in self._filled

    def drop(self, pc: int) -> None:
        slot = pc % TABLE_SLOTS
        if self._targets.pop(pc, None) is not None and self._filled.get(slot) == pc:
            self._tags[slot] = 0 if slot else 1
            del self._filled[slot]

    def clear(self) -> None:
        for slot in self._filled:
            self._tags[slot] = 0
        self._tags[0] = 1
        self._filled.clear()
        self._targets.clear()
        self.pages.clear()

    def wanted(self, place: int, difference: int, wide: bool) -> int:
        """The target of a lookup that failed at offset `place` of the monitor's data, by its `difference` from that of
        the target there."""
        tag: int = self._tags[(place - self.offset) // 8]
        return difference - tag & (0xFFFFFFFFFFFFFFFF if wide else 0xFFFFFFFF)


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
        self._blocks: dict[tuple[BlockMode, int, int], Block] = {}  # mode, linear, physical address of the first byte
        self._order: list[int] = []  # offsets of placements, ascending, for finding a block by host pc
        self._placements: list[Placement] = []
        self._pages: dict[int, set[Block]] = {}
        self._bytes: dict[int, bytearray] = {}  # page -> 1 for every byte some block was made from
        self._sites: dict[int, tuple[Block, Site]] = {}  # those that were asked for
        self._tables: dict[BlockMode | None, JumpTable] = {}  # of kernel code
        self._user_tables: OrderedDict[tuple[BlockMode | None, int], JumpTable] = OrderedDict()  # used last comes last
        self._free = self._all_tables()
        self._space = 0  # the number of the present address space
        self._salts: dict[BlockMode, int] = {}  # of 16-bit code
        self.counters = CacheCounters()

    # -- finding -----------------------------------------------------------------------------------------------

    def find(self, mode: BlockMode, linear: int, physical: int) -> Block | None:
        return self._blocks.get((mode, linear, physical))

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
        found = self._sites.get(behind)
        if found is None:
            placement = self._placement_of(behind)
            if placement is not None and not placement.opened:
                found = placement.link(behind)
                if found is not None:
                    self._sites[behind] = found
                else:
                    self._open(placement)
                    found = self._sites.get(behind)
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

    def table(self, mode: BlockMode) -> JumpTable | None:
        """The jump table of a mode, made at first use; None where all are taken (flush, then ask again)."""
        if mode.mode == 16 and mode not in self._salts:
            if len(self._salts) == _MOST_SALTS:
                return None
            self._salts[mode] = (len(self._salts) + 1 << 17) + (mode.cs_base & 0xFFFF)
        if mode.user:
            return self._user_table(mode)
        key = _shared(mode)
        found = self._tables.get(key)
        if found is None:
            if len(self._free) + len(self._user_tables) < 2:  # the last one is user code's
                return None
            if not self._free:
                self._free.append(self._oldest_user_table().offset)
            found = self._tables[key] = JumpTable(self._backend.data, self._free.pop())
        return found

    def salt(self, mode: BlockMode) -> int:
        """What is added to a mode's targets in its jump table.

        The low bits spread segments over the table, bits 17 and up are the mode's own: targets have 16 bits.
        """
        return self._salts.get(mode, 0)

    def _user_table(self, mode: BlockMode) -> JumpTable:
        """The table of user code of a mode in the present address space."""
        key = _shared(mode), self._space
        found = self._user_tables.get(key)
        if found is None:
            if len(self._user_tables) < _USER_TABLES and self._free:
                found = JumpTable(self._backend.data, self._free.pop())
            else:
                found = self._oldest_user_table()
            self._user_tables[key] = found
        else:
            self._user_tables.move_to_end(key)
        return found

    def _oldest_user_table(self) -> JumpTable:
        """Take the table that was not used for longest from its address space."""
        _, table = self._user_tables.popitem(last=False)
        table.clear()
        return table

    def _all_tables(self) -> list[int]:
        """The offsets of all tables there is room for, the first one last."""
        size = self._backend.layout.data_size
        return list(range(TABLES, size - TABLE_BYTES + 1, TABLE_BYTES))[::-1]

    def enter(self, space: int) -> None:
        """The guest's address space is another one now, which has this number."""
        self._space = space

    def select(self, mode: BlockMode) -> None:
        """User code of a mode is about to run: let it find the table of its address space."""
        layout = self._backend.layout
        address = layout.data_base[mode.mode] + layout.user_data + self._user_table(mode).offset
        _WORD.pack_into(self._backend.data, USER_TABLE, address)

    def add(self, placement: Placement) -> None:
        """Have the blocks of a translation placed at `next_offset` found; the code follows by `install`."""
        made, mode, blocks, counters = placement.translation, placement.mode, self._blocks, self.counters
        for block in placement.blocks:
            blocks[mode, block.linear, block.physical] = block
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
        at, mode, chained, find = placement.at, placement.mode, placement.chained, self._blocks.get
        base = placement.linear - placement.translation.pc
        mask = 0xFFFFFFFFFFFFFFFF if mode.mode == 64 else 0xFFFFFFFF
        page, physical = placement.linear >> PAGE_SHIFT, placement.physical & -0x1000
        for parts, pc in placement.translation.direct_exits():
            linear = pc + base & mask
            if linear >> PAGE_SHIFT == page:
                found = find((mode, linear, physical | linear & 0xFFF))
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
        if block.indirect_entry < 0 or (block.mode.mode == 16 and block.pc >> 16):
            return
        mode, salt = block.mode, self.salt(block.mode)
        base = self._backend.layout.code_base[mode.mode]
        if not mode.user:
            table = self._tables.get(_shared(mode))
            if table is not None:
                table.put(block.pc + salt, base + block.indirect_entry)
            return
        table = self._user_table(mode)
        table.put(block.pc + salt, base + block.indirect_entry)
        page = block.linear >> PAGE_SHIFT
        if page in table.pages or block.split:
            return
        # what other address spaces found there will be wanted in this one too
        table.pages.add(page)
        for other in self._pages.get(block.physical >> PAGE_SHIFT, ()):
            known = other.indirect_entry >= 0 and not other.split
            if known and other.mode is mode and other.linear >> PAGE_SHIFT == page:
                table.put(other.pc + salt, base + other.indirect_entry)

    def taken(self, block: Block) -> bool:
        """True where another block has the place in the jump table that `publish` would give this one."""
        mode = block.mode
        table = self._user_table(mode) if mode.user else self._tables.get(_shared(mode))
        return table is not None and table.taken(block.pc + self.salt(mode))

    def look_up_again(self, block: Block, place: int, difference: int) -> bool:
        """A lookup by code of `block` failed; True where it finds its target now.

        `place` is the host address that it looked at, and `difference` what it found there (`isa.x86.incache`).
        """
        mode, layout = block.mode, self._backend.layout
        table = self._user_table(mode) if mode.user else self._tables[_shared(mode)]
        place -= layout.data_base[mode.mode] + (layout.user_data if mode.user else 0)
        return table.fetch(table.wanted(place, difference, mode.mode == 64))

    def forget_user_targets(self, spaces: set[int] | None = None) -> None:
        """Empty the jump tables of user code, all of them or those of some address spaces."""
        for (_, space), table in self._user_tables.items():
            if spaces is None or space in spaces:
                table.clear()

    def withdraw(self, block: Block) -> None:
        """Take a block out of the reach of other blocks; it stays findable."""
        for behind in list(block.incoming or ()):
            self.unlink(behind)
        self._take_from_table(block)

    def _take_from_table(self, block: Block) -> None:
        key, target = _shared(block.mode), block.pc + self.salt(block.mode)
        if block.mode.user:
            for (mode, _), table in self._user_tables.items():
                if mode is key:
                    table.drop(target)
        elif key in self._tables:
            self._tables[key].drop(target)

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
        key = (block.mode, block.linear, block.physical)
        if self._blocks.get(key) is block:
            del self._blocks[key]

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
            if any(start < high and low < end for start, end in block.spans):
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
            self._take_from_table(block)
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
            start, end = block.spans[0]
            used[start - base : end - base] = b"\1" * (end - start)
            if self._blocks.setdefault((block.mode, block.linear, start), block) is not block:
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
        for table in (*self._tables.values(), *self._user_tables.values()):
            table.clear()
        self._tables.clear()
        self._user_tables.clear()
        self._free = self._all_tables()
        self._salts.clear()
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
        key = (linear >> PAGE_SHIFT, block.mode.user)
        entry = self._pages.get(key)
        if entry is None:
            entry = self._pages[key] = (physical >> PAGE_SHIFT, set())
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
            if entry is not None and lookup(key[0] << PAGE_SHIFT, bool(key[1])) != entry[0]:
                for block in entry[1]:
                    if block.valid:
                        self._cache.withdraw(block)
                del self._pages[key]

    def clear(self) -> None:
        self._pages.clear()
        self._groups.clear()
        self._tops.clear()
