"""The compact binary trace of `--save`: written chunk by chunk, readable up to the last whole one, names included.

    file    MAGIC, u16 version, u32 length of the header, header (a JSON object)
    chunk   u8 kind, u32 length, u32 CRC-32, payload compressed by zlib; all numbers little-endian
      N     names as JSON: reasons and modes in the order of their numbers, symbols of pcs, devices of operands
      R     u32 count, then the columns of so many records, each as an array of one width
      E     the end as a JSON object: what the run ended with

Columns compress better than records would, and are made and read without a step of Python for each field.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Final

from emu.errors import GuestFileError
from emu.trace.jsonl import Sink
from emu.trace.names import WITH_DEVICES, Names
from emu.trace.reasons import cause_of
from emu.trace.record import Batch, ExitRecord

MAGIC: Final = b"VEMUEXIT"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHI")
_CHUNK: Final = struct.Struct("<cII")
_COUNT: Final = struct.Struct("<I")
_LONGEST: Final = 1 << 28  # bytes of a chunk: more is damage
_LEVEL: Final = 1  # of zlib: the columns compress well, and the guest waits meanwhile
_MOST_NAMED: Final = 1 << 17
_ACCESS: Final = ("", "r", "w")
_NO_OPERAND, _NO_BLOCK = 0x10, 0x20  # in the column of accesses
_M64: Final = (1 << 64) - 1
# sequence, guest_ns, host_ns (each as the difference from the one before), four costs, operand, pc, block;
# reason, mode; access with flags, size, CPL
_WIDTHS: Final = "QQQQQQQQQQHHBBB"


class _Numbers:
    """Numbers of strings in the order of their first use."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self.new: list[str] = []

    def of(self, texts: Iterable[str]) -> list[int]:
        ids = self._ids
        found = []
        for text in texts:
            number = ids.get(text)
            if number is None:
                number = ids[text] = len(ids)
                self.new.append(text)
            found.append(number)
        return found


class SavedWriter:
    """Writes a trace to `sink`, which may be left at any time. `about` is the header: guest, command, ..."""

    def __init__(self, sink: Sink, names: Names, about: Mapping[str, object]) -> None:
        self._sink, self._names = sink, names
        self._reasons, self._modes = _Numbers(), _Numbers()
        self._named: set[int] = set()
        self._devices: set[tuple[str, int]] = set()
        self._last = [0, 0, 0]
        header = json.dumps(dict(about)).encode()
        sink.write(_HEADER.pack(MAGIC, VERSION, len(header)) + header)

    def add(self, batch: Batch) -> None:
        """One chunk of records, and before it one of the names they are the first to use."""
        if not batch:
            return
        columns = list(zip(*batch, strict=True))
        sequence, guest, host, leave, emulate, device, resume, reason, pc, operand, access, size, block, mode, cpl = (
            columns
        )
        reasons, modes = self._reasons.of(reason), self._modes.of(mode)
        self._name(batch)
        flags = [
            _ACCESS.index(a) | (_NO_OPERAND if o < 0 else 0) | (_NO_BLOCK if b < 0 else 0)
            for a, o, b in zip(access, operand, block, strict=True)
        ]
        values: list[Iterable[int]] = [
            *(self._differences(at, column) for at, column in enumerate((sequence, guest, host))),
            leave, emulate, device, resume, (max(o, 0) for o in operand), pc, (max(b, 0) for b in block),
            reasons, modes, flags, size, cpl,
        ]  # fmt: skip
        data = b"".join(_bytes(width, column) for width, column in zip(_WIDTHS, values, strict=True))
        self._chunk(b"R", _COUNT.pack(len(batch)) + data)

    def finish(self, ending: Mapping[str, object]) -> None:
        """Say that the trace is whole, and how the run ended."""
        self._chunk(b"E", json.dumps(dict(ending)).encode())

    def _differences(self, at: int, column: tuple[int, ...]) -> list[int]:
        """From one value to the next, modulo 2**64: small where the values rise."""
        before = self._last[at]
        self._last[at] = column[-1]
        return [(now - then) & _M64 for now, then in zip(column, (before, *column[:-1]), strict=True)]

    def _name(self, batch: Batch) -> None:
        if len(self._named) + len(self._devices) > _MOST_NAMED:  # forgotten names are written once more: no harm
            self._named.clear()
            self._devices.clear()
        names: dict[str, object] = {"reasons": self._reasons.new, "modes": self._modes.new}
        pcs = {record.pc for record in batch} - self._named
        self._named |= pcs
        names["symbols"] = [[pc, *found] for pc in sorted(pcs) if (found := self._names.find(pc)) is not None]
        places = {(cause_of(record.reason).space, record.operand) for record in batch} - self._devices
        places = {place for place in places if place[0] in WITH_DEVICES}
        self._devices |= places
        names["devices"] = [
            [space, operand, name] for space, operand in sorted(places) if (name := self._names.device(space, operand))
        ]
        if any(names.values()):
            self._chunk(b"N", json.dumps(names).encode())
        self._reasons.new, self._modes.new = [], []

    def _chunk(self, kind: bytes, payload: bytes) -> None:
        stored = zlib.compress(payload, _LEVEL)
        self._sink.write(_CHUNK.pack(kind, len(stored), zlib.crc32(stored)) + stored)


