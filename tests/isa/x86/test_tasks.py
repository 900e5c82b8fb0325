"""Hardware task switches (SDM vol. 3, chapter 7): what is saved, loaded and marked, and whose fault a fault is.

`judged/tasks.s` shows the same to QEMU; here is what QEMU does not do, and what it leaves unsaid.
"""

from __future__ import annotations

from typing import Any

import pytest

from isa.base import GuestFault
from isa.x86.interp import Interpreter
from isa.x86.interrupts import Event, deliver, deliver_exception
from isa.x86.state import (
    AC,
    CF,
    CR0_PG,
    CR0_TS,
    CS,
    DF,
    DS,
    ES,
    FS,
    GS,
    ID,
    IF,
    NT,
    RAX,
    RBX,
    RDI,
    RF,
    RSP,
    SS,
    TF,
    VM,
    ZF,
    Segment,
)  # fmt: skip

CODE0, DATA0, CODE3, DATA3, TSS_SELECTOR, LDT_SELECTOR, FREE = 0x08, 0x10, 0x18, 0x20, 0x30, 0x40, 0x50
GATE, LDT2 = 0x58, 0x60
GDT, IDT, TSS, STACK, CODE = 0x1000, 0x2000, 0x3000, 0x7000, 0x10000
NEW, STACK2, ENTRY = 0x5000, 0x9000, 0x11000
GP, NP, SS_FAULT, TS, PF, DF_FAULT = 13, 11, 12, 10, 14, 8
AVAILABLE, BUSY, AVAILABLE16, BUSY16, TASK_GATE = 0x89, 0x8B, 0x81, 0x83, 0x85
IRETD = "cf"


def far(opcode: str, selector: int) -> str:
    return f"{opcode} 78 56 34 12 {selector.to_bytes(2, 'little').hex()}"


JMP, CALL = far("ea", FREE), far("9a", FREE)


def word(machine: Any, address: int) -> int:
    return machine.memory.read(address, 2)  # type: ignore[no-any-return]


def dword(machine: Any, address: int) -> int:
    return machine.memory.read(address, 4)  # type: ignore[no-any-return]


def kind(machine: Any, selector: int) -> int:
    """The access byte of a GDT entry."""
    return machine.memory.read(GDT + selector + 5, 1)  # type: ignore[no-any-return]


@pytest.fixture
def tasks(protected: Any) -> Any:
    """A machine with a second 32-bit task at FREE (SDM vol. 3, figure 7-2)."""
    memory = protected.memory
    protected.descriptor(FREE, NEW, 0x67, AVAILABLE)
    memory.write(NEW + 0x20, 4, ENTRY)
    memory.write(NEW + 0x24, 4, CF | 2)
    for n in range(8):
        memory.write(NEW + 0x28 + n * 4, 4, 0x1111_1111 * (n + 1))
    memory.write(NEW + 0x38, 4, STACK2)
    for n, selector in enumerate((DATA0, CODE0, DATA0, DATA3, 0, DATA0)):
        memory.write(NEW + 0x48 + n * 4, 4, 0xDEAD_0000 | selector)
    memory.write(NEW + 0x60, 4, 0)
    protected.descriptor(GATE, 0, 0, TASK_GATE)
    memory.write(GDT + GATE + 2, 2, FREE)
    return protected


def field(machine: Any, at: int, value: int) -> None:
    machine.memory.write(NEW + at, 4, value)


# -- what a switch does ---------------------------------------------------------------------------------------------


def test_jmp_saves_and_loads_everything(tasks: Any) -> None:
    cpu = tasks.cpu
    for n in range(8):
        cpu.regs[n] = 0xA0 + n
    cpu.rflags = ZF | DF | 2
    cpu.segs[GS] = Segment(0x1234, 0, 0, 0)
    tasks.step(JMP)
    assert dword(tasks, TSS + 0x20) == CODE + 7  # behind the instruction
    assert dword(tasks, TSS + 0x24) == ZF | DF | 2
    assert [dword(tasks, TSS + 0x28 + n * 4) for n in range(8)] == [0xA0 + n for n in range(8)]
    saved = [word(tasks, TSS + 0x48 + n * 4) for n in range(6)]
    assert saved == [DATA0, CODE0, DATA0, DATA0, DATA0, 0x1234]
    assert cpu.rip == ENTRY
    assert cpu.rflags == CF | 2
    expected = [0x1111_1111 * (n + 1) for n in range(8)]
    expected[RSP] = STACK2
    assert cpu.regs[:8] == expected
    assert [cpu.segs[seg].selector for seg in (ES, CS, SS, DS, FS, GS)] == [DATA0, CODE0, DATA0, DATA3, 0, DATA0]
    assert (cpu.segs[FS].attr, cpu.segs[DS].attr) == (0, 0xC0F3)
    assert cpu.ldtr == Segment(0, 0, 0, 0)
    assert cpu.tr == Segment(FREE, NEW, 0x67, BUSY)
    assert cpu.cr0 & CR0_TS
    assert (kind(tasks, TSS_SELECTOR), kind(tasks, FREE)) == (AVAILABLE, BUSY)
    assert word(tasks, NEW) == 0  # no back link


