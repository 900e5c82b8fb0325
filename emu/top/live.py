"""Shows frames: redrawn in place on a terminal, one below the other anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, TextIO

from emu.top.frame import Screen, frame
from emu.top.sample import START, Snapshot
from emu.trace.table import Line, as_text

if TYPE_CHECKING:
    from rich.live import Live

_PIPE: Final = Screen(100)


class FrameSink:
    """Takes snapshots of a run and shows each beside the one before, while the context lasts.

    A terminal's own screen comes back at the end, and the last frame stays on it.
    """

    def __init__(self, title: str, stream: TextIO, *, terminal: bool) -> None:
        self._title, self._stream, self._terminal = title, stream, terminal
        self._before = self._last = START
        self._live: Live | None = None

    def __enter__(self) -> FrameSink:
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream, force_terminal=True, highlight=False)
            self._live = Live(
                console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
                vertical_overflow="crop",
            )  # fmt: skip
            self._live.start()
        return self

    def show(self, snapshot: Snapshot) -> None:
        """The next snapshot."""
        self._before, self._last = self._last, snapshot
        if self._live is not None:
            size = self._live.console.size  # anew every time: a window changes
            self._live.update(as_text(self._lines(Screen(size.width, size.height))), refresh=True)
        else:
            self._print(_PIPE)
            self._stream.write("\n")
            self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live is not None:
            width = self._live.console.size.width
            self._live.stop()
            self._live = None
            self._print(Screen(width))

    def finish(self, snapshot: Snapshot) -> None:
        """The run is over: keep figures of all of it for the last frame. A pipe gets it now."""
        self._before, self._last = START, snapshot
        if not self._terminal:
            self._print(_PIPE)

    def _lines(self, screen: Screen) -> list[Line]:
        return frame(self._title, self._last, self._before, screen)

    def _print(self, screen: Screen) -> None:
        for line in self._lines(screen):
            self._stream.write(line.text + "\n")
