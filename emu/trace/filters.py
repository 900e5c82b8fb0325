"""Filters of a stream of exits: by reason, from one symbol to another, from one console text to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from emu.errors import UsageError
from emu.trace.names import Names
from emu.trace.reasons import CAUSES, EXITS, PREFIXES, cause_of
from emu.trace.record import Batch

Filter = Callable[[Batch], Batch]

_LONGEST_LIST: Final = 8  # names a message offers


class Only:
    """Keeps exits of some reasons; `wanted` holds names of exits and reasons as the counters call them."""

    def __init__(self, wanted: Iterable[str]) -> None:
        self._wanted = frozenset(wanted)
        self._known: dict[str, bool] = {}

    def __call__(self, batch: Batch) -> Batch:
        known = self._known
        for reason in {record.reason for record in batch} - known.keys():
            known[reason] = reason in self._wanted or cause_of(reason).exit in self._wanted
        return [record for record in batch if known[record.reason]]


def parse_only(text: str, option: str = "--only") -> Only:
    """`REASON[,..]`: exits (`IO_INSTRUCTION`, in any case) or counters' reasons (`out`); UsageError names what is not.

    Reasons and exits that share a spelling (`cpuid`) mean the same.
    """
    wanted = set()
    for name in filter(None, (part.strip() for part in text.split(","))):
        spelled = name.upper().replace("-", "_").replace(" ", "_")
        if name in CAUSES or any(name.startswith(prefix) for prefix in PREFIXES):
            wanted.add(name)
        elif spelled in EXITS:
            wanted.add(spelled)
        else:
            raise UsageError(f"{option} {name}: no such exit; {_offer(spelled)}")
    if not wanted:
        raise UsageError(f"{option} {text!r}: names no exit")
    return Only(wanted)


def _offer(spelled: str) -> str:
    """Exits that share a word with what was asked for, else the usual ones."""
    words = [word for word in spelled.split("_") if len(word) > 1]
    near = [name for name in EXITS if any(word in name for word in words)]
    return "one of " + ", ".join((near or list(EXITS))[:_LONGEST_LIST]) + " ('vemu explain' lists all)"


class SymbolStretch:
    """Keeps exits from the first one in symbol `start` up to the next one in symbol `until`, again and again.

    Without `start` it begins open, without `until` it stays open. What lies in `until` is not kept. A function that
    never exits is not seen: the filter knows exits only.
    """

    def __init__(self, start: str | None, until: str | None, names: Names) -> None:
        self._start, self._until, self._names = start, until, names
        self._open = self._opened = start is None

    @property
    def missed(self) -> str:
        """What to tell where the stretch never began, or ''."""
        return "" if self._opened else f"--from {self._start}: no exit lies in that symbol"

    def __call__(self, batch: Batch) -> Batch:
        symbol, start, until = self._names.symbol, self._start, self._until
        kept = []
        for record in batch:
            name = symbol(record.pc)
            if self._open:
                if name == until:
                    self._open = False
            elif name == start:
                self._open = self._opened = True
            if self._open:
                kept.append(record)
        return kept


class TextStretch:
    """Keeps exits from the moment the console has shown `start` until it has shown `until`, again and again.

    `feed` gets the console's bytes, in between the batches; texts split over several calls are found.
    """

    def __init__(self, start: str, until: str) -> None:
        for text in (start, until):
            if not text:
                raise UsageError("--between: an empty text is shown at any time")
        # what a user typed, also where it is no UTF-8
        self._texts = [text.encode("utf-8", "surrogateescape") for text in (start, until)]
        self._tail = b""
        self._start = start
        self._open = self._opened = False

    @property
    def missed(self) -> str:
        """What to tell where the stretch never began, or ''."""
        return "" if self._opened else f"--between: the console never showed {self._start!r}"

    def __call__(self, batch: Batch) -> Batch:
        return batch if self._open else []

    def would_toggle(self, data: bytes) -> bool:
        """True where `data` completes the awaited text: the records before it must be filtered before it is fed."""
        return self._texts[self._open] in self._tail + data

    def feed(self, data: bytes) -> None:
        """The console showed `data`."""
        self._tail += data
        while (at := self._tail.find(awaited := self._texts[self._open])) >= 0:
            self._tail = self._tail[at + len(awaited) :]
            self._open = not self._open
            self._opened = True
        keep = len(self._texts[self._open]) - 1
        self._tail = self._tail[-keep:] if keep else b""
