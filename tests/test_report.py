"""The summary, tables and JSON: figures that add up, shares that stay shares, plain text in a pipe."""

from __future__ import annotations

import io
import json

import pytest

from emu.exits import Ending, EndReason
from emu.machine import RunResult, RunStats
from emu.report import (
    as_json,
    chained_share,
    is_terminal,
    mips,
    native_share,
    print_ending,
    print_summary,
    print_table,
    summary_rows,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stats(**changed: object) -> RunStats:
    made = RunStats(
        instructions=2_000_000, seconds=0.5, native_instructions=1_500_000, blocks=10, links=6, direct_exits=8,
        translated_instructions=100, guest_bytes=300, host_bytes=1200, translation_seconds=0.002,
        exits={"out": 30, "in": 40, "never": 0},
    )  # fmt: skip
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def test_shares() -> None:
    assert mips(stats()) == 4.0
    assert native_share(stats()) == 0.75
    assert chained_share(stats()) == 0.75
    assert chained_share(stats(links=20)) == 1.0


def test_nothing_happened() -> None:
    empty = RunStats()
    assert mips(empty) == native_share(empty) == chained_share(empty) == 0.0
    rows = summary_rows(empty)
    assert rows[0] == ("guest instructions", "0", "")
    assert not any(name == "blocks" for name, _, _ in rows)


def test_summary_rows() -> None:
    rows = {name: (value, remark) for name, value, remark in summary_rows(stats())}
    assert rows["guest instructions"][0] == "2,000,000"
    assert rows["speed"] == ("4.00 MIPS", "in 0.500 s")
    assert rows["run natively"][0] == "75.00%"
    assert rows["blocks"] == ("10", "100 instructions at 20.0 us")
    assert rows["chained"] == ("75.0%", "of 8 direct exits")
    assert rows["code expansion"] == ("4.00", "300 to 1,200 bytes")
    assert rows["exits"][0] == "70"
    assert list(rows)[-2:] == ["  in", "  out"]


def test_many_exits_still_fit_one_screen() -> None:
    rows = summary_rows(stats(exits={f"reason {n}": n + 1 for n in range(40)}))
    assert len(rows) <= 24
    assert rows[-1] == ("  other reasons", f"{sum(range(1, 29)):,}", "28 of them")
    assert rows[6][1] == f"{sum(range(1, 41)):,}"


def test_plain_table_lines_up() -> None:
    out = io.StringIO()
    print_table(("name", "n"), [("a", "1"), ("long name", "100")], out, title="title", right=(1,))
    assert out.getvalue() == "title\na            1\nlong name  100\n"


def test_empty_table() -> None:
    out = io.StringIO()
    print_table(("name", "n"), [], out)
    assert out.getvalue() == ""


def test_terminal_table_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    print_summary(stats(), "a [red]title[/red]", out)
    assert "─" in out.getvalue()
    assert "a [red]title[/red]" in out.getvalue()  # a guest's words are no markup
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(out)


def test_ending_of_several_lines() -> None:
    out = io.StringIO()
    print_ending(Ending(EndReason.TRIPLE_FAULT, 6, "triple fault\n  #UD\n  #DF"), out)
    assert out.getvalue() == "vemu: triple fault [exit code 6]\n  #UD\n  #DF\n"
    out = io.StringIO()
    print_ending(Ending(EndReason.RESET, 0), out)
    assert out.getvalue() == "vemu: reset [exit code 0]\n"


def test_json_can_be_written() -> None:
    report = as_json(RunResult(Ending(EndReason.DEBUG_EXIT, 5, "left"), stats()), "text\udcff", "guest")
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["ending"] == "debug-exit"
    assert again["stats"]["mips"] == 4.0
    assert again["stats"]["exits"] == {"out": 30, "in": 40, "never": 0}
    assert again["console"] == "text\udcff"
