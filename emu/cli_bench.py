"""`vemu bench`: compares engines on guests, and measures what single events cost."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from emu import __version__
from emu.bench import compare, nano, native, plot
from emu.bench.console import NotMeasured, Timer
from emu.bench.cycles import cycles_per_ns
from emu.bench.rivals import Subject, named
from emu.bench.tables import Report, as_markdown, comparison_reports, nano_reports, print_reports
from emu.cli_options import config_of, guest_options
from emu.config import check_file
from emu.errors import GuestFileError, UsageError
from emu.outfile import check_writable, save

FORMATS: Final = ("table", "json", "markdown")
CLOCKS: Final = ("elapsed", "cpu")
_OTHERS: Final = tuple(name for name in compare.NAMES if name != compare.TRANSLATE)
_LINUX: Final = "linux"
_EVENTS: Final = (*(event.name for event in nano.EVENTS), _LINUX)


@dataclass(frozen=True, slots=True)
class How:
    """How a benchmark measures, and where its results go."""

    repeats: int
    warm_up: int
    timer: Timer
    format: str
    output: Path | None
    plots: tuple[Path, ...]

    def check(self) -> None:
        """Raise what would go wrong only after a long run: UsageError, GuestFileError."""
        if self.output is not None:
            check_writable(self.output, "report")
        for path in self.plots:
            plot.check_plot(path)

    @property
    def text(self) -> str:
        """As the title of a table has it."""
        clock = "processor time" if self.timer.cpu else "elapsed time"
        return f"{clock}, median of {self.repeats}, ± half of the spread"

    def as_json(self) -> dict[str, object]:
        return {
            "vemu": __version__, "python": platform.python_version(), "host": platform.platform(),
            "clock": CLOCKS[self.timer.cpu], "repeats": self.repeats, "warm_up": self.warm_up,
        }  # fmt: skip


def several_guests(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of any number of guests, where --format is the report's."""
    return guest_options(command, "--guest-format", several=True)


@click.command()
@several_guests
@click.option("--nano", "nano_", is_flag=True, help="Costs of single events instead; GUEST is then an event's name.")
@click.option(
    "--against", default=",".join(_OTHERS), show_default=True, metavar="NAME[,..]",
    help="Whom to compare 'translate' with; '' for nobody.",
)  # fmt: skip
@click.option("--kernel", type=click.Path(), metavar="FILE",
              help="Of --nano: a Linux bzImage for x86-64; Debian's where it has been fetched.")  # fmt: skip
@click.option("--expect", metavar="TEXT", help="A run is over when the console shows TEXT.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Longest run.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Runs that count.")
@click.option("--warm-up", type=click.IntRange(min=0), default=1, show_default=True, help="Runs before them.")
@click.option("--clock", type=click.Choice(CLOCKS), default=CLOCKS[0], show_default=True,
              help="cpu: processor time, which other work on the host disturbs less.")  # fmt: skip
@click.option(
    "--format", "shown_as", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True, help="Of the report."
)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Instead of standard output.")
@click.option("--plot", "plots", type=click.Path(), metavar="FILE", multiple=True, help="Draw it too: .png or .svg.")
def bench(
    guests: tuple[str, ...], nano_: bool, against: str, kernel: str | None, repeats: int, warm_up: int, clock: str,
    shown_as: str, output: str | None, plots: tuple[str, ...], **options: Any,
) -> int:  # fmt: skip
    """Compare how fast GUESTs (files or bundled ones; by default the compute set) run: interpreted, translated, on
    plain Unicorn and under QEMU TCG.

    All run in turn, each time cold in a fresh machine: translation counts, loading does not. The interpreter is stopped
    after two million instructions; QEMU's time is that of the whole process less that of one with nothing to do.
    """
    how = How(
        repeats, warm_up, Timer(clock == "cpu"), shown_as, None if output is None else Path(output),
        tuple(map(Path, plots)),
    )  # fmt: skip
    how.check()
    if nano_:
        _refuse(options, "--nano takes its own guests")
        return _nano(guests, None if kernel is None else Path(kernel), how)
    if kernel is not None:
        raise UsageError(f"--kernel {kernel}: it belongs to --nano")
    return _compare(guests, _names(against, _OTHERS, "--against"), how, options)


