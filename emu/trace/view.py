"""How a trace is shown: the choices of one report, and what prints or writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from emu.outfile import save
from emu.trace.aggregate import Aggregate
from emu.trace.document import summary_csv, summary_json
from emu.trace.filters import Filter, SymbolStretch, TextStretch, parse_only
from emu.trace.jsonl import JsonLines, Sink
from emu.trace.names import Names
from emu.trace.pipeline import Consumer
from emu.trace.symbols import MergedSymbols, SymbolSource, read_symbols
from emu.trace.table import Line, Selection, lines_of, print_lines

FORMATS: Final = ("table", "json", "jsonl", "csv", "perfetto")
STREAMED: Final = ("jsonl", "perfetto")  # one exit after the other; the others show what all of them add up to


@dataclass(frozen=True, slots=True)
class View:
    """The choices; `terminal` says whether what goes to standard output may be coloured."""

    selection: Selection = field(default_factory=Selection)
    format: str = "table"
    output: Path | None = None
    only: str | None = None
    start: str | None = None  # --from
    until: str | None = None
    symbols: tuple[Path, ...] = ()
    terminal: bool = False

    def filters(self, names: Names) -> list[Filter]:
        """The filters of --only, --from and --until; UsageError for a reason that does not exist."""
        found: list[Filter] = []
        if self.start is not None or self.until is not None:
            found.append(SymbolStretch(self.start, self.until, names))
        if self.only is not None:
            found.append(parse_only(self.only))
        return found

    def names(self, known: Names) -> Names:
        """`known` below the symbols of --symbols; GuestFileError for a file without any."""
        if not self.symbols:
            return known
        sources: list[SymbolSource] = [read_symbols(path) for path in self.symbols]
        return Names(MergedSymbols([*sources, _Known(known)]).lookup, known.device)


def missed(filters: Iterable[Filter]) -> list[str]:
    """Why a report may be empty: the stretches of the run that never began."""
    return [found.missed for found in filters if isinstance(found, SymbolStretch | TextStretch) and found.missed]


@dataclass(frozen=True, slots=True)
class _Known:
    """Names as a source of symbols."""

    names: Names

    def lookup(self, address: int) -> tuple[str, int] | None:
        return self.names.find(address)


def exporter(format_: str, sink: Sink, names: Names, about: Mapping[str, object]) -> Consumer:
    """What writes every exit to `sink`, in one of the STREAMED formats."""
    if format_ == "jsonl":
        return JsonLines(sink, names, about)
    from emu.trace.perfetto import PerfettoTrace

    return PerfettoTrace(sink, names, about)


def show(view: View, aggregate: Aggregate, names: Names, about: Mapping[str, object]) -> None:
    """Print what a trace added up to, or write it to the view's file."""
    selection = view.selection
    if view.format == "json":
        put(view, summary_json(aggregate, names, selection.by, selection.sort, about))
    elif view.format == "csv":
        put(view, summary_csv(aggregate, names, selection.by, selection.sort))
    else:
        put_lines(view, lines_of(aggregate, names, selection))


def put(view: View, text: str) -> None:
    """Print `text` as it is, or write it to the view's file."""
    if view.output is None:
        sys.stdout.write(text)
    else:
        save(view.output, "report", text.encode())


def put_lines(view: View, lines: list[Line]) -> None:
    """Print a table, or write it to the view's file without colours."""
    if view.output is None:
        print_lines(lines, sys.stdout, terminal=view.terminal)
    else:
        put(view, "".join(f"{line.text.rstrip()}\n" for line in lines))
