"""The two engines of vemu in the very state in which the real CPU executes a case."""

from __future__ import annotations

from typing import Final

from emu.backends.unicorn import UnicornBackend
from emu.bus import Bus
from emu.engines.translate import TranslateEngine
from emu.exits import Fault
from emu.memory import GuestMemory
from emu.monitor import Ports
from isa.base import GuestFault, Interrupted
from isa.x86.cpu import Cpu
from isa.x86.interp import Interpreter
from isa.x86.paging import PTE_NX, PTE_P, PTE_PS, PTE_U, PTE_W
from isa.x86.segments import update_mode
from isa.x86.state import (
    CR0_AM,
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
)  # fmt: skip
from tests.differential import layout
from tests.differential.harness import TIMEOUT, Case, Outcome

_MEMORY: Final = 8 << 20
_TABLES: Final = 0x10000  # physical; nothing maps them, so a case cannot reach them
_CODE: Final = 0x200000
_DATA: Final = 0x600000
_FIXED: Final = _DATA + layout.DATA_SIZE
_PAGE: Final = 0x1000
_STEPS: Final = 4  # a case ends with the fault of what follows it
_TURNS: Final = 100
_PAGE_FAULT: Final = 14


def _map(memory: GuestMemory) -> None:
    """Page tables (SDM vol. 3, 4.5) that map code and data as the harness does."""
    pdpt, pd, pt = _TABLES + _PAGE, _TABLES + 2 * _PAGE, _TABLES + 3 * _PAGE
    directory = PTE_P | PTE_W | PTE_U
    memory.write(_TABLES, 8, pdpt | directory)
    memory.write(pdpt, 8, pd | directory)
    for at in range(0, layout.CODE_SIZE, 2 << 20):
        memory.write(pd + (layout.CODE + at >> 21) * 8, 8, _CODE + at | PTE_P | PTE_U | PTE_PS)
    memory.write(pd + (layout.DATA >> 21) * 8, 8, pt | directory)
    for at in range(0, layout.DATA_SIZE + layout.FIXED_SIZE, _PAGE):
        rights = PTE_P | PTE_U | PTE_NX | (PTE_W if at < layout.DATA_SIZE else 0)
        memory.write(pt + (at >> 12) * 8, 8, _DATA + at | rights)
    memory.write_bytes(_FIXED, layout.FIXED_BYTES)


class Guest:
    """A vCPU in user mode with long-mode paging on; subclasses execute."""

    name = ""

    @property
    def emulated(self) -> int:
        """Instructions that were left to the interpreter so far, where there is something else."""
        return 0

    def __init__(self) -> None:
        self.memory = GuestMemory(_MEMORY, Bus("memory"))
        self.ports = Ports(Bus("port"))
        _map(self.memory)
        self.memory.write_bytes(_CODE, b"\xf4" * layout.CODE_SIZE)
        self.cpu = cpu = Cpu(self.memory, self.ports, None)
        cpu.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG
        cpu.cr3, cpu.cr4 = _TABLES, CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT
        cpu.efer = EFER_LME | EFER_LMA | EFER_NXE
        cpu.flush_tlb(None)
        self._mode: layout.Mode | None = None

    def run(self, case: Case) -> Outcome:
        """Execute one case up to its fault, or that of the HLT behind it."""
        cpu, memory = self.cpu, self.memory
        if case.mode is not self._mode:
            self._mode = case.mode
            for number in range(6):
                cpu.segs[number] = case.mode.segment(number)
            update_mode(cpu)
        cpu.shadow = cpu.stack_shadow = cpu.halted = cpu.transferred = False
        cpu.debug_pending = 0
        at = case.linear - layout.CODE + _CODE
        memory.write_bytes(at, case.code)
        memory.write_bytes(_DATA, case.data)
        cpu.regs[:], cpu.rip, cpu.rflags = case.regs, case.rip, case.flags
        native = cpu.native
        assert native is not None
        if case.vector:
            native.load(case.fx)
        vector, error, cr2 = self._execute()
        image = native.save() if case.vector else case.fx
        memory.write_bytes(at, b"\xf4" * len(case.code))
        mask = case.mode.mask
        return Outcome(
            vector, error, cr2 if vector == _PAGE_FAULT else None, cpu.rip, cpu.rflags,
            [value & mask for value in cpu.regs], image, memory.read_bytes(_DATA, layout.DATA_SIZE),
        )  # fmt: skip

    def _execute(self) -> tuple[int, int | None, int | None]:
        """Run to the next fault: its vector, error code and address."""
        raise NotImplementedError

    def close(self) -> None:
        self.memory.close()


class Interpreted(Guest):
    """The interpreter, instruction by instruction."""

    name = "interpret"

    def __init__(self) -> None:
        super().__init__()
        self._unit = UnicornBackend()
        self.cpu.native = self._unit.native
        self._interpreter = Interpreter(self.cpu)
        self.memory.on_watched_write = self._interpreter.written
        self.memory.on_watch_change.append(self.cpu.page_watched)

    def _execute(self) -> tuple[int, int | None, int | None]:
        try:
            for _ in range(_STEPS):
                self._step()
        except GuestFault as fault:
            return fault.vector, fault.error, fault.cr2
        return TIMEOUT, None, None

    def _step(self) -> None:
        """Execute one instruction, however often a long repetition lets others in between."""
        for _ in range(_TURNS):
            try:
                return self._interpreter.step()
            except Interrupted:
                continue
        return None

    def close(self) -> None:
        self._unit.close()
        super().close()


class Translated(Guest):
    """The translator on Unicorn: one machine for all cases."""

    name = "translate"

    def __init__(self) -> None:
        super().__init__()
        self._backend = UnicornBackend(self.memory)
        self.cpu.native = self._backend.native
        self._engine = TranslateEngine(self.cpu, self.memory, self._backend)
        self.ports.engine = self._engine

    def _execute(self) -> tuple[int, int | None, int | None]:
        for _ in range(_STEPS):
            out = self._engine.run(_STEPS)
            if isinstance(out, Fault):
                return out.vector, out.error, out.cr2
        return TIMEOUT, None, None

    @property
    def emulated(self) -> int:
        """Instructions the machine left to the interpreter so far."""
        return self._engine.counters().emulated

    def close(self) -> None:
        self._engine.close()
        super().close()
