"""Adds up exits in bounded memory: one figure a site, from which every grouping is made afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from emu.trace.names import Names
from emu.trace.reasons import cause_of, place_text
from emu.trace.record import NO_OPERAND, Batch

T = TypeVar("T")

# A site: reason, pc, operand, access, mode, cpl.
Site = tuple[str, int, int, str, str, int]

MOST_SITES: Final = 1 << 16  # beyond these, operands count as one, and beyond twice as many all pcs of a reason
ELSEWHERE: Final = -2
_COARSE: Final = frozenset(("hidden page fault", "code write", "invlpg"))  # their addresses are all different


class Stat:
    """Count, costs and extremes of some exits, in nanoseconds.

    The sums are exact integers, so that nothing is lost by adding ten million times or by joining two of them, as
    with Welford's method in floating point.
    """

    __slots__ = ("count", "device", "emulate", "leave", "least", "most", "resume", "squares", "total")

    def __init__(self) -> None:
        self.count = self.total = self.squares = self.most = 0
        self.least = -1  # none yet
        self.leave = self.emulate = self.device = self.resume = 0

    def add(self, leave: int, emulate: int, device: int, resume: int) -> None:
        """One exit with its four costs."""
        cost = leave + emulate + device + resume
        self.count += 1
        self.total += cost
        self.squares += cost * cost
        if cost > self.most:
            self.most = cost
        if cost < self.least or self.least < 0:
            self.least = cost
        self.leave += leave
        self.emulate += emulate
        self.device += device
        self.resume += resume

    def join(self, other: Stat) -> None:
        """Count all exits of `other` too."""
        if other.count:
            self.least = other.least if self.least < 0 else min(self.least, other.least)
            self.most = max(self.most, other.most)
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.leave += other.leave
        self.emulate += other.emulate
        self.device += other.device
        self.resume += other.resume

    @property
    def least_ns(self) -> int:
        """The smallest cost; 0 without any exit."""
        return max(self.least, 0)

    @property
    def mean(self) -> float:
        """Nanoseconds an exit; 0 without any."""
        return self.total / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of one exit's cost, in nanoseconds, estimated with n - 1."""
        n = self.count
        if n < 2:
            return 0.0
        # never negative, but for a live display's thread that looks in between two of the sums
        return math.sqrt(max(n * self.squares - self.total * self.total, 0) / (n * (n - 1)))

    @property
    def error(self) -> float:
        """Standard error of the mean in percent of the mean: perf's `+-`."""
        mean = self.mean
        return 100.0 * self.deviation / math.sqrt(self.count) / mean if mean else 0.0


@dataclass(slots=True)
class Group:
    """One row: all exits with the same label."""

    label: str
    stat: Stat = field(default_factory=Stat)


@dataclass(slots=True)
class Place:
    """All exits of one kind to one port, address, register or vector."""

    label: str
    exit: str
    device: str
    symbol: str  # the one with most of them, '' for none
    stat: Stat = field(default_factory=Stat)


