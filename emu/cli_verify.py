"""`vemu verify`: runs the comparison, shows its progress and reports what it found."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from emu.config import MachineConfig
from emu.verify import Lockstep, Verdict
from emu.verify_unicorn import STEPS, UnicornComparison

DIVERGED = 1


def verify_guest(config: MachineConfig, every: int | None, against: str, as_json: bool) -> int:
    """Compare, report, and return the exit code: 1 for a difference, else 0, whatever the guest's own is."""
    limit = config.max_instructions
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("comparing", total=None)

        def show(instructions: int) -> None:
            progress.update(task, description=f"{instructions:,} instructions compared")

        if against == "unicorn":
            verdict = UnicornComparison(config, show).run(every or STEPS, limit)
        elif every is None:
            verdict = Lockstep(config, show).by_block(limit)
        else:
            verdict = Lockstep(config, show).by_steps(every, limit)
    if as_json:
        click.echo(json.dumps(_record(verdict), indent=2))
    else:
        click.echo("\n".join(_lines(verdict)))
    return 0 if verdict.divergence is None else DIVERGED


def _record(verdict: Verdict) -> dict[str, object]:
    found = verdict.divergence
    return {
        "instructions": verdict.instructions,
        "comparisons": verdict.comparisons,
        "ending": None if verdict.ending is None else verdict.ending.reason.value,
        "stopped": verdict.stopped,
        "known": verdict.known,
        "divergence": None if found is None else dataclasses.asdict(found),
    }


def _lines(verdict: Verdict) -> list[str]:
    """The report; a difference comes with the block before it and the command that shows it again."""
    found = verdict.divergence
    if found is None:
        if verdict.stopped is not None:
            end = f"not compared further: {verdict.stopped}"
        else:
            end = "the limit was reached" if verdict.ending is None else verdict.ending.detail
        agreed = f"no difference in {verdict.instructions:,} instructions ({verdict.comparisons:,} comparisons); {end}"
        return [agreed, *(f"passed over: {note}" for note in verdict.known)]
    lines = [f"difference after {found.retired:,} instructions:", *(f"  {line}" for line in found.differences)]
    if found.block:
        lines += [
            "executed before it:" if len(found.block) == 1 else "the block before it:",
            *(f"  {line}" for line in found.block),
        ]
    return [*lines, f"again: {shlex.join(['vemu', *sys.argv[1:]])}"]
