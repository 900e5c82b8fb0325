"""`python -m tests.guests.boots --count N`: Debian's kernel booted again and again in one process, and its memory.

Each is a machine of its own, booted to a script's end and switched off. What the process holds when a machine is closed
must not grow with their number.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from emu.exits import EndReason
from guests.debian import KERNELS
from guests.linux import DONE
from tests.guests.linux import boot, kernel_and_initrd

ALLOWED: Final = 16 << 20  # bytes more than after the second boot: heaps settle, and one machine is ten times as much
_SCRIPT: Final = """#!/bin/sh
i=0; while [ $i -lt 20 ]; do /bin/true; i=$((i+1)); done; echo "forked $i"
"""


def resident() -> int:
    """Bytes of this process that are in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def boots(name: str, append: str, count: int, folder: Path, cache: Path | None = None) -> Iterator[int]:
    """Resident bytes after each boot; AssertionError where one does not do its work."""
    image, initrd = kernel_and_initrd(name, folder, script=_SCRIPT)
    for _ in range(count):
        done = boot(image, append, initrd=initrd, cache=cache)
        assert done.ending == (EndReason.POWER_OFF, 0), f"{done.result.ending}:\n{done.console[-2000:]}"
        assert f"forked 20\n{DONE} 0" in done.console, done.console[-2000:]
        gc.collect()  # what a test of growth asks is what cannot be given back, not when it is
        yield resident()


def growth(figures: list[int]) -> int:
    """Bytes that the process holds after the last boot and did not after the second."""
    return figures[-1] - figures[1]


@click.command()
@click.option("--kernel", "name", type=click.Choice(list(KERNELS)), default="cloud", show_default=True)
@click.option("--append", default="", help="The kernel's command line, behind the console.")
@click.option("--count", default=20, show_default=True, type=click.IntRange(3))
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="Keep translations here.")
def main(name: str, append: str, count: int, cache: Path | None) -> None:
    """Make the boots; prints what the process holds after each, and fails where that grows."""
    figures: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for held in boots(name, append, count, Path(folder), cache):
            figures.append(held)
            click.echo(f"boot {len(figures)}: {held / (1 << 20):.1f} MiB")
    click.echo(f"{count} boots, {growth(figures) / (1 << 20):+.1f} MiB since the second")
    sys.exit(growth(figures) > ALLOWED)


if __name__ == "__main__":
    main()
