"""The exit loop's timing: an alarm that is set while the engine runs interrupts it in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from emu.bus import Bus
from emu.clock import Clock, HostTime, InstructionTime
from emu.exits import Budget, Ending, EndReason, Exit
from emu.memory import GuestMemory
from emu.monitor import Monitor, Ports
from isa.x86.cpu import Cpu

MS = 1_000_000


class FakeEngine:
    """Runs `body` once, then waits until it is stopped."""

    name = "fake"

    def __init__(self, cpu: Cpu, body: Callable[[], None]) -> None:
        self.on_fault = None
        self._cpu, self._body, self._stopped = cpu, body, False
        self.runs = 0

    def run(self, limit: int) -> Exit:
        self.runs += 1
        if self.runs == 1:
            self._body()
        while not self._stopped and not self._cpu.stop_requested:
            time.sleep(0.0001)
        self._stopped = False
        return Budget()

    def interrupt(self) -> None:
        self._stopped = True


def build(body: Callable[[Any], None], instructions: bool = False) -> Any:
    cpu = Cpu(GuestMemory(1 << 20, Bus("memory")), Ports(Bus("port")), None)
    clock = Clock(InstructionTime(lambda: cpu.retired) if instructions else HostTime())
    engine = FakeEngine(cpu, lambda: body(monitor))
    monitor: Any = Monitor(cpu, engine, clock, lambda: False, lambda: 0, hex)  # type: ignore[arg-type]
    clock.changed = monitor.alarm_set
    monitor.engine, monitor.clock, monitor.cpu = engine, clock, cpu
    return monitor


def alarm(monitor: Any, fired: list[int], delay: int) -> None:
    clock = monitor.clock

    def action() -> None:
        fired.append(clock.now())
        monitor.end(Ending(EndReason.POWER_OFF, 0))

    clock.at(clock.now() + delay, action)


@pytest.mark.parametrize("delay", [5 * MS, 1000, -MS])
def test_an_alarm_set_by_the_running_guest_comes_in_time(delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.monitor._LOOK_NS", 60_000 * MS)
    fired: list[int] = []
    set_at: list[int] = []

    def body(monitor: Any) -> None:
        alarm(monitor, fired, delay)
        set_at.append(monitor.clock.now())
        assert monitor.cpu.stop_requested == (delay < MS)  # one that is far off does not stop the guest

    monitor = build(body)
    assert monitor.run(10.0, None).reason is EndReason.POWER_OFF
    assert max(delay, 0) - MS <= fired[0] - set_at[0] < 5000 * MS


def test_time_counted_in_instructions_stops_the_engine() -> None:
    def body(monitor: Any) -> None:
        monitor.clock.at(monitor.clock.now() + 5 * MS, lambda: None)
        assert monitor.cpu.stop_requested
        monitor.end(Ending(EndReason.POWER_OFF, 0))

    assert build(body, instructions=True).run(10.0, None).reason is EndReason.POWER_OFF


def test_an_alarm_does_not_put_off_the_end_of_the_run() -> None:
    monitor = build(lambda monitor: monitor.clock.at(monitor.clock.now() + 60_000 * MS, lambda: None))
    started = time.monotonic()
    assert monitor.run(0.05, None).reason is EndReason.TIMEOUT
    assert time.monotonic() - started < 5