def test_call_nests_and_iret_returns(tasks: Any) -> None:
    cpu = tasks.cpu
    tasks.step(CALL)
    assert cpu.rflags == CF | NT | 2
    assert word(tasks, NEW) == TSS_SELECTOR
    assert (kind(tasks, TSS_SELECTOR), kind(tasks, FREE)) == (BUSY, BUSY)
    cpu.cr0 &= ~CR0_TS
    tasks.step(IRETD)
    assert (cpu.rip, cpu.rflags, cpu.tr.selector) == (CODE + 7, 2, TSS_SELECTOR)
    assert dword(tasks, NEW + 0x20) == ENTRY + 1
    assert dword(tasks, NEW + 0x24) == CF | 2  # without NT
    assert (kind(tasks, TSS_SELECTOR), kind(tasks, FREE)) == (BUSY, AVAILABLE)
    assert cpu.cr0 & CR0_TS


def test_nt_of_the_saved_flags_survives_a_call(tasks: Any) -> None:
    tasks.cpu.rflags = NT | 2
    tasks.step(CALL)
    assert dword(tasks, TSS + 0x24) == NT | 2


def test_to_user_code_and_back(tasks: Any) -> None:
    for at, selector in ((0x48, DATA3 | 3), (0x4C, CODE3 | 3), (0x50, DATA3 | 3), (0x5C, DATA3)):
        field(tasks, at, selector)
    field(tasks, 0x24, IF | 2 | ID | AC | 0x3000)
    tasks.step(CALL)
    assert (tasks.cpu.cpl, tasks.cpu.mode, tasks.cpu.rflags) == (3, 32, IF | 2 | ID | AC | 0x3000 | NT)
    tasks.step(IRETD)  # IRET asks for no privilege
    assert tasks.cpu.cpl == 0


def test_call_through_a_gate_from_user_code(tasks: Any) -> None:
    tasks.memory.write(GDT + GATE + 5, 1, TASK_GATE | 0x60)
    tasks.user()
    assert tasks.fault(CALL) == (GP, FREE)  # the TSS has DPL 0, which does not matter behind a gate
    tasks.step(far("9a", GATE | 3))
    assert (tasks.cpu.cpl, tasks.cpu.tr.selector, word(tasks, NEW)) == (0, FREE, TSS_SELECTOR)


def test_switch_into_a_16_bit_task(tasks: Any) -> None:
    memory, cpu = tasks.memory, tasks.cpu
    tasks.descriptor(FREE, NEW, 0x2B, AVAILABLE16)
    memory.bytes[NEW : NEW + 0x68] = bytes(0x68)
    memory.write(NEW + 0x0E, 2, 0x1000)
    memory.write(NEW + 0x10, 2, CF | 2)
    for n in range(8):
        memory.write(NEW + 0x12 + n * 2, 2, 0x1111 * (n + 1))
    for n, selector in enumerate((DATA0, CODE0, DATA0, DATA3)):
        memory.write(NEW + 0x22 + n * 2, 2, selector)
    memory.write(NEW + 0x2A, 2, LDT_SELECTOR)
    cpu.regs[RAX] = 0xAAAA_AAAA
    cpu.rflags = AC | 2
    tasks.step(CALL)
    assert (cpu.rip, cpu.rflags) == (0x1000, CF | NT | 2)
    assert cpu.regs[RDI] & 0xFFFF == 0x8888
    assert [cpu.segs[seg].selector for seg in (ES, CS, SS, DS, FS, GS)] == [DATA0, CODE0, DATA0, DATA3, 0, 0]
    assert cpu.ldtr.base == 0x3800
    assert cpu.tr.attr == BUSY16
    cpu.regs[RBX] = 0xBBBB_BBBB
    cpu.segs[GS] = Segment(DATA0, 0, 0xFFFFFFFF, 0xC093)
    tasks.step(IRETD)
    assert (cpu.regs[RAX], cpu.rflags, cpu.tr.selector) == (0xAAAA_AAAA, AC | 2, TSS_SELECTOR)
    assert word(tasks, NEW + 0x12 + RBX * 2) == 0xBBBB
    assert word(tasks, NEW + 0x2A) == LDT_SELECTOR
    assert word(tasks, NEW + 0x2C) == 0  # nothing behind the 44 bytes


