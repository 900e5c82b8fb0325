"""The debug console at port E9h: every byte written is output; reading gives E9h, as in Bochs and QEMU."""

from __future__ import annotations

from collections.abc import Callable


class DebugConsole:
    """A one-port output; a wider write outputs its low byte."""

    name = "debug console"

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output

    def read(self, offset: int, size: int) -> int:
        return 0xE9 | (0xFFFFFF00 if size > 1 else 0)

    def write(self, offset: int, size: int, value: int) -> None:
        self._output(bytes((value & 0xFF,)))
