"""Interrupt lines: a device holds a line, never the CPU or the controller."""

from __future__ import annotations

from collections.abc import Callable


class IrqLine:
    """A level a device drives; `sink(level)` is called on every change of level."""

    __slots__ = ("level", "_sink", "number")

    def __init__(self, sink: Callable[[bool], None] | None = None, number: int = -1) -> None:
        self.level = False
        self.number = number
        self._sink = sink

    def set(self, level: bool) -> None:
        if level != self.level:
            self.level = level
            if self._sink is not None:
                self._sink(level)
