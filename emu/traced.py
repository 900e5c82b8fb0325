"""A machine under a stopwatch: every exit of its run becomes a record."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from emu.backends.timed import TimedUnicornBackend
from emu.bus import Bus
from emu.callstack import callers
from emu.config import MachineConfig
from emu.dbt.block import Block
from emu.engines.base import Engine
from emu.engines.traced import TracedInterpretEngine, TracedTranslateEngine
from emu.machine import Machine, RunResult
from emu.monitor import EXCEPTION_NAMES
from emu.stopwatch import NotedCounter, Stopwatch, TimedBus
from emu.trace.names import Names
from emu.trace.record import ExitRecord
from isa.x86.state import CS

_VECTORS = {f"exception {name}": vector for vector, name in EXCEPTION_NAMES.items()}


class TracedMachine(Machine):
    """A `Machine` whose exits go to what `exits_to` names, each when it is over.

    What its counters count is what it records: each count is one record. `now` is the clock of what they cost, in
    nanoseconds.
    """

    def __init__(self, config: MachineConfig, *, now: Callable[[], int] = monotonic_ns, **options: Any) -> None:
        self._now = now
        super().__init__(config, **options)
        self._monitor.exits = NotedCounter(self._stopwatch)
        if config.engine == "interpret":
            self._outside.exits = NotedCounter(self._stopwatch)
        self._buses(self._stopwatch)

    def _buses(self, watch: Stopwatch) -> None:
        for bus in (self.ports, self.mmio):
            assert isinstance(bus, TimedBus)
            bus.watch = watch

    def _bus(self, name: str) -> Bus:
        return TimedBus(name)

    def _build_engine(self, observe: Callable[[Block], None] | None) -> Engine:
        self._stopwatch = Stopwatch(self.state, lambda: self.clock.now(), _VECTORS, self._now)
        return super()._build_engine(observe)

    def _interpreting(self) -> Engine:
        return TracedInterpretEngine(self._stopwatch, self.state, self.memory)

    def _translating(self, exact: bool, observe: Callable[[Block], None] | None) -> Engine:
        backend = TimedUnicornBackend(self._stopwatch, self.memory)
        self.state.native = backend.native
        return TracedTranslateEngine(
            self._stopwatch, self.state, self.memory, backend, exact=exact, observe=observe, store=self._store()
        )

    def _acknowledge(self) -> int:
        self._stopwatch.vector = super()._acknowledge()
        return self._stopwatch.vector

    def exits_to(self, sink: Callable[[ExitRecord], None]) -> None:
        """Give every exit from now on to `sink`, when it is over."""
        self._stopwatch.sink = sink

    def samples_to(self, sink: Callable[[list[int]], None]) -> None:
        """Give the guest's call stack at every exit and timer tick to `sink`: linear addresses, the outermost first."""
        cpu = self.state

        def sample() -> None:
            base = 0 if cpu.mode == 64 else cpu.segs[CS].base
            sink([*reversed(callers(cpu, self.memory)), base + cpu.rip])

        assert isinstance(self._engine, TracedInterpretEngine | TracedTranslateEngine)
        self._engine.sample = sample

    def run(self) -> RunResult:
        self._stopwatch.restart()
        try:
            return super().run()
        finally:
            self._stopwatch.left()
            self._stopwatch.back()  # the last exit ends with the run

    @property
    def inside_seconds(self) -> float:
        """Time in which the guest ran, in the last `run`."""
        return self._stopwatch.inside_ns / 1e9

    @property
    def unnoted_seconds(self) -> float:
        """Time in which it did not, for no reason that is counted: a look at the clock, say."""
        return self._stopwatch.unnoted_ns / 1e9

    @property
    def names(self) -> Names:
        """Names of the guest's symbols, and of the devices at ports and addresses."""
        return Names(self.guest.symbols.lookup, self._device_at)

    def _device_at(self, space: str, address: int) -> str:
        found = (self.ports if space == "port" else self.mmio).find(address)
        return "" if found is None else found.device.name
