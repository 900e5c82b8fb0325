"""What benchmarks found, as tables: for a terminal or a pipe, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from emu.bench.compare import NAMES, TITLES, TRANSLATE, Comparison
from emu.bench.figures import Figure
from emu.bench.nano import BARE, PLATFORMS, UNLIKE, ExitShare, NanoRow
from emu.report import is_terminal, print_table

_NONE: Final = "-"
_NOTABLE: Final = 0.03  # of the cost of an event's exits: what is less has no row
_PAPER: Final = ("paper native", "paper BT", "paper VT-x")


@dataclass(frozen=True, slots=True)
class Report:
    """One table, the first `left` columns of which are text, and sentences below it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)
    left: int = 1

    @property
    def right(self) -> tuple[int, ...]:
        return tuple(range(self.left, len(self.header)))


def comparison_reports(comparison: Comparison, how: str) -> list[Report]:
    """The rates of all rivals and what `translate` makes of them; `how` says how they were measured."""
    named = [name for name in NAMES if any(name in row.rates or name in row.missing for row in comparison.rows)]
    others = [name for name in named if name != TRANSLATE]
    header = ("guest", *(TITLES[name] for name in named), *(f"{TRANSLATE} / {TITLES[name]}" for name in others))
    rows = [
        (row.guest, *(_figure(row.rates.get(name)) for name in named), *(_ratio(row.lead(name)) for name in others))
        for row in comparison.rows
    ]
    if len(rows) > 1:
        means = (_ratio(comparison.mean(name)) for name in others)
        rows.append(("geometric mean", *("" for _ in named), *means))
    notes = _distinct((row.guest, why) for row in comparison.rows for why in row.missing.values())
    return [Report(f"million guest instructions a second: {how}", header, rows, notes)]


def nano_reports(rows: Sequence[NanoRow], cycles: float | None, how: str) -> list[Report]:
    """Nanoseconds, cycles beside the paper's, and the exits that each event takes; `cycles` a nanosecond, if known."""
    shown = [name for name in PLATFORMS if any(name in row.ns or name in row.missing for row in rows)]
    known = {row.name for row in rows if BARE in row.ns}
    notes = _distinct((f"{name} on the {BARE}", why) for name, why in UNLIKE.items() if name in known)
    notes += _distinct((f"{row.name} on {name}", why) for row in rows for name, why in row.missing.items())
    found = [
        Report(
            f"nanoseconds an event: {how}", ("event", *shown),
            [(row.name, *(_figure(row.ns.get(name)) for name in shown)) for row in rows], notes,
        )
    ]  # fmt: skip
    if cycles is not None:
        lines = [(row.name, *(_cycles(row.ns.get(name), cycles) for name in shown), *row.paper) for row in rows]
        about = f"{cycles:.2f} cycles of the time-stamp counter a nanosecond; the paper's are a 3.8 GHz Pentium 4's"
        found.append(Report("cycles an event, and the paper's", ("event", *shown, *_PAPER), lines, [about]))
    shares = [_share_row(row.name, share) for row in rows for share in _notable(row.exits or [])]
    if shares:
        header = ("event", "exit", "an event", "us", "leave", "emulate", "device", "resume")
        without = [row.name for row in rows if row.exits == []]
        notes = [f"no exit at all: {', '.join(without)}"] if without else []
        if any(len(_notable(row.exits or [])) < len(row.exits or []) for row in rows):
            notes.append(f"left out: exits that are less than {_NOTABLE:.0%} of what an event's exits cost together")
        title = f"the exits of each event under {TRANSLATE}, and their mean cost under a trace"
        found.append(Report(title, header, shares, notes, left=2))
    return found


def _notable(shares: Sequence[ExitShare]) -> list[ExitShare]:
    total = sum(share.stat.total for share in shares)
    return [share for share in shares if share.stat.total >= _NOTABLE * total]


def _share_row(event: str, share: ExitShare) -> tuple[str, ...]:
    figures = (share.stat.mean, *share.parts.values())
    return event, share.exit, f"{share.per_event:.1f}", *map(_us, figures)


def print_reports(reports: Iterable[Report], stream: TextIO) -> None:
    """On a terminal or in a pipe."""
    for number, report in enumerate(reports):
        if number:
            print(file=stream)
        rows = report.rows if is_terminal(stream) else [report.header, *report.rows]  # a pipe shows no header
        print_table(report.header, rows, stream, title=report.title, right=report.right)
        for note in report.notes:
            print(note, file=stream)


def as_markdown(reports: Iterable[Report]) -> str:
    """Tables of GitHub's Markdown."""
    lines: list[str] = []
    for report in reports:
        lines += ["", f"{report.title[:1].upper()}{report.title[1:]}:", ""] if lines else [f"{report.title}:", ""]
        lines.append("| " + " | ".join(report.header) + " |")
        lines.append("|" + "|".join("---:" if at in report.right else "---" for at in range(len(report.header))) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in report.rows]
        lines += ["", *(f"* {note}" for note in report.notes)] if report.notes else []
    return "\n".join(lines) + "\n"


def _distinct(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Sentences of what they are about and what they say, those that say the same as one."""
    about: dict[str, list[str]] = {}
    for what, why in notes:
        about.setdefault(why, []).append(what)
    return [f"{', '.join(dict.fromkeys(what))}: {why}" for why, what in about.items()]


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return _NONE
    return f"{_number(figure.median)} ±{100 * figure.spread:.0f}%"


def _number(value: float) -> str:
    """Three digits or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cycles(figure: Figure | None, cycles: float) -> str:
    return _NONE if figure is None else _number(figure.median * cycles)


def _ratio(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}x"


def _us(ns: float) -> str:
    return f"{ns / 1e3:.1f}"
