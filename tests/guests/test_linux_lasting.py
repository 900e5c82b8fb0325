"""Linux again and again in one process, and killed while it writes; the campaigns beside this file do more of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests import kills
from tests.guests.linux import kernel_and_initrd

ROOT = Path(__file__).parents[2]


def test_boots_in_a_row_leave_nothing_behind(tmp_path: Path) -> None:
    """In a process of their own, because in this one the heap is as other tests left it."""
    kernel_and_initrd("cloud", tmp_path)  # skips or fails where there is none to be had
    line = [sys.executable, "-m", "tests.guests.boots", "--append", "acpi=off nolapic noapic", "--count", "4"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 boots" in done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    kills.fill(folder, tmp_path_factory.mktemp("fill"))
    return folder


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_kill_damages_nothing(tmp_path: Path, cache: Path, seed: int) -> None:
    kills.once(seed, tmp_path, cache)
