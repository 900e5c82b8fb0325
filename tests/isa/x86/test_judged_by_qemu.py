"""System behaviour judged by QEMU: guests that print what the CPU did, run by the interpreter and by QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from guests.assembler import Program, assemble
from isa.base import GuestFault, Interrupted
from isa.x86.cpu import Cpu
from isa.x86.interp import Interpreter
from isa.x86.interrupts import deliver_exception
from isa.x86.segments import update_mode
from isa.x86.state import CR0_ET, CR0_PE, CS, Segment, Table

SOURCES = Path(__file__).parent / "judged"
COMMON = Path(__file__).parents[3] / "guests"
QEMU = "qemu-system-x86_64"
ORIGIN = 0x100000
SERIAL, LINE_STATUS, DEBUG_EXIT = 0x3F8, 0x3FD, 0xF4
MAX_INSTRUCTIONS = 1_000_000
# Virtual-8086 mode extensions are the one feature here that QEMU's CPU has and ours has not.
CPU = "qemu64,vendor=GenuineIntel,-vme,-smap,+fsgsbase,+smep,+umip"


class Memory:
    """8 MiB of RAM."""

    def __init__(self) -> None:
        self.bytes = bytearray(8 << 20)
        self.ram = memoryview(self.bytes)
        self.written: Callable[[int, int], None] = lambda gpa, size: None
        self.pages: set[int] = set()

    def ram_offset(self, gpa: int) -> int:
        return gpa & ~0xFFF if gpa < len(self.bytes) else -1

    def watched(self, gpa: int) -> bool:
        return gpa >> 12 in self.pages

    def watch(self, page: int) -> None:
        self.pages.add(page)

    def unwatch(self, page: int) -> None:
        self.pages.discard(page)

    def read(self, gpa: int, size: int) -> int:
        return int.from_bytes(self.bytes[gpa : gpa + size].ljust(size, b"\xff"), "little")

    def write(self, gpa: int, size: int, value: int) -> None:
        if gpa + size <= len(self.bytes):
            self.bytes[gpa : gpa + size] = value.to_bytes(size, "little")
            if gpa >> 12 in self.pages:
                self.written(gpa, size)


class Board:
    """COM1, always ready, and the debug exit; every other port reads as all ones."""

    def __init__(self) -> None:
        self.console = bytearray()
        self.status: int | None = None

    def port_in(self, port: int, size: int) -> int:
        return 0x20 if port == LINE_STATUS else (1 << size * 8) - 1

    def port_out(self, port: int, size: int, value: int) -> None:
        if port == SERIAL:
            self.console.append(value)
        elif port == DEBUG_EXIT:
            self.status = value << 1 | 1

    def timestamp(self) -> int:
        return 0

    def mapping_changed(self, linear: int | None) -> None: ...

    def apic_base_changed(self, value: int) -> None: ...


def build(name: str) -> Program:
    def read(file: str) -> str:
        path = SOURCES / file
        return (path if path.exists() else COMMON / file).read_text(encoding="ascii")

    return assemble(name, read, ORIGIN, 32)


def interpret(program: Program) -> tuple[int | None, str]:
    """(status, console) of the guest on the interpreter, entered as Multiboot 1 says (0.6.96, 3.2)."""
    memory, board = Memory(), Board()
    memory.bytes[ORIGIN : ORIGIN + len(program.image)] = program.image
    cpu = Cpu(memory, board, None)
    cpu.cr0 = CR0_PE | CR0_ET
    cpu.segs = [Segment(0x10, 0, 0xFFFFFFFF, 0xC09B if seg == CS else 0xC093) for seg in range(6)]
    cpu.segs[CS].selector = 8
    cpu.gdtr, cpu.idtr = Table(0, 0), Table(0, 0)
    cpu.rip = program.symbols["multiboot_entry"]
    update_mode(cpu)
    interpreter = Interpreter(cpu)
    memory.written = interpreter.written
    while board.status is None and not cpu.halted:
        left = MAX_INSTRUCTIONS - cpu.retired
        if left <= 0:
            break
        try:
            interpreter.run(min(left, 1000))
        except Interrupted:
            continue
        except GuestFault as fault:
            chain = deliver_exception(cpu, fault)
            if chain is not None:
                board.console += f"triple fault: {chain}".encode()
                break
    return board.status, board.console.decode("latin-1")


def under_qemu(program: Program, folder: Path) -> tuple[int | None, str]:
    """The same under QEMU's TCG."""
    kernel = folder / "kernel"
    kernel.write_bytes(program.image)
    line = [QEMU, "-accel", "tcg", "-cpu", CPU, "-m", "64M", "-no-reboot", "-net", "none", "-monitor", "none"]
    line += ["-display", "none", "-serial", "stdio", "-device", f"isa-debug-exit,iobase={DEBUG_EXIT:#x},iosize=4"]
    done = subprocess.run([*line, "-kernel", str(kernel)], capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout.decode("latin-1")


@pytest.mark.parametrize("name", sorted(path.name for path in SOURCES.glob("*.s")))
def test_prints_what_qemu_prints(name: str, tmp_path: Path) -> None:
    if shutil.which(QEMU) is None:
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(f"{QEMU} is missing: install the package qemu-system-x86")
        pytest.skip(f"{QEMU} is not installed")
    program = build(name)
    status, console = under_qemu(program, tmp_path)
    assert status == 0x10 << 1 | 1, console
    assert interpret(program) == (status, console)
