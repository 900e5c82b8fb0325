"""The types every guest instruction set shares with the monitor: flow, traps, accesses and protocols."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol


class Flow(enum.Enum):
    """Why an instruction ends a basic block, or that it does not."""

    NEXT = "next"  # falls through to the following instruction
    JUMP = "jump"  # direct unconditional jump
    BRANCH = "branch"  # direct conditional jump, LOOP, JCXZ
    CALL = "call"  # direct near call
    INDIRECT_JUMP = "indirect-jump"
    INDIRECT_CALL = "indirect-call"
    RETURN = "return"  # near return
    SYSTEM = "system"  # may change mode, privilege or address space: the monitor decides where it goes
    INVALID = "invalid"  # no such instruction in this mode: raises #UD


class Access(enum.Enum):
    """The kind of a guest memory access."""

    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"


@dataclass(slots=True)
class GuestFault(Exception):
    """Unwinds one guest instruction that faulted; never crosses an engine, which turns it into a `Fault` exit.

    `vector` is the architectural vector, `error` the error code (None where the vector pushes none), `cr2` the
    faulting linear address of a page fault, `note` one clause for the triple-fault report ("IDT[14]: not present").
    `behind` marks one that comes when the instruction is complete (a trap, a fault in the task it switched to): the
    CPU's state is then already that behind the instruction, which has retired.
    """

    vector: int
    error: int | None = None
    cr2: int | None = None
    note: str = ""
    behind: bool = False


class Interrupted(GuestFault):
    """Unwinds a repeated instruction that takes long: executed again, it goes on where it stopped."""

    def __init__(self) -> None:
        GuestFault.__init__(self, -1)


class Unimplemented(Exception):
    """A guest asked for something vemu does not implement; the message names it. The run ends with exit code 12."""


class PhysicalMemory(Protocol):
    """Guest-physical memory as an instruction set's semantics see it."""

    ram: memoryview  # all RAM bytes, format 'B'; index with the offsets that ram_offset() gives

    def ram_offset(self, gpa: int) -> int:
        """Offset in `ram` of the 4 KiB page that holds `gpa`, or -1 where there is none (MMIO or nothing)."""
        ...

    def watched(self, gpa: int) -> bool:
        """True where writes to the page of `gpa` must go through `write` (translated code, or read-only memory)."""
        ...

    def read(self, gpa: int, size: int) -> int:
        """Read 1..8 bytes, little-endian, from RAM or through MMIO; never raises for a guest's address."""
        ...

    def write(self, gpa: int, size: int, value: int) -> None:
        """Write 1..8 bytes to RAM or through MMIO."""
        ...

    def write_bytes(self, gpa: int, data: bytes) -> None:
        """Write any number of bytes to RAM, as `write` does; ValueError outside of it."""
        ...


class Outside(Protocol):
    """What a CPU asks of the machine around it while it executes one instruction."""

    def port_in(self, port: int, size: int) -> int: ...

    def port_out(self, port: int, size: int, value: int) -> None: ...

    def timestamp(self) -> int:
        """The time-stamp counter, in ticks since reset."""
        ...

    def mapping_changed(self, linear: int | None) -> None:
        """The guest flushed the translation of one linear address (INVLPG), or of all (CR3, CR0, CR4, EFER)."""
        ...

    def apic_base_changed(self, value: int) -> None:
        """The guest wrote IA32_APIC_BASE."""
        ...

    @property
    def task_priority(self) -> int:
        """The local APIC's task priority class, 0 to 15, which is CR8 (SDM vol. 3, 10.8.6)."""
        ...

    def set_task_priority(self, value: int) -> None: ...

    @property
    def tsc_deadline(self) -> int:
        """IA32_TSC_DEADLINE of the local APIC's timer (SDM vol. 3, 10.5.4.1)."""
        ...

    def set_tsc_deadline(self, value: int) -> None: ...


@dataclass(slots=True)
class NativeResult:
    """What one natively executed x87/SSE instruction left behind."""

    memory: bytes
    regs: list[int]  # 16 general registers
    rflags: int  # arithmetic flags only are meaningful
    vector: int = -1  # exception raised (6 #UD, 16 #MF, 19 #XM), or -1
    done: bool = True  # False where an x87 exception kept the result from being stored


class NativeUnit(Protocol):
    """A real or emulated floating-point and vector unit that executes one instruction at a time.

    It holds the x87/MMX/SSE state itself, and acts on exceptions that are not masked: of those that are found before
    there is a result (SDM vol. 1, 8.5 and 11.5), SIMD ones are raised, and x87 ones are pending and keep the
    instruction from being done. Code is always 64-bit code whose memory operand, if any, is RIP-relative with a
    displacement of zero placeholder bytes that the unit fills in.
    """

    def execute(self, code: bytes, disp_at: int, memory: bytes, regs: list[int], rflags: int) -> NativeResult:
        """Run `code`; `disp_at` is the offset of its 4-byte displacement (-1: no memory operand)."""
        ...

    @property
    def unmasked(self) -> int:
        """Which exceptions are not masked: bit 0 for some of MXCSR's, bit 1 for some of x87's."""
        ...

    def save(self) -> bytes:
        """The 512-byte FXSAVE image (SDM vol. 1, 10.5.1)."""
        ...

    def load(self, image: bytes) -> None: ...
