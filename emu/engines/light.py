"""Exits from the cache that concern little of the guest's state: most of it stays in the machine meanwhile."""

from __future__ import annotations

from abc import ABC, abstractmethod

from emu.backends.base import Backend
from emu.dbt.block import Block
from emu.engines.base import EngineCounters
from emu.engines.border import Border
from emu.engines.finder import BlockFinder
from isa.base import GuestFault
from isa.x86.code import Piece, Site, SiteKind
from isa.x86.control import set_cr3
from isa.x86.cpu import Cpu
from isa.x86.native import misaligned, unmasks
from isa.x86.operands import Op
from isa.x86.privilege import rm_number
from isa.x86.state import RF

_NO_OPERATION = b"\x66\x90"  # as long as the leave sequence


class LightExits(Border, ABC):
    """Handlers that return the cache offset to go on at, and call the full ones where there is more to do."""

    def __init__(self, cpu: Cpu, backend: Backend, finder: BlockFinder) -> None:
        super().__init__(cpu, backend)
        self._finder = finder
        self._counters = EngineCounters()
        self._interrupted = False
        self._machine_regs = [0] * 16  # the general registers, where the `Cpu` need not know them

    @abstractmethod
    def _callout(self, block: Block, index: int, behind: int) -> int:
        """Have the interpreter execute instruction `index` of `block`, behind whose exit offset `behind` lies."""

    @abstractmethod
    def _emulate_or_defer(self, block: Block, index: int, behind: int) -> int:
        """The same with the state in the `Cpu`."""

    @abstractmethod
    def _bind(self, piece: Piece) -> tuple[Op, int]:
        """Find out how the interpreter executes the instruction of `piece`: its operation, and how long it is."""

    @abstractmethod
    def _go_on(self) -> int:
        """Dispatch to `cpu.rip` with the state in the `Cpu`; leaves the cache where that is not possible."""

    def _align(self, block: Block, index: int, behind: int) -> int:
        """An operand must be aligned: once it was, at this place, it is taken to stay so.

        Unicorn does not check, and to check in the cache takes several times what the access itself does.
        """
        piece = block.pieces[index]
        self._counters.exits["alignment"] += 1
        self._pull_registers(block)
        if not misaligned(self._cpu, piece.insn, piece.guest_pc):
            self._backend.patch(behind - self._leave_size, _NO_OPERATION)
            return behind
        self._pull(block, index, behind - self._leave_size)
        return self._emulate_or_defer(block, index, -1)

    def _floating(self, block: Block, site: Site, behind: int) -> int:
        """Bring exception flags up to date before an instruction that sees them, or has other ones masked."""
        self._counters.exits["fpu status"] += 1
        self._backend.settle_exceptions()
        if site.kind is SiteKind.EXCEPTIONS:
            return behind
        cpu, piece = self._cpu, block.pieces[site.index]
        self._pull_registers(block)
        if cpu.smap and not block.mode.user:
            cpu.set_ac(self._backend.flags())
        if unmasks(cpu, piece.insn, piece.guest_pc) == block.mode.unmasked:
            return behind
        self._pull(block, site.index, behind - self._leave_size)
        return self._emulate_or_defer(block, site.index, -1)

    def _read(self, block: Block, site: Site, behind: int) -> int:
        """An instruction that changes nothing but general registers, as RDTSC: all else stays in the machine."""
        cpu = self._cpu
        if cpu.stop_requested or self._interrupted:
            return self._callout(block, site.index, behind)
        piece = block.pieces[site.index]
        operation, _ = piece.bound or self._bind(piece)
        if block.mode.exact:  # time may be counted in instructions
            self._account(block, site.index)
        self._backend.pull(cpu.regs)
        try:
            operation(cpu)
        except GuestFault:
            return self._callout(block, site.index, behind)
        self._backend.push(cpu.regs, None)
        reason = piece.reason
        self._counters.exits[reason] += 1
        self._counters.emulated += 1
        return behind

    def _load_root(self, block: Block, site: Site, behind: int) -> int:
        """MOV to CR3: where the block still lies where it did, all registers stay in the machine."""
        cpu, finder = self._cpu, self._finder
        if cpu.stop_requested or self._interrupted or finder.stale:
            return self._callout(block, site.index, behind)
        piece = block.pieces[site.index]
        self._backend.pull(self._machine_regs)
        try:
            set_cr3(cpu, self._machine_regs[rm_number(piece.insn)])
        except GuestFault:
            return self._callout(block, site.index, behind)
        self._counters.exits["mov_to_cr"] += 1
        self._counters.emulated += 1
        finder.settle()
        if block.valid and not finder.stale and finder.known_to_lie_there(block):
            return behind
        self._pull(block, site.index, behind - self._leave_size)
        cpu.rip = piece.guest_pc + len(piece.raw)
        cpu.system_flags &= ~RF
        cpu.retired += 1
        self._settle(block, site.index + 1)
        return self._go_on()