def test_vm86_task(tasks: Any) -> None:
    for n, selector in enumerate((0x600, 0x1000, 0x500, 0x700, 0x800, 0x900)):
        field(tasks, 0x48 + n * 4, selector)
    field(tasks, 0x20, 0x100)
    field(tasks, 0x24, VM | IF | 2)
    tasks.step(JMP)
    cpu = tasks.cpu
    assert (cpu.cpl, cpu.mode, cpu.rip, cpu.rflags) == (3, 16, 0x100, VM | IF | 2)
    assert cpu.segs[CS] == Segment(0x1000, 0x10000, 0xFFFF, 0xF3)
    assert cpu.segs[GS] == Segment(0x900, 0x9000, 0xFFFF, 0xF3)


def test_cr3_is_loaded_where_paging_is_on(tasks: Any) -> None:
    cpu, memory = tasks.cpu, tasks.memory
    for directory in (0x32_0000, 0x32_1000):
        memory.write(directory, 4, 0x32_2007)
    for page in range(1024):
        memory.write(0x32_2000 + page * 4, 4, page << 12 | 7)
    field(tasks, 0x1C, 0x32_1000)
    tasks.step(CALL)
    assert cpu.cr3 == 0  # paging is off
    tasks.step(IRETD)
    memory.write(TSS + 0x1C, 4, 0x32_0000)
    cpu.cr3, cpu.rip = 0x32_0000, CODE
    cpu.cr0 |= CR0_PG
    tasks.outside.flushes.clear()
    flushes = cpu.flushes
    tasks.step(CALL)
    assert (cpu.cr3, tasks.outside.flushes) == (0x32_1000, [None])
    assert cpu.flushes > flushes
    tasks.step(IRETD)
    assert cpu.cr3 == 0x32_0000
    assert dword(tasks, NEW + 0x1C) == 0x32_1000  # CR3 is a static field


def test_local_breakpoints_are_cleared(tasks: Any) -> None:
    tasks.cpu.dr[7] = 0x7FF
    tasks.step(JMP)
    assert tasks.cpu.dr[7] == 0x6AA


def test_trap_bit(tasks: Any) -> None:
    """#DB with DR6.BT in the new task, before its first instruction (SDM vol. 3, 17.3.1.5)."""
    field(tasks, 0x64, 0x68_0001)
    tasks.memory.bytes[CODE : CODE + 7] = bytes.fromhex(JMP)
    with pytest.raises(GuestFault) as caught:
        Interpreter(tasks.cpu).run(5)
    assert (caught.value.vector, caught.value.behind) == (1, True)
    assert (tasks.cpu.rip, tasks.cpu.dr[6], tasks.cpu.retired) == (ENTRY, 0xFFFF_8FF0, 1)
    assert not tasks.cpu.watching


# -- events ---------------------------------------------------------------------------------------------------------


def test_exception_through_a_task_gate(tasks: Any) -> None:
    tasks.gate(13, FREE, 0, TASK_GATE)
    tasks.cpu.rflags = ZF | 2
    assert deliver_exception(tasks.cpu, GuestFault(GP, 0x1238)) is None
    assert (tasks.cpu.rip, tasks.cpu.regs[RSP], dword(tasks, STACK2 - 4)) == (ENTRY, STACK2 - 4, 0x1238)
    assert dword(tasks, TSS + 0x20) == CODE  # on the instruction that faulted
    assert dword(tasks, TSS + 0x24) == ZF | RF | 2
    assert tasks.cpu.rflags == CF | NT | 2


def test_interrupt_through_a_task_gate_ends_halt(tasks: Any) -> None:
    tasks.gate(0x20, FREE, 0, TASK_GATE)
    tasks.cpu.rflags = IF | 2
    tasks.cpu.halted = True
    deliver(tasks.cpu, 0x20, None, Event.HARDWARE)
    assert (tasks.cpu.rip, tasks.cpu.regs[RSP], tasks.cpu.halted) == (ENTRY, STACK2, False)
    assert dword(tasks, TSS + 0x24) == IF | 2


def test_error_code_of_a_16_bit_task_has_16_bits(tasks: Any) -> None:
    tasks.descriptor(FREE, NEW, 0x2B, AVAILABLE16)
    tasks.memory.bytes[NEW : NEW + 0x68] = bytes(0x68)
    tasks.memory.write(NEW + 0x1A, 2, STACK2)
    for at, selector in ((0x24, CODE0), (0x26, DATA0)):
        tasks.memory.write(NEW + at, 2, selector)
    tasks.gate(8, FREE, 0, TASK_GATE)
    deliver(tasks.cpu, 8, 0, Event.EXCEPTION)
    assert tasks.cpu.regs[RSP] & 0xFFFF == STACK2 - 2


