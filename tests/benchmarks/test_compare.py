"""The benchmarks run and report what they measured."""

from __future__ import annotations

import dataclasses
import math

import pytest

from benchmarks import compare, micro, plain
from benchmarks.compare import Comparison, Row
from guests import catalogue


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> str:
    """The fib guest with so little to do that every engine is done at once, and no QEMU."""
    guest = catalogue()["fib"]
    assert guest.scale is not None
    monkeypatch.setattr(compare.qemu, "available", lambda: False)
    small = dataclasses.replace(guest, scale=dataclasses.replace(guest.scale, bench=guest.scale.small))
    monkeypatch.setattr(compare, "catalogue", lambda: {"fib": small})
    return guest.expect_small


def test_a_row_comes_from_runs_that_agree(short: str) -> None:
    (guest,) = compare.compute_guests()
    row = compare.compare(guest, 1)
    assert row.guest == "fib"
    assert 1000 < row.instructions < 30_000
    assert min(row.interpret, row.translate, row.plain) > 0
    assert row.qemu is None
    assert row.translate_over_plain == pytest.approx(row.translate / row.plain)
    seconds, console = plain.run_plain(guest, guest.small_scale)
    assert console == short
    assert seconds > 0


def test_means_are_geometric_and_absent_where_a_figure_is() -> None:
    rows = [Row("a", 1, 1.0, 2.0, 1.0, None), Row("b", 1, 1.0, 8.0, 1.0, 4.0)]
    comparison = Comparison(rows)
    assert comparison.mean("translate_over_interpret") == pytest.approx(math.sqrt(16))
    assert comparison.mean("translate_over_qemu") is None


def test_micro_costs_are_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "_seconds", lambda event, count: count * (5e-9 if event else 1e-9))
    assert micro._per_event(b"\x90", 1000) == pytest.approx(4.0)
    per_instruction, expansion = micro._translation()
    assert per_instruction > 0
    assert 1 < expansion < 10
