"""Tables: expected texts for every grouping, perf's columns, colours on a terminal only."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest

from emu.trace.aggregate import GROUPINGS, Aggregate
from emu.trace.names import Names
from emu.trace.record import Batch, ExitRecord
from emu.trace.table import Selection, as_text, lines_of, print_lines

Golden = Callable[[str, str], None]


def table(records: Batch, names: Names, selection: Selection, terminal: bool = False) -> str:
    aggregate = Aggregate()
    aggregate.add(records)
    out = io.StringIO()
    print_lines(lines_of(aggregate, names, selection), out, terminal=terminal)
    return out.getvalue()


@pytest.mark.parametrize("by", GROUPINGS)
def test_expected_text(by: str, records: Batch, names: Names, golden: Golden) -> None:
    golden(f"table-{by}.txt", table(records, names, Selection(by)))


def test_columns_are_those_of_perf(records: Batch, names: Names) -> None:
    lines = table(records, names, Selection()).splitlines()
    assert re.split(r" {2,}", lines[0].strip()) == [
        "VM-EXIT", "Samples", "Samples%", "Time%", "Min Time", "Max Time", "Avg time ( +- x%)",
    ]  # fmt: skip
    # a program that reads perf's table reads this one
    row = re.compile(
        r"^\s*(\S+)\s+(\d+)\s+([\d.]+)%\s+([\d.]+)%\s+([\d.]+)us\s+([\d.]+)us\s+([\d.]+)us \( \+-\s*([\d.]+)% \)$"
    )
    found = row.match(lines[2])
    assert found is not None
    assert found.groups() == ("IO_INSTRUCTION", "3", "42.86", "70.00", "4.00", "14.00", "9.33", "31.13")
    assert "Total Samples:7, Total events handled time:40.00us." in lines


def test_no_exit_at_all(names: Names) -> None:
    text = table([], names, Selection())
    assert "VM-EXIT" in text
    assert text.endswith("Total Samples:0, Total events handled time:0.00us.\n")


def test_long_tables_say_what_they_leave_out(names: Names) -> None:
    records = [ExitRecord(n, 0, 0, 1, 1, 1, n, "in", 0x9000 + n, n, "r", 1) for n in range(30)]
    text = table(records, names, Selection("address", "mean", groups=7, places=5))
    assert "... and 23 more rows" in text
    assert "... and 25 more ports and addresses" in text
    assert text.index("0x901d") < text.index("0x901c")


def test_long_names_widen_the_first_column(records: Batch) -> None:
    names = Names(lambda address: ("x" * 60, 0))
    lines = table(records, names, Selection("symbol")).splitlines()
    assert lines[2].startswith("x" * 60 + " ")
    assert lines[0].index("Samples") == lines[2].index(" 7 ") + 2 - len("Samples")


def test_colours_only_on_a_terminal(records: Batch, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = table(records, names, Selection())
    coloured = table(records, names, Selection(), terminal=True)
    assert "\x1b" not in plain
    assert "\x1b[31m" in coloured
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in stripped.splitlines()] == plain.splitlines()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in table(records, names, Selection(), terminal=True)


def test_live_text_is_the_same(records: Batch, names: Names) -> None:
    aggregate = Aggregate()
    aggregate.add(records)
    assert as_text(lines_of(aggregate, names, Selection())).plain.splitlines()[0].strip().startswith("VM-EXIT")
