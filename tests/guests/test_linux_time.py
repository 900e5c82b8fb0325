"""Guest time under Linux: `sleep 5` by the host's clock, by the guest's own, and with time counted in instructions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emu import Machine
from emu.exits import EndReason
from tests.guests.linux import boot, kernel_and_initrd

SECONDS = 5
TOLERANCE = 0.02
MARK = re.compile(r"mark (\d+\.\d\d) (\w+)\n")


def script(sleeps: int) -> str:
    """What it takes to start and end a program is no part of its sleep: `sleep 0` tells how much that is."""
    return f"""#!/bin/sh
mark() {{ read up idle < /proc/uptime; echo "mark $up $1"; }}
sleep 0; sleep 0
for i in $(seq {sleeps}); do
    mark start; sleep 0; mark none; sleep {SECONDS}; mark slept
done
"""


@dataclass
class Marks:
    """Follows the console: when each mark came by the clock `now`, and what the guest's own clock said then."""

    now: Callable[[Machine], float]
    times: list[tuple[float, float]] = field(default_factory=list)
    enough: Callable[[list[float]], bool] = lambda sleeps: False

    def __call__(self, machine: Machine, console: str) -> None:
        found = MARK.findall(console)
        if len(found) > len(self.times):
            self.times.append((self.now(machine), float(found[-1][0])))
            if self.enough(self.sleeps()):
                machine.stop()

    def sleeps(self, clock: int = 0) -> list[float]:
        """Seconds of each `sleep 5` beyond the `sleep 0` before it."""
        at = [pair[clock] for pair in self.times]
        return [slept - 2 * none + start for start, none, slept in zip(at[::3], at[1::3], at[2::3], strict=False)]


@pytest.mark.parametrize("append", ["", "nolapic noapic acpi=off"])
def test_sleep_takes_its_time(tmp_path: Path, append: str) -> None:
    """Within 2% by the host's clock.

    A busy host spoils single measurements, so the best one counts; no luck makes up for a clock that goes wrong, which
    the stretch of all of them shows.
    """

    def exact(seconds: float) -> bool:
        return abs(seconds - SECONDS) <= SECONDS * TOLERANCE

    image, initrd = kernel_and_initrd("cloud", tmp_path, script=script(20))
    marks = Marks(lambda machine: time.monotonic(), enough=lambda sleeps: len(sleeps) > 1 and any(map(exact, sleeps)))
    boot(image, append, marks, initrd=initrd)
    assert any(map(exact, marks.sleeps())), marks.sleeps()
    host, guest = (last - first for first, last in zip(marks.times[0], marks.times[-1], strict=True))
    assert guest == pytest.approx(host, rel=TOLERANCE)


def test_sleep_is_exact_where_time_is_counted_in_instructions(tmp_path: Path) -> None:
    image, initrd = kernel_and_initrd("cloud", tmp_path, script=script(2))

    def run() -> Marks:
        marks = Marks(lambda machine: machine.clock.now() / 1e9)
        done = boot(image, "acpi=off", marks, initrd=initrd, deterministic=True)
        assert done.ending == (EndReason.POWER_OFF, 0), done.console[-2000:]
        return marks

    first = run()
    assert len(first.sleeps()) == 2
    assert first.sleeps() == pytest.approx([SECONDS] * 2, abs=0.002)  # the timers' slack, and programs' lengths
    assert first.sleeps(1) == pytest.approx([SECONDS] * 2, abs=0.025)  # hundredths of a second, four of them rounded
    assert run().times == first.times
