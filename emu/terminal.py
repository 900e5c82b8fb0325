"""The user's terminal: raw mode and back again, the Ctrl-A commands, and a repainted picture of the VGA text screen."""

from __future__ import annotations

import atexit
import os
import termios
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

CTRL_A: Final = 0x01
HELP: Final = b"\r\n[vemu] Ctrl-A X leaves, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A H shows this\r\n"
FRAME: Final = 0.05  # seconds between two pictures of the screen

# ECMA-48: 8.3.21 (CUP), 8.3.39 (ED), 8.3.41 (EL); the private modes are xterm's (alternate screen, cursor).
_OPEN_SCREEN: Final = b"\x1b[?1049h\x1b[2J"
_CLOSE_SCREEN: Final = b"\x1b[?25h\x1b[?1049l"


def in_foreground(fd: int) -> bool:
    """True where `fd` is a terminal whose foreground job this process belongs to: only such a job may change it."""
    try:
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


class EscapeFilter:
    """Takes the Ctrl-A commands out of what is typed: X leaves, H helps, Ctrl-A sends itself."""

    def __init__(self, leave: Callable[[], None], show_help: Callable[[], None]) -> None:
        self._commands = {ord("x"): leave, ord("X"): leave, ord("h"): show_help, ord("H"): show_help}
        self._escaped = False

    def feed(self, data: bytes) -> bytes:
        """What of `data` is for the guest; an unknown command is swallowed, like its Ctrl-A."""
        out = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte == CTRL_A:
                    out.append(byte)
                elif byte in self._commands:
                    self._commands[byte]()
            elif byte == CTRL_A:
                self._escaped = True
            else:
                out.append(byte)
        return bytes(out)


class RawTerminal:
    """Puts a terminal in raw mode for input, and back: on leaving the context, and at the latest when Python ends.

    Output processing stays on, so that a guest's bare line feed still returns the cursor.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[int | list[bytes | int]] | None = None

    def __enter__(self) -> RawTerminal:
        self._saved = termios.tcgetattr(self._fd)
        atexit.register(self.restore)
        try:
            tty.setraw(self._fd, termios.TCSADRAIN)
            attributes = termios.tcgetattr(self._fd)
            attributes[1] |= termios.OPOST
            termios.tcsetattr(self._fd, termios.TCSADRAIN, attributes)
        except BaseException:
            self.restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Give the terminal back as it was; harmless when that is done, or when the terminal is gone."""
        if self._saved is None:
            return
        with suppress(termios.error):  # hung up: nothing is left to restore
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
        self._saved = None  # only now: an interrupt before this leaves the work to whoever calls next
        atexit.unregister(self.restore)


class ScreenPainter:
    """Shows the guest's text screen on the terminal's alternate screen, from a thread of its own.

    `lines` gives the screen's rows from any thread; only rows that changed are written.
    """

    def __init__(self, lines: Callable[[], list[str]], write: Callable[[bytes], None]) -> None:
        self._lines, self._write = lines, write
        self._shown: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._paint, name="vemu-screen", daemon=True)

    def __enter__(self) -> ScreenPainter:
        self._write(_OPEN_SCREEN)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._write(_CLOSE_SCREEN)

    def repaint(self) -> None:
        """Write the rows that changed since the last picture."""
        rows = self._lines()
        out = bytearray()
        for number, row in enumerate(rows):
            if number >= len(self._shown) or self._shown[number] != row:
                text = "".join(char if char.isprintable() else " " for char in row)
                out += f"\x1b[{number + 1};1H{text.rstrip()}\x1b[K".encode("utf-8", "replace")
        self._shown = list(rows)
        if out:
            self._write(bytes(out))

    def _paint(self) -> None:
        while not self._done.wait(FRAME):
            self.repaint()


def screen_as_text(lines: list[str]) -> str:
    """A text screen as plain lines, without the blanks at the ends of rows and the empty rows at the end."""
    text = "\n".join(line.rstrip().replace("\0", " ") for line in lines).rstrip()
    return text + "\n" if text else ""