class Aggregate:
    """What a stream of exits adds up to. Memory is bounded by MOST_SITES, whatever the guest does.

    Another thread may ask for the sums meanwhile; the exits of the moment may then count in a part of them only.
    """

    def __init__(self) -> None:
        self.sites: dict[Site, Stat] = {}
        self.first_ns = self.last_ns = 0  # host time of the first exit's start and of the last one's end

    def add(self, batch: Batch) -> None:
        """Add the exits of `batch`, which lie behind all those before."""
        if not batch:
            return
        sites = self.sites
        if not sites:
            self.first_ns = batch[0].host_ns
        last = batch[-1]
        self.last_ns = last.host_ns + last.cost_ns
        coarse = _COARSE
        for _, _, _, leave, emulate, device, resume, reason, pc, operand, access, _, _, mode, cpl in batch:
            key = (reason, pc, NO_OPERAND if reason in coarse else operand, access, mode, cpl)
            stat = sites.get(key)
            if stat is None:
                stat = self._new(key)
            stat.add(leave, emulate, device, resume)

    def _new(self, key: Site) -> Stat:
        """Room for `key`, which is made coarser where there is none."""
        sites = self.sites
        reason, pc, operand, access, mode, cpl = key
        if len(sites) >= MOST_SITES:
            operand = operand if operand == NO_OPERAND else ELSEWHERE
        if len(sites) >= 2 * MOST_SITES:
            pc = ELSEWHERE
        return sites.setdefault((reason, pc, operand, access, mode, cpl), Stat())

    @property
    def total(self) -> Stat:
        """All exits together."""
        joined = Stat()
        for stat in tuple(self.sites.values()):
            joined.join(stat)
        return joined

    @property
    def span_ns(self) -> int:
        """Host time from the first exit's start to the last one's end."""
        return self.last_ns - self.first_ns

    def groups(self, by: str, names: Names, sort: str = "total") -> list[Group]:
        """One group a label of the grouping `by` (a key of GROUPINGS), the greatest first."""
        label_of = GROUPINGS[by]
        found: dict[str, Group] = {}
        for site, stat in tuple(self.sites.items()):
            label = label_of(site, names)
            group = found.get(label)
            if group is None:
                group = found[label] = Group(label)
            group.stat.join(stat)
        return sorted_by(found.values(), sort, lambda group: (group.stat, group.label))

    def places(self, names: Names, sort: str = "total") -> list[Place]:
        """Ports, addresses, registers and vectors, the greatest first."""
        found: dict[tuple[str, int, str], Place] = {}
        symbols: dict[tuple[str, int, str], dict[str, int]] = {}
        for (reason, pc, operand, access, _, _), stat in tuple(self.sites.items()):
            exit_name, space = cause_of(reason)
            if not space or operand == NO_OPERAND:
                continue
            key = (exit_name, operand, access)
            place = found.get(key)
            if place is None:
                label = "elsewhere" if operand == ELSEWHERE else place_text(space, operand, access)
                place = found[key] = Place(label, exit_name, names.device(space, operand), "")
                symbols[key] = {}
            place.stat.join(stat)
            where = _location(pc, names)
            symbols[key][where] = symbols[key].get(where, 0) + stat.count
        for key, counts in symbols.items():
            found[key].symbol = min(counts, key=lambda name: (-counts[name], name))
        return sorted_by(found.values(), sort, lambda place: (place.stat, place.label))


def _symbol(pc: int, names: Names) -> str:
    return "[elsewhere]" if pc == ELSEWHERE else names.symbol(pc)


def _location(pc: int, names: Names) -> str:
    """The symbol, or the address where there is none."""
    if pc == ELSEWHERE:
        return "[elsewhere]"
    found = names.find(pc)
    return f"{pc:#x}" if found is None else found[0]


def _by_address(site: Site, names: Names) -> str:
    pc = site[1]
    if pc == ELSEWHERE:
        return "[elsewhere]"
    return f"{pc:#x}" if names.find(pc) is None else f"{pc:#x} {names.location(pc)}"


def _by_device(site: Site, names: Names) -> str:
    reason, _, operand, _, _, _ = site
    space = cause_of(reason).space
    if operand == ELSEWHERE:
        return "[elsewhere]"
    return names.device(space, operand) or "[no device]"


GROUPINGS: Final[dict[str, Callable[[Site, Names], str]]] = {
    "reason": lambda site, names: cause_of(site[0]).exit,
    "symbol": lambda site, names: _symbol(site[1], names),
    "address": _by_address,  # of the instruction
    "device": _by_device,
    "vcpu-mode": lambda site, names: f"vcpu0 {site[4] or '?'} cpl{site[5]}",
}
SORTS: Final[dict[str, Callable[[Stat], float]]] = {
    "samples": lambda stat: stat.count,
    "total": lambda stat: stat.total,
    "mean": lambda stat: stat.mean,
}


def sorted_by(rows: Iterable[T], sort: str, of: Callable[[T], tuple[Stat, str]]) -> list[T]:
    """`rows` by falling figure; those with the same figure by name."""
    figure = SORTS[sort]

    def key(row: T) -> tuple[float, str]:
        stat, label = of(row)
        return -figure(stat), label

    return sorted(rows, key=key)
