"""`python -m benchmarks [--json FILE] [--repeats N]`: the comparison table and the costs of single events."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import tracing
from benchmarks.compare import Comparison, compare, compute_guests
from benchmarks.micro import Micro, measure


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _tables(comparison: Comparison, micro: Micro, traced: tracing.Tracing) -> list[Table]:
    table = Table(
        title="million guest instructions per second (best of several cold runs), and translate over the others"
    )
    for name in ("guest", "interp.", "transl.", "Unicorn", "QEMU", "t/interp.", "t/Unicorn", "t/QEMU"):
        table.add_column(name, justify="left" if name == "guest" else "right")
    for row in comparison.rows:
        table.add_row(
            row.guest, f"{row.interpret:.2f}", _rate(row.translate), _rate(row.plain), _rate(row.qemu),
            _ratio(row.translate_over_interpret), _ratio(row.translate_over_plain), _ratio(row.translate_over_qemu),
        )  # fmt: skip
    names = ("translate_over_interpret", "translate_over_plain", "translate_over_qemu")
    table.add_row("geo. mean", "", "", "", "", *(_ratio(comparison.mean(name)) for name in names))
    events = Table(title="costs of single events")
    for name in ("event", "cost"):
        events.add_column(name, justify="left" if name == "event" else "right")
    events.add_row("port callout", f"{micro.port_callout_ns / 1000:.2f} us")
    events.add_row("CLI and STI in the cache", f"{micro.cli_sti_ns:.1f} ns")
    events.add_row("translation of one guest instruction", f"{micro.translation_us:.1f} us")
    events.add_row("host bytes per guest byte", f"{micro.expansion:.2f}")
    events.add_row("run with a table of its exits, compute guests", f"{traced.table:.3f}x (worst {traced.worst:.3f}x)")
    events.add_row("a million exits as jsonl", f"{traced.jsonl_seconds:.1f} s, {traced.jsonl_mib:.0f} MiB")
    return [table, events]


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file too.")
@click.option("--repeats", default=3, show_default=True, help="Runs of which the best counts.")
def main(json_file: Path | None, repeats: int) -> None:
    """Compare the engines with each other, plain Unicorn and QEMU."""
    console = Console()
    comparison = Comparison()
    with Progress(console=Console(stderr=True), transient=True, disable=not console.is_terminal) as progress:
        guests = compute_guests()
        task = progress.add_task("measuring", total=len(guests) + 1)
        for guest in guests:
            progress.update(task, description=guest.name)
            comparison.rows.append(compare(guest, repeats))
            progress.advance(task)
        micro, traced = measure(), tracing.measure(repeats)
    for table in _tables(comparison, micro, traced):
        console.print(table)
    if json_file is not None:
        figures = {"rows": [asdict(row) for row in comparison.rows], "micro": asdict(micro), "tracing": asdict(traced)}
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


main()
