"""Carries exits from where they happen through the filters to everything that is made of them, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from emu.trace.filters import Filter, TextStretch
from emu.trace.record import Batch, ExitRecord

_BATCH: Final = 4096  # exits: so few cost little memory, so many make the price of a batch small


class Consumer(Protocol):
    """What is made of a stream of exits."""

    def add(self, batch: Batch) -> None:
        """The next exits, which the consumer must not keep or change."""


class Pipeline:
    """Passes each batch through the filters in turn, and what is left to every consumer."""

    def __init__(self, consumers: Sequence[Consumer], filters: Sequence[Filter] = ()) -> None:
        self._consumers, self._filters = tuple(consumers), tuple(filters)

    def add(self, batch: Batch) -> None:
        """Exits in order."""
        for keep in self._filters:
            batch = keep(batch)
        if batch:
            for consumer in self._consumers:
                consumer.add(batch)


class Recorder:
    """Where an engine leaves its exits, one by one: `append` is a list's own, and `full` says when to `flush`.

    The records of a batch that was not full are flushed at the end of a run, and whenever the console shows a text
    that a filter waits for.
    """

    def __init__(self, pipeline: Pipeline, text: TextStretch | None = None, batch: int = _BATCH) -> None:
        self._pipeline, self._text, self._size = pipeline, text, batch
        self.pending: Batch = []
        self.append: Callable[[ExitRecord], None] = self.pending.append

    def record(self, record: ExitRecord) -> None:
        """One exit."""
        pending = self.pending
        pending.append(record)
        if len(pending) >= self._size:
            self.flush()

    @property
    def full(self) -> bool:
        """True where `flush` is due."""
        return len(self.pending) >= self._size

    def flush(self) -> None:
        """Pass on what has been recorded."""
        if self.pending:
            batch = self.pending.copy()
            self.pending.clear()  # the list stays the same one: `append` is bound to it
            self._pipeline.add(batch)

    def console(self, data: bytes) -> None:
        """The guest's console showed `data`."""
        if self._text is not None:
            if self._text.would_toggle(data):
                self.flush()
            self._text.feed(data)
