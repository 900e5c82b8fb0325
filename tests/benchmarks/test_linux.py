"""The Linux benchmark: marks on a console become times, and a run that stops early or does other work is no figure."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import linux
from benchmarks.linux import COLD, QEMU, SHELL, WARM, Run, RunFailed, commands, measure, table_of, timed
from guests.linux import READY

LINES = ("[0.1] Linux", READY, "between", "mark preparation", "mark one", "42", "mark two", "mark end", "[9.9] off")


def printing(*lines: str) -> list[str]:
    text = "\r\n".join(lines) + "\r\n"
    return [sys.executable, "-c", f"print({text!r}, end='', flush=True)"]


def test_marks_become_times() -> None:
    found = timed(printing(*LINES))
    assert list(found.seconds) == [SHELL, "one", "two"]
    assert all(0 <= seconds < 30 for seconds in found.seconds.values())
    assert found.seconds[SHELL] > 0
    assert found.printed == ["42"]


def test_what_firmware_sends_before_does_not_hide_a_mark() -> None:
    cleared = f"\x1bc\x1b[?7l\x1b[2J\x1b[0m{READY}"
    assert list(timed(printing(*(cleared if line == READY else line for line in LINES))).seconds) == [
        SHELL, "one", "two"
    ]  # fmt: skip


def test_a_run_that_ends_early_is_told() -> None:
    with pytest.raises(RunFailed, match="no further than 'one'"):
        timed(printing(READY, "mark one", "Kernel panic"))


def test_a_run_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_SECONDS", 0.5)
    monkeypatch.setattr(linux, "_GRACE", 0.5)
    with pytest.raises(RunFailed, match="no further than 'time to shell'"):
        timed([sys.executable, "-c", "import time; time.sleep(60)"])
    command = printing(*LINES)
    command[2] += "; import time; time.sleep(60)"
    monkeypatch.setattr(linux, "_SECONDS", 60)
    assert timed(command).printed == ["42"]


def test_all_get_the_same() -> None:
    found = commands(Path("image"), Path("initrd"), "quiet", Path("cache"))
    for command in found.values():
        assert {"image", "initrd", "console=ttyS0 quiet", "256M"} <= set(command)
    assert list(found)[:2] == [COLD, WARM]
    assert found[COLD] == found[WARM]
    assert found[COLD][-2:] == ["--cache", "cache"]


def test_other_work_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = {COLD: printing(*LINES), QEMU: printing(*LINES)}
    caches = []

    def fake(_image: Path, _initrd: Path, _append: str, cache: Path) -> dict[str, list[str]]:
        assert not cache.exists()
        cache.mkdir()
        caches.append(cache)
        return programs

    monkeypatch.setattr(linux, "commands", fake)
    found = measure(Path(), Path(), "", 2, Console(quiet=True))
    assert {program: len(runs) for program, runs in found.items()} == {COLD: 2, QEMU: 2}
    assert len(set(caches)) == 2
    programs[QEMU] = printing(*("43" if line == "42" else line for line in LINES))
    with pytest.raises(RunFailed, match="QEMU TCG printed \\['43'\\], the first run \\['42'\\]"):
        measure(Path(), Path(), "", 1, Console(quiet=True))


def test_the_table_has_every_figure_and_the_ratio() -> None:
    runs = {
        COLD: [Run({SHELL: 6.0, "forks": 9.0}), Run({SHELL: 8.0, "forks": 9.0}), Run({SHELL: 7.0, "forks": 9.0})],
        WARM: [Run({SHELL: 3.0, "forks": 4.0})],
        QEMU: [Run({SHELL: 2.0, "forks": 2.0}), Run({SHELL: 1.0, "forks": 2.0}), Run({SHELL: 3.5, "forks": 2.0})],
    }
    text = io.StringIO()
    Console(width=150, file=text).print(table_of("title", runs))
    shown = text.getvalue()
    assert "7.00 (6.00, 8.00, 7.00)" in shown
    assert "2.00 (2.00, 1.00, 3.50)" in shown
    assert "3.5x (goal 6x)" in shown
    assert "1.5x (goal 3x)" in shown
    assert "4.5x " in shown
