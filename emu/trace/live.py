"""The table of a trace while it grows, redrawn in place on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, TextIO

from emu.trace.aggregate import Aggregate
from emu.trace.names import Names
from emu.trace.table import Selection, as_text, lines_of

if TYPE_CHECKING:
    from rich.live import Live

_A_SECOND: Final = 4
_ROWS: Final = 12  # of groups, and half as many places: the whole must fit a screen


class LiveTable:
    """Shows `aggregate` on `stream` as long as the context lasts, from a thread of its own; then it is gone."""

    def __init__(self, aggregate: Aggregate, names: Names, selection: Selection, stream: TextIO) -> None:
        self._aggregate, self._names, self._stream = aggregate, names, stream
        self._selection = Selection(selection.by, selection.sort, _ROWS, _ROWS // 2)
        self._live: Live | None = None

    def __enter__(self) -> LiveTable:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream, force_terminal=True, highlight=False)
        self._live = Live(
            get_renderable=lambda: as_text(lines_of(self._aggregate, self._names, self._selection)),
            console=console,
            refresh_per_second=_A_SECOND,
            transient=True,
            redirect_stdout=False,  # the guest's console goes where it always goes
            redirect_stderr=False,
        )
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
