"""The Linux benchmark: marks on a console become times, and a run that stops early is no figure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.linux import RunFailed, commands, timed
from guests.linux import READY


def printing(*lines: str) -> list[str]:
    text = "\n".join(lines)
    return [sys.executable, "-c", f"print({text!r}, flush=True); import time; time.sleep(60)"]


def test_marks_become_times() -> None:
    found = timed(printing("[0.1] Linux", READY, "mark preparation", "mark one", "42", "mark two", "mark end"))
    assert list(found) == ["time to shell", "one", "two"]
    assert all(0 <= seconds < 30 for seconds in found.values())
    assert found["time to shell"] > 0


def test_a_run_that_ends_early_is_told() -> None:
    with pytest.raises(RunFailed, match="no further than 'one'"):
        timed([sys.executable, "-c", f"print('{READY}\\nmark one\\nKernel panic')"])


def test_both_get_the_same() -> None:
    for command in commands(Path("image"), Path("initrd"), "quiet").values():
        assert {"image", "initrd", "console=ttyS0 quiet", "256M"} <= set(command)
