"""The tables of a trace, in the columns of `perf kvm stat report`: coloured on a terminal, plain in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TextIO

from emu.trace.aggregate import Aggregate, Stat
from emu.trace.names import Names

if TYPE_CHECKING:
    from rich.text import Text

HEADINGS: Final = {
    "reason": "VM-EXIT", "symbol": "SYMBOL", "address": "ADDRESS", "device": "DEVICE", "vcpu-mode": "VCPU MODE",
}  # fmt: skip
_NAME_WIDTH: Final = 20  # of the first column, at least, as in perf
_MOST_GROUPS: Final = 40
_MOST_PLACES: Final = 20
# Colours by share of the time, in percent: perf report's own limits.
_HOT, _WARM = 5.0, 0.5


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table and its rich style ("" for none)."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a table shows: grouping, order, and how many rows of groups and of places."""

    by: str = "reason"
    sort: str = "total"
    groups: int = _MOST_GROUPS
    places: int = _MOST_PLACES


def lines_of(aggregate: Aggregate, names: Names, selection: Selection) -> list[Line]:
    """Groups, footer, split of their costs, and the places the exits went to."""
    total = aggregate.total
    groups = aggregate.groups(selection.by, names, selection.sort)
    shown, rest = groups[: selection.groups], groups[selection.groups :]
    width = max([_NAME_WIDTH, *(len(group.label) for group in shown)])
    heading = HEADINGS[selection.by]
    lines = [Line(f"{heading:>{width}} {_HEADER}", "bold"), Line("")]
    lines += [Line(f"{g.label:>{width}} {_figures(g.stat, total)}", _style(g.stat, total)) for g in shown]
    lines += _more(len(rest), "rows")
    lines += [
        Line(""),
        Line(f"Total Samples:{total.count}, Total events handled time:{total.total / 1e3:.2f}us."),
    ]
    if not total.count:
        return lines
    lines += [Line(""), Line(f"{heading:>{width}} {_SPLIT_HEADER}", "bold"), Line("")]
    lines += [Line(f"{group.label:>{width}} {_split(group.stat)}") for group in shown]
    lines += [Line(f"{'all':>{width}} {_split(total)}")]
    return lines + _places(aggregate, names, selection, total)


def print_lines(lines: Sequence[Line], stream: TextIO, *, terminal: bool) -> None:
    """Print them: with colours where `terminal` (rich itself heeds NO_COLOR), else as they are."""
    if not terminal:
        stream.writelines(line.text.rstrip() + "\n" for line in lines)
        return
    from rich.console import Console

    Console(file=stream, highlight=False, force_terminal=True).print(as_text(lines), soft_wrap=True)


def as_text(lines: Sequence[Line]) -> Text:
    """The lines as one renderable, for a live display."""
    from rich.text import Text

    return Text("\n", no_wrap=True).join(Text(line.text, style=line.style) for line in lines)


def microseconds(ns: float) -> str:
    """As perf writes it: two decimals and the unit, without a blank."""
    return f"{ns / 1e3:.2f}us"


def share(part: float, whole: float) -> float:
    """`part` in percent of `whole`; 0 of nothing."""
    return 100.0 * part / whole if whole else 0.0


# The widths are those of perf's own table.
_HEADER: Final = (
    f"{'Samples':>10} {'Samples%':>9} {'Time%':>9} {'Min Time':>11} {'Max Time':>11} {'Avg time ( +- x%)':>26}"
)
_SPLIT_HEADER: Final = f"{'Leave':>12} {'Emulate':>12} {'Device':>12} {'Resume':>12}   (average of each exit)"


def _figures(stat: Stat, total: Stat) -> str:
    return (
        f"{stat.count:>10} {share(stat.count, total.count):>8.2f}% {share(stat.total, total.total):>8.2f}% "
        f"{microseconds(stat.least_ns):>11} {microseconds(stat.most):>11} "
        f"{microseconds(stat.mean):>11} ( +-{stat.error:>7.2f}% )"
    )


def _split(stat: Stat) -> str:
    parts = (stat.leave, stat.emulate, stat.device, stat.resume)
    return " ".join(f"{microseconds(part / max(stat.count, 1)):>12}" for part in parts)


def _style(stat: Stat, total: Stat) -> str:
    percent = share(stat.total, total.total)
    return "red" if percent >= _HOT else "green" if percent >= _WARM else ""


def _more(count: int, what: str) -> list[Line]:
    return [Line(f"... and {count} more {what}", "dim")] if count else []


def _places(aggregate: Aggregate, names: Names, selection: Selection, total: Stat) -> list[Line]:
    places = aggregate.places(names, selection.sort)
    if not places:
        return []
    shown, rest = places[: selection.places], places[selection.places :]
    columns: list[tuple[str, Callable[[int], str]]] = [
        ("PORT OR ADDRESS", lambda at: shown[at].label),
        ("VM-EXIT", lambda at: shown[at].exit),
        ("DEVICE", lambda at: shown[at].device or "-"),
    ]
    cells = [[title, *(of(at) for at in range(len(shown)))] for title, of in columns]
    widths = [max(len(text) for text in column) for column in cells]
    widths[0] = max(widths[0], _NAME_WIDTH)
    left = [" ".join(f"{text:>{w}}" for text, w in zip(row, widths, strict=True)) for row in zip(*cells, strict=True)]
    lines = [Line(""), Line(f"{left[0]} {_HEADER}  HOTTEST SYMBOL", "bold"), Line("")]
    for text, place in zip(left[1:], shown, strict=True):
        lines.append(Line(f"{text} {_figures(place.stat, total)}  {place.symbol}", _style(place.stat, total)))
    return lines + _more(len(rest), "ports and addresses")
