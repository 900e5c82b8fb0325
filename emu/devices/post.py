"""The POST code port 80h: keeps the last code, which reading returns."""

from __future__ import annotations


class PostCode:
    """`last` is the last code written."""

    name = "POST code"

    def __init__(self) -> None:
        self.last = 0

    def read(self, offset: int, size: int) -> int:
        return self.last

    def write(self, offset: int, size: int, value: int) -> None:
        self.last = value
