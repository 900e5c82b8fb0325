"""`vemu trace`, `report` and `explain`: runs traced, saved traces shown again or compared, exits explained."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from emu.cli_options import EXIT_CODES, config_of, guest_options, run_options
from emu.errors import UsageError
from emu.outfile import stream
from emu.report import is_terminal, print_table
from emu.trace import compare, explain
from emu.trace.aggregate import GROUPINGS, SORTS, Aggregate
from emu.trace.names import Names
from emu.trace.pipeline import Consumer, Pipeline
from emu.trace.saved import SavedTrace
from emu.trace.session import TraceOptions
from emu.trace.table import Selection
from emu.trace.view import FORMATS, STREAMED, View, exporter, missed, put, put_lines, show

F = Callable[..., Any]

_WIDEST: Final = 100  # columns of an explanation


def view_options(command: F) -> F:
    """The options of a `View`; `view_of` makes one of their values."""
    for option in reversed((
        click.option("--by", type=click.Choice(list(GROUPINGS)), default="reason", show_default=True,
                     help="What makes a row; address is the instruction's."),
        click.option("--sort", type=click.Choice(list(SORTS)), default="total", show_default=True,
                     help="Order of the rows, the greatest first."),
        click.option("--format", "shown_as", type=click.Choice(FORMATS), default="table", show_default=True,
                     help="jsonl and perfetto hold every exit, the others what they add up to."),
        click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Instead of standard output."),
        click.option("--only", metavar="REASON[,..]", help="Only exits of these reasons, see 'vemu explain'."),
        click.option("--from", "start", metavar="SYMBOL", help="From the first exit in SYMBOL on."),
        click.option("--until", metavar="SYMBOL", help="Up to the next exit in SYMBOL."),
        click.option("--symbols", type=click.Path(), metavar="FILE", multiple=True,
                     help="More symbols: ELF, System.map or kallsyms."),
    )):  # fmt: skip
        command = option(command)
    return command


def view_of(options: dict[str, Any]) -> View:
    """Take the options of `view_options` out of `options`."""
    selection = Selection(options.pop("by"), options.pop("sort"))
    output = options.pop("output")
    return View(
        selection,
        options.pop("shown_as"),
        None if output is None else Path(output),
        options.pop("only"),
        options.pop("start"),
        options.pop("until"),
        tuple(map(Path, options.pop("symbols"))),
        is_terminal(sys.stdout),
    )


def trace_options(command: F) -> F:
    """The options of a `View` and those of a run; `options_of` makes `TraceOptions` of their values."""
    for option in reversed((
        click.option("--save", type=click.Path(), metavar="FILE", help="Keep the trace for 'vemu report'."),
        click.option("--between", nargs=2, metavar="TEXT TEXT", help="From one console text to another."),
        click.option("--live", is_flag=True, help="Show the table while the guest runs."),
    )):  # fmt: skip
        command = option(command)
    return view_options(command)


def options_of(options: dict[str, Any]) -> TraceOptions:
    """Take the options of `trace_options` out of `options`."""
    save, between, live = options.pop("save"), options.pop("between"), options.pop("live")
    return TraceOptions(view_of(options), None if save is None else Path(save), between or None, live)


def guest_options_beside_format(command: F) -> F:
    """The guest's options where --format is the report's."""
    return guest_options(command, "--guest-format")


@click.command(epilog=EXIT_CODES)
@click.option(
    "--exits", "kind", flag_value="exits", default=True, help="Every exit from translated code (the default)."
)
@click.option("--blocks", "kind", flag_value="blocks", help="Executed blocks as folded stacks, or -o FILE.svg; slow.")
@click.option("--calls", "kind", flag_value="calls", help="Call stacks at exits and timer ticks, the same way.")
@guest_options_beside_format
@run_options
@trace_options
def trace(kind: str, screenshot: str | None, quiet: bool, **options: Any) -> int:
    """Run GUEST as 'vemu run' does and show its exits: how many of what reason, and what they cost.

    The guest's console comes first; where standard output holds another format than a table, it goes to standard
    error.
    """
    from emu.cli_exits import trace_exits, trace_stacks
    from emu.cli_run import RunOptions

    tracing = options_of(options)
    output = RunOptions(Path(screenshot) if screenshot is not None else None, quiet=quiet)
    if kind != "exits":
        view = tracing.view
        if tracing != TraceOptions(View(output=view.output, symbols=view.symbols, terminal=view.terminal)):
            raise UsageError(f"--{kind}: of the report's options it takes -o and --symbols only")
        return trace_stacks(config_of(**options), output, kind, view)
    return trace_exits(config_of(**options), output, tracing)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@view_options
def report(file: Path, other: Path | None, **options: Any) -> int:
    """Show a trace saved by 'vemu trace --save' again, in any grouping and format; with OTHER, compare the two."""
    view = view_of(options)
    if other is not None:
        return _compare(view, file, other)
    trace = SavedTrace(file)
    names = view.names(trace.names)
    if view.format in STREAMED:
        if view.output is None:
            _run(trace, view, names, exporter(view.format, sys.stdout.buffer, names, trace.about))
            sys.stdout.buffer.flush()
        else:
            with stream(view.output, "report") as sink:
                _run(trace, view, names, exporter(view.format, sink, names, trace.about))
    else:
        aggregate = Aggregate()
        _run(trace, view, names, aggregate)
        show(view, aggregate, names, trace.about)
    return 0


def _run(trace: SavedTrace, view: View, names: Names, consumer: Consumer) -> None:
    """Pass the whole trace to `consumer`, and say where it is not whole."""
    filters = view.filters(names)
    pipeline = Pipeline([consumer], filters)
    for batch in trace.batches():
        pipeline.add(batch)
    for sentence in missed(filters):
        click.echo(f"vemu: {sentence}", err=True)
    if not trace.whole:
        click.echo(f"vemu: trace {trace.path}: the recording was cut off; what it holds is shown", err=True)


def _compare(view: View, file: Path, other: Path) -> int:
    if view.format in STREAMED:
        raise UsageError(f"--format {view.format}: two traces are compared as table, json or csv")
    traces = [SavedTrace(file), SavedTrace(other)]
    names = [view.names(trace.names) for trace in traces]
    sums = [Aggregate(), Aggregate()]
    for trace, known, aggregate in zip(traces, names, sums, strict=True):
        _run(trace, view, known, aggregate)
    selection = view.selection
    rows = compare.differences(sums[0], names[0], sums[1], names[1], selection.by, selection.sort)
    total = compare.whole(sums[0], sums[1])
    if view.format == "json":
        put(view, compare.comparison_json(rows, total, selection, traces[0].about, traces[1].about))
    elif view.format == "csv":
        put(view, compare.comparison_csv(rows, selection))
    else:
        put_lines(view, compare.lines_of(rows, total, selection))
    return 0


@click.command("explain")
@click.argument("reason", required=False)
def explain_command(reason: str | None) -> int:
    """Explain REASON, an exit's name in any spelling: what it is, why, by which instructions, at what cost.

    Without a name, list all exits.
    """
    if reason is None:
        print_table(("exit", "what it is"), explain.listing(), sys.stdout)
        return 0
    found = explain.explain(reason)
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    click.echo(f"{found.name} (counted as {', '.join(found.reasons)})")
    text = found.text
    for title, body in (
        ("What", text.what), ("Why", text.why), ("Instructions", text.instructions), ("Cost", found.cost),
        ("To avoid it", text.avoid),
    ):  # fmt: skip
        click.echo(textwrap.fill(body, width, initial_indent=f"  {title}: ", subsequent_indent="    "))
    return 0


COMMANDS: Final = {"trace": trace, "report": report, "explain": explain_command}
