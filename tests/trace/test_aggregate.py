"""Sums over streams of exits: against the statistics module, in bounded memory, and in every grouping."""

from __future__ import annotations

import math
import random
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from itertools import cycle

import pytest

from emu.trace import aggregate as module
from emu.trace.aggregate import GROUPINGS, Aggregate, Stat
from emu.trace.names import Names
from emu.trace.record import Batch, ExitRecord


def stat_of(costs: list[int]) -> Stat:
    stat = Stat()
    for cost in costs:
        stat.add(cost, 0, 0, 0)
    return stat


def test_error_is_that_of_the_mean() -> None:
    rng = random.Random(5)
    costs = [rng.randrange(10**9) for _ in range(1000)]
    stat = stat_of(costs)
    assert stat.mean == pytest.approx(statistics.mean(costs))
    assert stat.deviation == pytest.approx(statistics.stdev(costs))
    assert stat.error == pytest.approx(100 * statistics.stdev(costs) / math.sqrt(len(costs)) / statistics.mean(costs))
    assert (stat.least_ns, stat.most) == (min(costs), max(costs))


def test_large_costs_that_differ_little_keep_their_spread() -> None:
    stat = stat_of([10**15, 10**15 + 1, 10**15 + 2])
    assert stat.deviation == 1.0


def test_few_exits_have_no_error() -> None:
    assert stat_of([]).error == stat_of([]).mean == stat_of([]).least_ns == 0
    assert stat_of([7]).error == 0
    assert stat_of([0, 0]).error == 0


def test_joining_is_adding() -> None:
    costs = list(range(3, 100, 7))
    joined = Stat()
    joined.join(stat_of([]))
    joined.join(stat_of(costs[:4]))
    joined.join(stat_of(costs[4:]))
    both = stat_of(costs)
    assert all(getattr(joined, name) == getattr(both, name) for name in Stat.__slots__)


@pytest.mark.parametrize("by", GROUPINGS)
def test_groups_hold_every_exit_once(by: str, records: Batch, names: Names) -> None:
    aggregate = Aggregate()
    for record in records:
        aggregate.add([record])
    groups = aggregate.groups(by, names)
    assert sum(group.stat.count for group in groups) == len(records)
    assert sum(group.stat.total for group in groups) == sum(record.cost_ns for record in records) == 40_000
    assert len({group.label for group in groups}) == len(groups)


def test_orders(records: Batch, names: Names) -> None:
    aggregate = Aggregate()
    aggregate.add(records)

    def labels(sort: str) -> list[str]:
        return [group.label for group in aggregate.groups("symbol", names, sort)]

    assert labels("samples") == ["main", "probe", "[unknown]"]
    assert labels("total") == ["main", "probe", "[unknown]"]
    assert labels("mean") == ["main", "[unknown]", "probe"]


def test_span_is_from_first_to_last(records: Batch) -> None:
    aggregate = Aggregate()
    aggregate.add([])
    assert aggregate.span_ns == 0
    aggregate.add(records[:1])
    assert aggregate.span_ns == 10_000
    aggregate.add(records[1:])
    assert aggregate.span_ns == 81_000 + 3_000 - 1_000


def test_hottest_symbol_is_that_with_most_exits(names: Names) -> None:
    def out(pc: int) -> ExitRecord:
        return ExitRecord(0, 0, 0, 1, 1, 1, 1, "out", pc, 0x3F8, "w", 1)

    aggregate = Aggregate()
    aggregate.add([out(0x1000), out(0x2000), out(0x2004), out(0x1008), out(0x2008), out(0x9000)])
    (place,) = aggregate.places(names)
    assert (place.label, place.device, place.symbol, place.stat.count) == ("0x3f8:POUT", "serial", "probe", 6)


def test_a_guest_that_goes_everywhere_is_still_counted(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    monkeypatch.setattr(module, "MOST_SITES", 50)
    aggregate = Aggregate()
    records = [ExitRecord(n, 0, 0, 1, 2, 3, 4, "memory", 4096 * n, 8 * n, "w", 1) for n in range(500)]
    aggregate.add(records)
    assert len(aggregate.sites) <= 2 * 50 + 1
    assert aggregate.total.count == 500
    labels = {place.label: place.stat.count for place in aggregate.places(names)}
    assert labels["elsewhere"] == 450
    assert aggregate.groups("symbol", names)[0].label == "[elsewhere]"
    for by in GROUPINGS:
        assert sum(group.stat.count for group in aggregate.groups(by, names)) == 500


def batches(count: int) -> Iterator[Batch]:
    """Exits as a guest makes them: few places, rising times."""
    size = 4096
    reasons = ("out", "in", "indirect", "hidden page fault", "interrupt")
    for start in range(0, count, size):
        yield [
            ExitRecord(
                n, n * 900, n * 1000, 100, 200 + n % 71, n % 13, 90, reasons[n % 5], 0x1000 + n % 997 * 4,
                n << 12 if n % 5 == 3 else 0x3F8, "w", 1, 0x1000, "long64", n % 2 * 3,
            )
            for n in range(start, min(start + size, count))
        ]  # fmt: skip


def test_a_million_exits_need_little_memory() -> None:
    parts = list(batches(20 * 4096))
    million = [part for part, _ in zip(cycle(parts), range(1_000_000 // 4096), strict=False)]
    started = time.perf_counter()
    aggregate = Aggregate()
    for batch in million:
        aggregate.add(batch)
    assert time.perf_counter() - started < 10
    assert aggregate.total.count == sum(map(len, million)) > 990_000
    tracemalloc.start()
    try:
        bounded = Aggregate()
        for batch in million[:40]:
            bounded.add(batch)
        first = tracemalloc.get_traced_memory()[1]
        for batch in million[40:80]:
            bounded.add(batch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert peak < first * 1.1  # twice as many exits, the same memory
