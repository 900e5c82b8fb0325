"""The debug console at port E9h: every byte written is output; reading gives E9h, as in Bochs and QEMU."""

from __future__ import annotations

from collections.abc import Callable


class DebugConsole:
    """A one-port output."""

    name = "debug console"

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output

    def read(self, offset: int, size: int) -> int:
        return 0xE9

    def write(self, offset: int, size: int, value: int) -> None:
        self._output(bytes((value,)))
