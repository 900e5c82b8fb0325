"""Interrupt lines: a device holds a line, never the CPU or the controller; several may share one."""

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


class SharedLine:
    """Several lines on one wire, which is active as long as any of them is (PCI Local Bus Specification 3.0, 2.2.6)."""

    __slots__ = ("_active", "_wire")

    def __init__(self, wire: IrqLine) -> None:
        self._wire = wire
        self._active = 0

    def line(self) -> IrqLine:
        """One more line."""
        return IrqLine(self._changed, self._wire.number)

    def _changed(self, level: bool) -> None:
        self._active += 1 if level else -1
        self._wire.set(self._active > 0)
