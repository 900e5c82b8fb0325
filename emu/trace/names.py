"""Names for what a record holds as numbers: symbols of guest addresses, devices behind ports and addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Lookup = Callable[[int], tuple[str, int] | None]  # address -> symbol and distance from its start
DeviceOf = Callable[[str, int], str]  # ("port" or "memory", address) -> name, or ""

UNKNOWN: Final = "[unknown]"
WITH_DEVICES: Final = ("port", "memory")
_MOST: Final = 1 << 16  # entries of a cache; a guest has few places that exit, but may make them up for ever


class Names:
    """Looks names up once; `lookup` and `device_of` may be slow."""

    def __init__(self, lookup: Lookup | None = None, device_of: DeviceOf | None = None) -> None:
        self._lookup, self._device_of = lookup, device_of
        self._found: dict[int, tuple[str, int] | None] = {}
        self._devices: dict[tuple[str, int], str] = {}

    def find(self, pc: int) -> tuple[str, int] | None:
        """The symbol that covers `pc`, and the distance from its start."""
        try:
            return self._found[pc]
        except KeyError:
            if len(self._found) >= _MOST:
                self._found.clear()
            found = self._found[pc] = self._lookup(pc) if self._lookup is not None else None
            return found

    def symbol(self, pc: int) -> str:
        """The symbol's name alone, or '[unknown]'."""
        found = self.find(pc)
        return UNKNOWN if found is None else found[0]

    def location(self, pc: int) -> str:
        """`name+0x12`, or the bare address."""
        found = self.find(pc)
        if found is None:
            return f"{pc:#x}"
        name, offset = found
        return f"{name}+{offset:#x}" if offset else name

    def device(self, space: str, operand: int) -> str:
        """The device that answers at `operand`, or ''."""
        if space not in WITH_DEVICES or self._device_of is None or operand < 0:
            return ""
        key = (space, operand)
        try:
            return self._devices[key]
        except KeyError:
            if len(self._devices) >= _MOST:
                self._devices.clear()
            found = self._devices[key] = self._device_of(space, operand)
            return found
