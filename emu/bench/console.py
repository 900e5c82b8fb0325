"""Runs something that writes on a console, and notes when its lines arrive."""

from __future__ import annotations

import os
import resource
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

_CHUNK: Final = 1 << 16
_CPUCLOCK_SCHED: Final = 2
_SHOWN: Final = 300  # characters of a console in a message


class NotMeasured(Exception):
    """There is no figure; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Timer:
    """What is measured: the time that passes, or (`cpu`) the processors' time that the work itself takes.

    The latter is little disturbed by what else the host does; it leaves out waiting.
    """

    cpu: bool = False

    def now(self) -> float:
        """Seconds, of this process."""
        return time.process_time() if self.cpu else time.perf_counter()

    def now_ns(self) -> int:
        """Nanoseconds, of this thread."""
        return time.thread_time_ns() if self.cpu else time.monotonic_ns()

    def of_process(self, pid: int) -> float:
        """Seconds, of a process that was started and not yet waited for."""
        if not self.cpu:
            return time.perf_counter()
        # clock_getcpuclockid(3), which Python lacks: MAKE_PROCESS_CPUCLOCK of Linux, include/linux/posix-timers.h
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)

    def of_children(self) -> float:
        """Seconds, of all processes that were waited for."""
        if not self.cpu:
            return time.perf_counter()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


ELAPSED: Final = Timer()


@dataclass(slots=True)
class Lines:
    """A console's text, and when each of its lines ended, in seconds of `clock`."""

    clock: Callable[[], float] = time.perf_counter
    text: bytearray = field(default_factory=bytearray)
    ends: list[tuple[float, str]] = field(default_factory=list)
    _at: int = 0

    def write(self, data: bytes) -> None:
        now = self.clock()
        self.text += data
        while (end := self.text.find(b"\n", self._at)) >= 0:
            self.ends.append((now, self.text[self._at : end].decode("utf-8", "replace").strip()))
            self._at = end + 1

    def tail(self) -> str:
        return bytes(self.text[-_SHOWN:]).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that came to its end, or was ended: seconds it took, its status (None where it was ended)."""

    seconds: float
    status: int | None


def run_process(
    command: Sequence[str], lines: Lines, done: Callable[[], bool], timeout: float, timer: Timer = ELAPSED
) -> Process:
    """Run `command`, its standard output given to `lines`, until it ends or `done()`.

    Raises NotMeasured where it cannot be started or takes more than `timeout` seconds.
    """
    end = time.monotonic() + timeout
    started = timer.of_children()
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
    except OSError as error:
        raise NotMeasured(f"{command[0]} does not run: {error.strerror}") from error
    lines.clock = lambda: timer.of_process(process.pid)
    ended = False
    with process, selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while not ended and not done():
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise NotMeasured(f"{os.path.basename(command[0])} was not done after {timeout:g} seconds")
                data = os.read(process.stdout.fileno(), _CHUNK)
                lines.write(data)
                ended = not data
        finally:
            if not ended:
                process.kill()
            status = process.wait()
    return Process(timer.of_children() - started, status if ended else None)
