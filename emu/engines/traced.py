"""The engines with a stopwatch: they tell it when the guest runs, and where it was left and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from emu.backends.base import LEAVE, Trap
from emu.dbt.block import Block
from emu.engines.base import EngineCounters
from emu.engines.interpret import InterpretEngine
from emu.engines.translate import TranslateEngine
from emu.exits import Exit
from emu.stopwatch import NotedCounter, Stopwatch
from isa.base import GuestFault
from isa.x86.code import Site
from isa.x86.decode import Insn
from isa.x86.state import PAGE_FAULT

_M32: Final = 0xFFFFFFFF
_REGISTERS: Final = {"mov_from_cr": "r", "mov_to_cr": "w", "mov_from_dr": "r", "mov_to_dr": "w"}
_CR0: Final = ("lmsw", "clts")
_VECTORS: Final = {"int1": 1, "int3": 3, "into": 4}


def _nothing() -> None:
    """Nobody takes samples."""


class TracedInterpretEngine(InterpretEngine):
    """`InterpretEngine` under a stopwatch."""

    def __init__(self, watch: Stopwatch, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stopwatch = watch
        self._counters = EngineCounters(exits=NotedCounter(watch))
        self.sample: Callable[[], None] = _nothing  # called where the guest left off, its state in the `Cpu`

    def run(self, limit: int) -> Exit:
        self._stopwatch.back()
        try:
            return super().run(limit)
        finally:
            self._stopwatch.left()
            self.sample()


class TracedTranslateEngine(TranslateEngine):
    """`TranslateEngine` under a stopwatch; its backend tells the same one when it leaves the cache and goes back."""

    def __init__(self, watch: Stopwatch, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stopwatch = watch
        self._counters = EngineCounters(exits=NotedCounter(watch))
        self._insn: Insn | None = None  # at which translated code was left
        self.sample: Callable[[], None] | None = None  # called where the guest left off, its state in the `Cpu`

    def mapping_changed(self, linear: int | None) -> None:
        super().mapping_changed(linear)
        if linear is not None:
            self._stopwatch.operand(linear)

    def _trap(self, trap: Trap) -> int:
        watch = self._stopwatch
        watch.left()
        watch.pulled()
        place = self._place(trap)
        self._insn = None
        if place is not None:
            block, index = place
            self._insn = block.pieces[index].insn
            base = 0 if block.mode.mode == 64 else block.mode.cs_base
            pc = block.pieces[index].guest_pc
            watch.at(base + pc, block.linear)
            if self.sample is not None:
                self._pull_registers(block)
                self._cpu.rip = pc
                self.sample()
        behind = super()._trap(trap)
        reason = watch.reason
        if reason == "hidden page fault":
            watch.operand(trap.cr2, "w" if trap.error & 2 else "r")
        elif self._insn is not None:
            _name_operand(watch, reason, self._insn)
        return behind

    def _raise(self, fault: GuestFault) -> int:
        if self._insn is not None:  # named now, because delivering the fault is an exit of its own
            _name_operand(self._stopwatch, self._stopwatch.reason, self._insn)
            self._insn = None
        return super()._raise(fault)

    def _place(self, trap: Trap) -> tuple[Block, int] | None:
        """Block and index of the instruction at which translated code was left."""
        site = self.cache.site(trap.pc) if trap.vector in (LEAVE, PAGE_FAULT) else None
        if site is not None:
            return site[0], min(site[1].index, site[0].code.charge - 1)
        block = self.cache.block_at(trap.pc)
        return None if block is None else (block, block.piece_at(trap.pc))

    def _stopped(self, pc: int) -> int:
        behind = super()._stopped(pc)
        if behind < 0 and self.sample is not None:
            self.sample()
        return behind

    def _pull(self, block: Block, index: int, host: int, emulate: bool = False) -> None:
        super()._pull(block, index, host, emulate)
        self._stopwatch.pulled()

    def _follow(self, block: Block, site: Site, behind: int) -> int:
        self._stopwatch.emulated()
        return super()._follow(block, site, behind)

    def _dispatch(self) -> int:
        self._stopwatch.emulated()
        return super()._dispatch()

    def _push(self) -> None:
        self._stopwatch.emulated()
        super()._push()

    def _written(self, gpa: int, size: int) -> None:
        super()._written(gpa, size)
        if self._stopwatch.reason == "code write":
            self._stopwatch.operand(gpa, "w", size)


def _name_operand(watch: Stopwatch, reason: str, insn: Insn) -> None:
    """Tell what an instruction's encoding says it concerns."""
    if reason in _REGISTERS:
        watch.operand(insn.modrm >> 3 & 7 | (insn.rex & 4) << 1, _REGISTERS[reason])
    elif reason in _CR0:
        watch.operand(0, "w")
    elif reason == "int":
        watch.operand(insn.raw[insn.imm_at])
    elif reason in _VECTORS:
        watch.operand(_VECTORS[reason])
