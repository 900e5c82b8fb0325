"""Medians, spreads, ratios and means."""

from __future__ import annotations

import pytest

from emu.bench.figures import Figure, geometric_mean, ratio


def test_median_and_spread() -> None:
    figure = Figure((4.0, 1.0, 2.0))
    assert (figure.median, figure.spread) == (2.0, 0.75)
    assert figure.as_json() == {"median": 2.0, "spread": 0.75, "samples": [4.0, 1.0, 2.0]}
    assert Figure((3.0,)).spread == 0.0
    assert Figure((-1.0, 0.0, 1.0)).spread == 0.0


def test_ratios_need_both() -> None:
    assert ratio(Figure((6.0,)), Figure((2.0,))) == 3.0
    assert ratio(None, Figure((2.0,))) is ratio(Figure((2.0,)), None) is ratio(Figure((1.0,)), Figure((-1.0,))) is None


def test_means_are_geometric_and_absent_where_a_value_is() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([2.0, None]) is geometric_mean([]) is None
