"""Saved traces: every field comes back, a cut one up to its last whole chunk, a damaged or foreign one is refused."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from emu.errors import GuestFileError
from emu.trace.names import Names
from emu.trace.record import Batch, ExitRecord
from emu.trace.saved import MAGIC, SavedTrace, SavedWriter

ABOUT = {"guest": "tiny", "command": "vemu trace tiny"}


def written(batches: list[Batch], names: Names, finished: bool = True) -> bytes:
    out = io.BytesIO()
    writer = SavedWriter(out, names, ABOUT)
    for batch in batches:
        writer.add(batch)
    if finished:
        writer.finish({"reason": "power-off", "code": 0})
    return out.getvalue()


def saved(tmp_path: Path, data: bytes) -> SavedTrace:
    file = tmp_path / "trace"
    file.write_bytes(data)
    return SavedTrace(file)


def test_what_went_in_comes_out(tmp_path: Path, records: Batch, names: Names) -> None:
    trace = saved(tmp_path, written([records[:3], [], records[3:]], names))
    assert trace.about == ABOUT
    assert list(trace.batches()) == [records[:3], records[3:]]
    assert trace.whole
    assert trace.ending == {"reason": "power-off", "code": 0}
    assert list(trace.batches()) == [records[:3], records[3:]]  # and again


def test_names_come_along(tmp_path: Path, records: Batch, names: Names) -> None:
    trace = saved(tmp_path, written([records], names))
    list(trace.batches())
    assert [trace.names.location(r.pc) for r in records] == [names.location(r.pc) for r in records]
    assert trace.names.device("port", 0x3F8) == "serial"
    assert trace.names.device("memory", 0xFEE000B0) == "local APIC"
    assert trace.names.device("port", 0x80) == ""


def test_extremes(tmp_path: Path) -> None:
    top = (1 << 64) - 1
    rng = random.Random(3)
    extreme = [
        ExitRecord(0, 0, 0, 0, 0, 0, 0, "in", 0),
        ExitRecord(top, top, top, top, 0, 1, top, "out", top, top, "w", 255, top, "real", 3),
        ExitRecord(5, 7, 6, 1, 1, 1, 1, "", 1, 0, "r", 0, 0, "", 0),  # times that go backwards
        *(
            ExitRecord(*(rng.getrandbits(64) for _ in range(7)), f"r{rng.randrange(300)}", rng.getrandbits(64))
            for _ in range(500)
        ),
    ]
    trace = saved(tmp_path, written([extreme], Names()))
    assert list(trace.batches()) == [extreme]


def test_a_cut_trace_is_read_up_to_its_last_whole_chunk(tmp_path: Path, records: Batch, names: Names) -> None:
    data = written([records[:3], records[3:5], records[5:]], names)
    start = len(written([], names, finished=False))
    seen = set()
    for length in range(start, len(data)):
        trace = saved(tmp_path, data[:length])
        batches = list(trace.batches())
        assert not trace.whole
        assert batches == [records[:3], records[3:5], records[5:]][: len(batches)]
        seen.add(len(batches))
    assert seen == {0, 1, 2, 3}


def test_a_header_that_is_cut(tmp_path: Path, names: Names) -> None:
    data = written([], names, finished=False)
    for length in range(len(MAGIC), len(data)):
        with pytest.raises(GuestFileError, match=rf"trace .*: it ends within its header, after {length} bytes"):
            saved(tmp_path, data[:length])


@pytest.mark.parametrize("data", [b"", b"VEMU", b"\x7fELF and more of it", b'{"schema": "vemu-exits"}\n'])
def test_a_foreign_file(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(GuestFileError, match=r"trace .*: not a trace saved by 'vemu trace --save'"):
        saved(tmp_path, data)


def test_another_version(tmp_path: Path, names: Names) -> None:
    data = bytearray(written([], names))
    data[len(MAGIC)] = 9
    with pytest.raises(GuestFileError, match="format version 9; this vemu reads version 1"):
        saved(tmp_path, bytes(data))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(GuestFileError, match=r"trace .*nowhere: cannot read it: No such file"):
        SavedTrace(tmp_path / "nowhere")
    with pytest.raises(GuestFileError, match="cannot read it: Is a directory"):
        SavedTrace(tmp_path)


def test_any_changed_byte_is_noticed(tmp_path: Path, records: Batch, names: Names) -> None:
    data = written([records], names)
    start = len(written([], names, finished=False))
    for at in range(start, len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x55
        trace = saved(tmp_path, bytes(changed))
        refused = ""
        try:
            batches = list(trace.batches())
        except GuestFileError as error:
            refused = str(error)
        if refused:
            assert "damaged: what lies at offset" in refused
        else:  # a length that reaches beyond the end looks like a cut
            assert not trace.whole
            assert batches in ([], [records])


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (b"X", b""), (b"R", b""), (b"R", struct.pack("<I", 9)), (b"R", struct.pack("<I", 0) + b"more"),
        (b"R", struct.pack("<I", 1) + bytes(10 * 8 + 2 * 2 + 3)),  # its reason has no name
        (b"N", b"[]"), (b"N", b"{}"), (b"N", b"\xff"), (b"E", b"7"),
        (b"N", json.dumps({"reasons": [], "modes": [], "symbols": [[1]], "devices": []}).encode()),
    ],
)  # fmt: skip
def test_chunks_that_make_no_sense(tmp_path: Path, names: Names, kind: bytes, payload: bytes) -> None:
    stored = zlib.compress(payload)
    chunk = struct.pack("<cII", kind, len(stored), zlib.crc32(stored)) + stored
    trace = saved(tmp_path, written([], names, finished=False) + chunk)
    with pytest.raises(GuestFileError, match=r"damaged: what lies at offset 0x\w+ is not as vemu writes it"):
        list(trace.batches())


def test_it_is_compact(records: Batch, names: Names) -> None:
    batch = [
        record._replace(sequence=n, host_ns=n * 1013, guest_ns=n * 997, leave_ns=500 + n % 61)
        for n, record in enumerate(records * 600)
    ]
    assert len(written([batch], names)) < 8 * len(batch)


@pytest.mark.slow
def test_ten_million_exits_are_reported_in_bounded_memory(tmp_path: Path) -> None:
    reasons = ("in", "out", "hidden page fault", "cpuid")
    batch = [
        ExitRecord(n, n * 10, n * 1000, n % 997, 2000, n % 3 * 500, 300, reasons[n % 4], 0x1000 + n % 400, n, "w", 1)
        for n in range(4096)
    ]
    rounds = 10_000_000 // len(batch) + 1
    file = tmp_path / "trace"
    with file.open("wb") as out:
        writer = SavedWriter(out, Names(), ABOUT)
        for _ in range(rounds):
            writer.add(batch)
        writer.finish({})
    # the interpreter and its libraries included; a process of its own, whose greatest size is known
    # (VmHWM, as ru_maxrss counts what this process had grown to when it made the other)
    code = "import sys; from emu.__main__ import main; code = main(sys.argv[1:]); "
    code += "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')), "
    code += "file=sys.stderr); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, "report", file], capture_output=True, text=True, check=True)
    assert f"Total Samples:{rounds * len(batch)}," in done.stdout
    assert int(done.stderr) < 100 << 10  # KiB
