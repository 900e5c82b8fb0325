"""What INT 10h shows, as a stream for a terminal: plain text while the guest writes so, else cursor addressing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_BEL, _BS, _LF, _CR, _DEL = 7, 8, 10, 13, 127
# The glyphs of code page 437 below 20h and of 7Fh; the rest is Python's codec.
_GLYPHS: Final = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
_HOUSE: Final = "⌂"
_HOME_AND_CLEAR: Final = b"\x1b[H\x1b[2J"


class Mirror:
    """Follows the text screen of one guest; `console` takes the bytes (UTF-8, ECMA-48 control sequences).

    It knows where the terminal's cursor is, and moves it only when the guest writes somewhere else. A screen that the
    guest clears is cleared when the next character comes, and only if something was written before: the output of a
    guest that just prints is what it printed.
    """

    def __init__(self, console: Callable[[bytes], None], rows: int, columns: int) -> None:
        self._console = console
        self._rows, self._columns = rows, columns
        self._row = self._column = 0
        self._wrote = self._clear = False

    def cleared(self) -> None:
        """The guest cleared the screen."""
        self._clear = self._wrote
        self._row = self._column = 0

    def teletype(self, character: int, row: int, column: int) -> None:
        """A character, or a control that is obeyed, at the cursor; the screen scrolls under the last row."""
        if character in (_BEL, _BS, _LF, _CR):
            move = {_BS: (row, max(column - 1, 0)), _LF: (min(row + 1, self._rows - 1), column), _CR: (row, 0)}
            self._go(row, column)
            self._console(bytes((character,)))
            self._row, self._column = move.get(character, (row, column))
        else:
            self.glyphs(bytes((character,)), row, column)

    def glyphs(self, text: bytes, row: int, column: int) -> None:
        """Cells written from a place on, whatever their codes; they go on in the next row."""
        if not any(text.strip(b"\0 ")) and len(text) >= self._rows * self._columns:
            self.cleared()
            return
        self._go(row, column)
        self._console("".join(map(_glyph, text)).encode())
        lines, self._column = divmod(self._column + len(text), self._columns)
        self._row = min(self._row + lines, self._rows - 1)

    def scrolled(self, by: int) -> None:
        """The whole screen moved up by some rows."""
        self._go(self._rows - 1, 0)
        self._console(b"\n" * by)

    def _go(self, row: int, column: int) -> None:
        if self._clear:
            self._console(_HOME_AND_CLEAR)
            self._clear = False
        if column == 0 and self._column and row == self._row:
            self._console(b"\r")
        elif column == 0 and row == self._row + 1:
            self._console(b"\r\n")
        elif (row, column) != (self._row, self._column):
            self._console(b"\x1b[%d;%dH" % (row + 1, column + 1))
        self._row, self._column = row, column
        self._wrote = True


def _glyph(code: int) -> str:
    if code < len(_GLYPHS):
        return _GLYPHS[code]
    return _HOUSE if code == _DEL else bytes((code,)).decode("cp437")
