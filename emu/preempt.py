"""Interrupts a running engine after a given time, from one long-lived thread."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

_REPEAT = 0.001  # seconds between two attempts: one made just before the engine starts is lost


class Preempter:
    """Calls `interrupt` once an armed delay has passed, and again every millisecond until disarmed.

    Arming wakes the thread only where it would look too late: most delays are given up long before they pass.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._when: float | None = None
        self._looks = math.inf  # when the thread looks at `_when` next, unless it is notified
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None  # started when it is first needed

    def arm(self, delay_ns: int | None) -> None:
        """Interrupt after `delay_ns` nanoseconds from now; None: never."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="vemu-preempter", daemon=True)
            self._thread.start()
        with self._changed:
            self._when = None if delay_ns is None else time.monotonic() + max(delay_ns, 0) / 1e9
            if self._when is not None and self._when < self._looks:
                self._changed.notify()

    def disarm(self) -> None:
        with self._changed:
            self._when = None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._when is None:
                    self._looks = math.inf
                elif self._when > now:
                    self._looks = self._when
                else:
                    self._interrupt()
                    self._looks = now + _REPEAT
                self._changed.wait(None if self._looks == math.inf else self._looks - now)
