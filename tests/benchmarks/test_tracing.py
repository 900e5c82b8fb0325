"""The costs of tracing are measured, not made up: a trace that misses exits is no figure."""

from __future__ import annotations

import pytest

from benchmarks import tracing
from emu.bench.rivals import bundled
from guests import catalogue


def test_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    small = bundled("fib", catalogue()["fib"].small_scale)
    monkeypatch.setattr(tracing, "compute_guests", lambda: [small])
    monkeypatch.setattr(tracing, "_EXITS", 1000)
    monkeypatch.setattr(tracing, "_GUEST", tracing._GUEST.replace((1_000_000).to_bytes(4, "little"), b"\xe8\x03\0\0"))
    found = tracing.measure(1)
    assert found.table == found.worst > 0
    assert found.jsonl_seconds > 0
    assert 20 < found.jsonl_mib < 2000
    monkeypatch.setattr(tracing, "_EXITS", 2000)
    with pytest.raises(RuntimeError, match=r"ended with 33 and 1\d\d\d lines"):
        tracing.measure(1)
