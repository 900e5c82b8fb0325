"""The reset control register at CF9h (Intel PIIX3 datasheet, 2.5.5): bit 2 resets when it rises, bit 1 chooses hard."""

from __future__ import annotations

from collections.abc import Callable

_RESET_CPU = 4
_KEPT = 0x02


class ResetControl:
    """Calls `reset` on a rising bit 2."""

    name = "reset control"

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset
        self.value = 0

    def read(self, offset: int, size: int) -> int:
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        rises = value & ~self.value & _RESET_CPU
        self.value = value & (_KEPT | _RESET_CPU)
        if rises:
            self._reset()
