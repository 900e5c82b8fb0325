"""Runs the compute guests under each engine, plain Unicorn and QEMU, in turn, and reports rates and ratios."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field

from benchmarks.plain import run_plain
from emu import Machine, MachineConfig
from guests import Guest, catalogue, qemu

_INTERPRETED = 2_000_000  # instructions after which the interpreter is stopped: its rate does not depend on it


@dataclass(slots=True)
class Row:
    """One guest: million guest instructions per second under each engine (None: not measured)."""

    guest: str
    instructions: int
    interpret: float
    translate: float
    plain: float
    qemu: float | None
    translate_over_interpret: float = 0.0
    translate_over_plain: float = 0.0
    translate_over_qemu: float | None = None

    def __post_init__(self) -> None:
        self.translate_over_interpret = self.translate / self.interpret
        self.translate_over_plain = self.translate / self.plain
        self.translate_over_qemu = None if self.qemu is None else self.translate / self.qemu


@dataclass(slots=True)
class Comparison:
    """All rows, and geometric means of the ratios."""

    rows: list[Row] = field(default_factory=list)

    def mean(self, name: str) -> float | None:
        values = [asdict(row)[name] for row in self.rows]
        if not values or any(value is None for value in values):
            return None
        return math.exp(sum(math.log(value) for value in values) / len(values))


def _vemu(guest: Guest, engine: str, scale: int, limit: int | None = None) -> tuple[int, float, str]:
    """Instructions, seconds and console text of one run in a fresh machine."""
    console = bytearray()
    config = MachineConfig(
        guest.image(scale),
        engine=engine,
        format="flat",
        mode=guest.mode,
        org=guest.org,
        memory=guest.memory << 20,
        max_instructions=limit,
    )
    with Machine(config, console=console.extend) as machine:
        result = machine.run()
    return result.stats.instructions, result.stats.seconds, console.decode("latin-1")


def _qemu_seconds(guest: Guest, repeats: int) -> float | None:
    """Seconds of the guest's own work under QEMU TCG: the whole process less that of the small scale."""
    if not qemu.available():
        return None
    assert guest.scale is not None
    small, large = guest.scale.small, guest.scale.bench

    def whole(scale: int) -> float:
        started = time.perf_counter()
        qemu.run(guest, scale)
        return time.perf_counter() - started

    return max(min(whole(large) - whole(small) for _ in range(repeats)), 1e-3)


def compare(guest: Guest, repeats: int) -> Row:
    """Measure one guest: every engine starts cold in a fresh machine each time, and its best time counts."""
    assert guest.scale is not None
    plain, translated = [], []
    instructions = 0
    for _ in range(repeats):
        seconds, expected = run_plain(guest, guest.scale.bench)
        plain.append(seconds)
        instructions, seconds, console = _vemu(guest, "translate", guest.scale.bench)
        translated.append(seconds)
        if console != expected:
            raise RuntimeError(f"{guest.name}: {console!r} under translate, {expected!r} under plain Unicorn")
    some, seconds, _ = _vemu(guest, "interpret", guest.scale.bench, _INTERPRETED)
    in_qemu = _qemu_seconds(guest, repeats)
    million = instructions / 1e6
    return Row(
        guest.name,
        instructions,
        some / seconds / 1e6,
        million / min(translated),
        million / min(plain),
        None if in_qemu is None else million / in_qemu,
    )


def compute_guests() -> list[Guest]:
    return [guest for guest in catalogue().values() if "compute" in guest.tags]
