"""The exit loop: runs the engine, answers its exits, delivers interrupts and faults, and keeps guest time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from emu.bus import Bus
from emu.clock import Clock, InstructionTime
from emu.engines.base import Engine
from emu.exits import Budget, Ending, EndReason, Exit, Fault, Halt, Shutdown
from emu.preempt import Preempter
from isa.base import GuestFault, Unimplemented
from isa.x86 import interrupts
from isa.x86.cpu import Cpu
from isa.x86.state import IF, NMI

EXCEPTION_NAMES = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP",
    12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XM",
}  # fmt: skip

_UNLIMITED = 1 << 62
_LOOK_NS = 30_000_000  # a running guest is interrupted at least this often: counters in the cache have 32 bits
_STRETCH = 1_000_000  # instructions between two looks around where time is counted in instructions
_SHORT = 10_000  # so few instructions are over before anybody could want to interrupt them
_SOON_NS = 20_000  # an alarm so close is not worth waking a thread for
_IDLE_NS = 50_000_000  # longest sleep of a halted guest before the monitor looks around


class Apic(Protocol):
    """What the CPU itself needs of the board's local APIC."""

    @property
    def task_priority(self) -> int: ...

    def set_task_priority(self, value: int) -> None: ...

    @property
    def deadline(self) -> int: ...

    def set_deadline(self, value: int) -> None: ...

    def base_changed(self, value: int) -> None: ...


