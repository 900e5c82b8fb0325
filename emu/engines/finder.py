"""Finds the translated code of a guest address, and keeps it true to the guest's memory and page tables."""

from __future__ import annotations

import time

from emu.backends.base import Backend
from emu.dbt.block import Block
from emu.dbt.cache import CodeCache
from emu.dbt.reach import Reach
from emu.dbt.store import TranslationStore
from emu.dbt.translator import Translator
from emu.memory import GuestMemory
from emu.mmu import ShadowMmu
from isa.x86 import paging
from isa.x86.cpu import Cpu
from isa.x86.rewrite import BlockMode

_M32 = 0xFFFFFFFF


class BlockFinder:
    """The blocks of one machine: their cache, what makes them, and the shadow tables that tell where code lies.

    `stale` are the mappings that the guest flushed since `settle` was called last: addresses, or None for all.
    """

    def __init__(
        self, cpu: Cpu, memory: GuestMemory, backend: Backend, cache_limit: int | None, store: TranslationStore | None,
        *, apart: bool,
    ) -> None:  # fmt: skip
        """`apart` as in `Translator`."""
        self._cpu, self._memory, self._backend = cpu, memory, backend
        self.cache = CodeCache(backend, memory.watch, memory.unwatch, cache_limit, self._page_bytes)
        self._reach = Reach(self.cache)
        self.mmu = ShadowMmu(cpu, memory, backend, self._move_window)
        self.translator = Translator(
            memory, self.cache, backend, self.mmu.used_code_page, store=store, entered=self._entered, apart=apart
        )
        self.stale: list[int | None] = [None]
        self.seconds = 0.0  # spent on translation

    def _entered(self, block: Block) -> None:
        self._reach.add(block, self.mmu.top_entry)

    def find(self, mode: BlockMode, pc: int) -> Block | None:
        """The block at offset `pc` of CS, translated if need be; None where it must be interpreted.

        Raises the GuestFault of fetching it.
        """
        linear = pc if mode.mode == 64 else mode.cs_base + pc & _M32
        physical = self.mmu.code_page(linear, mode.user) << 12 | linear & 0xFFF
        if self._memory.ram_offset(physical) < 0:
            return None
        if physical >> 12 in self.cache.asleep:
            self.cache.wake(physical >> 12)
        block = self.cache.find(mode, linear, physical)
        if block is not None and block.split and not self._second_page_same(block):
            self.cache.invalidate(block)
            block = None
        if block is None:
            started = time.perf_counter()
            if not self.translator.has_room(mode):
                self.flush()
            block = self.translator.translate(mode, pc, linear, physical, self._rest_of_insn)
            self.seconds += time.perf_counter() - started
        return block

    def known_to_lie_there(self, block: Block) -> bool:
        """True where the present address space is known to have a block's code where the block was made from it."""
        return not block.split and self.mmu.known_code_page(block.linear, block.mode.user) == block.physical >> 12

    def chain(self, behind: int, block: Block, target: Block) -> None:
        """Have the direct exit of `block` that `behind` identifies lead to `target`, where nothing forbids it."""
        if target.linear >> 12 == block.linear >> 12 and not target.split:
            self.cache.link(behind, target)
        elif not target.mode.user:
            self._entered(target)
            self.cache.link(behind, target)

    def publish(self, at: int) -> None:
        """Let jumps through a table find the block at cache offset `at`."""
        target = self.cache.block_at(at)
        if target is not None:
            self.translator.publish(target)

    # -- staying true to the guest -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Take account of what the guest flushed."""
        stale, self.stale = self.stale, []
        mmu, reach = self.mmu, self._reach
        switched = False
        if None in stale:
            switched = mmu.refresh()
        else:
            for linear in stale:
                if linear is not None:
                    mmu.forget(linear)
        lost = mmu.take_lost()
        self.cache.tables.enter(mmu.space.number)
        if mmu.changed_everywhere:
            mmu.changed_everywhere = False
            self.cache.tables.forget_user_targets()
            reach.revalidate(lambda _linear, _user: -1)  # no table knows any more which pages of code depend on it
            return
        self.cache.tables.forget_user_targets({space for _, space in lost})
        if switched:
            reach.switch(mmu.top_entry, self._code_page)
        if lost:
            reach.revalidate(self._code_page, lost)

    def written(self, gpa: int, size: int) -> bool:
        """Guest memory with a write trace was written to; True where translated code was dropped for it."""
        if self.mmu.written(gpa, size):
            self.stale.append(None)
        return bool(self.cache.written(gpa, size))

    def flush(self) -> None:
        """Drop all translated code."""
        self.cache.flush()
        self._reach.clear()
        self.translator.flushed()

    def _move_window(self, base: int) -> None:
        """The guest needs the addresses at which 16- and 32-bit code reaches the monitor."""
        self.flush()
        self._backend.move_window(base)

    # -- the guest's code --------------------------------------------------------------------------------------

    def _code_page(self, linear: int, user: bool) -> int:
        """Physical page number of executable code at `linear`, or -1; changes nothing in the guest."""
        mapping = paging.probe(self._cpu, linear)
        if mapping is None or not mapping.executable or (user and not mapping.user):
            return -1
        return mapping.gpa >> 12

    def _page_bytes(self, page: int) -> bytes:
        return self._memory.read_bytes(page << 12, 0x1000)

    def _second_page_same(self, block: Block) -> bool:
        linear = (block.linear | 0xFFF) + 1
        return self.mmu.code_page(linear, block.mode.user) << 12 == block.spans[1][0]

    def _rest_of_insn(self, linear: int, user: bool) -> tuple[int, bytes]:
        """Physical address and bytes of the page behind `linear`, for an instruction that reaches into it."""
        gpa = self.mmu.code_page(linear, user) << 12
        if self._memory.ram_offset(gpa) < 0:
            return gpa, b"".join(self._memory.read(gpa + at, 8).to_bytes(8, "little") for at in (0, 8))
        return gpa, self._memory.read_bytes(gpa, 16)
