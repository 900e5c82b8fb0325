"""QEMU's ISA debug exit: a write ends the run with status (value << 1) | 1."""

from __future__ import annotations

from collections.abc import Callable

from emu.bus import ALL_ONES


class DebugExit:
    """Calls `on_exit` with the value written."""

    name = "debug exit"

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self._on_exit = on_exit

    def read(self, offset: int, size: int) -> int:
        return ALL_ONES[size]

    def write(self, offset: int, size: int, value: int) -> None:
        self._on_exit(value)
