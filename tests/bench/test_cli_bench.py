"""`vemu bench` as a command: formats, files, and one clear sentence for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emu.bench import compare, nano, native
from emu.bench.rivals import bundled
from guests import catalogue

Vemu = Callable[..., Any]
QUICK = ("--repeats", 1, "--warm-up", 0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compute set is the fib guest, with next to nothing to do; so have the nanobenchmarks."""
    monkeypatch.setattr(compare, "compute_guests", lambda: [bundled("fib", catalogue()["fib"].small_scale)])
    monkeypatch.setattr(nano.rounds_for, "__defaults__", (0.02, 200))


@pytest.mark.usefixtures("quick")
def test_the_compute_set_by_default(vemu: Vemu, tmp_path: Path) -> None:
    done = vemu("bench", *QUICK, "--against", "interpret,unicorn", "--plot", tmp_path / "x.svg")
    assert done.code == 0
    title, header, row = done.out.splitlines()
    assert title == "million guest instructions a second: elapsed time, median of 1, ± half of the spread"
    assert header.split("  ")[0] == "guest"
    assert "translate / plain Unicorn" in header
    assert row.startswith("fib ")
    assert done.err == ""
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


def test_a_given_guest_as_json(vemu: Vemu, tmp_path: Path) -> None:
    guest, report = tmp_path / "own.bin", tmp_path / "report"
    guest.write_bytes(catalogue()["sieve"].image(2000))
    line = ("bench", guest, "--mode", 64, *QUICK, "--against", "unicorn", "--clock", "cpu", "--format", "json")
    done = vemu(*line)
    found = json.loads(done.out)
    (row,) = found["rows"]
    assert (row["guest"], found["clock"], found["repeats"]) == ("own.bin", "cpu", 1)
    assert row["million_per_second"].keys() == {"translate", "unicorn"}
    assert row["instructions"] > 1000
    assert (vemu(*line, "-o", report).out, json.loads(report.read_text()).keys()) == ("", found.keys())


def test_a_run_ends_where_the_console_shows_a_text(vemu: Vemu, little_guest: Path) -> None:
    line = ("bench", little_guest / "say-spin", "--mode", 64, *QUICK, "--against", "interpret")
    assert vemu(*line, "--expect", "hi").code == 0
    done = vemu(*line, "--timeout", 0.3)
    assert (done.code, done.out) == (4, "")
    assert "say-spin: " in done.line
    assert "time-out" in done.line


@pytest.mark.usefixtures("quick")
def test_events(vemu: Vemu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nano, "in_qemu", lambda _timer: nano.in_vemu("translate", _timer))
    line = ("bench", "--nano", "in", "call/ret", "--repeats", 1, "--clock", "cpu")
    done = vemu(*line, "--format", "json", "--plot", tmp_path / "x.png")
    assert done.code == 0
    found = json.loads(done.out)
    assert [row["event"] for row in found["rows"]] == ["in", "call/ret"]
    port = found["rows"][0]
    assert port["ns"]["translate"]["median"] > 100
    assert port["exits"][0]["exit"] == "IO_INSTRUCTION"
    assert port["paper_cycles"]["native"] == "3209"
    assert (tmp_path / "x.png").stat().st_size > 1000
    text = vemu("bench", "--nano", "in", "--repeats", 1, "--format", "markdown").out
    assert "| in | - |" in text
    assert "paper BT" in text


def test_linux_rows_need_a_kernel(vemu: Vemu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = vemu("bench", "--nano", "linux", "--repeats", 1)
    assert done.code == 0
    assert "need a kernel: 'make linux' fetches" in done.out
    mine = tmp_path / "my-kernel"
    mine.write_bytes(b"kernel")
    given: list[Path] = []
    monkeypatch.setattr(native, "measure_linux", lambda kernel, *_: given.append(kernel) or [])
    assert vemu("bench", "--nano", "linux", "--kernel", mine).code == 0
    assert given == [mine]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--against", "kvm"), 2, "--against kvm: known are interpret, unicorn, qemu"),
        (("--nano", "hlt"), 2, "--nano hlt: known are syscall, in, "),
        (("--nano", "--memory", "64M"), 2, "--memory: --nano takes its own guests"),
        (("--memory", "64M"), 2, "--memory: there is no guest"),
        (("fib", "--max-instructions", "5"), 2, "--max-instructions: neither"),
        (("fib", "--kernel", "x"), 2, "--kernel x: it belongs to --nano"),
        (("nothing-like-it",), 4, "nothing-like-it: no such file"),
        (("fib", "-o", "/nowhere/x"), 4, "report /nowhere/x: "),
        (("fib", "--plot", "x.gif"), 2, "--plot x.gif: "),
        (("--nano", "linux", "--kernel", "/nowhere/x"), 4, "kernel /nowhere/x: "),
    ],
)
def test_what_cannot_be_is_told_at_once(vemu: Vemu, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = vemu("bench", *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.line
