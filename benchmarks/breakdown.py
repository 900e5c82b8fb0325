"""`python -m benchmarks.breakdown`: where the time of a Linux boot goes, from its start to the shell.

Every exit's cost is parted into translation, devices and the rest, which counts as callouts by reason, or as shadow
faults. The same boot without the stopwatch runs first, to show what the stopwatch itself costs.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from emu import Machine, MachineConfig
from emu.exits import EndReason
from emu.trace.names import Names
from emu.trace.reasons import cause_of
from emu.trace.record import ExitRecord
from emu.traced import TracedMachine
from guests.debian import KERNELS, FetchError, fetch_busybox, fetch_kernel
from guests.linux import READY, applets_of, initramfs

_SHADOW_FAULT: Final = "hidden page fault"
_MEMORY: Final = 256 << 20


@dataclass(slots=True)
class Cost:
    """How often, and nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class Breakdown:
    """Sums over the exits of one run.

    `translated` tells the nanoseconds that translation took so far, and `names` the devices behind operands.
    """

    translated: Callable[[], int]
    names: Names
    translation: Cost = field(default_factory=Cost)
    faults: Cost = field(default_factory=Cost)
    devices: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    callouts: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    _before: int = 0

    def add(self, record: ExitRecord) -> None:
        """One exit, when it is over: what was translated since the last one was translated in it."""
        now = self.translated()
        translation, self._before = now - self._before, now
        cost = record.cost_ns
        if translation:
            translation = min(translation, cost)
            self.translation.add(translation)
        if record.device_ns:
            space = cause_of(record.reason).space
            self.devices[self.names.device(space, record.operand) or "others"].add(record.device_ns)
        rest = cost - translation - record.device_ns
        (self.faults if record.reason == _SHADOW_FAULT else self.callouts[cause_of(record.reason).exit]).add(rest)


def measure(config: MachineConfig) -> tuple[float, float, TracedMachine, Breakdown]:
    """Seconds of the boot without and with a stopwatch, and what this found. Raises RuntimeError short of the shell."""
    with Machine(config) as machine:
        plain = _run(machine)
    with TracedMachine(config) as traced:
        breakdown = Breakdown(lambda: int(traced.stats().translation_seconds * 1e9), traced.names)
        traced.exits_to(breakdown.add)
        timed = _run(traced)
    return plain, timed, traced, breakdown


def _run(machine: Machine) -> float:
    started = time.perf_counter()
    result = machine.run()
    if result.ending.reason is not EndReason.EXPECTED:
        raise RuntimeError(f"the boot ended before its shell: {result.ending.detail}")
    return time.perf_counter() - started


def table_of(title: str, total_ns: int, inside_ns: int, found: Breakdown, most: int) -> Table:
    """The parts, as seconds, shares of `total_ns` and means; of reasons and devices the `most` costly ones by name."""
    table = Table(title=title, title_justify="left")
    for name in ("", "times", "seconds", "share", "us each"):
        table.add_column(name, justify="right" if name else "left")

    def row(name: str, cost: Cost, style: str = "") -> None:
        times = f"{cost.count:,}" if cost.count else ""
        each = f"{cost.ns / cost.count / 1000:.1f}" if cost.count else ""
        table.add_row(name, times, f"{cost.ns / 1e9:.2f}", f"{100 * cost.ns / total_ns:.1f}%", each, style=style)

    def rows(name: str, costs: dict[str, Cost]) -> None:
        row(name, _sum(costs.values()), "bold")
        ordered = sorted(costs.items(), key=lambda item: -item[1].ns)
        for part, cost in ordered[:most]:
            row(f"  {part}", cost)
        if len(ordered) > most:
            row("  others", _sum(cost for _, cost in ordered[most:]))

    row("native code", Cost(0, inside_ns), "bold")
    row("translation", found.translation, "bold")
    row("shadow faults", found.faults, "bold")
    rows("callouts", found.callouts)
    rows("devices", found.devices)
    known = inside_ns + _sum((found.translation, found.faults, *found.callouts.values(), *found.devices.values())).ns
    row("without a counted reason", Cost(0, total_ns - known), "bold")
    row("all", Cost(0, total_ns), "bold")
    return table


def _sum(costs: Iterable[Cost]) -> Cost:
    out = Cost()
    for cost in costs:
        out.add(cost.ns, cost.count)
    return out


@click.command()
@click.option("--kernel", "name", type=click.Choice(list(KERNELS)), default="cloud", show_default=True)
@click.option("--append", default="quiet", show_default=True, help="The kernel's command line, behind the console.")
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="Use and keep translations here.")
@click.option("--most", default=12, show_default=True, help="Reasons and devices shown by name.")
def main(name: str, append: str, cache: Path | None, most: int) -> None:
    """Show where the time of a boot goes."""
    kernel = KERNELS[name]
    with tempfile.TemporaryDirectory() as folder:
        initrd = Path(folder) / "initrd"
        try:
            image = fetch_kernel(kernel)
            busybox = fetch_busybox(kernel.architecture)
            initrd.write_bytes(initramfs(busybox.read_bytes(), applets_of(busybox)))
            config = MachineConfig(
                image,
                initrd=initrd,
                memory=_MEMORY,
                append=f"console=ttyS0 {append}".strip(),
                expect=READY,
                cache=cache,
            )
            plain, timed, machine, found = measure(config)
        except (FetchError, RuntimeError) as error:
            raise click.ClickException(str(error)) from error
    title = f"{name}, {append!r}, {'cold' if cache is None else f'cache {cache}'}: {timed:.2f} s under the stopwatch, "
    title += f"{plain:.2f} s without"
    Console().print(table_of(title, int(timed * 1e9), int(machine.inside_seconds * 1e9), found, most))


if __name__ == "__main__":
    main()
