"""Exits as JSON lines: the first names the schema, then comes one exit a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, Protocol

from emu.trace.names import Names
from emu.trace.reasons import cause_of
from emu.trace.record import Batch

SCHEMA: Final = "vemu-exits"
VERSION: Final = 1
FIELDS: Final = {
    "sequence": "number of the exit in the run, from 0",
    "guest_ns": "guest time",
    "host_ns": "monotonic time of the host",
    "leave_ns": "leaving the code cache",
    "emulate_ns": "emulating, without the device",
    "device_ns": "the device",
    "resume_ns": "coming back",
    "exit": "the name perf kvm stat uses, or vemu's own",
    "reason": "what vemu's counters call it",
    "pc": "linear address of the instruction, in hexadecimal",
    "symbol": "symbol and offset, or null",
    "operand": "port, MSR, address, register or vector in hexadecimal, or null",
    "space": "what the operand is, or ''",
    "access": "'r', 'w' or ''",
    "size": "bytes of the access, or 0",
    "device": "the device that answered, or ''",
    "block": "linear address of the translated block in hexadecimal, or null",
    "mode": "of the vCPU",
    "cpl": "privilege level",
}
_MOST_TEXTS: Final = 1 << 14


class Sink(Protocol):
    """Where a format's bytes go: a file, a pipe, standard output."""

    def write(self, data: bytes) -> object: ...


class JsonLines:
    """Writes exits to `sink` as they come; holds nothing but a few names. `about` says what was traced."""

    def __init__(self, sink: Sink, names: Names, about: Mapping[str, object]) -> None:
        self._sink, self._names = sink, names
        self._texts: dict[tuple[str, int], str] = {}
        header = {"schema": SCHEMA, "version": VERSION, **about, "fields": FIELDS}
        sink.write(json.dumps(header).encode() + b"\n")

    def add(self, batch: Batch) -> None:
        """One line an exit."""
        names, texts, lines = self._names, self._texts, []
        for (
            sequence, guest, host, leave, emulate, device, resume, reason, pc, operand, access, size, block, mode, cpl,
        ) in batch:  # fmt: skip
            text = texts.get((reason, pc))
            if text is None:
                text = self._describe(reason, pc)
            name = names.device(cause_of(reason).space, operand)
            lines.append(
                f'{{"sequence":{sequence},"guest_ns":{guest},"host_ns":{host},"leave_ns":{leave},'
                f'"emulate_ns":{emulate},"device_ns":{device},"resume_ns":{resume},{text},'
                f'"operand":{_hex(operand)},"access":"{access}","size":{size},'
                f'"device":{json.dumps(name) if name else _EMPTY},"block":{_hex(block)},'
                f'"mode":"{mode}","cpl":{cpl}}}\n'
            )
        self._sink.write("".join(lines).encode())

    def _describe(self, reason: str, pc: int) -> str:
        """The members that depend on reason and pc alone."""
        cause = cause_of(reason)
        symbol = None if self._names.find(pc) is None else self._names.location(pc)
        members = {"exit": cause.exit, "reason": reason, "pc": f"{pc:#x}", "symbol": symbol, "space": cause.space}
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.clear()
        text = self._texts[reason, pc] = json.dumps(members, separators=(",", ":"))[1:-1]
        return text


_EMPTY: Final = '""'


def _hex(number: int) -> str:
    """As a JSON string: most readers of JSON keep only 53 bits of a number."""
    return "null" if number < 0 else f'"{number:#x}"'
