"""What repeated measurements say: the median, and how far they spread around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """Repeated measurements of one thing, at least one; the unit is the caller's."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def spread(self) -> float:
        """Half of the distance between the least and the greatest sample, as a part of the median; 0 for one sample."""
        middle = abs(self.median)
        return (max(self.samples) - min(self.samples)) / 2 / middle if middle else 0.0

    def as_json(self) -> dict[str, object]:
        return {"median": self.median, "spread": self.spread, "samples": list(self.samples)}


def ratio(one: Figure | None, other: Figure | None) -> float | None:
    """Median over median; None where either is missing, or the second no positive number."""
    if one is None or other is None or other.median <= 0:
        return None
    return one.median / other.median


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """None where a value is missing, or there is none."""
    found: Sequence[float | None] = list(values)
    known = [value for value in found if value is not None]
    if not found or len(known) < len(found):
        return None
    return math.exp(sum(map(math.log, known)) / len(known))
