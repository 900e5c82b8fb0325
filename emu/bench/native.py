"""The Linux program of the nanobenchmarks: on the bare CPU, and as the only process of a guest's Linux."""

from __future__ import annotations

import dataclasses
import os
import platform
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emu.bench import nano
from emu.bench.console import ELAPSED, Lines, NotMeasured, Timer, run_process
from emu.bench.figures import Figure
from emu.bench.nano import BARE, QEMU, TRANSLATE, Event, ExitShare, Loops, NanoRow, Platform
from emu.bench.rivals import Subject, qemu_command
from emu.config import MachineConfig
from emu.exits import EndReason
from emu.machine import Machine
from emu.memory import MIB
from emu.trace.aggregate import Aggregate
from emu.trace.pipeline import Pipeline, Recorder
from emu.trace.record import Batch, ExitRecord
from emu.traced import TracedMachine
from guests import linux_programs
from guests.cpio import Archive

TESTS: Final = ("call-ret", "store", "syscall", "divzero", "pgfault", "fork", "switch")  # in the program's order
_COUNTS_AT: Final = 0x1008  # in the file: the first counts lie 8 bytes behind the program's start
_RIGHT: Final = "nano: right"
_TIMEOUT: Final = 300.0  # seconds, a boot included
_MEMORY: Final = 256 * MIB
_APPEND: Final = "console=ttyS0 quiet loglevel=1"
_CONSOLE: Final = (5, 1)  # /dev/console (Documentation/admin-guide/devices.txt)
# Rounds inside a guest's Linux, so that each test takes some tenths of a second under vemu; and how many times as many
# under QEMU, and on the bare CPU.
_ROUNDS: Final = {"syscall": 2000, "divzero": 400, "pgfault": 400, "fork": 30, "switch": 400}
_QEMU_MORE, _BARE_MORE = 20, 400


def program(counts: Mapping[str, int], passes: int = 1) -> bytes:
    """The program with these rounds by test (of TESTS; no round where a test is not named), `passes` times over."""
    image = bytearray(linux_programs()["nano"].image())
    struct.pack_into(f"<{len(TESTS)}I", image, _COUNTS_AT, *(counts.get(name, 0) for name in TESTS))
    struct.pack_into("<I", image, _COUNTS_AT + 4 * len(TESTS), passes)
    return bytes(image)


# -- the bare CPU --------------------------------------------------------------------------------------------------


def on_bare_cpu(timer: Timer) -> Platform:
    """The host itself; NotMeasured for a privileged event, and where the host is no x86-64 Linux."""

    def run(event: Event, rounds: int) -> Loops:
        if not event.native:
            raise NotMeasured("privileged: only a kernel may do it")
        return run_native({event.native: rounds}, 1, timer)[event.native][0]

    return run


def run_native(counts: Mapping[str, int], passes: int, timer: Timer = ELAPSED) -> dict[str, list[Loops]]:
    """Run the program here; the two times of every test and pass. Raises NotMeasured."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotMeasured("the host is no x86-64 Linux")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nano"
        fd = os.open(file, os.O_WRONLY | os.O_CREAT, 0o700)
        with open(fd, "wb") as out:
            out.write(program(counts, passes))
        lines = Lines()
        done = run_process([str(file)], lines, lambda: False, _TIMEOUT, timer)
    if done.status != 0:
        raise NotMeasured(f"the program ended with {done.status}: {lines.tail()!r}")
    return {name: nano.loops_in(lines, name) for name in counts}


# -- a guest's Linux -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinuxTest:
    """One row: a test of the program."""

    name: str
    test: str
    what: str
    paper: tuple[str, str, str] = ("-", "-", "-")


LINUX_TESTS: Final = (
    LinuxTest("Linux syscall", "syscall", "a system call that the kernel refuses"),
    LinuxTest("Linux divzero", "divzero", "division by zero, a signal and its handler"),
    LinuxTest("Linux pgfault", "pgfault", "page fault, a signal and its handler"),
    LinuxTest(
        "Linux fork+wait", "fork", "a process made, ended and waited for",
        ("native", "6.1 x native", "17.7 x native"),
    ),
    LinuxTest("Linux switch", "switch", "one switch of processes, less the pipes that make it"),
)  # fmt: skip


def initramfs(counts: Mapping[str, int], passes: int) -> bytes:
    """An archive whose /init is the program."""
    archive = Archive()
    archive.folder("dev")
    archive.character_device("dev/console", *_CONSOLE)
    archive.file("init", program(counts, passes), 0o755)
    return archive.data()


def in_linux(
    config: MachineConfig, boot: Callable[[Subject, Lines, Timer], None], rounds: Mapping[str, int], passes: int,
    timer: Timer,
) -> dict[str, list[Loops]]:  # fmt: skip
    """Boot `config`'s kernel with the program by `boot`, and take the times. Raises NotMeasured."""
    lines = Lines()
    with tempfile.TemporaryDirectory() as folder:
        initrd = Path(folder) / "initrd"
        initrd.write_bytes(initramfs(rounds, passes))
        config = dataclasses.replace(config, initrd=initrd, append=_APPEND, memory=_MEMORY, expect=_RIGHT)
        boot(Subject("linux", config), lines, timer)
    return {name: nano.loops_in(lines, name) for name in rounds}


