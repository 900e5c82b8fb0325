"""The Unicorn backend with a stopwatch: it tells when translated code is left and when it goes on."""

from __future__ import annotations

from typing import Protocol

from emu.backends.base import TrapHandler
from emu.backends.unicorn import UnicornBackend
from emu.memory import GuestMemory


class Watch(Protocol):
    """What hears of it; both may be told again what is so already."""

    def left(self) -> None: ...

    def back(self) -> None: ...


class TimedUnicornBackend(UnicornBackend):
    """`UnicornBackend` under a stopwatch."""

    def __init__(self, watch: Watch, memory: GuestMemory) -> None:
        self._stopwatch = watch
        super().__init__(memory)

    def _on_interrupt(self, engine: int, vector: int, data: int) -> None:
        self._stopwatch.left()
        super()._on_interrupt(engine, vector, data)
        if self.goes_on:
            self._stopwatch.back()

    def run(self, pc: int, on_trap: TrapHandler) -> int:
        self._stopwatch.back()
        try:
            return super().run(pc, on_trap)
        finally:
            self._stopwatch.left()