def _names(text: str, known: Sequence[str], option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name}: known are {', '.join(known)}")
    return names


def _refuse(options: dict[str, Any], why: str) -> None:
    """Raise UsageError for the first option of a guest that is given."""
    for name, value in options.items():
        if value:
            raise UsageError(f"--{name.rstrip('_').replace('_', '-')}: {why}")


# -- engines -------------------------------------------------------------------------------------------------------


def _compare(guests: Sequence[str], against: Sequence[str], how: How, options: dict[str, Any]) -> int:
    if options["max_instructions"] is not None:
        raise UsageError("--max-instructions: neither plain Unicorn nor QEMU can stop there; --expect ends all of them")
    subjects = list(compare.compute_guests()) if not guests else []
    if not guests and options["bios"] is None:
        _refuse(options, "there is no guest that it could belong to")
    else:
        subjects = [_subject(guest, options) for guest in guests or (None,)]
    rivals = compare.field_of(against)
    comparison = compare.Comparison()
    with _progress(len(subjects)) as (told, advance):
        for subject in subjects:
            try:
                row = compare.compare(subject, rivals, how.repeats, how.warm_up, timer=how.timer, told=told)
            except NotMeasured as why:
                raise GuestFileError(f"{subject.name}: {why}") from why
            comparison.rows.append(row)
            advance()
    _publish(how, comparison_reports(comparison, how.text), comparison.as_json(), plot.comparison_chart(comparison))
    return 0


def _subject(guest: str | None, options: dict[str, Any]) -> Subject:
    return named(config_of(guest=guest, **options))


# -- events --------------------------------------------------------------------------------------------------------


def _nano(names: Sequence[str], kernel: Path | None, how: How) -> int:
    wanted = _names(",".join(names), _EVENTS, "--nano") or list(_EVENTS)
    if kernel is not None:
        check_file(kernel, "kernel")
    events = [event for event in nano.EVENTS if event.name in wanted]
    platforms = {
        nano.BARE: native.on_bare_cpu(how.timer),
        nano.INTERPRET: nano.in_vemu("interpret", how.timer),
        nano.TRANSLATE: nano.in_vemu("translate", how.timer),
        nano.QEMU: nano.in_qemu(how.timer),
    }
    notes: list[str] = []
    with _progress(None) as (told, _advance):
        rows = nano.measure(events, platforms, how.repeats, how.timer, told)
        if _LINUX in wanted:
            image = kernel or _fetched_kernel()
            if image is None:
                notes.append("Linux: its rows need a kernel: 'make linux' fetches Debian's, or give --kernel FILE")
            else:
                rows += native.measure_linux(image, how.repeats, how.timer, told)
    cycles = cycles_per_ns()
    reports = nano_reports(rows, cycles, how.text)
    reports[0].notes.extend(notes)
    figures: dict[str, object] = {"cycles_per_ns": cycles, "notes": notes}
    figures["rows"] = [row.as_json(cycles) for row in rows]
    _publish(how, reports, figures, plot.nano_chart(rows))
    return 0


def _fetched_kernel() -> Path | None:
    """Debian's kernel, where `guests.linux` has fetched it."""
    from guests.debian import KERNELS

    image = KERNELS["cloud"].image
    return image if image.exists() else None


# -- results -------------------------------------------------------------------------------------------------------


def _publish(how: How, reports: list[Report], figures: dict[str, object], chart: plot.Chart) -> None:
    """Print or write the report, and draw the chart."""
    if how.format == "table" and how.output is None:
        print_reports(reports, sys.stdout)
    else:
        text = json.dumps(how.as_json() | figures, indent=2) + "\n" if how.format == "json" else as_markdown(reports)
        if how.output is None:
            click.echo(text, nl=False)
        elif how.format == "table":
            from io import StringIO

            out = StringIO()
            print_reports(reports, out)
            save(how.output, "report", out.getvalue().encode())
        else:
            save(how.output, "report", text.encode())
    for path in how.plots:
        plot.draw(chart, path)


@contextmanager
def _progress(total: int | None) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """What is being measured, on a terminal: functions that say what, and that one more is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    terminal = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("measuring", total=total)
        yield lambda what: progress.update(task, description=what), lambda: progress.advance(task)


COMMANDS: Final = {"bench": bench}
