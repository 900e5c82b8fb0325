"""Interrupts a running engine after a given time, from one long-lived thread."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

_REPEAT = 0.001  # seconds between two attempts: one made just before the engine starts is lost


class Preempter:
    """Calls `interrupt` once an armed delay has passed, and again every millisecond until disarmed.

    The thread is woken only for a delay that ends before it would wake by itself: `arm` is called at every exit to the
    monitor, and a thread that wakes takes Python's lock from the one that runs the guest.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._when: float | None = None
        self._wakes = math.inf  # when the thread looks again by itself
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
            if self._when is not None and self._when < self._wakes:
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
                left = math.inf if self._when is None else self._when - time.monotonic()
                if left <= 0:
                    self._interrupt()
                    left = _REPEAT
                self._sleep(left)

    def _sleep(self, seconds: float) -> None:
        """Wait so long, or until `arm` or `close` notifies."""
        if seconds == math.inf:
            self._wakes = seconds
            self._changed.wait()
        else:
            self._wakes = time.monotonic() + seconds
            self._changed.wait(seconds)
        self._wakes = -math.inf  # it is about to look
