"""The seam under the translator: what a bare machine that runs translated code must offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from isa.base import NativeUnit

LEAVE = -1  # the "vector" of a trap taken by the leave sequence of translated code


@dataclass(frozen=True, slots=True)
class Layout:
    """The three things in which backends differ, as data for the rewriter.

    `code_base` and `data_base` give, for guest code of 16, 32 and 64 bit, the host-virtual address of the code cache
    and of the monitor's data (spill slots, virtual flags, jump tables); `leave` are the bytes of one exit from the
    cache, after which the backend reports a trap with vector LEAVE and the host pc behind them. An access to `void`
    always faults. Guest addresses are
    reached as they are, through the segment registers of the view.
    """

    code_base: dict[int, int]
    data_base: dict[int, int]
    code_start: int  # first usable byte of the code cache
    code_size: int
    data_size: int
    leave: bytes
    void: dict[int, int]  # per mode: a host-virtual address of the monitor's that no access ever reaches


@dataclass(frozen=True, slots=True)
class View:
    """How translated code sees segments and privilege: mode (16, 32, 64), host privilege level (1 or 3) and bases.

    `bases` are those of ES, CS (ignored), SS, DS, FS, GS; `stack32` is SS.B.
    """

    mode: int
    cpl: int
    stack32: bool
    bases: tuple[int, int, int, int, int, int]


@dataclass(slots=True)
class Trap:
    """Why translated code stopped: `vector` LEAVE or 0..31, `pc` as an offset in the code cache, fault details."""

    vector: int
    pc: int
    error: int = 0
    cr2: int = 0


TrapHandler = Callable[[Trap], int]  # returns the code-cache offset to go on at, or -1 to return from run()


class Backend(Protocol):
    """A bare machine: code cache, monitor data, page mappings, registers, run.

    Preconditions: `run` is never called from inside a trap handler; `pull` and `push` only between runs or inside one.
    """

    name: str
    layout: Layout
    code: memoryview
    data: memoryview
    native: NativeUnit
    stops_whole: bool  # `stop` lands between instructions; where not, code must watch its budget instead

    def install(self, offset: int, code: bytes) -> None:
        """Place bytes where nothing was executed since the last `forget`."""

    def patch(self, offset: int, code: bytes) -> None:
        """Replace bytes that may already have been executed."""

    def forget(self, start: int, end: int) -> None:
        """Drop whatever the backend derived from code in [start, end), which will be reused."""

    def map_pages(self, linear: int, gpas: list[int], writable: bool, user: bool) -> bool:
        """Map consecutive 4 KiB pages of guest RAM from `linear` on, never executable; -1 in `gpas` skips one.

        Returns False where the address belongs to the monitor. May forget other mappings to make room.
        """
        ...

    def unmap_page(self, linear: int) -> None: ...

    def unmap_all(self) -> None: ...

    def set_view(self, view: View) -> None: ...

    def pull(self, regs: list[int]) -> None:
        """Copy the 16 general registers to `regs`."""

    def flags(self) -> int:
        """The machine's flags register."""
        ...

    def push(self, regs: list[int], flags: int | None) -> None:
        """Set the general registers and the flags a guest may hold in the machine (arithmetic, DF, NT, AC, ID).

        Without `flags` those stay as they are.
        """

    def run(self, pc: int, on_trap: TrapHandler) -> int:
        """Execute from cache offset `pc` until a handler returns -1 or `stop` is seen; returns the offset reached."""
        ...

    def step(self, pc: int) -> int:
        """Execute exactly one host instruction at `pc` and return the offset reached, or -1 if it trapped."""
        ...

    def stop(self) -> None:
        """Ask a running `run` to return at the next opportunity; callable from any thread."""

    def close(self) -> None: ...
