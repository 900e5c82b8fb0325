"""The form of an explanation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """One exit: what it is, why it happens, which instructions cause it, what its cost consists of, how to avoid it.

    `row` names the nanobenchmark that measures it, where there is one.
    """

    what: str
    why: str
    instructions: str
    cost: str
    avoid: str
    row: str = ""
