"""docs/COSTS.md has the tables of the command, and explains every row of them."""

from __future__ import annotations

import re

import pytest

from benchmarks.costs import DOCUMENT, with_tables
from emu.bench.nano import EVENTS
from emu.bench.native import LINUX_TESTS
from emu.bench.tables import nano_reports
from emu.trace.reasons import EXITS

TEXT = DOCUMENT.read_text(encoding="utf-8")
NAMES = [*(event.name for event in EVENTS), *(test.name for test in LINUX_TESTS)]


def test_tables_go_between_the_marks() -> None:
    before, after = "a\n<!-- tables: x -->\n", "<!-- end of tables -->\nb\n"
    assert with_tables(f"{before}old\n{after}", "new \\1\n") == f"{before}new \\1\n{after}"
    with pytest.raises(ValueError, match="no place"):
        with_tables("a\nb\n", "new")


def test_every_row_is_there_and_explained() -> None:
    tables, _, prose = TEXT.partition("<!-- end of tables -->")
    for name in NAMES:
        assert re.findall(rf"^\| {re.escape(name)} \| ", tables, re.MULTILINE), name
        assert f"**{name}**" in prose, name
    for report in nano_reports([], 1.0, "")[1:]:
        assert f"\n{report.title[:1].upper()}{report.title[1:]}:\n" in tables


def test_exits_are_called_by_their_names() -> None:
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", TEXT))
    assert named <= set(EXITS)
    assert {"SYSTEM_CALL", "SHADOW_PAGE_FAULT", "EXCEPTION_DELIVERY"} <= named
