"""The costs of single events are differences between two runs."""

from __future__ import annotations

import pytest

from benchmarks import micro


def test_micro_costs_are_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "_seconds", lambda event, count: count * (5e-9 if event else 1e-9))
    assert micro._per_event(b"\x90", 1000) == pytest.approx(4.0)
    per_instruction, expansion = micro._translation()
    assert per_instruction > 0
    assert 1 < expansion < 10
