"""Turns guest code at one address into installed, chained blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.backends.base import Backend
from emu.dbt.block import Block
from emu.dbt.cache import CodeCache
from emu.dbt.discover import MAX_RUN, discover
from emu.memory import GuestMemory
from isa.x86.decode import Decoder
from isa.x86.emit import Emitter, Target
from isa.x86.incache import LOOKUP_SPILLS
from isa.x86.rewrite import BlockMode, Rewriter, SiteKind, falls_through

_ROOM: Final = MAX_RUN * 160  # no guest instruction becomes more bytes than this, with its share of exits

NextPage = Callable[[int, bool], tuple[int, bytes]]


class Translator:
    """Discovers, rewrites and installs runs of blocks."""

    def __init__(self, memory: GuestMemory, cache: CodeCache, backend: Backend, *, apart: bool = False) -> None:
        """`apart`: every block is translated by itself, and nothing leads from one to another but the monitor."""
        self._memory, self._cache, self._backend = memory, cache, backend
        self._apart = apart
        self._decoders = {mode: Decoder(mode) for mode in (16, 32, 64)}

    def forget(self) -> None:
        """Give back the memory of decoded instructions."""
        for decoder in self._decoders.values():
            decoder.forget()

    def has_room(self, mode: BlockMode) -> bool:
        """False where the cache must be flushed before the next translation: no code memory or jump table is left."""
        return self._cache.room(_ROOM) and self._cache.table(mode) is not None

    def translate(self, mode: BlockMode, pc: int, linear: int, physical: int, next_page: NextPage) -> Block:
        """Translate the run at `pc` (linear and physical address `linear`, `physical`) and return its first block.

        `next_page` gives physical address and bytes of a page that the first instruction reaches into; it may raise
        the guest's page fault.
        """
        cache = self._cache
        offset = self._memory.ram_offset(physical)
        page = bytes(self._memory.ram[offset : offset + 0x1000])
        second = -1

        def first() -> bytes:
            nonlocal second
            second, rest = next_page((linear | 0xFFF) + 1, mode.user)
            return page[physical & 0xFFF :] + rest

        run = discover(self._decoders[mode.mode], page, physical & 0xFFF, pc, first)
        rewriter = Rewriter(mode, self._target(mode), cache.next_offset)
        starts = self._new_starts(run.starts, run.pcs, mode, pc, linear, physical)
        blocks: list[Block] = []
        for number, start in enumerate(starts):
            last = number + 1 == len(starts)
            end = next((s for s in run.starts if s > start), len(run.insns))
            insns = run.insns[start:end]
            code = rewriter.block(insns, run.pcs[start], number == 0, not last)
            delta = run.pcs[start] - pc
            size = sum(insn.size for insn in insns)
            low = physical + delta
            spans: tuple[tuple[int, int], ...] = ((low, low + size),)
            if second >= 0:
                edge = (physical | 0xFFF) + 1
                spans = ((low, edge), (second, second + low + size - edge))
            above = blocks[-1] if blocks and falls_through(blocks[-1].insns[-1]) else None
            blocks.append(Block(mode, linear + delta, run.pcs[start], spans, insns, code, above=above))
        cache.add(blocks, rewriter.finish())
        if not self._apart:
            self._chain(blocks, linear, physical)
        return blocks[0]

    def publish(self, block: Block) -> None:
        """Let indirect jumps find `block`, giving it an entry for them where it has none."""
        if block.mode.mode == 16:
            return
        if block.code.indirect_entry < 0:
            emit = Emitter(self._target(block.mode), self._cache.next_offset)
            for reg, slot in LOOKUP_SPILLS:
                emit.reload(reg, slot)
            emit.fill_displacement(emit.jump(), block.code.entry)
            if not self._cache.room(len(emit.code)):
                return
            block.code.indirect_entry = self._cache.append(bytes(emit.code))
        self._cache.publish(block)

    def _target(self, mode: BlockMode) -> Target:
        table = self._cache.table(mode)
        if table is None:
            raise RuntimeError("no jump table is free: has_room was not asked")
        return Target(mode.mode, self._backend.layout, table.offset, mode.through_gs, mode.user)

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

    def _chain(self, blocks: list[Block], linear: int, physical: int) -> None:
        """Chain the new blocks' direct exits to blocks of the same page, before they ever run."""
        page, wide = linear >> 12, blocks[0].mode.mode == 64
        base = linear - blocks[0].pc
        for block in blocks:
            for behind, site in block.code.sites.items():
                if site.kind is not SiteKind.LINK:
                    continue
                target = site.target + base & (0xFFFFFFFFFFFFFFFF if wide else 0xFFFFFFFF)
                if target >> 12 != page:
                    continue
                found = self._cache.find(block.mode, target, physical & -0x1000 | target & 0xFFF)
                if found is not None and len(found.spans) == 1:
                    self._cache.link(behind, found, executed=False)
