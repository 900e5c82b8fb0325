"""A vCPU with hand-built tables in a small memory, for the tests of system instructions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isa.base import GuestFault
from isa.x86 import sensitive
from isa.x86.cpu import Cpu
from isa.x86.decode import Decoder
from isa.x86.segments import update_mode
from isa.x86.state import CR0_ET, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CS, EFER_LMA, EFER_LME, RSP, SS, Segment, Table
from isa.x86.system import SYSTEM

MIB = 1 << 20
GDT, IDT, TSS, LDT, STACK0, STACK, CODE, TABLES = 0x1000, 0x2000, 0x3000, 0x3800, 0x8000, 0x7000, 0x10000, 0x300000
# Selectors of the tables every protected machine has.
CODE0, DATA0, CODE3, DATA3, CODE64_3, TSS_SELECTOR, LDT_SELECTOR, FREE = 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x40, 0x50


class FakeMemory:
    """4 MiB of plain RAM."""

    def __init__(self) -> None:
        self.bytes = bytearray(4 * MIB)
        self.ram = memoryview(self.bytes)

    def ram_offset(self, gpa: int) -> int:
        return gpa & ~0xFFF if gpa < len(self.bytes) else -1

    def watched(self, gpa: int) -> bool:
        return False

    def watch(self, page: int) -> None: ...

    def unwatch(self, page: int) -> None: ...

    def read(self, gpa: int, size: int) -> int:
        return int.from_bytes(self.bytes[gpa : gpa + size].ljust(size, b"\xff"), "little")

    def write(self, gpa: int, size: int, value: int) -> None:
        assert 0 <= value < 1 << size * 8
        if gpa + size <= len(self.bytes):
            self.bytes[gpa : gpa + size] = value.to_bytes(size, "little")

    def write_bytes(self, gpa: int, data: bytes) -> None:
        self.bytes[gpa : gpa + len(data)] = data


class FakeOutside:
    """Records what the CPU asks for; ports read as what was put in `inputs`."""

    def __init__(self) -> None:
        self.outputs: list[tuple[int, int, int]] = []
        self.inputs: dict[int, list[int]] = {}
        self.flushes: list[int | None] = []
        self.apic: list[int] = []
        self.task_priority = self.tsc_deadline = 0
        self.now = 0x1_2345_6789

    def port_in(self, port: int, size: int) -> int:
        return self.inputs[port].pop(0)

    def port_out(self, port: int, size: int, value: int) -> None:
        self.outputs.append((port, size, value))

    def timestamp(self) -> int:
        return self.now

    def mapping_changed(self, linear: int | None) -> None:
        self.flushes.append(linear)

    def apic_base_changed(self, value: int) -> None:
        self.apic.append(value)

    def set_task_priority(self, value: int) -> None:
        self.task_priority = value

    def set_tsc_deadline(self, value: int) -> None:
        self.tsc_deadline = value


class Machine:
    """A CPU at CPL 0 in real mode (16), flat protected mode (32) or long mode with 2 MiB identity pages (64)."""

    def __init__(self, mode: int) -> None:
        self.memory, self.outside = FakeMemory(), FakeOutside()
        self.cpu = cpu = Cpu(self.memory, self.outside, None)
        self.mode = mode
        cpu.rip, cpu.regs[RSP] = CODE, STACK
        cpu.gdtr, cpu.idtr = Table(GDT, 0x7F), Table(IDT, 0xFFF)
        cpu.lidt_executed = True
        if mode == 16:
            cpu.rip, cpu.segs[CS] = 0x100, Segment(0x1000, 0x10000, 0xFFFF, 0x9B)
            cpu.idtr = Table(0, 0x3FF)
            update_mode(cpu)
            return
        wide = mode == 64
        self.descriptor(CODE0, 0, 0xFFFFFFFF, 0xA09B if wide else 0xC09B)
        self.descriptor(DATA0, 0, 0xFFFFFFFF, 0xC093)
        self.descriptor(CODE3, 0, 0xFFFFFFFF, 0xC0FB)
        self.descriptor(DATA3, 0, 0xFFFFFFFF, 0xC0F3)
        self.descriptor(CODE64_3, 0, 0xFFFFFFFF, 0xA0FB)
        self.descriptor(TSS_SELECTOR, TSS, 0x67, 0x8B)
        self.descriptor(LDT_SELECTOR, LDT, 0x3F, 0x82)
        cpu.tr = Segment(TSS_SELECTOR, TSS, 0x67, 0x8B)
        cpu.ldtr = Segment(LDT_SELECTOR, LDT, 0x3F, 0x82)
        if wide:
            self.memory.write(TSS + 4, 8, STACK0)
        else:
            self.memory.write(TSS + 4, 4, STACK0)
            self.memory.write(TSS + 8, 2, DATA0)
        self.memory.write(TSS + 102, 2, 0xFFFF)  # no I/O permission map
        cpu.cr0 = CR0_PE | CR0_ET
        if wide:
            self.memory.write(TABLES, 8, TABLES + 0x1000 | 7)
            self.memory.write(TABLES + 0x1000, 8, TABLES + 0x2000 | 7)
            self.memory.write(TABLES + 0x2000, 8, 0x87)
            self.memory.write(TABLES + 0x2008, 8, 0x200087)
            cpu.cr3, cpu.cr4, cpu.efer = TABLES, CR4_PAE, EFER_LME | EFER_LMA
            cpu.cr0 |= CR0_PG | CR0_WP
        cpu.segs[CS] = Segment(CODE0, 0, 0xFFFFFFFF, 0xA09B if wide else 0xC09B)
        for seg in (0, 2, 3, 4, 5):
            cpu.segs[seg] = Segment(DATA0, 0, 0xFFFFFFFF, 0xC093)
        update_mode(cpu)

    # -- tables -------------------------------------------------------------------------------------------------

    def descriptor(self, selector: int, base: int, limit: int, attr: int, high: int = 0) -> int:
        """Write a GDT (or, with TI set, LDT) entry; `limit` in bytes, `attr` as in `Segment`. Returns the selector."""
        if attr & 0x8000:
            limit >>= 12
        raw = limit & 0xFFFF | (base & 0xFFFFFF) << 16 | attr << 40 | (limit & 0xF0000) << 32 | base >> 24 << 56
        at = (LDT if selector & 4 else GDT) + (selector & 0xFFF8)
        self.memory.write(at, 8, raw & (1 << 64) - 1)
        if high:
            self.memory.write(at + 8, 8, high)
        return selector

    def call_gate(self, selector: int, target: int, offset: int, attr: int, count: int = 0) -> int:
        """Write a call gate; 16 bytes long in long mode."""
        raw = offset & 0xFFFF | target << 16 | count << 32 | attr << 40 | (offset >> 16 & 0xFFFF) << 48
        self.memory.write(GDT + (selector & 0xFFF8), 8, raw)
        if self.mode == 64:
            self.memory.write(GDT + (selector & 0xFFF8) + 8, 8, offset >> 32)
        return selector

    def gate(self, vector: int, target: int, offset: int, attr: int, ist: int = 0) -> None:
        """Write an IDT entry."""
        raw = offset & 0xFFFF | target << 16 | ist << 32 | attr << 40 | (offset >> 16 & 0xFFFF) << 48
        size = 16 if self.mode == 64 else 8
        self.memory.write(IDT + vector * size, 8, raw)
        if size == 16:
            self.memory.write(IDT + vector * size + 8, 8, offset >> 32)

    def map_4k(self, linear: int, entry: int) -> None:
        """Long mode: replace the 2 MiB page of `linear` by 4 KiB pages and give the one of `linear` its entry."""
        pde, table = TABLES + 0x2000 + (linear >> 21) * 8, TABLES + 0x3000 + (linear >> 21) * 0x1000
        if self.memory.read(pde, 8) & 0x80:
            for n in range(512):
                self.memory.write(table + n * 8, 8, (linear >> 21 << 21) + n * 0x1000 | 7)
            self.memory.write(pde, 8, table | 7)
        self.memory.write(table + (linear >> 12 & 511) * 8, 8, entry)
        self.cpu.flush_tlb(None)

    # -- running ------------------------------------------------------------------------------------------------

    def user(self, code: int = CODE3, stack: int = STACK) -> None:
        """Go to CPL 3 without an instruction."""
        cpu = self.cpu
        cpu.segs[CS] = Segment(code | 3, 0, 0xFFFFFFFF, 0xA0FB if code == CODE64_3 else 0xC0FB)
        for seg in (0, 2, 3, 4, 5):
            cpu.segs[seg] = Segment(DATA3 | 3, 0, 0xFFFFFFFF, 0xC0F3)
        cpu.regs[RSP] = stack
        update_mode(cpu)

    def vm86(self, iopl: int = 0) -> None:
        """Go to virtual-8086 mode at 1000:0100 with its stack at 0500:2000."""
        cpu = self.cpu
        cpu.rflags = 2 | 1 << 17 | iopl << 12 | 1 << 9
        for seg, selector in enumerate((0x600, 0x1000, 0x500, 0x700, 0x800, 0x900)):
            cpu.segs[seg] = Segment(selector, selector << 4, 0xFFFF, 0xF3)
        cpu.rip, cpu.regs[RSP] = 0x100, 0x2000
        update_mode(cpu)

    def step(self, text: str) -> None:
        """Execute one system instruction, given as hexadecimal bytes, at RIP."""
        cpu = self.cpu
        insn = Decoder(cpu.mode).decode(bytes.fromhex(text).ljust(15, b"\x90"))
        assert insn is not None
        row = sensitive.row_of(insn)
        assert row is not None, f"{insn!r} is not in the sensitive table"
        before, mode = cpu.rip, cpu.mode
        SYSTEM[row.name](cpu, insn)
        if not cpu.transferred:
            assert cpu.rip == before
            cpu.rip = before + insn.size & ((1 << 64) - 1 if mode == 64 else 0xFFFFFFFF)
        cpu.transferred = False

    def snapshot(self) -> tuple[object, ...]:
        """Everything an instruction that faults must leave alone (accessed and dirty bits are not part of it)."""
        cpu = self.cpu
        return (
            list(cpu.regs), cpu.rip, cpu.rflags, [repr(s) for s in cpu.segs], cpu.cpl, cpu.mode, cpu.cr0, cpu.cr3,
            cpu.cr4, cpu.efer, list(cpu.dr[:6]), cpu.dr[7], repr(cpu.ldtr), repr(cpu.tr), repr(cpu.gdtr),
            repr(cpu.idtr), cpu.shadow, cpu.halted, bytes(self.memory.bytes[:GDT]),
            bytes(self.memory.bytes[IDT:TABLES]), list(self.outside.outputs),
        )  # fmt: skip

    def fault(self, text: str) -> tuple[int, int | None]:
        """(vector, error code) of an instruction that must fault and change nothing."""
        return self.raises(lambda: self.step(text))

    def raises(self, action: Callable[[], object]) -> tuple[int, int | None]:
        """(vector, error code) of the fault `action` raises, with nothing changed."""
        before = self.snapshot()
        with pytest.raises(GuestFault) as caught:
            action()
        self.caught = caught.value
        assert self.snapshot() == before
        return caught.value.vector, caught.value.error

    def stack(self, count: int, size: int) -> list[int]:
        """The topmost values on the current stack, by linear address."""
        cpu = self.cpu
        at = cpu.regs[RSP] + (0 if cpu.mode == 64 else cpu.segs[SS].base)
        return [self.memory.read(at + n * size, size) for n in range(count)]

    def push(self, size: int, *values: int) -> None:
        """Put values on the current stack, the last one on top."""
        cpu = self.cpu
        for value in values:
            cpu.regs[RSP] -= size
            base = 0 if cpu.mode == 64 else cpu.segs[SS].base
            self.memory.write(base + cpu.regs[RSP], size, value)


@pytest.fixture
def real() -> Machine:
    return Machine(16)


@pytest.fixture
def protected() -> Machine:
    return Machine(32)


@pytest.fixture
def long() -> Machine:
    return Machine(64)
