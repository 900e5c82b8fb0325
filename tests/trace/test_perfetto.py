"""The Perfetto form, read back by the protobuf classes, by the rules of the format, and by a trace processor."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent

from emu.trace import perfetto as module
from emu.trace.names import Names
from emu.trace.perfetto import VCPU_TRACK, PerfettoTrace
from emu.trace.record import Batch
from tests.trace.trace_processor import TraceProcessor

ABOUT = {"guest": "tiny", "command": "vemu trace tiny"}
Golden = Callable[[str, str], None]
Slice = tuple[int, int, int, str, dict[str, object]]  # begin, end, depth, name, annotations


def written(records: Batch, names: Names) -> bytes:
    out = io.BytesIO()
    writer = PerfettoTrace(out, names, ABOUT)
    writer.add(records[:2])
    writer.add(records[2:])
    return out.getvalue()


def slices(data: bytes) -> list[Slice]:
    """What a reader makes of the packets: names only from packets before, ends close the innermost slice."""
    trace = Trace.FromString(data)
    events: dict[int, str] = {}
    keys: dict[int, str] = {}
    values: dict[int, str] = {}
    cleared = False
    found: list[Slice] = []
    stack: list[tuple[int, str, dict[str, object]]] = []
    last = 0
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        if not packet.HasField("track_event"):
            continue
        if packet.sequence_flags & TracePacket.SEQ_INCREMENTAL_STATE_CLEARED:
            cleared = True
            for names in (events, keys, values):
                names.clear()
        assert cleared
        assert packet.sequence_flags & TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        events |= {entry.iid: entry.name for entry in packet.interned_data.event_names}
        keys |= {entry.iid: entry.name for entry in packet.interned_data.debug_annotation_names}
        values |= {entry.iid: entry.str.decode() for entry in packet.interned_data.debug_annotation_string_values}
        event = packet.track_event
        assert event.track_uuid == VCPU_TRACK
        assert packet.timestamp >= last
        last = packet.timestamp
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            notes = {
                keys[note.name_iid]: note.uint_value if note.HasField("uint_value") else values[note.string_value_iid]
                for note in event.debug_annotations
            }
            stack.append((packet.timestamp, events[event.name_iid], notes))
        else:
            assert event.type == TrackEvent.TYPE_SLICE_END
            begin, name, notes = stack.pop()
            found.append((begin, packet.timestamp, len(stack), name, notes))
    assert not stack
    return sorted(found, key=lambda one: (one[0], one[2]))


def test_one_slice_an_exit_with_its_costs_within(records: Batch, names: Names) -> None:
    found = slices(written(records, names))
    exits = [one for one in found if one[2] == 0]
    assert [(begin, end) for begin, end, *_ in exits] == [(r.host_ns, r.host_ns + r.cost_ns) for r in records]
    assert [name for *_, name, _ in exits] == [
        "IO_INSTRUCTION", "IO_INSTRUCTION", "IO_INSTRUCTION", "CPUID", "SHADOW_PAGE_FAULT", "MEMORY_ACCESS",
        "EXCEPTION_NMI",
    ]  # fmt: skip
    assert exits[0][4] == {
        "reason": "out", "pc": "main", "port": "0x3f8:POUT", "device": "serial", "mode": "long64 cpl0", "guest_ns": 100,
    }  # fmt: skip
    inner = [(begin, end, name) for begin, end, depth, name, _ in found if depth == 1 and begin < 20_000]
    assert inner == [
        (1_000, 2_000, "leave"), (2_000, 4_000, "emulate"), (4_000, 7_000, "device"), (7_000, 11_000, "resume"),
    ]  # fmt: skip


def test_tracks_are_named(records: Batch, names: Names) -> None:
    process, vcpu = [p.track_descriptor for p in Trace.FromString(written(records, names)).packet[:2]]
    assert process.process.process_name == "vemu tiny"
    assert process.description == "guest: tiny, command: vemu trace tiny"
    assert (vcpu.parent_uuid, vcpu.uuid, vcpu.thread.thread_name) == (process.uuid, VCPU_TRACK, "vCPU 0 exits")


def test_names_are_forgotten_and_said_again(records: Batch, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    before = slices(written(records, names))
    monkeypatch.setattr(module, "_MOST_NAMES", 3)
    assert slices(written(records, names)) == before


def test_another_decoder_reads_the_same(records: Batch, names: Names, golden: Golden) -> None:
    """Without the messages' descriptions: the fields by number, as protobuf's compiler reads them."""
    if shutil.which("protoc") is None:
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail("protoc is not installed, and VEMU_CI=1 asks for it")
        pytest.skip("protoc is not installed")
    done = subprocess.run(["protoc", "--decode_raw"], input=written(records, names), capture_output=True, check=True)
    golden("exits.perfetto.txt", done.stdout.decode())


def test_perfettos_trace_processor_sees_the_exits(records: Batch, names: Names) -> None:
    processor = TraceProcessor(written(records, names))
    rows = processor.query("select ts, dur, name from slice where depth=0 order by ts")
    assert [(row["ts"], row["dur"]) for row in rows] == [(record.host_ns, record.cost_ns) for record in records]
    assert [row["name"] for row in rows] == [
        name for _, _, depth, name, _ in slices(written(records, names)) if not depth
    ]
    assert processor.query("select name, value from stats where severity='error' and value>0") == []
    parts = processor.query("select sum(dur) as dur from slice where depth=1")
    assert 0 < parts[0]["dur"] <= sum(row["dur"] for row in rows)
