"""Guest time under Linux: `sleep 5` by the host's clock, by the guest's own, and with time counted in instructions."""

from __future__ import annotations

import re
import time
from pathlib import Path
from statistics import median

import pytest

from emu import Machine
from emu.exits import EndReason
from tests.guests.linux import boot, kernel_and_initrd

SECONDS = 5
TOLERANCE = 0.02
SLEEPS = 3
# What it takes to start and end a program is no part of its sleep: `sleep 0` tells how much that is.
SCRIPT = f"""#!/bin/sh
mark() {{ read up idle < /proc/uptime; echo "mark $up $1"; }}
sleep 0; sleep 0
for i in {" ".join(map(str, range(SLEEPS)))}; do
    mark start; sleep 0; mark none; sleep {SECONDS}; mark slept
done
"""
MARK = re.compile(rb"mark (\d+\.\d\d) (\w+)\r\n")


def sleeps(image: Path, initrd: Path, append: str, now: str, **options: object) -> list[tuple[float, float]]:
    """Seconds of `sleep 5` beyond those of `sleep 0`, each by the clock `now` at which a mark came and by the guest's.

    `now` is "host" or "guest", the virtual machine's own clock.
    """
    marks: list[tuple[float, float, str]] = []

    def reply(machine: Machine, console: str) -> None:
        found = MARK.findall(console.replace("\n", "\r\n").encode())
        if len(found) > len(marks):
            up, name = found[-1]
            at = time.monotonic() if now == "host" else machine.clock.now() / 1e9
            marks.append((at, float(up), name.decode()))

    done = boot(image, append, reply, initrd=initrd, **options)
    assert done.ending == (EndReason.POWER_OFF, 0), done.console[-2000:]
    assert [name for _, _, name in marks] == ["start", "none", "slept"] * SLEEPS
    out = []
    for start, none, slept in zip(marks[::3], marks[1::3], marks[2::3], strict=True):
        out.append(((slept[0] - none[0]) - (none[0] - start[0]), (slept[1] - none[1]) - (none[1] - start[1])))
    return out


@pytest.mark.parametrize("append", ["", "nolapic noapic acpi=off"])
def test_sleep_takes_its_time(tmp_path: Path, append: str) -> None:
    """By the host's clock within 2%. A busy host may spoil a sleep, but none of them makes a wrong clock right."""
    image, initrd = kernel_and_initrd("cloud", tmp_path, script=SCRIPT)
    found = sleeps(image, initrd, append, "host")
    assert min(abs(host - SECONDS) for host, _ in found) <= SECONDS * TOLERANCE, found
    # The guest's clock goes as the host's does, whatever a sleep took.
    assert abs(median(host - guest for host, guest in found)) <= SECONDS * TOLERANCE, found


def test_sleep_is_exact_where_time_is_counted_in_instructions(tmp_path: Path) -> None:
    image, initrd = kernel_and_initrd("cloud", tmp_path, script=SCRIPT)
    first = sleeps(image, initrd, "acpi=off", "guest", deterministic=True)
    for machine, guest in first:
        assert machine == pytest.approx(SECONDS, abs=0.002)  # timer slack, and programs that differ in length
        assert guest == pytest.approx(SECONDS, abs=0.021)  # hundredths, rounded four times
    assert sleeps(image, initrd, "acpi=off", "guest", deterministic=True) == first
