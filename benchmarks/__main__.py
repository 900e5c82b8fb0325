"""`python -m benchmarks [--json FILE] [--repeats N]`: the comparison, and the costs of events and tracing."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from benchmarks import tracing
from benchmarks.micro import Micro, measure
from emu.bench.compare import NAMES, Comparison, compare, compute_guests, field_of
from emu.bench.console import Timer
from emu.bench.tables import Report, comparison_reports, print_reports


def events(micro: Micro, traced: tracing.Tracing) -> Report:
    """The costs of single events, and of tracing."""
    rows: list[tuple[str, ...]] = [
        ("port callout", f"{micro.port_callout_ns / 1000:.2f} us"),
        ("CLI and STI in the cache", f"{micro.cli_sti_ns:.1f} ns"),
        ("translation of one guest instruction", f"{micro.translation_us:.1f} us"),
        ("host bytes per guest byte", f"{micro.expansion:.2f}"),
        ("run with a table of its exits, compute guests", f"{traced.table:.3f}x (worst {traced.worst:.3f}x)"),
        ("a million exits as jsonl", f"{traced.jsonl_seconds:.1f} s, {traced.jsonl_mib:.0f} MiB"),
    ]
    return Report("costs of single events", ("event", "cost"), rows)


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file too.")
@click.option("--repeats", default=3, show_default=True, help="Runs that count.")
@click.option("--clock", type=click.Choice(["elapsed", "cpu"]), default="elapsed", show_default=True)
def main(json_file: Path | None, repeats: int, clock: str) -> None:
    """Compare the engines with each other, plain Unicorn and QEMU, as 'vemu bench' does, and measure single events."""
    comparison, rivals, timer = Comparison(), field_of(NAMES), Timer(clock == "cpu")
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        guests = compute_guests()
        task = progress.add_task("measuring", total=len(guests) + 2)
        for guest in guests:
            progress.update(task, description=guest.name)
            comparison.rows.append(compare(guest, rivals, repeats, 1, timer=timer))
            progress.advance(task)
        progress.update(task, description="single events")
        micro = measure()
        progress.update(task, description="tracing", advance=1)
        traced = tracing.measure(repeats)
    how = f"{clock} time, median of {repeats}"
    print_reports([*comparison_reports(comparison, how), events(micro, traced)], sys.stdout)
    if json_file is not None:
        figures = comparison.as_json() | {"micro": asdict(micro), "tracing": asdict(traced)}
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


main()
