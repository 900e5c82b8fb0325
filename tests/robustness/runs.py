"""Runs of random guests: whatever the bytes, a run ends in an outcome a guest could have brought about.

Every seed stands for one run: `python -m tests.robustness.runs --count 100000` makes many and prints the seeds that
lost something; those become cases of `test_robustness.py`.
"""

from __future__ import annotations

import atexit
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from emu import Machine, MachineConfig
from emu.exits import Ending, EndReason
from tests.robustness.generators import ORG, code, devices, spaces, tables

INSTRUCTIONS = 3000
SECONDS = 2.0  # of host time, after which the monitor ends a run
SPACES, DEVICES = 10_000_000, 20_000_000  # the first seeds of guests of their own kinds
OUTCOMES = frozenset((
    EndReason.INSTRUCTIONS, EndReason.HALTED, EndReason.TRIPLE_FAULT, EndReason.DEBUG_EXIT, EndReason.RESET,
    EndReason.NOT_IMPLEMENTED, EndReason.POWER_OFF, EndReason.TIMEOUT,
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One random guest."""

    seed: int
    engine: str
    mode: int
    kind: str
    image: bytes


def make(seed: int) -> Run:
    """The run of a seed."""
    rng = random.Random(seed)
    engine = rng.choice(("translate", "translate", "interpret"))
    if seed >= DEVICES:
        return Run(seed, engine, 32, "devices", devices(rng))
    if seed >= SPACES:
        return Run(seed, engine, 64, "spaces", spaces(rng))
    kind = rng.choice(("code", "code", "tables"))
    mode = 32 if kind == "tables" else rng.choice((16, 32, 64))
    return Run(seed, engine, mode, kind, tables(rng) if kind == "tables" else code(rng, rng.choice((64, 512, 4096))))


def _hardware(run: Run) -> dict[str, Any]:
    """More of a machine, for guests that use it: a disk at either place, and virtio's console and entropy."""
    if run.kind != "devices":
        return {}
    return {"disk": _disk(), "disk_interface": "virtio" if run.seed & 1 else "ide", "console": "virtio"}


@cache
def _disk() -> Path:
    """A disk, which is gone when this process is."""
    handle, name = tempfile.mkstemp(suffix=".img")
    os.ftruncate(handle, 1 << 20)
    os.close(handle)
    atexit.register(os.unlink, name)
    return Path(name)


def execute(run: Run) -> Ending:
    """Run it; any exception that gets out of here is a finding."""
    config = MachineConfig(
        run.image, engine=run.engine, format="flat", mode=run.mode, org=0x7C00 if run.mode == 16 else ORG,
        memory=4 << 20, max_instructions=INSTRUCTIONS, deterministic=True, timeout=SECONDS, **_hardware(run),
    )  # fmt: skip
    with Machine(config) as machine:
        return machine.run().ending


def check(seed: int) -> Ending:
    """Execute a seed's run and require an outcome that a guest can bring about, in time.

    A time-out is one of them: a handler whose first instruction faults keeps real processors busy for ever, too.
    """
    started = time.process_time()  # other programs may keep the processor for long
    ending = execute(make(seed))
    late = time.process_time() - started - SECONDS
    if ending.reason not in OUTCOMES or late > 10:
        raise AssertionError(f"seed {seed} ended {late:.1f} s late with {ending}")
    return ending


@click.command()
@click.option("--count", default=1000, show_default=True)
@click.option("--seed", default=1, show_default=True, help="The first seed.")
def main(count: int, seed: int) -> None:
    """Make many runs; prints every seed that lost something, and how the others ended."""
    outcomes: Counter[str] = Counter()
    lost = []
    started = time.perf_counter()
    for number in track(range(seed, seed + count), disable=not sys.stderr.isatty()):
        try:
            outcomes[check(number).reason.value] += 1
        except Exception as error:
            lost.append(number)
            click.echo(f"seed {number}: {type(error).__name__}: {error}")
    click.echo(
        f"{count} runs in {time.perf_counter() - started:.0f} s: {dict(outcomes.most_common())}, lost {len(lost)}"
    )
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
