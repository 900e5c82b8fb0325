"""Turns guest code at one address into installed, chained blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.backends.base import Backend
from emu.dbt.block import Block, Placement
from emu.dbt.cache import CodeCache
from emu.dbt.discover import MAX_RUN, discover
from emu.dbt.store import ModeKey, Translation, TranslationStore, key_of
from emu.memory import GuestMemory
from isa.x86.decode import Decoder
from isa.x86.emit import USER_TABLE, Emitter, Target
from isa.x86.incache import LOOKUP_SPILLS
from isa.x86.rewrite import BlockMode, Rewriter

_ROOM: Final = MAX_RUN * 160  # no guest instruction becomes more bytes than this, with its share of exits
_AHEAD: Final = 64  # stored translations looked at behind one that was needed

NextPage = Callable[[int, bool], tuple[int, bytes]]
KnownPage = Callable[[int, bool], int]


def _unknown(_linear: int, _user: bool) -> int:
    return -1


class Translator:
    """Discovers, rewrites and installs runs of blocks, or finds them in the store.

    `known_page(linear, user)` is the number of the guest-physical page that code at `linear` is fetched from, or -1
    where the first fetch from there would fault or set an A bit.
    """

    def __init__(
        self,
        memory: GuestMemory,
        cache: CodeCache,
        backend: Backend,
        known_page: KnownPage = _unknown,
        *,
        store: TranslationStore | None = None,
        entered: Callable[[Block], None] | None = None,
        apart: bool = False,
    ) -> None:
        """`entered` is told of each block that other pages will reach without the dispatcher.

        `apart`: every block is translated by itself, and nothing leads from one to another but the monitor.
        """
        self._memory, self._cache, self._backend = memory, cache, backend
        self._known_page, self._entered = known_page, entered
        self._apart = apart
        self.store = store or TranslationStore()
        self.reused = 0  # instructions placed whose translation an earlier run made
        self._decoders = {mode: Decoder(mode) for mode in (16, 32, 64)}
        self._targets: dict[BlockMode, tuple[Target, ModeKey]] = {}
        self._modes: dict[ModeKey, BlockMode] = {}

    def forget(self) -> None:
        """Give back the memory of decoded instructions and of the store."""
        for decoder in self._decoders.values():
            decoder.forget()
        self.store.forget()

    def flushed(self) -> None:
        """The code cache was flushed, and the backend's layout may be another one."""
        self._targets.clear()
        self._modes.clear()
        self.store.flushed()

    def has_room(self, mode: BlockMode) -> bool:
        """False where the cache must be flushed before the next translation: no code memory or jump table is left."""
        return self._cache.room(_ROOM) and self._cache.tables.table(mode) is not None

    def translate(self, mode: BlockMode, pc: int, linear: int, physical: int, next_page: NextPage) -> Block:
        """Translate the run at `pc` (linear and physical address `linear`, `physical`) and return its first block.

        `next_page` gives physical address and bytes of a page that the first instruction reaches into; it may raise
        the guest's page fault.
        """
        target, key = self._target(mode)
        offset = self._memory.ram_offset(physical)
        page = bytes(self._memory.ram[offset : offset + 0x1000])
        found = None if self._apart else self.store.find(key, pc, page[physical & 0xFFF :])
        if found is not None:
            return self._reuse(found, mode, linear, physical)
        second = -1

        def first() -> bytes:
            nonlocal second
            second, rest = next_page((linear | 0xFFF) + 1, mode.user)
            return page[physical & 0xFFF :] + rest

        run = discover(self._decoders[mode.mode], page, physical & 0xFFF, pc, first)
        rewriter = Rewriter(mode, target)
        starts = self._new_starts(run.starts, run.pcs, mode, pc, linear, physical)
        for number, start in enumerate(starts):
            end = next((s for s in run.starts if s > start), len(run.insns))
            enters = number == 0 or start in run.returns
            rewriter.block(run.insns[start:end], run.raws[start:end], run.pcs[start], enters, number + 1 < len(starts))
        made = Translation.of(key, *rewriter.finish())
        made.entered.update(number for number, start in enumerate(starts) if start in run.returns)
        # Not kept is what lies on two pages, because the second one can be mapped anywhere, and what is no instruction:
        # of its bytes only the first one is known, and others may follow when that is met again.
        if second < 0 and not self._apart and not made.ends_in_nothing:
            self.store.add(made)
        placement = self._place(made, mode, linear, physical, second)
        self._cache.install([placement], None if self._apart else self._follow)
        if not self._apart:
            self._expect_jumps(placement)
        return placement.blocks[0]

    def _reuse(self, found: Translation, mode: BlockMode, linear: int, physical: int) -> Block:
        """Place a stored translation and those that the last run needed soon after it; returns its first block."""
        placements = [self._place(found, mode, linear, physical, -1)]
        for ahead in self.store.behind(found, _AHEAD):
            placed = self._place_ahead(ahead)
            if placed is not None:
                placements.append(placed)
        self._cache.install(placements, self._follow)
        for placed in placements:
            if not placed.mode.user or placed is placements[0]:
                self._expect_jumps(placed)
        return placements[0].blocks[0]

    # -- placing -----------------------------------------------------------------------------------------------

    def _place(self, made: Translation, mode: BlockMode, linear: int, physical: int, second: int) -> Placement:
        """Give a translation a place at the end of the cache, where its code must be installed next.

        `second` is the physical address of the page that its only instruction reaches into, or -1.
        """
        self.store.use(made)
        decoder = self._decoders[mode.mode]
        placement = Placement(made, self._cache.next_offset, mode, linear, physical, second, decoder)
        if made.place >= 0:
            self.reused += placement.count
        self._cache.add(placement)
        return placement

    def _place_ahead(self, found: Translation) -> Placement | None:
        """Place a stored translation that is likely to be needed soon, if the guest's code is there and its own."""
        mode = self._modes.get(found.key)
        if mode is None or not self._cache.room(_ROOM):
            return None
        linear = found.pc if mode.mode == 64 else mode.cs_base + found.pc & 0xFFFFFFFF
        page = self._known_page(linear, mode.user)
        offset = self._memory.ram_offset(page << 12) if page >= 0 else -1
        if offset < 0 or page in self._cache.asleep:
            return None
        offset += linear & 0xFFF
        physical = page << 12 | linear & 0xFFF
        if bytes(self._memory.ram[offset : offset + len(found.raw)]) != found.raw:
            return None
        if self._cache.find(mode, linear, physical) is not None:
            return None
        return self._place(found, mode, linear, physical, -1)

    def _follow(self, mode: BlockMode, linear: int) -> Block | None:
        """The block at a linear address that a direct exit on another page may be chained to.

        It must be known to be fetched without any effect, and be kernel code (see `Reach`).
        """
        if mode.user or self._entered is None:
            return None
        page = self._known_page(linear, False)
        found = self._cache.find(mode, linear, page << 12 | linear & 0xFFF) if page >= 0 else None
        if found is None or found.split:
            return None
        self._entered(found)
        return found

    def _expect_jumps(self, placement: Placement) -> None:
        """Let returns and other jumps through a table find those of new blocks that they are likely to go to."""
        for number in placement.translation.entered:
            block = placement.blocks[number]
            if not self._cache.tables.taken(block) and self._cache.room(_ROOM):
                self.publish(block)

    def publish(self, block: Block) -> None:
        """Let indirect jumps find `block`, giving it an entry for them where it has none."""
        block.placement.translation.entered.add(block.number)
        if self._entered is not None and not block.mode.user:
            self._entered(block)
        if block.indirect_entry < 0:
            emit = Emitter(self._target(block.mode)[0], self._cache.next_offset)
            for reg, slot in LOOKUP_SPILLS:
                emit.reload(reg, slot)
            emit.fill_displacement(emit.jump(), block.entry)
            if not self._cache.room(len(emit.code)):
                return
            block.indirect_entry = self._cache.append(bytes(emit.code))
        self._cache.publish(block)

    def _target(self, mode: BlockMode) -> tuple[Target, ModeKey]:
        found = self._targets.get(mode)
        if found is None:
            table = self._cache.tables.table(mode)
            if table is None:
                raise RuntimeError("no jump table is free: has_room was not asked")
            salt, layout = self._cache.tables.salt(mode), self._backend.layout
            place = USER_TABLE if mode.user else table.offset
            target = Target(mode.mode, layout, place, mode.through_gs, mode.user, salt)
            key = key_of(mode, layout.data_base[mode.mode], place + salt)
            found = self._targets[mode] = target, key
            self._modes[key] = mode
        return found

    def _new_starts(
        self, starts: list[int], pcs: list[int], mode: BlockMode, pc: int, linear: int, physical: int
    ) -> list[int]:
        """The leading starts up to the first block that is translated already."""
        out = [0]
        if self._apart:
            return out
        for start in starts[1:]:
            delta = pcs[start] - pc
            if self._cache.find(mode, linear + delta, physical + delta) is not None:
                break
            out.append(start)
        return out
