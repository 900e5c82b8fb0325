"""`python -m benchmarks.linux`: a Debian kernel to its shell and through three workloads, vemu and QEMU in turn.

Both get the same bzImage, initramfs, memory and command line, and one CPU; host time is taken as lines of the console
arrive. A run starts with nothing translated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
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

_MEMORY: Final = "256M"
_MARK: Final = "mark "
_END: Final = "end"
_SECONDS: Final = 600  # of one run, at most
_SCRIPT: Final = f"""#!/bin/sh
echo {_MARK}preparation
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
    """A run did not come to its end."""


def timed(command: list[str]) -> dict[str, float]:
    """Seconds to the shell, and of every workload, of one run; RunFailed where it ends or hangs before."""
    started = time.monotonic()
    found: dict[str, float] = {}
    name, since, text = "time to shell", started, ""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        while name != _END:
            data = os.read(process.stdout.fileno(), 4096)
            now = time.monotonic()
            if not data or now - started > _SECONDS:
                raise RunFailed(f"{command[0]} came no further than {name!r}:\n{text[-500:]}")
            text += data.decode("utf-8", "replace")
            *lines, text = text.split("\n")
            for line in map(str.strip, lines):
                if line == READY or line.startswith(_MARK):
                    found[name] = now - since
                    name, since = line.removeprefix(_MARK), now
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    del found["preparation"], found[READY]
    return found


def commands(image: Path, initrd: Path, append: str) -> dict[str, list[str]]:
    line = f"console=ttyS0 {append}".strip()
    guest = ["--initrd", str(initrd), "--append", line]
    out = {"vemu": [sys.executable, "-m", "emu", "run", str(image), *guest, "--memory", _MEMORY]}
    if available():
        qemu = [PROGRAM, "-accel", "tcg", "-smp", "1", "-m", _MEMORY, "-kernel", str(image), "-initrd", str(initrd)]
        qemu += ["-append", line, "-nographic", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-net", "none"]
        out["QEMU TCG"] = qemu
    return out


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
    except FetchError as error:
        raise click.ClickException(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        initrd = Path(folder) / "initrd"
        initrd.write_bytes(archive)
        programs = commands(image, initrd, append)
        runs: dict[str, list[dict[str, float]]] = {program: [] for program in programs}
        console = Console(stderr=True)
        for _ in track(range(repeats), "booting", console=console, transient=True, disable=not console.is_terminal):
            for program, command in programs.items():
                try:
                    runs[program].append(timed(command))
                except RunFailed as error:
                    raise click.ClickException(str(error)) from error
    table = Table(title=f"{name}, {append!r}: seconds, median of {repeats}", title_justify="left")
    table.add_column("")
    for program in programs:
        table.add_column(program, justify="right")
    table.add_column("vemu / QEMU", justify="right")
    for row in runs["vemu"][0]:
        figures = [median(one[row] for one in runs[program]) for program in programs]
        ratio = f"{figures[0] / figures[1]:.1f}x" if len(figures) > 1 else "-"
        table.add_row(row, *(f"{figure:.2f}" for figure in figures), ratio)
    Console().print(table)


if __name__ == "__main__":
    main()
