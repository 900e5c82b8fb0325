"""Why control left the guest: one frozen record a reason, and the reasons a run ends."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PortIn:
    """IN or INS from an I/O port."""

    port: int
    size: int


@dataclass(frozen=True, slots=True)
class PortOut:
    """OUT or OUTS to an I/O port."""

    port: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class MmioRead:
    """A load from guest-physical memory that is not RAM."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class MmioWrite:
    """A store to guest-physical memory that is not plain RAM."""

    address: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class Sensitive:
    """A sensitive instruction the monitor emulated; `what` is its row in the sensitive table (`cpuid`, `mov cr3`)."""

    what: str


@dataclass(frozen=True, slots=True)
class Fault:
    """The guest raised an exception: vector, error code or None, CR2 of a page fault, pc of the instruction."""

    vector: int
    error: int | None
    cr2: int | None
    pc: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class SoftwareInterrupt:
    """INT n, INT3, INTO or INT1 delivered through the guest's table."""

    vector: int


@dataclass(frozen=True, slots=True)
class ShadowFault:
    """A hidden page fault: the shadow page table lacked an entry the guest's own tables allow."""

    linear: int
    write: bool


@dataclass(frozen=True, slots=True)
class CodeWrite:
    """A write trace fired: the guest wrote to a page that holds translated code."""

    address: int


@dataclass(frozen=True, slots=True)
class Halt:
    """HLT: nothing to do until an interrupt."""

    interruptible: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """The instruction budget or a deadline was reached, or somebody asked the engine to stop."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A triple fault: the CPU stopped; `chain` holds the faults that led to it, first one first."""

    chain: tuple[Fault, ...]
    why: str


Exit = (
    PortIn | PortOut | MmioRead | MmioWrite | Sensitive | Fault | SoftwareInterrupt | ShadowFault | CodeWrite
    | Halt | Budget | Shutdown
)  # fmt: skip


class EndReason(enum.Enum):
    """Why a whole run ended; `Ending.code` is the process exit code that goes with it."""

    POWER_OFF = "power-off"
    DEBUG_EXIT = "debug-exit"
    EXPECTED = "expected-text"
    PANIC = "panic"
    FAILED_ON = "fail-on-text"
    TRIPLE_FAULT = "triple-fault"
    HALTED = "halted-for-good"
    RESET = "reset"
    TIMEOUT = "time-out"
    INSTRUCTIONS = "max-instructions"
    INTERRUPTED = "interrupted"
    NOT_IMPLEMENTED = "not-implemented"


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run: reason, process exit code, and one sentence (or several lines) of explanation."""

    reason: EndReason
    code: int
    detail: str = ""
