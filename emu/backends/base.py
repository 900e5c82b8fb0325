"""The seam under the translator: what a bare machine that runs translated code must offer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from emu.pagetables import TableMemory
from isa.base import NativeUnit

LEAVE = -1  # the "vector" of a trap taken by the leave sequence of translated code


@dataclass(frozen=True, slots=True)
class Layout:
    """The three things in which backends differ, as data for the rewriter.

    `code_base` and `data_base` give, for guest code of 16, 32 and 64 bit, the host-virtual address of the code cache
    and of the monitor's data (spill slots, virtual flags, jump tables), which code at CPL 3 finds `user_data` bytes
    above; `leave` are the bytes of one exit from the cache, after which the backend reports a trap with vector LEAVE
    and the host pc behind them. An access to `void` always faults. Guest addresses are reached as they are, through the
    segment registers of the view.
    """

    code_base: dict[int, int]
    data_base: dict[int, int]
    user_data: int
    code_start: int  # first usable byte of the code cache
    code_size: int
    data_size: int
    leave: bytes
    void: dict[int, int]  # per mode: a host-virtual address of the monitor's that no access ever reaches


@dataclass(frozen=True, slots=True)
class View:
    """How translated code sees segments and privilege: mode (16, 32, 64), host privilege level (1 or 3) and bases.

    `bases` are those of ES, CS (ignored), SS, DS, FS, GS; `stack32` is SS.B. With `smap` code at CPL 1 faults at a user
    page unless EFLAGS.AC is set (SDM vol. 3, 4.6.1).
    """

    mode: int
    cpl: int
    stack32: bool
    bases: tuple[int, int, int, int, int, int]
    smap: bool = False


@dataclass(slots=True)
class Trap:
    """Why translated code stopped: `vector` LEAVE or 0..31, `pc` as an offset in the code cache, fault details."""

    vector: int
    pc: int
    error: int = 0
    cr2: int = 0


TrapHandler = Callable[[Trap], int]  # returns the code-cache offset to go on at, or -1 to return from run()


class Backend(Protocol):
    """A bare machine: code cache, monitor data, memory for page tables, registers, run.

    The machine translates by 4-level tables that the monitor makes in `tables`, over guest RAM at its guest-physical
    addresses. `windows` are the entries that every root (39), the PDPT (30) and the page directory (21) below it for
    32-bit addresses must hold for the monitor, by binary logarithm of what one maps.
    Preconditions: `run` is never called from inside a trap handler; `pull` and `push` only between runs or inside one.
    """

    name: str
    layout: Layout
    code: memoryview
    data: memoryview
    native: NativeUnit
    tables: TableMemory
    windows: Mapping[int, Mapping[int, int]]
    window_size: int  # bytes of linear addresses from `layout.code_base` on that the monitor uses
    stops_whole: bool  # `stop` lands between instructions; where not, code must watch its budget instead

    def install(self, offset: int, code: bytes) -> None:
        """Place bytes where nothing was executed since the last `forget`."""

    def patch(self, offset: int, code: bytes) -> None:
        """Replace bytes that may already have been executed."""

    def forget(self, start: int, end: int) -> None:
        """Drop whatever the backend derived from code in [start, end), which will be reused."""

    def move_window(self, base: int) -> None:
        """Have 16- and 32-bit code reach the monitor at `base`; `layout` and `windows` change.

        Roots made before are void, and so is all code of these sizes, which must have been forgotten.
        """

    def owns(self, linear: int) -> bool:
        """True for an address that the monitor uses itself."""
        ...

    def set_root(self, physical: int, pages: Collection[int] | None = None) -> None:
        """Have the machine translate by the tables below `physical`.

        It forgets what it remembers of those before, where `pages` are given of these only. The tables before must then
        be kept until it goes on.
        """

    def flush_tlb(self) -> None:
        """Have the machine forget what it remembers of the tables, before it goes on."""

    def set_view(self, view: View) -> None: ...

    def pull(self, regs: list[int]) -> None:
        """Copy the 16 general registers to `regs`."""

    def bases(self) -> tuple[int, int]:
        """The bases of FS and GS, which 64-bit code changes by itself."""
        ...

    def flags(self) -> int:
        """The machine's flags register."""
        ...

    def settle_exceptions(self, *, discard: bool = False) -> tuple[int, int]:
        """Bring the exception flags of x87 status word and MXCSR up to date; which of each the machine had kept back.

        Allowed while the machine is stopped and in a trap handler. With `discard` they are forgotten.
        """
        ...

    @property
    def unmasked(self) -> tuple[int, int]:
        """The exceptions that x87 control word and MXCSR do not mask."""
        ...

    def state(self) -> bytes:
        """All of the machine's registers."""
        ...

    def restore(self, state: bytes) -> None: ...

    def raise_flags(self, x87: int, sse: int) -> None:
        """Set exception flags; an x87 one is pending then."""

    def set_register(self, number: int, value: int) -> None:
        """Set one general register, in encoding order."""

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
