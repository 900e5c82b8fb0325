"""Campaigns from the command line: `python -m tests.differential --count N --seed S`."""

from __future__ import annotations

import sys
import time

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.differential import generate
from tests.differential.campaign import ENGINES, TABLES, Campaign, Failure, Result, family_of
from tests.differential.compare import decode
from tests.differential.harness import Case, HarnessError, unavailable
from tests.differential.shrink import shrink

_SHOWN = 40


def coverage(result: Result) -> Table:
    """Rows of the instruction tables that were executed, by family and engine."""
    table = Table(title="rows of the instruction tables that were executed", title_justify="left")
    table.add_column("family")
    for name in ("rows", *result.covered, "cases"):
        table.add_column(name, justify="right")
    for family, keys in TABLES.items():
        hits = [str(sum(bool(counts[key]) for key in keys)) for counts in result.covered.values()]
        cases = sum(n for counts in result.covered.values() for key, n in counts.items() if family_of(key) == family)
        table.add_row(family, str(len(keys)), *hits, str(cases // max(1, len(result.covered))))
    return table


def report(console: Console, result: Result, seconds: float) -> None:
    """Print what a campaign found."""
    console.print(
        f"{result.cases} cases in {seconds:.0f} s; {result.completed} instructions completed, the others faulted: "
        + ", ".join(f"vector {vector} {n}" for vector, n in sorted(result.vectors.items()))
    )
    console.print(coverage(result))
    for name, counts in result.explained.items():
        explained = ", ".join(f"{why} {n}" for why, n in counts.most_common()) or "nothing"
        console.print(f"{name}: explained {explained}")
        missing = result.missing(name)
        if missing:
            console.print(f"{name}: not reached {', '.join(missing)}")
    if "translate" in result.covered:
        rows = sum(bool(result.copied[key]) for keys in TABLES.values() for key in keys)
        console.print(f"translate: the machine itself executed {sum(result.copied.values())} cases of {rows} rows")
    for failure in result.failures[:_SHOWN]:
        console.print(f"{failure.text()}\n    {failure.command()}", markup=False, highlight=False, soft_wrap=True)
    if len(result.failures) > _SHOWN:
        console.print(f"... and {len(result.failures) - _SHOWN} more")
    for failure in result.unsteady:
        console.print(f"gone when repeated: {failure.text()}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"unexplained differences: {len(result.failures)}")


def show(campaign: Campaign, failure: Failure) -> None:
    """Shrink a failure and print it."""
    if not failure.left:
        return
    wanted = set(failure.left)

    def fails(case: Case) -> bool:
        real = campaign.real.run([case])[0]
        left, _ = campaign.judge(failure.engine, case, decode(case), real)
        return bool(wanted & set(left))

    small = shrink(failure.case, fails)
    real = campaign.real.run([small])[0]
    left, _ = campaign.judge(failure.engine, small, decode(small), real)
    click.echo(Failure(failure.engine, failure.seed, failure.number, small, left).text())
    click.echo(f"    rip {small.rip:#x} rflags {small.flags:#x}")
    click.echo("    " + " ".join(f"{value:x}" for value in small.regs))
    click.echo(f"    control and status {small.fx[:32].hex()}")
    for at in range(0, len(small.data), 32):
        if any(small.data[at : at + 32]):
            click.echo(f"    data+{at:#x} {small.data[at : at + 32].hex()}")


@click.command()
@click.option("--count", default=20_000, show_default=True, help="How many cases.")
@click.option("--seed", default=1, show_default=True)
@click.option("--start", default=0, show_default=True, help="The number of the first case.")
@click.option("--case", "only", type=int, help="Run only this case, and shrink it if it fails.")
@click.option("--engine", type=click.Choice(list(ENGINES)), multiple=True, help="Not all engines but these.")
def main(count: int, seed: int, start: int, only: int | None, engine: tuple[str, ...]) -> None:
    """Compare the engines with the real CPU on random instructions; status 1 for unexplained differences."""
    why = unavailable()
    if why:
        raise click.ClickException(why)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        campaign = Campaign(engine or tuple(ENGINES))
    except HarnessError as error:
        raise click.ClickException(str(error)) from error
    started = time.monotonic()
    try:
        if only is not None:
            case = generate.case(seed, only, campaign.real.modes)
            click.echo(f"mode {case.mode.name}: {case.code.hex()} {decode(case).text()}")
            campaign.run(seed, only, 1)
            for failure in campaign.result.failures:
                show(campaign, failure)
        else:
            with Progress(console=console, disable=not sys.stdout.isatty(), transient=True) as progress:
                task = progress.add_task("cases", total=count)
                campaign.run(seed, start, count, lambda done: progress.advance(task, done))
            report(console, campaign.result, time.monotonic() - started)
    finally:
        campaign.close()
    sys.exit(bool(campaign.result.failures))


if __name__ == "__main__":
    main()
