"""Keeps Python from looking for cyclic garbage where many objects are made that stay, and hardly any cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects more than before, at which Python looks for cyclic garbage among the new ones in a run. A boot of Linux with
# an empty code cache makes 680,000 that stay, and a few hundred in cycles: to look at half a million took 80 ms.
_YOUNG = 1_000_000
_MIDDLE = 40  # such looks before one at those that survived the first
_OLD = 10_000  # looks at the middle-aged ones before one at all objects


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Have Python look for cyclic garbage seldom."""
    kept = gc.get_threshold()
    if kept[0]:
        gc.set_threshold(max(kept[0], _YOUNG), _MIDDLE, _OLD)
    try:
        yield
    finally:
        _age()
        gc.set_threshold(*kept)


@contextmanager
def not_collected() -> Iterator[None]:
    """Have Python not look for cyclic garbage."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        _age()
        if collecting:
            gc.enable()


def _age() -> None:
    """Call all objects old and set the counts back: else Python would look at all of them now."""
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()
