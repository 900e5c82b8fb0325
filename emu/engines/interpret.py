"""The engine that executes every guest instruction by the interpreter."""

from __future__ import annotations

from collections.abc import Callable

from emu.dbt.block import Block
from emu.engines.base import EngineCounters
from emu.exits import Budget, Exit, Fault, Halt
from emu.memory import GuestMemory
from isa.base import GuestFault, Interrupted
from isa.x86.cpu import Cpu
from isa.x86.interp import Interpreter
from isa.x86.state import IF

_SLICE = 20_000  # instructions between two looks at a stop asked for by another thread


def fault_exit(cpu: Cpu, fault: GuestFault) -> Fault:
    """The exit for a fault of the instruction at `cpu.rip`."""
    return Fault(fault.vector, fault.error, fault.cr2, cpu.rip, fault.note)


class InterpretEngine:
    """See `emu.engines.base.Engine`."""

    name = "interpret"

    def __init__(self, cpu: Cpu, memory: GuestMemory) -> None:
        self._cpu = cpu
        self._interpreter = Interpreter(cpu)
        memory.on_watched_write = self._interpreter.written
        memory.on_watch_change.append(cpu.page_watched)
        self.on_fault: Callable[[Fault], Exit | None] | None = None
        self._counters = EngineCounters()
        self._interrupted = False
        self._pending = False

    def run(self, limit: int) -> Exit:
        cpu = self._cpu
        end = cpu.retired + limit
        try:
            while not self._interrupted and not cpu.stop_requested and cpu.retired < end:
                self._interpreter.run(min(_SLICE, end - cpu.retired))
                if cpu.halted:
                    self._counters.exits["hlt"] += 1
                    return Halt(bool(cpu.rflags & IF))
                if self._pending and cpu.system_flags & IF:
                    break
        except Interrupted:
            pass
        except GuestFault as fault:
            return fault_exit(cpu, fault)
        self._interrupted = False
        return Budget()

    def step(self) -> Exit | None:
        try:
            self._interpreter.step()
        except Interrupted:
            return None
        except GuestFault as fault:
            return fault_exit(self._cpu, fault)
        return Halt(bool(self._cpu.rflags & IF)) if self._cpu.halted else None

    def interrupt(self) -> None:
        self._interrupted = True
        self._cpu.stop_requested = True

    def set_pending(self, pending: bool) -> None:
        self._pending = pending

    def mapping_changed(self, linear: int | None) -> None:
        """The interpreter's own TLB is flushed by the instruction itself."""

    def counters(self) -> EngineCounters:
        self._counters.emulated = self._cpu.retired
        return self._counters

    def blocks(self) -> list[Block]:
        return []

    def code(self, block: Block) -> bytes:
        raise LookupError(f"nothing was translated at {block.pc:#x}: this engine interprets")

    def close(self) -> None:
        """Nothing to give back."""
