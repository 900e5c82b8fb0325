"""What tracing costs: a table of the exits of the compute guests, and a million exits written as JSON lines."""

from __future__ import annotations

import math
import resource
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from emu import Machine
from emu.bench.compare import compute_guests
from emu.bench.rivals import Subject
from emu.trace.aggregate import Aggregate
from emu.trace.pipeline import Pipeline, Recorder
from emu.traced import TracedMachine

_EXITS = 1_000_000
_GUEST = b"\xb9" + struct.pack("<I", _EXITS) + bytes.fromhex("e480 ffc9 75fa b010 e6f4 f4")  # in al, 80h: a million


@dataclass(frozen=True, slots=True)
class Tracing:
    """Time with a table-only trace over time without (geometric mean, and the worst), and a million exits as jsonl."""

    table: float
    worst: float
    jsonl_seconds: float
    jsonl_mib: float  # of memory at most, the whole process


def _overhead(subject: Subject, repeats: int) -> float:
    """Processor time, each run in a fresh machine, with and without a trace in turn; the best of each counts."""
    config = subject.config
    plain, traced = [], []
    for _ in range(repeats):
        with Machine(config) as machine:
            started = time.process_time()
            machine.run()
            plain.append(time.process_time() - started)
        recorder = Recorder(Pipeline([Aggregate()]))
        with TracedMachine(config) as watched:
            watched.exits_to(recorder.record)
            started = time.process_time()
            watched.run()
            recorder.flush()
            traced.append(time.process_time() - started)
    return min(traced) / min(plain)


def _million() -> tuple[float, float]:
    """Seconds, and MiB of the largest process: one that traces a million exits into a file."""
    with tempfile.TemporaryDirectory() as folder:
        guest = Path(folder) / "guest"
        guest.write_bytes(_GUEST)
        line = [sys.executable, "-m", "emu", "trace", str(guest), "--mode", "64", "--format", "jsonl", "--quiet"]
        started = time.perf_counter()
        done = subprocess.run([*line, "-o", str(guest.with_name("exits"))], check=False)
        seconds = time.perf_counter() - started
        with guest.with_name("exits").open("rb") as file:
            lines = sum(1 for _ in file)
    if done.returncode != 33 or lines < _EXITS:
        raise RuntimeError(f"the trace of a million exits ended with {done.returncode} and {lines} lines")
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def measure(repeats: int) -> Tracing:
    """Measure all; takes half a minute."""
    million = _million()
    factors = [_overhead(guest, repeats) for guest in compute_guests()]
    return Tracing(math.exp(sum(map(math.log, factors)) / len(factors)), max(factors), *million)
