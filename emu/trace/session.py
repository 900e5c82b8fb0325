"""What `vemu trace --exits` makes of the exits of one run: a live table, files while it runs, the report at its end.

Where the exits come from is not this module's business: an engine leaves them with `ExitTrace.recorder`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from emu.errors import UsageError
from emu.outfile import check_writable, stream
from emu.trace.aggregate import Aggregate
from emu.trace.filters import Filter, TextStretch
from emu.trace.jsonl import Sink
from emu.trace.live import LiveTable
from emu.trace.names import Names
from emu.trace.pipeline import Consumer, Pipeline, Recorder
from emu.trace.saved import SavedWriter
from emu.trace.view import STREAMED, View, exporter, missed, show


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """The options of a trace: how it is shown, and what only a run can do."""

    view: View
    save: Path | None = None
    between: tuple[str, str] | None = None
    live: bool = False

    def check(self) -> None:
        """Raise what could go wrong only after a long run: UsageError, GuestFileError."""
        if self.live and self.view.format in STREAMED and self.view.output is None:
            raise UsageError(f"--live and --format {self.view.format} both write on standard output: give -o FILE")
        for name, path in (("report", self.view.output), ("trace", self.save)):
            if path is not None:
                check_writable(path, name)
        if self.save is not None and self.view.output is not None and _same(self.save, self.view.output):
            raise UsageError(f"--save {self.save}: -o writes the same file")
        self.view.filters(Names())


class ExitTrace:
    """Around one run: `recorder` takes its exits, `console` hears what it writes, `finish` ends it, `show` reports.

    Files appear when the block ends, also by Ctrl-C; any other exception leaves none behind. A file of --save that is
    written when the process is killed stays beside its place under a name that begins with a dot, readable as far as it
    goes. `about` says what is traced: guest, command. Raises GuestFileError where a file cannot be written.
    """

    def __init__(self, options: TraceOptions, names: Names, about: Mapping[str, object]) -> None:
        self._options, self._about = options, about
        self.names = options.view.names(names)
        self.aggregate = Aggregate()
        between = options.between
        self._text = TextStretch(*between) if between is not None else None
        self._saved: SavedWriter | None = None
        self._stack = ExitStack()
        self._filters: list[Filter] = []
        self.recorder: Recorder = Recorder(Pipeline([]))  # until the block is entered

    def __enter__(self) -> ExitTrace:
        options, view = self._options, self._options.view
        consumers: list[Consumer] = [self.aggregate]
        with ExitStack() as opened:
            if view.format in STREAMED:
                sink: Sink = sys.stdout.buffer
                if view.output is not None:
                    sink = opened.enter_context(stream(view.output, "report"))
                consumers.append(exporter(view.format, sink, self.names, self._about))
            if options.save is not None:
                self._saved = SavedWriter(opened.enter_context(stream(options.save, "trace")), self.names, self._about)
                consumers.append(self._saved)
            if options.live and view.terminal:
                opened.enter_context(LiveTable(self.aggregate, self.names, view.selection, sys.stdout))
            self._stack = opened.pop_all()
        self._filters = view.filters(self.names)
        if self._text is not None:
            self._filters.insert(0, self._text)
        self.recorder = Recorder(Pipeline(consumers, self._filters), self._text)
        return self

    def console(self, data: bytes) -> None:
        """The guest's console showed `data`."""
        self.recorder.console(data)

    def finish(self, ending: Mapping[str, object]) -> None:
        """The run is over; `ending` is kept in the file of --save."""
        self.recorder.flush()
        if self._saved is not None:
            self._saved.finish(ending)

    @property
    def missed(self) -> list[str]:
        """Sentences that explain an empty report, to be told beside it."""
        return missed(self._filters)

    def show(self) -> None:
        """Print the report, or write it to -o; formats that hold every exit have been written already."""
        if self._options.view.format not in STREAMED:
            show(self._options.view, self.aggregate, self.names, self._about)
        elif self._options.view.output is None:
            sys.stdout.buffer.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.recorder.flush()
        finally:
            leave = self._stack.__exit__(kind, error, where)
        return leave


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except (OSError, RuntimeError):
        return one == other
