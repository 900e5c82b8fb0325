"""Guest time under the test's control."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emu.clock import Clock


class ManualTime:
    """A time source that stands still until it is moved."""

    def __init__(self) -> None:
        self.ns = 0

    def now(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock(ManualTime())


@pytest.fixture
def run_to(clock: Clock) -> Callable[[int], None]:
    """Move time to an absolute guest time (ns), firing each alarm on the way at its own moment."""

    def move(ns: int) -> None:
        source = clock.source
        assert isinstance(source, ManualTime)
        assert ns >= source.ns, "time goes forward"
        while (when := clock.next_alarm()) is not None and when <= ns:
            source.ns = max(when, source.ns)
            clock.fire_due()
        source.ns = ns

    return move


@pytest.fixture
def stall_to(clock: Clock) -> Callable[[int], None]:
    """Move time to an absolute guest time (ns) in one leap, as a busy host does, and then fire what is due."""

    def move(ns: int) -> None:
        source = clock.source
        assert isinstance(source, ManualTime)
        assert ns >= source.ns, "time goes forward"
        source.ns = ns
        clock.fire_due()

    return move