class Ports:
    """What the CPU asks of the board while one instruction executes (`isa.base.Outside`); counts the exits."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.exits: Counter[str] = Counter()
        self.clock: Clock | None = None
        self.engine: Engine | None = None
        self.apic: Apic | None = None

    def port_in(self, port: int, size: int) -> int:
        self.exits["port read"] += 1
        return self.bus.read(port, size)

    def port_out(self, port: int, size: int, value: int) -> None:
        self.exits["port write"] += 1
        self.bus.write(port, size, value)

    def timestamp(self) -> int:
        """One tick a nanosecond of guest time: CPUID tells the guest 1 GHz."""
        return self.clock.now() if self.clock is not None else 0

    def mapping_changed(self, linear: int | None) -> None:
        if self.engine is not None:
            self.engine.mapping_changed(linear)

    def apic_base_changed(self, value: int) -> None:
        if self.apic is not None:
            self.apic.base_changed(value)

    @property
    def task_priority(self) -> int:
        return 0 if self.apic is None else self.apic.task_priority

    def set_task_priority(self, value: int) -> None:
        if self.apic is not None:
            self.apic.set_task_priority(value)

    @property
    def tsc_deadline(self) -> int:
        return 0 if self.apic is None else self.apic.deadline

    def set_tsc_deadline(self, value: int) -> None:
        if self.apic is not None:
            self.apic.set_deadline(value)


class Monitor:
    """Runs one vCPU until the run ends.

    `pending` tells whether the interrupt controller has an interrupt for the CPU, `acknowledge` takes its vector.
    `name_of` renders a guest address with its symbol for messages.
    """

    def __init__(
        self,
        cpu: Cpu,
        engine: Engine,
        clock: Clock,
        pending: Callable[[], bool],
        acknowledge: Callable[[], int],
        name_of: Callable[[int], str],
    ) -> None:
        self._cpu, self._engine, self._clock = cpu, engine, clock
        self._pending, self._acknowledge, self._name_of = pending, acknowledge, name_of
        engine.on_fault = self._deliver_fault
        self._ending: Ending | None = None
        self._preempter: Preempter | None = None  # while the engine runs and will be interrupted in time
        self._deadline: int | None = None  # of this run, in the host's time
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._work: list[Callable[[], None]] = []  # asked for by other threads, done between two runs of the engine
        self.exits: Counter[str] = Counter()
        self.interrupts = 0

    # -- called by devices and other threads -------------------------------------------------------------------

    def end(self, ending: Ending) -> None:
        """End the run; the first ending given counts. Callable from any thread."""
        if self._ending is None:
            self._ending = ending
        self.attend()

    def attend(self) -> None:
        """Something changed that the loop must look at before the guest goes on. Callable from any thread."""
        self._cpu.stop_requested = True
        self._wake.set()

    def alarm_set(self) -> None:
        """An alarm was set that comes before all others, perhaps by the guest whose engine runs."""
        preempter = self._preempter
        delay = 0 if preempter is None else self._host_delay(self._deadline)
        if preempter is None or delay < _SOON_NS:
            self.attend()
        else:
            preempter.arm(delay)

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work` done by the monitor's own thread soon. Callable from any thread."""
        with self._lock:
            self._work.append(work)
        self.attend()
        self._engine.interrupt()

    def interrupt_line(self, level: bool) -> None:
        """The interrupt controller's output changed."""
        self._engine.set_pending(level)
        if level:
            self.attend()

    def nmi(self) -> None:
        """A non-maskable interrupt arrives."""
        self._cpu.nmi = True
        self.attend()

    # -- the loop ----------------------------------------------------------------------------------------------

    def run(self, timeout: float | None, max_instructions: int | None) -> Ending:
        """Run until something ends the guest; `timeout` in seconds of host time."""
        deadline = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
        end = _UNLIMITED if max_instructions is None else max_instructions
        self._deadline = deadline
        preempter = Preempter(self._engine.interrupt)
        try:
            return self._loop(preempter, deadline, end)
        except KeyboardInterrupt:
            return Ending(EndReason.INTERRUPTED, 130, "interrupted")
        except Unimplemented as what:
            return Ending(EndReason.NOT_IMPLEMENTED, 12, f"not implemented: {what} (at {self._name_of(self._cpu.rip)})")
        finally:
            preempter.close()

    def _loop(self, preempter: Preempter, deadline: int | None, end: int) -> Ending:
        cpu, engine, clock = self._cpu, self._engine, self._clock
        while True:
            cpu.stop_requested = False
            self._wake.clear()
            self._do_work()
            clock.fire_due()
            if self._ending is not None:
                return self._ending
            if deadline is not None and time.monotonic_ns() >= deadline:
                return Ending(EndReason.TIMEOUT, 124, f"time-out; the guest was at {self._name_of(cpu.rip)}")
            out: Exit | None
            nmi = cpu.nmi and not cpu.nmi_blocked
            if nmi or (self._pending() and cpu.system_flags & IF):
                if not cpu.shadow:
                    self._deliver_interrupt(nmi)
                    continue
                out = engine.step()
            elif cpu.halted:
                out = Halt(bool(cpu.system_flags & IF))
            elif cpu.retired >= end:
                return Ending(EndReason.INSTRUCTIONS, 124, f"{cpu.retired} instructions executed")
            else:
                limit = self._limit(end - cpu.retired)
                # Where time is counted in instructions, the host's time must not decide where the guest stops.
                if limit > _SHORT and not isinstance(clock.source, InstructionTime):
                    preempter.arm(self._host_delay(deadline))
                    self._preempter = preempter
                try:
                    out = engine.run(limit)
                finally:
                    self._preempter = None
                    preempter.disarm()
            ending = self._answer(out, deadline)
            if ending is not None:
                return ending

    def _answer(self, out: Exit | None, deadline: int | None) -> Ending | None:
        """The one place where an engine's exits are told apart."""
        match out:
            case None | Budget():
                return None
            case Fault():
                shutdown = self._deliver_fault(out)
                return None if shutdown is None else self._answer(shutdown, deadline)
            case Halt(interruptible):
                if not (interruptible or self._cpu.nmi or self._pending_work()):
                    where = self._name_of(self._cpu.rip)
                    return Ending(EndReason.HALTED, 8, f"halted with interrupts off before {where}")
                return self._idle(deadline)
            case Shutdown():
                return Ending(EndReason.TRIPLE_FAULT, 6, out.why)
            case _:
                raise RuntimeError(f"engine {self._engine.name} returned {out!r}")

    def _pending_work(self) -> bool:
        return self._ending is not None or bool(self._work)

    def _do_work(self) -> None:
        if self._work:
            with self._lock:
                work, self._work = self._work, []
            for item in work:
                item()

    # -- time --------------------------------------------------------------------------------------------------

    def run_to(self, retired: int) -> Ending | None:
        """Run until `retired` instructions have retired and the next one is about to; None, or how the guest ended."""
        ending = self.run(None, retired)
        return None if ending.reason is EndReason.INSTRUCTIONS else ending

    def step(self) -> Ending | None:
        """Execute one instruction; one that faults does not retire, but its fault is delivered."""
        return self._answer(self._engine.step(), None)

    def _limit(self, left: int) -> int:
        """Instructions until something is due: exact where time is counted in instructions."""
        source = self._clock.source
        if not isinstance(source, InstructionTime):
            return left
        left = min(left, _STRETCH)
        alarm = self._clock.next_alarm()
        if alarm is None:
            return left
        ns = max(alarm - source.now(), 1)
        return min(left, -(-ns // source.ns_per_instruction))

    def _host_delay(self, deadline: int | None) -> int:
        """Nanoseconds of host time after which the engine must be interrupted."""
        delays = [_LOOK_NS]
        if deadline is not None:
            delays.append(deadline - time.monotonic_ns())
        alarm = self._clock.next_alarm()
        if alarm is not None and not isinstance(self._clock.source, InstructionTime):
            delays.append(alarm - self._clock.now())
        return min(delays)

    def _idle(self, deadline: int | None) -> Ending | None:
        """The CPU is halted with interrupts on: let time pass until the next alarm or outside event."""
        if self._pending():
            return None
        clock = self._clock
        alarm = clock.next_alarm()
        if isinstance(clock.source, InstructionTime):
            if alarm is None:
                return Ending(EndReason.HALTED, 8, f"halted before {self._name_of(self._cpu.rip)}: nothing can wake it")
            clock.source.skip(max(alarm - clock.now(), 0))
            return None
        delay = self._host_delay(deadline)
        self._wake.wait(max(min(delay, _IDLE_NS), 0) / 1e9)
        return None

    # -- events ------------------------------------------------------------------------------------------------

    def _deliver_interrupt(self, nmi: bool) -> None:
        if nmi:
            self._cpu.nmi, self._cpu.nmi_blocked = False, True
        vector = NMI if nmi else self._acknowledge()
        self.interrupts += 1
        self.exits["interrupt"] += 1
        self._cpu.halted = False
        try:
            interrupts.deliver(self._cpu, vector, None, interrupts.Event.HARDWARE)
        except GuestFault as fault:
            shutdown = self._raise(fault, self._cpu.rip)
            if shutdown is not None:
                self.end(Ending(EndReason.TRIPLE_FAULT, 6, shutdown.why))

    def _deliver_fault(self, out: Fault) -> Shutdown | None:
        self.exits[f"exception {EXCEPTION_NAMES.get(out.vector, out.vector)}"] += 1
        return self._raise(GuestFault(out.vector, out.error, out.cr2, out.note), out.pc)

    def _raise(self, fault: GuestFault, pc: int) -> Shutdown | None:
        chain = interrupts.deliver_exception(self._cpu, fault)
        if chain is None:
            return None
        faults = tuple(Fault(f.vector, f.error, f.cr2, pc, f.note) for f in chain)
        return Shutdown(faults, explain(faults, self._name_of))


def explain(chain: tuple[Fault, ...], name_of: Callable[[int], str]) -> str:
    """The chain of faults behind a triple fault, one a line, and what made each delivery fail."""
    lines = ["triple fault: the CPU shut down"]
    for number, fault in enumerate(chain):
        name = EXCEPTION_NAMES.get(fault.vector, f"vector {fault.vector}")
        text = f"  {name}"
        if fault.error is not None:
            text += f" error code {fault.error:#x}"
        if fault.cr2 is not None:
            text += f" CR2 {fault.cr2:#x}"
        if number == 0:
            text += f" at {name_of(fault.pc)}"
        if fault.note:
            text += f": {fault.note}"
        lines.append(text)
    return "\n".join(lines)
