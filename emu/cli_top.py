"""`vemu top`: runs one guest as `vemu run` does, and shows what it does at the moment."""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final

import click

from emu.cli_options import EXIT_CODES, config_of, guest_options, run_options
from emu.cli_run import (
    ABNORMAL,
    Endpoints,
    RunOptions,
    attended_run,
    check_outputs,
    messages,
    open_endpoints,
    outlets,
    save_screenshot,
)
from emu.config import MachineConfig
from emu.machine import RunResult
from emu.observed import ObservedMachine
from emu.report import is_terminal, print_ending
from emu.top.live import FrameSink
from emu.top.sample import Snapshot

_SAMPLE: Final = 0.02  # seconds between two looks at the guest
_INTERVALS: Final = click.FloatRange(0.1, 3600)
_KEPT: Final = 4096  # bytes of the console


class Tail:
    """The last lines of a console; callable from any thread."""

    def __init__(self) -> None:
        self._bytes: deque[int] = deque(maxlen=_KEPT)

    def write(self, data: bytes) -> None:
        self._bytes.extend(data)

    def lines(self, most: int) -> tuple[str, ...]:
        """At most so many, without empty ones."""
        text = bytes(self._bytes).decode("utf-8", "replace")
        return tuple([line.rstrip() for line in text.splitlines() if line.strip()][-most:])


class Sampler:
    """Has samples taken of a machine, and a snapshot shown at every interval, as long as the context lasts."""

    def __init__(self, machine: ObservedMachine, sink: FrameSink, tail: Tail, interval: float) -> None:
        self._machine, self._sink, self._tail = machine, sink, tail
        self._looks = max(round(interval / _SAMPLE), 1)
        self._done = threading.Event()
        self._waiting = threading.Event()  # a look was asked for, and not had yet
        self._snapshot: Snapshot | None = None
        self._thread = threading.Thread(target=self._watch, name="vemu-top", daemon=True)
        self.failed: BaseException | None = None

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        number = 0
        try:
            while not self._done.wait(_SAMPLE):
                number += 1
                if not self._waiting.is_set():
                    self._waiting.set()
                    whole = number >= self._looks
                    self._machine.submit(self._whole if whole else self._look)
                    number = 0 if whole else number
                snapshot, self._snapshot = self._snapshot, None
                if snapshot is not None:
                    self._sink.show(snapshot)
        except BaseException as error:  # nobody reads what is shown: the run ends, and tells
            self.failed = error
            self._machine.stop()

    def _look(self) -> None:
        self._machine.sample()
        self._waiting.clear()

    def _whole(self) -> None:
        self._machine.sample()
        self._snapshot = self._machine.snapshot(self._tail.lines(3))
        self._waiting.clear()


def top_guest(config: MachineConfig, options: RunOptions, interval: float) -> int:
    """Run `config`'s guest, its console hidden but for its last lines; returns its exit code. Raises VemuError."""
    config.validate()
    check_outputs(config, options)
    tail, ends = Tail(), Endpoints()

    def both(data: bytes) -> None:
        ends.write(data)
        tail.write(data)

    terminal = is_terminal(sys.stdout)
    with ExitStack() as cleanup:
        machine = cleanup.enter_context(ObservedMachine(config, **outlets(config, both)))
        open_endpoints(ends, config, RunOptions(json=True), cleanup)
        if ends.output is not None:
            ends.output.failed = machine.stop
        result = _shown(machine, config, options, ends, tail, interval, terminal)
        if ends.output is not None:
            ends.output.check()
        sys.stdout.flush()
        with messages() as stream:
            if not options.quiet or result.ending.reason in ABNORMAL:
                print_ending(result.ending, stream)
        save_screenshot(machine, options)
    return result.ending.code


def _shown(
    machine: ObservedMachine, config: MachineConfig, options: RunOptions, ends: Endpoints, tail: Tail, interval: float,
    terminal: bool,
) -> RunResult:  # fmt: skip
    title = f"vemu top: {config.guest_name}, {config.engine}"
    with FrameSink(title, sys.stdout, terminal=terminal) as sink:
        with Sampler(machine, sink, tail, interval) as sampler:
            result = attended_run(machine, config, ends, RunOptions(quiet=True))
        if sampler.failed is not None:
            raise sampler.failed
        sink.finish(machine.snapshot(tail.lines(3), whole=True))
    return result


@click.command(epilog=EXIT_CODES)
@guest_options
@run_options
@click.option("--interval", type=_INTERVALS, default=1.0, show_default=True, metavar="SECONDS", help="Between frames.")
def top(screenshot: str | None, quiet: bool, interval: float, **options: Any) -> int:
    """Run GUEST and show what it does at the moment: speed, exits, hottest blocks, memory, devices. Ctrl-C ends it.

    On a terminal one screen is redrawn, and the figures of the whole run stay; elsewhere frames follow each other. The
    guest's console is hidden but for its last lines.
    """
    from pathlib import Path

    output = RunOptions(None if screenshot is None else Path(screenshot), quiet=quiet)
    return top_guest(config_of(**options), output, interval)


COMMANDS: Final = {"top": top}
