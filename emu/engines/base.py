"""The seam between the monitor and whatever executes guest code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from emu.dbt.block import Block
from emu.exits import Exit, Fault


@dataclass(slots=True)
class EngineCounters:
    """What an engine did since the start; `exits` counts every departure from directly executed code by reason."""

    exits: Counter[str] = field(default_factory=Counter)
    emulated: int = 0  # guest instructions executed by the interpreter
    dispatches: int = 0  # times the next block was looked up by the monitor
    blocks: int = 0
    translated_instructions: int = 0
    reused_instructions: int = 0  # of these, whose translation an earlier run made
    guest_bytes: int = 0
    host_bytes: int = 0
    direct_exits: int = 0
    links: int = 0
    invalidated: int = 0
    flushes: int = 0
    translation_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full the translator's memory is; sizes in bytes, tables in pages."""

    code_used: int
    code_size: int
    blocks: int  # valid ones
    shadow_tables: int
    shadow_pages: int
    table_pages: int  # handed out of all tables' memory, those of the monitor and those given back included
    table_capacity: int
    spaces: int  # address spaces kept


class Engine(Protocol):
    """Runs the guest of one `Cpu`, whose state is exact whenever `run` or `step` has returned."""

    name: str
    # Delivers a guest's fault to its handler as whoever is given the `Fault` would: None, or why the run is over. An
    # engine may call it instead of returning the fault, but not twice without an instruction that retired in between.
    on_fault: Callable[[Fault], Exit | None] | None

    def run(self, limit: int) -> Exit:
        """Run up to `limit` guest instructions; returns why control came back (Fault, Halt or Budget).

        The guest's state is precise. `Budget` is also the answer to `interrupt` and to `cpu.stop_requested`.
        """
        ...

    def step(self) -> Exit | None:
        """Execute exactly one instruction; None where nothing special happened."""
        ...

    def interrupt(self) -> None:
        """Make a running `run` return soon; callable from any thread, may be called again until it does."""

    def set_pending(self, pending: bool) -> None:
        """Tell whether an interrupt waits for the guest to enable interrupts."""

    def mapping_changed(self, linear: int | None) -> None:
        """The guest flushed one linear address, or all."""

    def counters(self) -> EngineCounters: ...

    def blocks(self) -> list[Block]:
        """Translated blocks in order of translation."""
        ...

    def code(self, block: Block) -> bytes:
        """The host code of a translated block."""
        ...

    def close(self) -> None: ...
