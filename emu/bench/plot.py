"""Draws what benchmarks found as bars with their spread, as PNG or SVG: the file's name says which."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emu.bench.compare import NAMES, TITLES, Comparison
from emu.bench.figures import Figure
from emu.bench.nano import PLATFORMS, NanoRow
from emu.errors import UsageError
from emu.outfile import check_writable, save

KINDS: Final = (".png", ".svg")
_WIDTH: Final = 0.8  # of the bars of one group


@dataclass(frozen=True, slots=True)
class Chart:
    """Groups of bars: for each series (by name) one figure a group, or None."""

    title: str
    unit: str
    groups: tuple[str, ...]
    series: dict[str, tuple[Figure | None, ...]]


def comparison_chart(comparison: Comparison) -> Chart:
    rows = comparison.rows
    series = {TITLES[name]: tuple(row.rates.get(name) for row in rows) for name in NAMES}
    return Chart("vemu bench", "million guest instructions a second", tuple(row.guest for row in rows), _some(series))


def nano_chart(rows: Sequence[NanoRow]) -> Chart:
    series = {name: tuple(row.ns.get(name) for row in rows) for name in PLATFORMS}
    return Chart("vemu bench --nano", "nanoseconds an event", tuple(row.name for row in rows), _some(series))


def _some(series: dict[str, tuple[Figure | None, ...]]) -> dict[str, tuple[Figure | None, ...]]:
    return {name: figures for name, figures in series.items() if any(figures)}


def check_plot(path: Path) -> None:
    """Raise what would go wrong after a long run: UsageError for its kind or a missing library, GuestFileError."""
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"--plot {path}: the file's name must end in {' or '.join(KINDS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(f"--plot {path}: matplotlib is not installed (pip install 'vemu[plot]')")
    check_writable(path, "plot")


def draw(chart: Chart, path: Path) -> None:
    """Write the chart to `path`. Raises GuestFileError where that fails."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    # nothing of the moment: the same figures give the same file
    with matplotlib.rc_context({"svg.hashsalt": "vemu", "svg.fonttype": "none"}):
        canvas = Canvas(figsize=(max(6.0, 1.1 * len(chart.groups)), 4.5), layout="constrained")
        axes = canvas.add_subplot()
        width = _WIDTH / max(len(chart.series), 1)
        for number, (name, figures) in enumerate(chart.series.items()):
            at = [group + (number + 0.5) * width - _WIDTH / 2 for group in range(len(figures))]
            # a logarithmic scale has no place for what is not above 0
            heights = [figure.median if figure is not None and figure.median > 0 else 0.0 for figure in figures]
            low = [
                h - min(f.samples) if f is not None and h and min(f.samples) > 0 else 0.0
                for f, h in zip(figures, heights, strict=True)
            ]
            high = [max(f.samples) - h if f is not None and h else 0.0 for f, h in zip(figures, heights, strict=True)]
            axes.bar(at, heights, width, yerr=(low, high), capsize=2, label=name)
        axes.set_yscale("log")
        axes.set_ylabel(f"{chart.unit} (logarithmic)")
        axes.set_title(chart.title)
        axes.set_xticks(range(len(chart.groups)), chart.groups, rotation=30, ha="right")
        canvas.legend(loc="outside lower center", ncols=len(chart.series))
        kind = path.suffix.lower()[1:]
        out = io.BytesIO()
        canvas.savefig(out, format=kind, dpi=144, metadata={"Date": None} if kind == "svg" else {"Software": None})
    save(path, "plot", out.getvalue())
