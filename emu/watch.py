"""Waits for text on the console (`--expect`, `--fail-on`)."""

from __future__ import annotations

from collections.abc import Callable


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


def _bytes(text: str) -> bytes:
    """The bytes a user typed, also where they are no UTF-8 (`os.fsdecode` made lone surrogates of those)."""
    return text.encode("utf-8", "surrogateescape")
