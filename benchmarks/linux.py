"""`python -m benchmarks.linux`: a Debian kernel to its shell and through three workloads, vemu and QEMU in turn.

All get the same bzImage, initramfs, memory and command line, and one CPU; host time is taken as lines of the console
arrive, and the workloads must print the same everywhere. In every repeat vemu runs twice, with an empty code cache
(cold) and with the one that this run left (warm).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from guests.debian import KERNELS, FetchError, fetch_busybox, fetch_kernel
from guests.linux import READY, applets_of, initramfs
from guests.qemu import PROGRAM, available

COLD: Final = "vemu cold"
WARM: Final = "vemu warm"
QEMU: Final = "QEMU TCG"
SHELL: Final = "time to shell"
GOALS: Final = {COLD: 6.0, WARM: 3.0}  # times QEMU's time to the shell

_MEMORY: Final = "256M"
_MARK: Final = "mark "
_PREPARATION, _END = "preparation", "end"
_SECONDS: Final = 600  # of one run, at most
_GRACE: Final = 30  # and between the last mark and the process's end
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])")  # control sequences (ECMA-48, 5.3 and 5.4)
_SCRIPT: Final = f"""#!/bin/sh
echo {_MARK}{_PREPARATION}
seq 1 700000 | head -c 4194304 > /tmp/data
echo {_MARK}sha256sum of 16 MiB
dd if=/dev/zero bs=1M count=16 2>/dev/null | sha256sum
echo {_MARK}500 forks
i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done
echo {_MARK}gzip of 4 MiB
gzip -c /tmp/data | wc -c
echo {_MARK}{_END}
"""


class RunFailed(Exception):
    """A run did not come to its end, or did other work than the runs before it."""


@dataclass(slots=True)
class Run:
    """Seconds to the shell and of every workload, by name, and the lines that the workloads printed."""

    seconds: dict[str, float] = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)


def timed(command: list[str]) -> Run:
    """One run, from the start of the process to its end; RunFailed where it ends or hangs before the last mark."""
    out = Run()
    since = time.monotonic()
    name, text = SHELL, ""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    watchdog = _kill_after(_SECONDS, process)
    try:
        while data := os.read(process.stdout.fileno(), 4096):
            now = time.monotonic()
            text += data.decode("utf-8", "replace")
            *lines, text = text.split("\n")
            for line in (_ESCAPES.sub("", line).strip() for line in lines):  # firmware clears its screen
                if line == READY or line.startswith(_MARK):
                    out.seconds[name] = now - since
                    name, since = line.removeprefix(_MARK), now
                    if name == _END:
                        watchdog.cancel()
                        watchdog = _kill_after(_GRACE, process)
                elif name not in (SHELL, READY, _END):
                    out.printed.append(line)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    if name != _END:
        raise RunFailed(f"{command[0]} came no further than {name!r}:\n{text[-500:]}")
    del out.seconds[_PREPARATION], out.seconds[READY]
    return out


def _kill_after(seconds: float, process: subprocess.Popen[bytes]) -> threading.Timer:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    return timer


def commands(image: Path, initrd: Path, append: str, cache: Path) -> dict[str, list[str]]:
    """What is run in each repeat, in order, by name; `cache` is a new folder for each."""
    line = f"console=ttyS0 {append}".strip()
    guest = ["--initrd", str(initrd), "--append", line]
    vemu = [sys.executable, "-m", "emu", "run", str(image), *guest, "--memory", _MEMORY, "--cache", str(cache)]
    out = {COLD: vemu, WARM: vemu}
    if available():
        qemu = [PROGRAM, "-accel", "tcg", "-smp", "1", "-m", _MEMORY, "-kernel", str(image), "-initrd", str(initrd)]
        qemu += ["-append", line, "-no-reboot", "-net", "none"]
        qemu += ["-display", "none", "-monitor", "none", "-serial", "stdio"]
        out[QEMU] = qemu
    return out


def measure(image: Path, initrd: Path, append: str, repeats: int, console: Console) -> dict[str, list[Run]]:
    """The runs of every program, taken in turn; RunFailed as in `timed`, and where one printed something else."""
    runs: dict[str, list[Run]] = {}
    first: Run | None = None
    for _ in track(range(repeats), "booting", console=console, transient=True, disable=not console.is_terminal):
        with tempfile.TemporaryDirectory() as folder:
            for program, command in commands(image, initrd, append, Path(folder) / "cache").items():
                run = timed(command)
                first = first or run
                if run.printed != first.printed:
                    raise RunFailed(f"{program} printed {run.printed}, the first run {first.printed}")
                runs.setdefault(program, []).append(run)
    return runs


def table_of(title: str, runs: dict[str, list[Run]]) -> Table:
    """Medians with the single figures behind them, and how many times QEMU's they are (and should be, at most)."""
    table = Table(title=title, title_justify="left")
    ours = [program for program in runs if program != QEMU]
    for name in ("", *runs, *(f"{program} / QEMU" for program in ours if QEMU in runs)):
        table.add_column(name, justify="right" if name else "left")
    for row in next(iter(runs.values()))[0].seconds:
        figures = {program: [run.seconds[row] for run in of] for program, of in runs.items()}
        middle = {program: median(seconds) for program, seconds in figures.items()}
        cells = [f"{middle[one]:.2f} ({', '.join(f'{value:.2f}' for value in figures[one])})" for one in runs]
        goals = {program: f" (goal {GOALS[program]:.0f}x)" if row == SHELL else "" for program in ours}
        ratios = [f"{middle[program] / middle[QEMU]:.1f}x{goals[program]}" for program in ours if QEMU in runs]
        table.add_row(row, *cells, *ratios)
    return table


@click.command()
@click.option("--kernel", "name", type=click.Choice(list(KERNELS)), default="cloud", show_default=True)
@click.option("--append", default="quiet", show_default=True, help="The kernel's command line, behind the console.")
@click.option("--repeats", default=3, show_default=True, help="Runs of which the median counts.")
def main(name: str, append: str, repeats: int) -> None:
    """Measure how fast Linux boots and works under vemu and under QEMU TCG."""
    kernel = KERNELS[name]
    try:
        image = fetch_kernel(kernel)
        busybox = fetch_busybox(kernel.architecture)
        archive = initramfs(busybox.read_bytes(), applets_of(busybox), (), _SCRIPT.encode())
        with tempfile.TemporaryDirectory() as folder:
            initrd = Path(folder) / "initrd"
            initrd.write_bytes(archive)
            runs = measure(image, initrd, append, repeats, Console(stderr=True))
    except (FetchError, RunFailed) as error:
        raise click.ClickException(str(error)) from error
    Console().print(table_of(f"{name}, {append!r}: seconds, median of {repeats}", runs))


if __name__ == "__main__":
    main()
