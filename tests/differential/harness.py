"""The real CPU: builds `harness.c`, runs it, and hands it batches of cases."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.differential import layout
from tests.differential.layout import MODES, Mode

SOURCE: Final = Path(__file__).with_name("harness.c")
MAX_BATCH: Final = 256
TIMEOUT: Final = 255  # the "vector" of a case that did not end within a second
LOST: Final = 254  # the "vector" of a case that took the harness with it
MAX_SEGMENTS: Final = 8
_MAGIC: Final = 0x66696476
# What a guest's CPUID shows, by Linux' names.
_NEEDED: Final = frozenset((
    "ssse3", "cx16", "sse4_1", "sse4_2", "movbe", "popcnt", "fsgsbase", "bmi1", "bmi2", "adx", "lahf_lm", "abm",
))  # fmt: skip
_FLAGS: Final = (
    "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static-pie", "-fPIE", "-fno-stack-protector",
    "-mgeneral-regs-only", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
)  # fmt: skip
# The records of harness.c: struct test, struct outcome, struct user_desc.
_TEST: Final = struct.Struct("<QI4HI16sQQ16Q512s")
_OUTCOME: Final = struct.Struct("<IIQQQQ16Q512s")
_HELLO: Final = struct.Struct("<II")


class HarnessError(Exception):
    """The harness could not be built or run here."""


@dataclass(slots=True)
class Case:
    """One instruction and the state before it: `slot` is where its code lies, `fx` an FXSAVE image.

    `row` names the encoding class; `vector` tells that x87, MMX and SSE state matters.
    """

    row: str
    mode: Mode
    code: bytes
    slot: int
    regs: list[int]
    flags: int
    fx: bytes
    data: bytes
    vector: bool = True

    @property
    def linear(self) -> int:
        return layout.CODE + self.slot * layout.SLOT + layout.IN_SLOT

    @property
    def rip(self) -> int:
        return self.linear - (self.mode.segment(1).base if self.mode.bits != 64 else 0)


@dataclass(slots=True)
class Outcome:
    """The state in which a case ended: at the fault it raised, or at the fault of what came after it.

    `error` and `cr2` mean something only where the vector has them; both are None where it does not.
    """

    vector: int
    error: int | None
    cr2: int | None
    rip: int
    flags: int
    regs: list[int]
    fx: bytes
    data: bytes


def unavailable() -> str:
    """Why the harness cannot run on this host, or ''."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return "the real CPU is only reached on x86-64 Linux"
    if compiler() is None:
        return "there is no C compiler (cc) to build the harness with"
    missing = _NEEDED - set(Path("/proc/cpuinfo").read_text().partition("\nflags")[2].partition("\n")[0].split())
    if missing:
        return f"this CPU lacks what guests are offered: {' '.join(sorted(missing))}"
    return ""


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")


def build(directory: Path) -> Path:
    """Compile the harness into `directory`; HarnessError with the compiler's message if that fails."""
    cc = compiler()
    if cc is None:
        raise HarnessError("there is no C compiler")
    program = directory / "harness"
    done = subprocess.run([cc, *_FLAGS, "-o", str(program), str(SOURCE)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(f"{cc} cannot build {SOURCE.name}:\n{done.stderr}")
    return program


def _descriptor(number: int, entry: layout.LdtEntry) -> bytes:
    """`struct user_desc` (Linux asm/ldt.h): number, base, limit and a word of flags."""
    kind, attr = entry.attr & 0xF, entry.attr
    code, wide = kind >> 3, attr >> 14 & 1
    contents = 2 if code else kind >> 2 & 1  # 0 data, 1 expand-down data, 2 code
    read_only = 0 if code or kind & 2 else 1
    pages = int(entry.limit > 0xFFFFF)
    flags = wide | contents << 1 | read_only << 3 | pages << 4 | 1 << 6  # useable
    return struct.pack("<IIII", number, entry.base, entry.limit >> 12 if pages else entry.limit, flags)


class RealCpu:
    """The process that executes cases; use it as a context manager."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="vemu-differential-")
        self._program = build(Path(self._directory.name))
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def __enter__(self) -> RealCpu:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        self._process = subprocess.Popen([str(self._program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        ldt = [_descriptor(number, entry) for number, entry in enumerate(layout.LDT)]
        self._send(
            struct.pack(
                "<8Q", layout.CODE, layout.CODE_SIZE, layout.DATA, layout.DATA_SIZE, layout.FIXED_SIZE,
                layout.FS_BASE, layout.GS_BASE, len(ldt),
            ) + b"".join(ldt).ljust(16 * MAX_SEGMENTS, b"\0") + layout.FIXED_BYTES
        )  # fmt: skip
        hello = self._receive(_HELLO.size)
        if hello is None or _HELLO.unpack(hello)[0] != _MAGIC:
            status = self._process.wait()
            raise HarnessError(f"the harness does not start here (status {status})")
        self.modes = tuple(MODES) if _HELLO.unpack(hello)[1] else layout.FLAT

    def _send(self, message: bytes) -> bool:
        assert self._process is not None
        assert self._process.stdin is not None
        view = memoryview(message)
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
        except BrokenPipeError:
            return False
        return True

    def _receive(self, size: int) -> bytes | None:
        """`size` bytes, or None where the process ended before."""
        assert self._process is not None
        assert self._process.stdout is not None
        parts, left = [], size
        while left:
            part = self._process.stdout.read(left)
            if not part:
                return None
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """Execute the cases, in batches; a case that ends the process is LOST, and the others are run without it."""
        outcomes: list[Outcome] = []
        for start in range(0, len(cases), MAX_BATCH):
            outcomes += self._batch(cases[start : start + MAX_BATCH])
        return outcomes

    def _batch(self, cases: Sequence[Case]) -> list[Outcome]:
        message = struct.pack("<I", len(cases)) + b"".join(_pack(case) for case in cases)
        size = _OUTCOME.size + layout.DATA_SIZE
        answer = self._receive(size * len(cases)) if self._send(message) else None
        if answer is not None:
            return [_unpack(answer, size * number, case) for number, case in enumerate(cases)]
        self._stop()
        self._start()
        if len(cases) == 1:
            case = cases[0]
            return [Outcome(LOST, None, None, case.rip, case.flags, case.regs, case.fx, case.data)]
        half = len(cases) // 2
        return self._batch(cases[:half]) + self._batch(cases[half:])

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def close(self) -> None:
        """End the process and remove what was built."""
        self._stop()
        self._directory.cleanup()


def _pack(case: Case) -> bytes:
    mode = case.mode
    return (
        _TEST.pack(
            case.linear, len(case.code), mode.cs, mode.ss, mode.ds, mode.es, 0, case.code, case.rip, case.flags,
            *case.regs, case.fx,
        )
        + case.data
    )  # fmt: skip


_WITH_ERROR: Final = frozenset((8, 10, 11, 12, 13, 14, 17))
_PAGE_FAULT: Final = 14


def _unpack(answer: bytes, at: int, case: Case) -> Outcome:
    _, vector, error, cr2, rip, flags, *rest = _OUTCOME.unpack_from(answer, at)
    data = answer[at + _OUTCOME.size : at + _OUTCOME.size + layout.DATA_SIZE]
    return Outcome(
        vector, error if vector in _WITH_ERROR else None, cr2 if vector == _PAGE_FAULT else None, rip, flags,
        [value & case.mode.mask for value in rest[:16]], rest[16], data,
    )  # fmt: skip
