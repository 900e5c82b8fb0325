"""The nanobenchmarks of Adams and Agesen (ASPLOS 2006): what single events cost, on each of several platforms.

A guest (`guests/nano-*.s`) runs an empty loop and one with the event, and shows on its console when each is over. An
event's cost is the difference, divided by the rounds; the console's own time is the same behind both loops.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from emu.bench.console import Lines, NotMeasured, Timer, run_process
from emu.bench.figures import Figure
from emu.bench.rivals import Subject, bundled, qemu_command
from emu.machine import Machine
from emu.trace.aggregate import Aggregate, Stat
from emu.trace.names import Names
from emu.trace.pipeline import Pipeline, Recorder
from emu.traced import TracedMachine

BARE, INTERPRET, TRANSLATE, QEMU = "bare CPU", "interpret", "translate", "QEMU TCG"
PLATFORMS: Final = (BARE, INTERPRET, TRANSLATE, QEMU)
ENOUGH: Final = 0.1  # seconds that the loop with the event shall take
_TRIED: Final = 0.01  # seconds from which a number of rounds is reckoned
_FIRST: Final = 200  # rounds of the first try
_MOST: Final = 1 << 28
_TIMEOUT: Final = 120.0
_COUNTED: Final = 2000  # rounds of which the exits are counted
_WARM: Final = 16  # and rounds that a guest makes before (guests/nano.inc)
_OFTEN: Final = 0.05  # exits of a reason a round, from which it belongs to the event


@dataclass(frozen=True, slots=True)
class Event:
    """One event: the bundled guest that has it, and the test of the program for the bare CPU ("": privileged).

    `paper` are the cycles that the paper gives for native code, VMware's binary translator and its first VT-x monitor,
    on a 3.8 GHz Pentium 4. A round has the event `each` times.
    """

    name: str
    guest: str
    native: str
    paper: tuple[str, str, str]
    what: str
    each: int = 1


EVENTS: Final = (
    Event("syscall", "nano-syscall", "syscall", ("-", "native + 2000", "native"), "system call and return"),
    Event("in", "nano-in", "", ("3209", "214", "15826"), "IN from port 80h"),
    Event("cr8wr", "nano-cr8", "", ("-", "35", "native"), "MOV to CR8"),
    Event("call/ret", "nano-callret", "call-ret", ("11", "51", "11"), "CALL and RET", 8),
    Event("divzero", "nano-divzero", "divzero", ("889", "3223", "1014"), "division by zero, handled by the kernel"),
    Event("pgfault", "nano-pgfault", "pgfault", ("1093", "3927", "11242"), "page fault, handled by the kernel"),
    Event("ptemod", "nano-ptemod", "store", ("1", "391", "12733"), "store to a page-table entry in use", 8),
    Event("remap", "nano-remap", "", ("-", "-", "-"), "such a store, INVLPG, and a load from the page"),
)  # fmt: skip
# What the bare CPU's figure is, where it is not the same event.
UNLIKE: Final = {
    "syscall": "with the host kernel's own entry and exit",
    "divzero": "to a signal handler of the host's kernel and back",
    "pgfault": "to a signal handler of the host's kernel and back",
    "ptemod": "a store to ordinary memory",
}
Loops = tuple[float, float]  # seconds of the empty loop and of the one with the event


@dataclass(frozen=True, slots=True)
class ExitShare:
    """Exits of one kind that an event takes: how many a round, and what one costs, by parts (under a trace)."""

    exit: str
    per_event: float
    stat: Stat

    @property
    def parts(self) -> dict[str, float]:
        """Mean nanoseconds by part."""
        stat = self.stat
        sums = {"leave": stat.leave, "emulate": stat.emulate, "device": stat.device, "resume": stat.resume}
        return {name: total / stat.count for name, total in sums.items()}

    def as_json(self) -> dict[str, object]:
        costs = {f"{name}_ns": mean for name, mean in self.parts.items()}
        return {"exit": self.exit, "per_event": self.per_event, "mean_ns": self.stat.mean} | costs


@dataclass(slots=True)
class NanoRow:
    """One event: nanoseconds by platform, why there is no figure, and the exits it takes under `translate`."""

    name: str
    what: str
    paper: tuple[str, str, str] = ("-", "-", "-")
    ns: dict[str, Figure] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    exits: list[ExitShare] | None = None  # not counted

    def as_json(self, cycles: float | None) -> dict[str, object]:
        """`cycles` per nanosecond."""
        return {
            "event": self.name,
            "what": self.what,
            "ns": {name: figure.as_json() for name, figure in self.ns.items()},
            "cycles": None if cycles is None else {n: figure.median * cycles for n, figure in self.ns.items()},
            "missing": self.missing,
            "paper_cycles": dict(zip(("native", "binary_translation", "vt_x"), self.paper, strict=True)),
            "exits": None if self.exits is None else [share.as_json() for share in self.exits],
        }  # fmt: skip


def loops_in(lines: Lines, suffix: str = "") -> list[Loops]:
    """The times of all `begin`, `empty`, `event` marks (with ` suffix` behind each). Raises NotMeasured for none."""
    behind = f" {suffix}" if suffix else ""
    found: list[Loops] = []
    at: dict[str, float] = {}
    for when, text in lines.ends:
        mark = text.removesuffix(behind) if text.endswith(behind) else ""
        if mark in ("begin", "empty"):
            at[mark] = when
        elif mark == "event" and len(at) == 2:
            found.append((at["empty"] - at["begin"], when - at["empty"]))
            at = {}
    if not found:
        raise NotMeasured(f"the console showed no marks{behind}, but {lines.tail()!r}")
    return found


Platform = Callable[[Event, int], Loops]  # runs so many rounds; raises NotMeasured


def in_vemu(engine: str, timer: Timer) -> Platform:
    """One of vemu's engines."""

    def run(event: Event, rounds: int) -> Loops:
        subject, lines = bundled(event.guest, rounds), Lines(timer.now)
        config = dataclasses.replace(subject.config, engine=engine, timeout=_TIMEOUT)
        with Machine(config, console=lines.write) as machine:
            ending = machine.run().ending
        return _loops(subject, lines, ending.code, ending.detail)

    return run