def test_gate_privilege_and_targets(tasks: Any) -> None:
    tasks.gate(0x20, FREE, 0, TASK_GATE)
    tasks.user()
    assert tasks.raises(lambda: deliver(tasks.cpu, 0x20, None, Event.SOFTWARE)) == (GP, 0x20 * 8 + 2)
    tasks.gate(0x20, FREE | 4, 0, TASK_GATE)
    assert tasks.raises(lambda: deliver(tasks.cpu, 0x20, None, Event.HARDWARE)) == (GP, FREE | 4 | 1)
    tasks.gate(0x20, TSS_SELECTOR, 0, TASK_GATE)  # busy
    assert tasks.raises(lambda: deliver(tasks.cpu, 0x20, None, Event.HARDWARE)) == (GP, TSS_SELECTOR | 1)
    tasks.gate(0x20, 0, 0, TASK_GATE)
    assert tasks.raises(lambda: deliver(tasks.cpu, 0x20, None, Event.HARDWARE)) == (GP, 1)
    tasks.gate(0x20, FREE, 0, TASK_GATE)
    tasks.memory.write(GDT + FREE + 5, 1, 0x09)
    assert tasks.raises(lambda: deliver(tasks.cpu, 0x20, None, Event.HARDWARE)) == (NP, FREE | 1)


def test_int_is_not_followed_by_a_single_step_trap(tasks: Any) -> None:
    tasks.gate(0x20, FREE, 0, TASK_GATE)
    tasks.memory.bytes[CODE : CODE + 2] = bytes.fromhex("cd 20")
    tasks.cpu.rflags = TF | 2
    Interpreter(tasks.cpu).step()
    assert tasks.cpu.rip == ENTRY
    assert dword(tasks, TSS + 0x24) == TF | 2


# -- faults of the old task: nothing happens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attr", "limit", "expected"),
    [
        (BUSY, 0x67, (GP, FREE)),
        (BUSY16, 0x67, (GP, FREE)),
        (0x09, 0x67, (NP, FREE)),
        (AVAILABLE, 0x66, (TS, FREE)),
        (AVAILABLE16, 0x2A, (TS, FREE)),
    ],
)
def test_descriptor_checks(tasks: Any, attr: int, limit: int, expected: tuple[int, int]) -> None:
    tasks.descriptor(FREE, NEW, limit, attr)
    assert tasks.fault(JMP) == expected
    assert tasks.fault(CALL) == expected


def test_old_tss_too_small(tasks: Any) -> None:
    tasks.cpu.tr = Segment(TSS_SELECTOR, TSS, 0x66, BUSY)
    assert tasks.fault(JMP) == (TS, TSS_SELECTOR)


@pytest.mark.parametrize(("at", "writable"), [(TSS, False), (NEW, False), (NEW, True), (0x3000 - 0x1000, False)])
def test_page_faults_change_nothing(tasks: Any, at: int, writable: bool) -> None:
    """Old TSS, new TSS and (for the busy bits) the GDT must be reachable before the switch begins (7.3, step 5)."""
    cpu, memory = tasks.cpu, tasks.memory
    cpu.gdtr.base = 0x2000
    memory.bytes[0x2000:0x2080] = memory.bytes[GDT : GDT + 0x80]
    memory.write(0x32_0000, 4, 0x32_2007)
    for page in range(1024):
        memory.write(0x32_2000 + page * 4, 4, page << 12 | 7)
    entry = 0x32_2000 + (at >> 12) * 4
    memory.write(entry, 4, at | (5 if at in (0x2000, TSS) else 0))  # read-only, or not present
    if writable:
        memory.write(entry, 4, at | 5)
    cpu.cr3 = 0x32_0000
    cpu.cr0 |= CR0_PG | 1 << 16
    before = tasks.snapshot()
    with pytest.raises(GuestFault) as caught:
        tasks.step(CALL)
    assert (caught.value.vector, caught.value.behind) == (PF, False)
    assert (caught.value.cr2 or 0) & ~0xFFF == at
    assert tasks.snapshot() == before


@pytest.mark.parametrize(
    ("link", "error"),
    [(0, 0), (FREE | 4, FREE | 4), (0x78, 0x78), (0x100, 0x100), (FREE, FREE), (DATA0, DATA0)],
)
def test_iret_with_a_bad_link(tasks: Any, link: int, error: int) -> None:
    tasks.cpu.rflags = NT | 2
    tasks.memory.write(TSS, 2, link)
    assert tasks.fault(IRETD) == (TS, error)


