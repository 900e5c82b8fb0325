"""Divides the time in which the guest does not run among the exits that take it, and makes their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import Final

from emu.bus import Bus
from emu.trace.record import NO_BLOCK, NO_OPERAND, ExitRecord
from isa.x86.cpu import Cpu
from isa.x86.state import CR0_PE, CS, RCX, VM

_OF_MSR: Final = {"rdmsr": "r", "wrmsr": "w"}
_M32 = 0xFFFFFFFF


class Stopwatch:
    """From `left` to `back` the guest does not run. Each `note` in between begins a record, which the next one ends.

    So the costs of all records add up to the time between `left` and `back`, less what nobody noted a reason for (a
    look at the clock, say). `pulled`, `emulated` and `device` part a record's cost.
    """

    def __init__(
        self, cpu: Cpu, guest_now: Callable[[], int], vectors: Mapping[str, int], now: Callable[[], int] = monotonic_ns
    ) -> None:
        """`guest_now` gives the guest's time in nanoseconds, `now` the host's, `vectors` those of reasons."""
        self._cpu, self._guest_now, self._vectors, self.now = cpu, guest_now, vectors, now
        self.sink: Callable[[ExitRecord], None] = _nowhere
        self._sequence = 0
        self._out = True  # the guest has not begun to run
        self._lent = False  # an interpreting engine is still inside: the exit ends with the device's answer
        self.vector = NO_OPERAND  # of the interrupt that is being delivered
        self._place: tuple[int, int] | None = None  # pc and block, where translated code was left
        self.reason = ""
        self.inside_ns = self.unnoted_ns = 0  # time in which the guest ran, and time outside without a reason
        self._entered = 0
        self._begin()

    def _begin(self) -> None:
        self._started = self.now()
        self._pulled = self._emulated = self._device = 0
        self.reason, self._access, self._operand, self._size = "", "", NO_OPERAND, 0

    def restart(self) -> None:
        """A run begins: sum up anew, and forget the time since the last one."""
        self.inside_ns = self.unnoted_ns = 0
        self._out = True
        self._begin()

    # -- what happens ------------------------------------------------------------------------------------------

    def left(self) -> None:
        """The guest stopped running; nothing where it had stopped before."""
        if not self._out:
            self._out, self._place = True, None
            self._begin()
            self.inside_ns += self._started - self._entered

    def back(self) -> None:
        """The guest is about to run."""
        if self._out:
            self._entered = self._end()
            self._out = self._lent = False

    def note(self, reason: str) -> None:
        """The exit is one of `reason`; what was noted before it ends here."""
        if not self._out:
            self.left()
            self._lent = True
        elif self.reason:
            self._end()
            self._begin()
        self.reason, cpu = reason, self._cpu
        self._at_guest, self._mode, self._level = self._guest_now(), mode_name(cpu), cpu.cpl
        place, self._place = self._place, None
        if place is None:
            base = 0 if self._mode == "long64" else cpu.segs[CS].base
            place = (base + cpu.rip, NO_BLOCK)
        self._pc, self._block = place
        if reason in _OF_MSR:
            self.operand(cpu.regs[RCX] & _M32, _OF_MSR[reason], 8)
        elif reason == "interrupt":
            self.operand(self.vector)
        elif reason in self._vectors:
            self.operand(self._vectors[reason])
        elif reason.startswith("trap "):
            self.operand(int(reason[5:]))

    def at(self, pc: int, block: int) -> None:
        """What is noted next lies at linear address `pc`, in the translated block that begins at `block`."""
        self._place = (pc, block)

    def pulled(self) -> None:
        """The guest's state is at hand: what follows is the emulation."""
        self._pulled = self.now()

    def emulated(self) -> None:
        """The emulation is complete: what follows brings the guest back. The first call counts."""
        if not self._emulated:
            self._emulated = self.now()

    def device(self, ns: int) -> None:
        """A device worked for `ns`."""
        self._device += ns
        if self._lent:
            self.back()

    def operand(self, value: int, access: str = "", size: int = 0) -> None:
        """What the exit concerns: an address, port or register. The first call counts."""
        if self._operand == NO_OPERAND:
            self._operand, self._access, self._size = value, access, size

    def _end(self) -> int:
        """Make the record; returns the host's time."""
        end, started = self.now(), self._started
        if not self.reason:
            self.unnoted_ns += end - started
            return end
        emulated = self._emulated or end
        pulled = min(self._pulled or started, emulated)
        device = min(self._device, emulated - pulled)
        self.sink(ExitRecord(
            self._sequence, self._at_guest, started, pulled - started, emulated - pulled - device, device,
            end - emulated, self.reason, self._pc, self._operand, self._access, self._size, self._block, self._mode,
            self._level,
        ))  # fmt: skip
        self._sequence += 1
        return end


def _nowhere(_record: ExitRecord) -> None:
    """Nobody wants it."""


class NotedCounter(Counter[str]):
    """Counts exits by reason as any counter, and tells a stopwatch of each."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self._watch = watch

    def __setitem__(self, reason: str, count: int) -> None:
        super().__setitem__(reason, count)
        self._watch.note(reason)


class TimedBus(Bus):
    """A bus that tells a stopwatch of each access: where it went and how long the device took."""

    watch: Stopwatch | None = None  # until the machine is complete

    def read(self, address: int, size: int) -> int:
        if self.watch is None:
            return super().read(address, size)
        started = self.watch.now()
        self.watch.operand(address, "r", size)
        value = super().read(address, size)
        self.watch.device(self.watch.now() - started)
        return value

    def write(self, address: int, size: int, value: int) -> None:
        if self.watch is None:
            return super().write(address, size, value)
        started = self.watch.now()
        self.watch.operand(address, "w", size)
        super().write(address, size, value)
        self.watch.device(self.watch.now() - started)
        return None


def mode_name(cpu: Cpu) -> str:
    """The CPU's operating mode as records have it: real, v86, prot16, prot32, compat16, compat32 or long64."""
    if cpu.long_mode:
        return "long64" if cpu.mode == 64 else f"compat{cpu.mode}"
    if not cpu.cr0 & CR0_PE:
        return "real"
    return "v86" if cpu.system_flags & VM else f"prot{cpu.mode}"