def in_qemu(timer: Timer) -> Platform:
    """QEMU TCG."""

    def run(event: Event, rounds: int) -> Loops:
        subject, lines = bundled(event.guest, rounds), Lines()
        with tempfile.TemporaryDirectory() as folder:
            command = qemu_command(subject, Path(folder))
            done = run_process(command, lines, lambda: False, _TIMEOUT, timer)
        return _loops(subject, lines, done.status, f"QEMU ended with {done.status}")

    return run


def _loops(subject: Subject, lines: Lines, code: int | None, how: str) -> Loops:
    """The run's two times; NotMeasured where the guest did not come to a good end."""
    assert subject.guest is not None
    if code != subject.guest.exit_code or lines.text.decode("latin-1") != subject.guest.expect:
        raise NotMeasured(f"{subject.name} went wrong: {how}; its console: {lines.tail()!r}")
    return loops_in(lines)[0]


def rounds_for(run: Callable[[int], Loops], seconds: float = ENOUGH, first: int = _FIRST) -> int:
    """An even number of rounds with which the event's loop takes about `seconds`."""
    rounds = first
    while True:
        _, event = run(rounds)
        if event >= _TRIED or rounds >= _MOST:
            return min(max(int(rounds * seconds / max(event, 1e-9)), first), _MOST) & -2
        # the first marks are less exact than the later ones: not too far at once
        rounds = min(rounds * min(int(2 * _TRIED / max(event, 1e-6)) + 1, 50), _MOST) & -2


def cost_ns(loops: Loops, events: int) -> float:
    """Nanoseconds of one event."""
    empty, event = loops
    return (event - empty) / events * 1e9


def measure(
    events: Iterable[Event], platforms: Mapping[str, Platform], repeats: int, timer: Timer,
    told: Callable[[str], None] | None = None,
) -> list[NanoRow]:  # fmt: skip
    """Every event on every platform, `repeats` runs each, the platforms in turn; `told` hears what is about to run."""
    rows = []
    for event in events:
        row = NanoRow(event.name, event.what, event.paper)
        rounds: dict[str, int] = {}
        samples: dict[str, list[float]] = {}
        for number in range(repeats + 1):  # the first round finds how much work suits a platform, and warms it up
            for name, platform in platforms.items():
                if name in row.missing:
                    continue
                if told is not None:
                    told(f"{event.name}: {name}")
                try:
                    if number == 0:
                        rounds[name] = rounds_for(lambda n, run=platform, event=event: run(event, n))  # type: ignore[misc]
                    else:
                        samples.setdefault(name, []).append(
                            cost_ns(platform(event, rounds[name]), rounds[name] * event.each)
                        )
                except NotMeasured as why:
                    row.missing[name] = str(why)
        row.ns = {name: Figure(tuple(found)) for name, found in samples.items()}
        row.exits = exits_of(event, timer)
        rows.append(row)
    return rows


def exits_of(event: Event, timer: Timer) -> list[ExitShare]:
    """The exits that the event takes under `translate`, counted in a traced run, the costliest first."""
    aggregate = Aggregate()
    recorder = Recorder(Pipeline([aggregate]))
    with TracedMachine(bundled(event.guest, _COUNTED).config, now=timer.now_ns) as machine:
        machine.exits_to(recorder.record)
        machine.run()
    recorder.flush()
    return shares_of(aggregate, (_COUNTED + _WARM) * event.each)


def shares_of(aggregate: Aggregate, events: int) -> list[ExitShare]:
    """What so many events have to do with all these exits, but for those of a rare kind."""
    groups = aggregate.groups("reason", Names())
    shares = [ExitShare(group.label, group.stat.count / events, group.stat) for group in groups]
    return [share for share in shares if share.per_event >= _OFTEN]
