"""Filters and the pipeline: what they keep, across batches and console writes cut anywhere."""

from __future__ import annotations

import pytest

from emu.errors import UsageError
from emu.trace.aggregate import Aggregate
from emu.trace.filters import SymbolStretch, TextStretch, parse_only
from emu.trace.names import Names
from emu.trace.pipeline import Pipeline, Recorder
from emu.trace.record import Batch, ExitRecord


class Kept:
    """Remembers the sequence numbers that come through."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.batches = 0

    def add(self, batch: Batch) -> None:
        self.batches += 1
        self.numbers += [record.sequence for record in batch]


def at(*symbols: str) -> Batch:
    places = {"main": 0x1000, "probe": 0x2000, "else": 0x3000}
    return [ExitRecord(n, 0, 0, 0, 0, 0, 0, "in", places[name]) for n, name in enumerate(symbols)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("IO_INSTRUCTION", [0, 1, 2]),
        ("io-instruction", [0, 1, 2]),
        ("out", [0, 1]),
        ("in, cpuid", [2, 3]),
        ("hidden page fault", [4]),
        ("SHADOW_PAGE_FAULT,MEMORY_ACCESS", [4, 5]),
        ("trap 0", [6]),
        ("exception_nmi", [6]),
        ("trap 1", []),
        ("HLT", []),
    ],
)
def test_only(text: str, kept: list[int], records: Batch) -> None:
    assert [record.sequence for record in parse_only(text)(records)] == kept


def test_only_of_something_unknown() -> None:
    with pytest.raises(UsageError, match=r"--only MSR: no such exit; one of MSR_READ, MSR_WRITE \('vemu explain'"):
        parse_only("HLT,MSR")
    with pytest.raises(UsageError, match="--only xyz: no such exit; one of IO_INSTRUCTION, HLT, "):
        parse_only("xyz")
    with pytest.raises(UsageError, match="--only ' , ': names no exit"):
        parse_only(" , ")


@pytest.mark.parametrize(
    ("start", "until", "kept"),
    [
        ("main", "probe", [1, 2, 5, 6]),
        ("main", None, [1, 2, 3, 4, 5, 6, 7]),
        (None, "probe", [0, 1, 2]),
        ("nowhere", None, []),
        (None, None, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_from_one_symbol_to_another(
    start: str | None, until: str | None, kept: list[int], size: int, names: Names
) -> None:
    records = at("else", "main", "else", "probe", "else", "main", "main", "probe")
    stretch = SymbolStretch(start, until, names)
    found = [r.sequence for first in range(0, 8, size) for r in stretch(records[first : first + size])]
    assert found == kept
    assert stretch.missed == ("" if kept else "--from nowhere: no exit lies in that symbol")


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 100])
def test_from_one_text_to_another(cut: int, records: Batch) -> None:
    text = TextStretch("begin", "end")
    kept = Kept()
    recorder = Recorder(Pipeline([kept], [text]), text)

    def show(data: bytes) -> None:
        for first in range(0, len(data), cut):
            recorder.console(data[first : first + cut])

    recorder.record(records[0])
    show(b"end be begi begin")
    recorder.record(records[1])
    recorder.record(records[2])
    show(b"... the en")
    recorder.record(records[3])
    show(b"d. begi")
    recorder.record(records[4])
    show(b"n")
    recorder.record(records[5])
    recorder.flush()
    assert kept.numbers == [1, 2, 3, 5]
    assert text.missed == ""


def test_both_texts_in_one_write() -> None:
    text = TextStretch("a", "b")
    assert text.missed == "--between: the console never showed 'a'"
    text.feed(b"xaxbx")
    assert text(at("main")) == []
    assert text.missed == ""
    text.feed(b"aba")
    assert text(at("main")) == at("main")


def test_empty_texts_are_refused() -> None:
    with pytest.raises(UsageError, match="--between: an empty text"):
        TextStretch("", "x")


def test_filters_compose(records: Batch, names: Names) -> None:
    kept = Kept()
    pipeline = Pipeline([kept, Aggregate()], [SymbolStretch("probe", None, names), parse_only("memory,out")])
    pipeline.add(records)
    assert kept.numbers == [5]
    pipeline.add(records[:1])  # still open
    pipeline.add(records[3:4])  # nothing is left: nobody is called
    assert (kept.numbers, kept.batches) == ([5, 0], 2)


def test_recorder_makes_batches(records: Batch) -> None:
    kept = Kept()
    recorder = Recorder(Pipeline([kept]), batch=3)
    for record in records:
        recorder.record(record)
    assert (kept.numbers, kept.batches) == ([0, 1, 2, 3, 4, 5], 2)
    recorder.flush()
    recorder.flush()
    assert (kept.numbers, kept.batches) == ([0, 1, 2, 3, 4, 5, 6], 3)
    append = recorder.append  # an engine may keep it
    for record in records[:3]:
        append(record)
    assert recorder.full
    recorder.flush()
    append(records[0])
    recorder.flush()
    assert kept.numbers[-1] == 0
    assert len(kept.numbers) == 11
