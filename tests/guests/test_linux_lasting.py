"""Linux again and again in one process, and killed while it writes; the campaigns beside this file do more of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests import boots, kills


def test_boots_in_a_row_leave_nothing_behind(tmp_path: Path) -> None:
    figures = list(boots.boots("cloud", "acpi=off nolapic noapic", 4, tmp_path))
    assert boots.growth(figures) < boots.ALLOWED, figures


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    kills.fill(folder, tmp_path_factory.mktemp("fill"))
    return folder


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_kill_damages_nothing(tmp_path: Path, cache: Path, seed: int) -> None:
    kills.once(seed, tmp_path, cache)
