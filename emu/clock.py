"""Guest time: nanoseconds since reset, from the host's clock or from retired instructions, and the alarms on it."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class TimeSource(Protocol):
    """Gives guest time in nanoseconds since reset."""

    def now(self) -> int: ...


class HostTime:
    """Guest time that runs with the host's monotonic clock."""

    def __init__(self) -> None:
        self._start = time.monotonic_ns()

    def now(self) -> int:
        return time.monotonic_ns() - self._start


class InstructionTime:
    """Guest time derived from retired guest instructions, for `--deterministic`; HLT skips to the next alarm."""

    def __init__(self, retired: Callable[[], int], ns_per_instruction: int = 10) -> None:
        self._retired = retired
        self.ns_per_instruction = ns_per_instruction
        self.skipped = 0

    def now(self) -> int:
        return self._retired() * self.ns_per_instruction + self.skipped

    def skip(self, ns: int) -> None:
        """Advance time by `ns` without running instructions (the CPU is halted)."""
        self.skipped += ns


class Alarm:
    """A pending callback; `cancel()` makes it never fire."""

    __slots__ = ("when", "action", "live")

    def __init__(self, when: int, action: Callable[[], None]) -> None:
        self.when, self.action, self.live = when, action, True

    def cancel(self) -> None:
        self.live = False


class Clock:
    """Guest time and its alarms; devices read `now()` and ask for alarms, the monitor fires the due ones."""

    def __init__(self, source: TimeSource) -> None:
        self.source = source
        self._queue: list[tuple[int, int, Alarm]] = []
        self._order = itertools.count()
        self.changed: Callable[[], None] | None = None  # called when an earlier alarm than all others is set

    def now(self) -> int:
        """Nanoseconds of guest time since reset."""
        return self.source.now()

    def at(self, when: int, action: Callable[[], None]) -> Alarm:
        """Call `action` once guest time reaches `when` (ns); at once, at the monitor's next look, if it has passed."""
        alarm = Alarm(when, action)
        first = self.next_alarm()
        heapq.heappush(self._queue, (when, next(self._order), alarm))
        if self.changed is not None and (first is None or when < first):
            self.changed()
        return alarm

    def next_alarm(self) -> int | None:
        """Guest time of the earliest pending alarm, or None."""
        while self._queue and not self._queue[0][2].live:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def fire_due(self) -> None:
        """Run every alarm whose time has come, in order.

        Host time goes on meanwhile: what falls due during this call waits for the next, so that a guest that asks for
        a short period cannot keep the monitor here.
        """
        now = self.now()
        while (when := self.next_alarm()) is not None and when <= now:
            alarm = heapq.heappop(self._queue)[2]
            alarm.live = False
            alarm.action()
