"""Frames fit every screen, and show what happened between two snapshots."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace

import pytest

from emu.engines.base import Occupancy
from emu.top.frame import Screen, frame
from emu.top.live import FrameSink
from emu.top.sample import START, HotBlock, Snapshot

BEFORE = Snapshot(
    2.0, 1.9, "long64 cpl0", 100_000_000, 99_000_000, 0.1, 400, 0, {"in": 1000, "out": 500}, {"com1": 1500}, 200, 0,
)  # fmt: skip
NOW = Snapshot(
    4.0, 3.9, "long64 cpl3", 300_000_000, 298_000_000, 0.3, 500, 1,
    {"in": 3000, "out": 600, "interrupt": 20, "syscall": 7}, {"com1": 3600, "lapic": 20}, 400, 50,
    (
        HotBlock(60, "0x1000 (main)", tuple(f"{n:x}  nop" for n in range(9))),
        HotBlock(20, "0x2000", ("2000  in al, dx", "2001  jmp 0x2000")),
    ),
    Occupancy(4 << 20, 16 << 20, 480, 12, 14, 1536, 12288, 3), ("one", "two\x1b[2J", "three", "four" * 40),
)  # fmt: skip


def texts(now: Snapshot = NOW, before: Snapshot = BEFORE, screen: Screen = Screen(100)) -> list[str]:  # noqa: B008
    return [line.text for line in frame("vemu top: guest", now, before, screen)]


def test_everything_has_its_place() -> None:
    assert texts() == [
        "vemu top: guest  long64 cpl3",
        "100.0 MIPS  300,000,000 instructions  99.5% native  25.0% idle",
        "time 4.0 s  guest 3.9 s",
        "exits  1,064 a second, 3,627 in all",
        "  IO_INSTRUCTION            1,050/s  ####################",
        "  EXTERNAL_INTERRUPT           10/s",
        "  SYSTEM_CALL                   4/s",
        "code cache  [#####...............] 4.0 of 16 MiB  480 blocks (+50/s, 10% of the time)  flushed 1",
        "shadow      [##..................] 1,536 of 12,288 pages  12 tables, 14 pages  3 address spaces",
        "devices  1,060 a second, 3,620 in all",
        "  com1                      1,050/s  ####################",
        "  lapic                        10/s",
        "hottest blocks",
        "   75.0%  0x1000 (main)",
        "            0  nop",
        "            1  nop",
        "            2  nop",
        "            3  nop",
        "            4  nop",
        "            5  nop",
        "            ... and 3 more",
        "   25.0%  0x2000",
        "            2000  in al, dx",
        "            2001  jmp 0x2000",
        "console",
        "  two [2J",
        "  three",
        "  " + "four" * 24 + "f~",
    ]


@pytest.mark.parametrize("width", [1, 10, 30, 59, 60, 80, 200])
@pytest.mark.parametrize("height", [1, 5, 12, 24, 60])
def test_no_screen_is_too_small(width: int, height: int) -> None:
    lines = texts(screen=Screen(width, height))
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("vemu"[:width] if width > 4 else "v"[: width - 1])
    if height >= 24 and width >= 30:
        joined = "\n".join(lines)
        assert all(part in joined for part in ("IO_INSTR", "com1", "0x1000", "three"))


def test_an_interpreted_guest_has_no_cache() -> None:
    lines = texts(replace(NOW, occupancy=None, hot=(), console=()), START)
    assert not any("cache" in line or "native" in line or "hottest" in line or "console" in line for line in lines)
    assert "75.0 MIPS" in lines[1]


def test_nothing_has_happened_yet() -> None:
    lines = texts(START, START)
    assert "0.0 MIPS" in lines[1]
    assert lines[3] == "exits  0 a second, 0 in all"


def test_a_pipe_gets_one_frame_after_the_other_and_the_whole_run() -> None:
    out = io.StringIO()
    with FrameSink("t", out, terminal=False) as sink:
        sink.show(BEFORE)
        sink.show(NOW)
        sink.finish(NOW)
    frames = out.getvalue().split("\n\n")
    assert [frame.splitlines()[1].split("  ")[0] for frame in frames] == ["50.0 MIPS", "100.0 MIPS", "75.0 MIPS"]
    assert "\x1b" not in out.getvalue()


def test_a_terminals_screen_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    with suppress(KeyboardInterrupt), FrameSink("t", out, terminal=True) as sink:
        sink.show(NOW)
        raise KeyboardInterrupt
    text = out.getvalue()
    assert text.count("\x1b[?1049h") == text.count("\x1b[?1049l") == 1
    last = text.rpartition("\x1b[?1049l")[2].splitlines()
    assert last[0] == "t  long64 cpl3"
    assert all(len(line) <= 40 for line in last)
