"""`python -m tests.guests.matrix`: every Debian kernel with and without APIC and ACPI, to a shell that answers.

In each boot somebody types: a line, an interrupt, a stop, `bg`, `fg`, and `poweroff` or `reboot`. The tests make a few
of these boots; all of them take a quarter of an hour.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from emu.exits import EndReason
from guests.debian import KERNELS
from guests.linux import READY
from tests.guests.linux import PROMPT, Boot, Dialogue, boot, kernel_and_initrd

APPENDS: Final = ("", "nolapic noapic", "acpi=off", "nolapic noapic acpi=off")
_ENDS: Final = {"poweroff": (EndReason.POWER_OFF, 0), "reboot": (EndReason.RESET, 0)}

# What is typed is echoed; what is awaited is not in it.
JOBS: Final = (
    (READY, ""),
    (PROMPT, "sh -c 'echo first-$((6*7)); sleep 1000'\n"),
    ("first-42\n", "\x03"),  # Ctrl-C
    (PROMPT, "echo status-$?\n"),
    ("status-130\n", ""),
    (PROMPT, "sh -c 'echo second-$((6*7)); sleep 1000; echo never'\n"),
    ("second-42\n", "\x1a"),  # Ctrl-Z
    ("Stopped", ""),
    (PROMPT, "bg\n"),
    (PROMPT, "jobs\n"),
    ("Running", ""),
    (PROMPT, "fg\n"),
    ('never"\n', "\x03"),
    (PROMPT, "echo status-$?\n"),
    ("status-130\n", ""),
)


def talk(name: str, append: str, command: str, folder: Path, **options: object) -> Boot:
    """Boot, say all of JOBS and end by `command`; AssertionError where something is not answered."""
    image, initrd = kernel_and_initrd(name, folder)
    dialogue = Dialogue((*JOBS, (PROMPT, f"{command}\n")))
    out = boot(image, append, dialogue, initrd=initrd, **options)
    assert dialogue.awaited is None, f"{dialogue.awaited!r} was not shown:\n{out.console[-2000:]}"
    assert out.ending == _ENDS[command], f"{out.result.ending}:\n{out.console[-2000:]}"
    return out


@click.command()
@click.option("--kernel", "names", type=click.Choice(list(KERNELS)), multiple=True, help="Only this; may be repeated.")
@click.option("--append", "appends", multiple=True, help="Only with this command line; may be repeated.")
@click.option("--end", "commands", type=click.Choice(list(_ENDS)), multiple=True, help="Only this way to end.")
def main(names: tuple[str, ...], appends: tuple[str, ...], commands: tuple[str, ...]) -> None:
    """Make the boots, one after the other, and tell how each ended."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names or KERNELS:
            for append in appends or APPENDS:
                for command in commands or _ENDS:
                    started, used = time.monotonic(), time.process_time()
                    try:
                        out = talk(name, append, command, Path(folder), cache=Path(folder) / "cache")
                        said = f"ok, {out.result.stats.instructions:,} instructions"
                    except AssertionError as error:
                        failed += 1
                        said = f"FAILED: {error}"
                    took = f"{time.monotonic() - started:.0f} s, of the processor {time.process_time() - used:.0f} s"
                    click.echo(f"{name} {append!r} {command}: {took}, {said}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