class SavedTrace:
    """Reads a trace: `about` at once, the records and with them the names as `batches` goes on.

    `whole` is known behind the last batch: False where the recording was cut off. Raises GuestFileError for what is no
    trace, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ending: dict[str, Any] = {}
        self.whole = False
        self._symbols: dict[int, tuple[str, int]] = {}
        self._devices: dict[tuple[str, int], str] = {}
        self.names = Names(self._symbols.get, lambda space, operand: self._devices.get((space, operand), ""))
        with self._open() as file:
            self.about = self._read_header(file)

    def batches(self) -> Iterator[Batch]:
        """All records from the first on, in the batches they were written in."""
        reasons: list[str] = []
        modes: list[str] = []
        last = [0, 0, 0]
        self.whole = False
        with self._open() as file:
            self._read_header(file)
            while (chunk := self._read_chunk(file)) is not None:
                at, kind, payload = chunk
                try:
                    if kind == b"N":
                        self._take_names(json.loads(payload), reasons, modes)
                    elif kind == b"R":
                        yield _records(payload, reasons, modes, last)
                    elif kind == b"E":
                        self.ending, self.whole = dict(json.loads(payload)), True
                    else:
                        raise ValueError("unknown kind")
                except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
                    raise self._damaged(at, "is not as vemu writes it") from error

    def _open(self) -> BinaryIO:
        try:
            return open(self.path, "rb")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise GuestFileError(f"trace {self.path}: cannot read it: {reason}") from error

    def _read(self, file: BinaryIO, length: int) -> bytes:
        try:
            return file.read(length)
        except OSError as error:
            raise GuestFileError(f"trace {self.path}: cannot read it: {error.strerror}") from error

    def _read_header(self, file: BinaryIO) -> dict[str, Any]:
        start = self._read(file, _HEADER.size)
        if not start.startswith(MAGIC):
            raise GuestFileError(f"trace {self.path}: not a trace saved by 'vemu trace --save'")
        if len(start) < _HEADER.size:
            raise GuestFileError(f"trace {self.path}: it ends within its header, after {len(start)} bytes")
        _, version, length = _HEADER.unpack(start)
        if version != VERSION:
            raise GuestFileError(f"trace {self.path}: format version {version}; this vemu reads version {VERSION}")
        header = self._read(file, min(length, _LONGEST))
        if len(header) < length:
            raise GuestFileError(
                f"trace {self.path}: it ends within its header, after {_HEADER.size + len(header)} bytes"
            )
        try:
            return dict(json.loads(header))
        except (ValueError, TypeError) as error:
            raise self._damaged(_HEADER.size, "is no header") from error

    def _read_chunk(self, file: BinaryIO) -> tuple[int, bytes, bytes] | None:
        """Offset, kind and payload of the next chunk; None at the end, and where the last one is not whole."""
        at = file.tell()
        head = self._read(file, _CHUNK.size)
        if len(head) < _CHUNK.size:
            return None
        kind, length, checksum = _CHUNK.unpack(head)
        if length > _LONGEST:
            raise self._damaged(at, f"claims {length} bytes")
        stored = self._read(file, length)
        if len(stored) < length:
            return None
        if zlib.crc32(stored) != checksum:
            raise self._damaged(at, "does not match its checksum")
        try:
            return at, kind, zlib.decompress(stored)
        except zlib.error as error:
            raise self._damaged(at, "cannot be decompressed") from error

    def _take_names(self, names: dict[str, Any], reasons: list[str], modes: list[str]) -> None:
        reasons += map(str, names["reasons"])
        modes += map(str, names["modes"])
        for pc, symbol, offset in names["symbols"]:
            self._symbols[int(pc)] = (str(symbol), int(offset))
        for space, operand, device in names["devices"]:
            self._devices[str(space), int(operand)] = str(device)

    def _damaged(self, at: int, how: str) -> GuestFileError:
        return GuestFileError(f"trace {self.path}: damaged: what lies at offset {at:#x} {how}")


def _bytes(width: str, column: Iterable[int]) -> bytes:
    values = array(width, column)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _records(payload: bytes, reasons: list[str], modes: list[str], last: list[int]) -> Batch:
    """The records of one chunk; `last` holds the values the differences begin at, and gets those for the next one."""
    (count,) = _COUNT.unpack_from(payload)
    at = _COUNT.size
    columns: list[list[int]] = []
    for width in _WIDTHS:
        values: array[int] = array(width)
        end = at + count * values.itemsize
        if end > len(payload):
            raise ValueError("a column is missing")
        values.frombytes(payload[at:end])
        if sys.byteorder == "big":
            values.byteswap()
        columns.append(values.tolist())
        at = end
    if at != len(payload):
        raise ValueError("more than its columns")
    for number in range(3):
        values_so_far = accumulate(columns[number], lambda total, step: (total + step) & _M64, initial=last[number])
        columns[number] = list(values_so_far)[1:]
        if count:
            last[number] = columns[number][-1]
    sequence, guest, host, leave, emulate, device, resume, operand, pc, block, reason, mode, flags, size, cpl = columns
    return list(
        map(
            ExitRecord,
            sequence, guest, host, leave, emulate, device, resume,
            map(reasons.__getitem__, reason),
            pc,
            [-1 if flag & _NO_OPERAND else value for value, flag in zip(operand, flags, strict=True)],
            [_ACCESS[flag & 3] for flag in flags],
            size,
            [-1 if flag & _NO_BLOCK else value for value, flag in zip(block, flags, strict=True)],
            map(modes.__getitem__, mode),
            cpl,
        )
    )  # fmt: skip
