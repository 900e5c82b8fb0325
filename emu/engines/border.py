"""The border between the `Cpu` and the machine: what is brought over where translated code is left and entered.

While translated code runs the machine holds the general registers and flags. Host positions map to guest instructions
through each block's pieces, and blocks are charged for as a whole: at every exit the guest's state, and how many of its
instructions retired, can be told exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from emu.backends.base import Backend, View
from emu.dbt.block import Block
from isa.x86.cpu import Cpu
from isa.x86.emit import BUDGET, KERNEL_GS, SELECTORS, SPILL, VIRTUAL_IF
from isa.x86.rewrite import BlockMode
from isa.x86.segmoves import set_base
from isa.x86.state import AC, ARITH, DF, DS, ES, FS, GS, ID, IF, NT, RF, SS

_MACHINE_FLAGS = ARITH | DF | NT | AC | ID  # live in the backend's flags register while translated code runs
_SELECTORS = struct.Struct("<6H")
_M32 = 0xFFFFFFFF


def _view(cpu: Cpu, mode: BlockMode) -> View:
    """How the machine must show segments and privilege: guest CPL 0 to 2 runs at CPL 1 (ring compression)."""
    segs = cpu.segs
    level, smap = (3, False) if mode.user else (1, cpu.smap)
    if mode.mode == 64:
        return View(64, level, True, (0, 0, 0, 0, segs[FS].base, segs[GS].base), smap)
    gs = 0 if mode.through_gs else segs[GS].base
    bases = (segs[ES].base, 0, segs[SS].base, segs[DS].base, segs[FS].base, gs)
    return View(mode.mode, level, mode.stack32, bases, smap)


class Border:
    """What an engine that runs translated code on `backend` needs to leave it and to go on, with exact state."""

    def __init__(self, cpu: Cpu, backend: Backend) -> None:
        self._cpu, self._backend = cpu, backend
        self._leave_size = len(backend.layout.leave)
        self._words = backend.data[:0x1000].cast("I")
        self._long_words = backend.data[:0x1000].cast("Q")
        self._charged = 0  # instructions retired, counting blocks being executed as a whole
        self._seen = 0  # the budget at the last harvest
        self._flags_stay = False  # the machine's flags were not brought to the `Cpu`
        self._resumed = -1  # `cpu.retired` when the cache was last entered with RF set

    # -- entering ----------------------------------------------------------------------------------------------

    def _begin(self, limit: int) -> None:
        """Give translated code a budget of so many instructions."""
        self._words[BUDGET >> 2] = limit & _M32
        self._charged, self._seen = self._cpu.retired, limit

    def _show(self, mode: BlockMode) -> None:
        """Have the machine show segments and privilege as code of `mode` must see them."""
        cpu = self._cpu
        self._backend.set_view(_view(cpu, mode))
        self._long_words[KERNEL_GS >> 3] = cpu.kernel_gs_base
        es, cs, ss, ds, fs, gs = cpu.segs
        selectors = es.selector, cs.selector, ss.selector, ds.selector, fs.selector, gs.selector
        _SELECTORS.pack_into(self._backend.data, SELECTORS, *selectors)

    def _push(self) -> None:
        """Give the machine the registers of the `Cpu`, and the flags where it has not kept them."""
        cpu = self._cpu
        if self._flags_stay:
            self._flags_stay = False
            self._backend.push(cpu.regs, None)
            return
        flags = cpu.rflags
        self._words[VIRTUAL_IF >> 2] = flags & IF
        self._backend.push(cpu.regs, flags)

    # -- leaving -----------------------------------------------------------------------------------------------

    def _pull(self, block: Block, index: int, host: int, emulate: bool = False) -> None:
        """Bring the `Cpu` to the start of instruction `index` of `block`, the machine being at cache offset `host`.

        To `emulate` a quiet instruction the machine's flags may stay where they are, until `_settle_flags`.
        """
        cpu, words = self._cpu, self._words
        self._pull_registers(block)
        piece = block.pieces[index]
        for start, end, spilled in piece.spilled:
            if start <= host < end:
                self._pull_spilled(block, spilled.items())
        self._flags_stay = True
        if emulate and piece.quiet and not block.mode.user:  # without alignment checks, which are for CPL 3
            if cpu.smap and piece.insn.modrm >= 0:
                cpu.set_ac(self._backend.flags())
            cpu.system_flags = cpu.system_flags & ~IF | words[VIRTUAL_IF >> 2]
        else:
            self._settle_flags()
        cpu.rip = piece.guest_pc
        self._account(block, index)
        if cpu.system_flags & RF and cpu.retired != self._resumed:
            cpu.system_flags &= ~RF

    def _pull_registers(self, block: Block) -> None:
        """Bring the `Cpu` the general registers and, from 64-bit code, the bases of FS and GS."""
        cpu, backend = self._cpu, self._backend
        backend.pull(cpu.regs)
        if block.mode.mode == 64:
            fs, gs = backend.bases()
            if cpu.segs[FS].base != fs:
                set_base(cpu, FS, fs)
            if cpu.segs[GS].base != gs:
                set_base(cpu, GS, gs)
            cpu.kernel_gs_base = self._long_words[KERNEL_GS >> 3]

    def _pull_spilled(self, block: Block, spilled: Iterable[tuple[int, int]]) -> None:
        """Bring the `Cpu` registers that translated code keeps in the monitor's data, as (register, spill slot)."""
        for reg, slot in spilled:
            at = SPILL[slot] >> 2
            self._cpu.regs[reg] = self._words[at] | (self._words[at + 1] << 32 if block.mode.mode == 64 else 0)

    def _settle_flags(self) -> None:
        """Give the `Cpu` the flags that `_pull` left in the machine."""
        if self._flags_stay:
            self._flags_stay = False
            cpu, machine = self._cpu, self._backend.flags()
            cpu.rflags = (
                machine & _MACHINE_FLAGS | self._words[VIRTUAL_IF >> 2] | cpu.system_flags & ~(_MACHINE_FLAGS | IF)
            )

    # -- counting ----------------------------------------------------------------------------------------------

    def _harvest(self) -> int:
        """Guest instructions that blocks were charged for since `run` began, plus what retired before."""
        left = self._words[BUDGET >> 2]
        delta = self._seen - left & _M32
        self._charged += delta - (1 << 32) if delta >> 31 else delta
        self._seen = left
        return self._charged

    def _account(self, block: Block, completed: int) -> None:
        """Make `cpu.retired` exact, `completed` instructions of `block` having retired."""
        charged = block.code.charge if completed >= block.code.counted_at else 0
        self._cpu.retired = self._harvest() + completed - charged

    def _settle(self, block: Block, completed: int) -> None:
        """The block is left after `completed` instructions: give back what it was charged for the others."""
        charged = block.code.charge if completed >= block.code.counted_at else 0
        at = BUDGET >> 2
        self._words[at] = self._words[at] + charged - completed & _M32
