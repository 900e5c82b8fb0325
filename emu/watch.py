"""Waits for text on the console: `--expect`, `--fail-on`, and the last words of a Linux kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_LONGEST_LINE: Final = 4096


class TextWatch:
    """Calls `expected` or `failed` with the text when it appears; the first that does counts."""

    def __init__(
        self, expect: str | None, fail_on: str | None, expected: Callable[[str], None], failed: Callable[[str], None]
    ) -> None:
        self._wanted = [(text, call) for text, call in ((fail_on, failed), (expect, expected)) if text]
        self._longest = max((len(_bytes(text)) for text, _ in self._wanted), default=0)
        self._tail = b""

    @property
    def wanted(self) -> bool:
        """True while some text is awaited."""
        return bool(self._wanted)

    def feed(self, data: bytes) -> None:
        """Console bytes as they come; text split over several calls is found."""
        if not self._wanted:
            return
        self._tail += data
        for text, call in self._wanted:
            if _bytes(text) in self._tail:
                self._wanted = []
                call(text)
                return
        self._tail = self._tail[-(self._longest - 1) :] if self._longest > 1 else b""

    def look(self, screen: str) -> None:
        """The whole text of a screen."""
        for text, call in self._wanted:
            if text in screen:
                self._wanted = []
                call(text)
                return


class KernelWatch:
    """Follows the console of a Linux kernel; `panic` is what it says of its panic, None as long as it has not.

    `panicked` is called behind the panic's last line. With panic= on its command line a kernel resets the machine
    instead. `halted` is true once it said that it halts the CPU for good, which is all that `poweroff` can do on a
    machine without ACPI (kernel/reboot.c).
    """

    _BEGIN, _END = b"Kernel panic - not syncing", b"---[ end Kernel panic"
    _HALT = b"reboot: System halted"

    def __init__(self, panicked: Callable[[str], None]) -> None:
        self._panicked = panicked
        self._line = b""
        self.panic: str | None = None
        self.halted = False

    def feed(self, data: bytes) -> None:
        """Console bytes as they come."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if self._END in line and self.panic is not None:
                self._panicked(self.panic)
            elif self._BEGIN in line and self.panic is None:
                self.panic = line[line.index(self._BEGIN) :].decode("utf-8", "replace").strip()
            elif self._HALT in line:
                self.halted = True
        self._line = self._line[-_LONGEST_LINE:]


def _bytes(text: str) -> bytes:
    """The bytes a user typed, also where they are no UTF-8 (`os.fsdecode` made lone surrogates of those)."""
    return text.encode("utf-8", "surrogateescape")
