"""JSON, CSV and JSON lines: expected texts, and other readers' view of them."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Callable

from emu.trace.aggregate import Aggregate
from emu.trace.document import summary_csv, summary_json
from emu.trace.jsonl import FIELDS, JsonLines
from emu.trace.names import Names
from emu.trace.record import Batch, ExitRecord

Golden = Callable[[str, str], None]
ABOUT = {"guest": "tiny", "command": "vemu trace tiny"}


def added(records: Batch) -> Aggregate:
    aggregate = Aggregate()
    aggregate.add(records)
    return aggregate


def test_json(records: Batch, names: Names, golden: Golden) -> None:
    golden("summary.json", summary_json(added(records), names, "reason", "total", ABOUT))


def test_csv(records: Batch, names: Names, golden: Golden) -> None:
    text = summary_csv(added(records), names, "symbol", "samples")
    golden("summary.csv", text)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["symbol"] for row in rows] == ["main", "probe", "[unknown]"]
    assert sum(int(row["total_ns"]) for row in rows) == 40_000


def test_csv_quotes_what_it_must(records: Batch) -> None:
    names = Names(lambda address: ('operator,"x"', 0))
    (row,) = csv.DictReader(io.StringIO(summary_csv(added(records), names, "symbol", "total")))
    assert row["symbol"] == 'operator,"x"'


def lines(records: Batch, names: Names) -> str:
    out = io.BytesIO()
    writer = JsonLines(out, names, ABOUT)
    writer.add(records[:3])
    writer.add(records[3:])
    return out.getvalue().decode()


def test_json_lines(records: Batch, names: Names, golden: Golden) -> None:
    text = lines(records, names)
    golden("exits.jsonl", text)
    header, *exits = map(json.loads, text.splitlines())
    assert (header["schema"], header["version"], header["guest"]) == ("vemu-exits", 1, "tiny")
    assert all(set(record) == set(FIELDS) == set(header["fields"]) for record in exits)
    assert [record["sequence"] for record in exits] == list(range(7))


def test_names_with_quotes_stay_json(records: Batch) -> None:
    names = Names(lambda address: ('a"b\\', 1), lambda space, operand: 'de"vice')
    for line in lines(records, names).splitlines():
        json.loads(line)


class Counting:
    """Takes bytes and forgets them."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self.bytes += len(data)


def test_many_exits_are_written_in_little_memory(names: Names) -> None:
    sink = Counting()
    writer = JsonLines(sink, names, ABOUT)
    batch = [ExitRecord(n, n, n, 1, 2, 3, 4, "in", 0x1000 + n, 0x3F8, "r", 1) for n in range(1024)]
    writer.add(batch)
    tracemalloc.start()
    try:
        for _ in range(20):
            writer.add(batch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sink.bytes > 5 << 20
    assert peak < 2 << 20