def test_no_tasks_in_ia32e_mode(long: Any) -> None:
    long.descriptor(FREE, NEW, 0x67, AVAILABLE)
    long.memory.write(0x6000, 8, FREE << 32)
    long.cpu.regs[RBX] = 0x6000
    assert long.fault("ff 2b") == (GP, FREE)


# -- faults of the new task -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "selector", "attr", "expected"),
    [
        (0x4C, 0, 0, (TS, 0)),
        (0x4C, DATA0, 0, (TS, DATA0)),
        (0x4C, CODE0 | 3, 0, (TS, CODE0)),
        (0x4C, LDT2, 0xC01B, (NP, LDT2)),
        (0x4C, LDT2 | 3, 0xC01F, (NP, LDT2)),  # conforming
        (0x4C, LDT2, 0xC0FF, (TS, LDT2)),
        (0x50, 0, 0, (TS, 0)),
        (0x50, DATA3, 0, (TS, DATA3)),
        (0x50, LDT2, 0xC013, (SS_FAULT, LDT2)),
        (0x54, 0xF8, 0, (TS, 0xF8)),
        (0x54, LDT2, 0xC099, (TS, LDT2)),  # execute-only code
        (0x58, LDT2, 0xC013, (NP, LDT2)),
        (0x5C, TSS_SELECTOR, 0, (TS, TSS_SELECTOR)),
        (0x60, LDT2 | 4, 0, (TS, LDT2 | 4)),
        (0x60, DATA0, 0, (TS, DATA0)),
        (0x60, LDT2, 0x02, (TS, LDT2)),
        (0x20, 0x1_0000, 0, (GP, 0)),
    ],
)
def test_faults_of_the_new_task(tasks: Any, at: int, selector: int, attr: int, expected: tuple[int, int]) -> None:
    """The switch is complete: TR, busy bits and registers are those of the new task (SDM vol. 3, 7.3, step 13)."""
    if attr:
        tasks.descriptor(LDT2, 0, 0xFFFFFFFF, attr)
    if at == 0x20:
        tasks.descriptor(LDT2, 0, 0xFFFF, 0x409B)
        field(tasks, 0x4C, LDT2)
    field(tasks, at, selector)
    tasks.memory.bytes[CODE : CODE + 7] = bytes.fromhex(CALL)
    with pytest.raises(GuestFault) as caught:
        Interpreter(tasks.cpu).run(3)
    cpu = tasks.cpu
    assert (caught.value.vector, caught.value.error, caught.value.behind) == (*expected, True)
    assert cpu.rip == (selector if at == 0x20 else ENTRY)
    assert (cpu.tr.selector, cpu.rflags, cpu.regs[RAX], cpu.retired) == (FREE, CF | NT | 2, 0x1111_1111, 1)
    assert (kind(tasks, TSS_SELECTOR), kind(tasks, FREE)) == (BUSY, BUSY)
    assert not cpu.transferred


def test_fault_of_the_new_task_while_an_event_is_delivered(tasks: Any) -> None:
    """Contributory after contributory: a double fault, taken in the new task, with EXT in the error code."""
    field(tasks, 0x54, 0xF8)
    tasks.gate(13, FREE, 0, TASK_GATE)
    tasks.gate(8, CODE0, 0x12345, 0x8E)
    faults: list[GuestFault] = []
    with pytest.raises(GuestFault) as caught:
        deliver(tasks.cpu, GP, 0, Event.EXCEPTION)
    assert (caught.value.vector, caught.value.error, caught.value.behind) == (TS, 0xF9, True)
    faults.append(GuestFault(GP, 0))
    assert deliver_exception(tasks.cpu, caught.value, tuple(faults)) is None
    assert tasks.cpu.rip == 0x12345
    assert tasks.stack(2, 4) == [0, ENTRY]


def test_error_code_that_finds_no_stack(tasks: Any) -> None:
    tasks.descriptor(LDT2, 0, 0xFFF, 0x4093)
    field(tasks, 0x50, LDT2)
    field(tasks, 0x38, 0x3000)
    tasks.gate(13, FREE, 0, TASK_GATE)
    with pytest.raises(GuestFault) as caught:
        deliver(tasks.cpu, GP, 0, Event.EXCEPTION)
    assert (caught.value.vector, caught.value.error, caught.value.behind) == (SS_FAULT, 1, True)
    assert tasks.cpu.tr.selector == FREE
