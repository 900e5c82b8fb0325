"""Compares two traces group by group: `vemu report A B`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from emu.trace.aggregate import Aggregate, Stat
from emu.trace.names import Names
from emu.trace.table import HEADINGS, Line, Selection, microseconds

SCHEMA: Final = "vemu-exit-comparison"
VERSION: Final = 1
_NAME_WIDTH: Final = 20
_CHANGED: Final = 1.05  # ratios of total time beyond this, or below its inverse, are coloured


@dataclass(frozen=True, slots=True)
class Difference:
    """One group in both runs; a run without it has an empty `Stat`."""

    label: str
    before: Stat
    after: Stat


_ORDERS: Final[dict[str, Callable[[Difference], float]]] = {
    "samples": lambda row: abs(row.after.count - row.before.count),
    "total": lambda row: abs(row.after.total - row.before.total),
    "mean": lambda row: abs(row.after.mean - row.before.mean),
}


def ratio(before: float, after: float) -> float | None:
    """`after` as a multiple of `before`; None of nothing."""
    return after / before if before else None


def differences(
    before: Aggregate, before_names: Names, after: Aggregate, after_names: Names, by: str, sort: str
) -> list[Difference]:
    """All groups of either run, those first whose figure `sort` differs most."""
    left = {group.label: group.stat for group in before.groups(by, before_names)}
    right = {group.label: group.stat for group in after.groups(by, after_names)}
    rows = [Difference(label, left.get(label, Stat()), right.get(label, Stat())) for label in {**left, **right}]
    order = _ORDERS[sort]
    return sorted(rows, key=lambda row: (-order(row), row.label))


def whole(before: Aggregate, after: Aggregate) -> Difference:
    """Both runs as one row."""
    return Difference("all", before.total, after.total)


def lines_of(rows: list[Difference], total: Difference, selection: Selection) -> list[Line]:
    """The table: samples, total and average time of A and B, each with B as a multiple of A."""
    shown = rows[: selection.groups]
    heading = HEADINGS[selection.by]
    width = max([_NAME_WIDTH, *(len(row.label) for row in shown)])
    lines = [Line(f"{heading:>{width}} {_HEADER}", "bold"), Line("")]
    lines += [Line(f"{row.label:>{width}} {_figures(row)}", _style(row)) for row in shown]
    if len(rows) > len(shown):
        lines.append(Line(f"... and {len(rows) - len(shown)} more", "dim"))
    return [*lines, Line(""), Line(f"{total.label:>{width}} {_figures(total)}", "bold")]


def comparison_json(
    rows: list[Difference], total: Difference, selection: Selection, a: Mapping[str, object], b: Mapping[str, object]
) -> str:
    """The comparison as one JSON object; `a` and `b` say what the runs were. Times in nanoseconds."""
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        "by": selection.by,
        "sort": selection.sort,
        "a": dict(a),
        "b": dict(b),
        "total": _record(total),
        "groups": [{selection.by: row.label} | _record(row) for row in rows],
    }
    return json.dumps(document, indent=2) + "\n"


def comparison_csv(rows: list[Difference], selection: Selection) -> str:
    """The comparison as CSV; a ratio is empty where A has nothing to compare with."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((selection.by, *_record(Difference("", Stat(), Stat()))))
    for row in rows:
        writer.writerow((row.label, *("" if value is None else value for value in _record(row).values())))
    return out.getvalue()


_HEADER: Final = (
    f"{'Samples A':>10} {'Samples B':>10} {'B/A':>7} {'Time A':>13} {'Time B':>13} {'B/A':>7} "
    f"{'Avg time A':>11} {'Avg time B':>11} {'B/A':>7}"
)


def _figures(row: Difference) -> str:
    a, b = row.before, row.after
    return (
        f"{a.count:>10} {b.count:>10} {_ratio(a.count, b.count):>7} "
        f"{microseconds(a.total):>13} {microseconds(b.total):>13} {_ratio(a.total, b.total):>7} "
        f"{_mean(a):>11} {_mean(b):>11} {_ratio(a.mean, b.mean) if b.count else '-':>7}"
    )


def _mean(stat: Stat) -> str:
    return microseconds(stat.mean) if stat.count else "-"


def _ratio(before: float, after: float) -> str:
    found = ratio(before, after)
    return "-" if found is None else f"{found:.2f}x"


def _style(row: Difference) -> str:
    """Red where B costs more, green where it costs less."""
    if row.after.total > row.before.total * _CHANGED:
        return "red"
    return "green" if row.after.total * _CHANGED < row.before.total else ""


def _record(row: Difference) -> dict[str, int | float | None]:
    a, b = row.before, row.after
    record: dict[str, int | float | None] = {}
    for name, before, after in (
        ("samples", a.count, b.count), ("total_ns", a.total, b.total), ("mean_ns", a.mean, b.mean),
    ):  # fmt: skip
        found = ratio(before, after)
        record[f"{name}_a"], record[f"{name}_b"] = round(before, 3), round(after, 3)
        record[f"{name}_ratio"] = None if found is None else round(found, 4)
    return record
