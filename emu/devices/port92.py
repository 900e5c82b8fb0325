"""System control port A (92h): bit 1 gates A20, bit 0 resets the CPU when it rises (PS/2 technical reference)."""

from __future__ import annotations

from collections.abc import Callable

_RESET, _A20 = 1, 2


class Port92:
    """A20 starts enabled, as firmware leaves it."""

    name = "port 92h"

    def __init__(self, a20: Callable[[bool], None], reset: Callable[[], None]) -> None:
        self._a20, self._reset = a20, reset
        self.value = _A20

    def read(self, offset: int, size: int) -> int:
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        rises = value & ~self.value & _RESET
        if (value ^ self.value) & _A20:
            self._a20(bool(value & _A20))
        self.value = value & (_RESET | _A20)
        if rises:
            self._reset()
