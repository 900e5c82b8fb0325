"""Exits as a Perfetto trace, for ui.perfetto.dev: one slice an exit on the vCPU's track, its four costs within it.

The messages are those of the `perfetto` package (protos/perfetto/trace/track_event/track_event.proto). A trace may be
the concatenation of several serialized `Trace` messages, so each batch is written as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackEvent
from perfetto.trace_builder.proto_builder import TraceProtoBuilder

from emu.trace.aggregate import Site
from emu.trace.jsonl import Sink
from emu.trace.names import Names
from emu.trace.reasons import cause_of, place_text
from emu.trace.record import Batch

PROCESS_TRACK: Final = 1
VCPU_TRACK: Final = 2
_SEQUENCE: Final = 1  # all packets come from one writer, whose interned names they share
_PID: Final = 1
_END: Final = TrackEvent(type=TrackEvent.TYPE_SLICE_END, track_uuid=VCPU_TRACK)
_PARTS: Final = ("leave", "emulate", "device", "resume")
_MOST_NAMES: Final = 1 << 16


class _Interned:
    """Numbers for texts that a packet sequence says only once."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self.new: list[tuple[int, str]] = []

    def __call__(self, text: str) -> int:
        found = self._ids.get(text)
        if found is None:
            found = self._ids[text] = len(self._ids) + 1
            self.new.append((found, text))
        return found

    def __len__(self) -> int:
        return len(self._ids)


class PerfettoTrace:
    """Writes exits to `sink` batch by batch. `about` says what was traced."""

    def __init__(self, sink: Sink, names: Names, about: Mapping[str, object]) -> None:
        self._sink, self._names = sink, names
        self._reset()
        trace = TraceProtoBuilder()
        process = trace.add_packet()
        process.track_descriptor.uuid = PROCESS_TRACK
        process.track_descriptor.process.pid = _PID
        process.track_descriptor.process.process_name = f"vemu {about.get('guest', '')}".rstrip()
        process.track_descriptor.description = ", ".join(f"{key}: {value}" for key, value in about.items())
        vcpu = trace.add_packet()
        vcpu.track_descriptor.uuid = VCPU_TRACK
        vcpu.track_descriptor.parent_uuid = PROCESS_TRACK
        vcpu.track_descriptor.thread.pid = _PID
        vcpu.track_descriptor.thread.tid = _PID
        vcpu.track_descriptor.thread.thread_name = "vCPU 0 exits"
        for packet in (process, vcpu):
            packet.trusted_packet_sequence_id = _SEQUENCE
        sink.write(trace.serialize())

    def _reset(self) -> None:
        """Begin with no interned texts, in the file as here."""
        self._event_names, self._keys, self._values = _Interned(), _Interned(), _Interned()
        self._events: dict[Site, TrackEvent] = {}  # begins of exits that differ in their times only
        self._parts = [self._begin(part) for part in _PARTS]
        self._guest_ns = self._keys("guest_ns")
        self._fresh = True

    def add(self, batch: Batch) -> None:
        """Begin and end of each exit and of what it spent time on."""
        if len(self._values) >= _MOST_NAMES:
            self._reset()
        trace = TraceProtoBuilder()
        add, events, parts = trace.trace.packet.add, self._events, self._parts
        common = {"trusted_packet_sequence_id": _SEQUENCE, "sequence_flags": TracePacket.SEQ_NEEDS_INCREMENTAL_STATE}
        for record in batch:
            at = record.host_ns
            key = (record.reason, record.pc, record.operand, record.access, record.mode, record.cpl)
            event = events.get(key)
            if event is None:
                if len(events) >= _MOST_NAMES:
                    events.clear()
                event = events[key] = self._describe(*key)
            packet = add(timestamp=at, track_event=event, **common)
            packet.track_event.debug_annotations.add(name_iid=self._guest_ns, uint_value=record.guest_ns)
            self._intern(packet)
            costs = (record.leave_ns, record.emulate_ns, record.device_ns, record.resume_ns)
            for part, cost in zip(parts, costs, strict=True):
                if cost:
                    add(timestamp=at, track_event=part, **common)
                    at += cost
                    add(timestamp=at, track_event=_END, **common)
            add(timestamp=at, track_event=_END, **common)
        self._sink.write(trace.serialize())

    def _begin(self, name: str) -> TrackEvent:
        return TrackEvent(type=TrackEvent.TYPE_SLICE_BEGIN, track_uuid=VCPU_TRACK, name_iid=self._event_names(name))

    def _describe(self, reason: str, pc: int, operand: int, access: str, mode: str, cpl: int) -> TrackEvent:
        """The begin of an exit's slice, without its times."""
        cause = cause_of(reason)
        event = self._begin(cause.exit)
        device = self._names.device(cause.space, operand)
        place = place_text(cause.space, operand, access)
        for key, value in (
            ("reason", reason), ("pc", self._names.location(pc)), (cause.space, place), ("device", device),
            ("mode", f"{mode} cpl{cpl}"),
        ):  # fmt: skip
            if key and value:
                event.debug_annotations.add(name_iid=self._keys(key), string_value_iid=self._values(value))
        return event

    def _intern(self, packet: TracePacket) -> None:
        """Say with `packet` the texts that it, or what is within it, is the first to use."""
        if self._fresh:
            self._fresh = False
            packet.sequence_flags |= TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        if not (self._event_names.new or self._keys.new or self._values.new):
            return
        data = packet.interned_data
        for iid, text in self._event_names.new:
            data.event_names.add(iid=iid, name=text)
        for iid, text in self._keys.new:
            data.debug_annotation_names.add(iid=iid, name=text)
        for iid, text in self._values.new:
            data.debug_annotation_string_values.add(iid=iid, str=text.encode())
        for interned in (self._event_names, self._keys, self._values):
            interned.new.clear()
