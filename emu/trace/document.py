"""A whole trace added up, as one JSON object or as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Final

from emu.trace.aggregate import Aggregate, Stat
from emu.trace.names import Names
from emu.trace.table import share

SCHEMA: Final = "vemu-exit-summary"
VERSION: Final = 1
_CSV_COLUMNS: Final = (
    "samples", "samples_percent", "time_percent", "total_ns", "min_ns", "max_ns", "mean_ns", "error_percent",
    "leave_ns", "emulate_ns", "device_ns", "resume_ns",
)  # fmt: skip


def figures(stat: Stat, total: Stat) -> dict[str, int | float]:
    """The figures of one row; costs are sums in nanoseconds, `error_percent` is of the mean."""
    return {
        "samples": stat.count,
        "samples_percent": round(share(stat.count, total.count), 4),
        "time_percent": round(share(stat.total, total.total), 4),
        "total_ns": stat.total,
        "min_ns": stat.least_ns,
        "max_ns": stat.most,
        "mean_ns": round(stat.mean, 3),
        "error_percent": round(stat.error, 4),
        "leave_ns": stat.leave,
        "emulate_ns": stat.emulate,
        "device_ns": stat.device,
        "resume_ns": stat.resume,
    }


def summary_json(aggregate: Aggregate, names: Names, by: str, sort: str, about: Mapping[str, object]) -> str:
    """All groups and places; `about` says what was traced (guest, command, ...)."""
    total = aggregate.total
    groups = aggregate.groups(by, names, sort)
    places = aggregate.places(names, sort)
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        **about,
        "by": by,
        "sort": sort,
        "span_ns": aggregate.span_ns,
        "total": figures(total, total),
        "groups": [{by: group.label} | figures(group.stat, total) for group in groups],
        "places": [
            {"place": place.label, "exit": place.exit, "device": place.device, "hottest_symbol": place.symbol}
            | figures(place.stat, total)
            for place in places
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def summary_csv(aggregate: Aggregate, names: Names, by: str, sort: str) -> str:
    """The groups, one a line below a line of names (RFC 4180, with lines ended by a line feed alone)."""
    total = aggregate.total
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((by, *_CSV_COLUMNS))
    for group in aggregate.groups(by, names, sort):
        row = figures(group.stat, total)
        writer.writerow((group.label, *(row[column] for column in _CSV_COLUMNS)))
    return out.getvalue()