def boot_vemu(subject: Subject, lines: Lines, timer: Timer) -> None:
    """Run under `translate`."""
    config = dataclasses.replace(subject.config, timeout=_TIMEOUT)
    lines.clock = timer.now
    with Machine(config, console=lines.write) as machine:
        ending = machine.run().ending
    if ending.reason is not EndReason.EXPECTED:
        raise NotMeasured(f"Linux under vemu: {ending.detail}; its console: {lines.tail()!r}")


def boot_qemu(subject: Subject, lines: Lines, timer: Timer) -> None:
    """Run under QEMU TCG."""
    right = _RIGHT.encode()
    with tempfile.TemporaryDirectory() as folder:
        done = run_process(qemu_command(subject, Path(folder)), lines, lambda: right in lines.text, _TIMEOUT, timer)
    if done.status is not None:
        raise NotMeasured(f"Linux under QEMU ended with {done.status}; its console: {lines.tail()!r}")


class ExitsBetween:
    """Sums up the exits between the marks `empty` and `event` of each test."""

    def __init__(self) -> None:
        self.sums: dict[str, Aggregate] = {}
        self._current: Aggregate | None = None
        self._recorder = Recorder(Pipeline([self]))
        self._seen = 0  # lines

    def add(self, batch: Batch) -> None:
        """Exits in order."""
        if self._current is not None:
            self._current.add(batch)

    def record(self, record: ExitRecord) -> None:
        self._recorder.record(record)

    def console(self, lines: Lines) -> None:
        """The console has these lines now."""
        for _, text in lines.ends[self._seen :]:
            self._recorder.flush()
            mark, _, test = text.partition(" ")
            self._current = self.sums.setdefault(test, Aggregate()) if mark == "empty" and test in TESTS else None
        self._seen = len(lines.ends)


def linux_exits(config: MachineConfig, timer: Timer) -> dict[str, list[ExitShare]]:
    """The exits that an event of each test takes under `translate`, counted in one more boot. Raises NotMeasured."""
    between = ExitsBetween()

    def boot(subject: Subject, lines: Lines, timer: Timer) -> None:
        def both(data: bytes) -> None:
            lines.write(data)
            between.console(lines)

        config = dataclasses.replace(subject.config, timeout=_TIMEOUT)
        with TracedMachine(config, now=timer.now_ns, console=both) as machine:
            machine.exits_to(between.record)
            machine.run()

    in_linux(config, boot, _ROUNDS, 1, timer)
    return {test: nano.shares_of(between.sums[test], rounds) for test, rounds in _ROUNDS.items()}


def measure_linux(
    kernel: Path, repeats: int, timer: Timer, told: Callable[[str], None] | None = None
) -> list[NanoRow]:  # fmt: skip
    """The rows of LINUX_TESTS with this kernel image; one boot a platform, the tests `repeats` times over in it.

    Not under the interpreter, for which a boot is too much. On the bare CPU the time that passes is measured, whatever
    `timer` says: the work is that of several processes.
    """
    config = MachineConfig(kernel.read_bytes(), format="linux")
    more = {name: rounds * _QEMU_MORE for name, rounds in _ROUNDS.items()}
    most = {name: rounds * _BARE_MORE for name, rounds in _ROUNDS.items()}
    rows = [NanoRow(test.name, test.what, test.paper) for test in LINUX_TESTS]
    for row in rows:
        row.missing[nano.INTERPRET] = "a boot under the interpreter takes too long"
    platforms: dict[str, tuple[Mapping[str, int], Callable[[], dict[str, list[Loops]]]]] = {
        BARE: (most, lambda: run_native(most, repeats + 1)),
        TRANSLATE: (_ROUNDS, lambda: in_linux(config, boot_vemu, _ROUNDS, repeats + 1, timer)),
        QEMU: (more, lambda: in_linux(config, boot_qemu, more, repeats + 1, timer)),
    }
    for name, (rounds, run) in platforms.items():
        if told is not None:
            told(f"Linux: {name}")
        try:
            found = run()
        except NotMeasured as why:
            for row in rows:
                row.missing[name] = str(why)
            continue
        for row, test in zip(rows, LINUX_TESTS, strict=True):
            # the first pass warms everything up and does not count
            costs = tuple(nano.cost_ns(loops, rounds[test.test]) for loops in found[test.test][1:])
            row.ns[name] = Figure(costs)
    if TRANSLATE in rows[0].ns:
        if told is not None:
            told("Linux: the exits")
        exits = linux_exits(config, timer)
        for row, test in zip(rows, LINUX_TESTS, strict=True):
            row.exits = exits[test.test]
    return rows
