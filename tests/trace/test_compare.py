"""Two runs side by side."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest

from emu.trace import compare
from emu.trace.aggregate import Aggregate
from emu.trace.names import Names
from emu.trace.record import Batch
from emu.trace.table import Selection

Golden = Callable[[str, str], None]


@pytest.fixture
def runs(records: Batch) -> tuple[Aggregate, Aggregate]:
    """The small stream, and one with another port write, a halt, and nothing else."""
    before, after = Aggregate(), Aggregate()
    before.add(records)
    after.add([records[0], records[1], records[1], records[3]._replace(reason="hlt")])
    return before, after


def test_expected_text(runs: tuple[Aggregate, Aggregate], names: Names, golden: Golden) -> None:
    rows = compare.differences(runs[0], names, runs[1], names, "reason", "total")
    lines = compare.lines_of(rows, compare.whole(*runs), Selection())
    golden("compare.txt", "".join(f"{line.text.rstrip()}\n" for line in lines))
    golden("compare.csv", compare.comparison_csv(rows, Selection()))
    assert {line.style for line in lines} == {"bold", "red", "green", ""}


def test_orders(runs: tuple[Aggregate, Aggregate], names: Names) -> None:
    def labels(sort: str) -> list[str]:
        return [row.label for row in compare.differences(runs[0], names, runs[1], names, "reason", sort)]

    assert labels("samples")[-1] == "IO_INSTRUCTION"  # three in both
    assert labels("mean")[:2] == ["MEMORY_ACCESS", "IO_INSTRUCTION"]


def test_a_run_with_itself(records: Batch, names: Names) -> None:
    run = Aggregate()
    run.add(records)
    rows = compare.differences(run, names, run, names, "symbol", "total")
    text = [line.text for line in compare.lines_of(rows, compare.whole(run, run), Selection("symbol"))]
    assert all(line.count("1.00x") == 3 for line in text if "us" in line)


def test_json(runs: tuple[Aggregate, Aggregate], names: Names) -> None:
    rows = compare.differences(runs[0], names, runs[1], names, "reason", "total")
    whole = compare.whole(*runs)
    document = json.loads(compare.comparison_json(rows, whole, Selection(), {"guest": "a"}, {"guest": "b"}))
    assert (document["schema"], document["a"], document["b"]) == (
        "vemu-exit-comparison", {"guest": "a"}, {"guest": "b"},
    )  # fmt: skip
    first = document["groups"][0]
    assert (first["reason"], first["total_ns_a"], first["total_ns_b"]) == ("IO_INSTRUCTION", 28_000, 38_000)
    assert first["total_ns_ratio"] == round(38 / 28, 4)
    (halt,) = [group for group in document["groups"] if group["reason"] == "HLT"]
    assert halt["samples_ratio"] is None
    rows_of_csv = list(csv.DictReader(io.StringIO(compare.comparison_csv(rows, Selection()))))
    assert [row["reason"] for row in rows_of_csv] == [group["reason"] for group in document["groups"]]
