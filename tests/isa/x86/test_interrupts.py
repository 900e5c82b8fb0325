"""Delivery through IVT and IDT: frames, privilege change, error codes, double and triple faults."""

from __future__ import annotations

from typing import Any

import pytest

from isa.base import GuestFault
from isa.x86.interrupts import Event, deliver, deliver_exception
from isa.x86.state import AC, CF, CS, DS, GS, IF, NT, RF, RSP, SS, TF, VM, ZF, Segment

CODE0, DATA0, CODE3, DATA3, CODE64_3, TSS_SELECTOR, FREE = 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x50
IDT, TSS, STACK0, STACK, HANDLER, CODE = 0x2000, 0x3000, 0x8000, 0x7000, 0x12345, 0x10000
GP, NP, SS_FAULT, TS, PF, DF = 13, 11, 12, 10, 14, 8
INT_GATE, TRAP_GATE, INT_GATE16, TASK_GATE = 0x8E, 0x8F, 0x86, 0x85
FLAGS = 2 | CF | ZF | IF | TF
HARDWARE, SOFTWARE, EXCEPTION, TRAP = Event.HARDWARE, Event.SOFTWARE, Event.EXCEPTION, Event.TRAP


def fails(machine: Any, vector: int, event: Event, error: int | None = None) -> tuple[int, int | None]:
    return machine.raises(lambda: deliver(machine.cpu, vector, error, event))  # type: ignore[no-any-return]


# -- real mode ----------------------------------------------------------------------------------------------------


def test_real_mode(real: Any) -> None:
    cpu = real.cpu
    real.memory.write(0x21 * 4, 4, 0xF000_1234)
    cpu.rflags, cpu.halted, cpu.shadow = FLAGS | AC, True, True
    deliver(cpu, 0x21, None, HARDWARE)
    assert real.stack(3, 2) == [0x100, 0x1000, FLAGS]
    assert (cpu.segs[CS].selector, cpu.segs[CS].base, cpu.rip) == (0xF000, 0xF0000, 0x1234)
    assert cpu.rflags == 2 | CF | ZF
    assert (cpu.halted, cpu.shadow, cpu.regs[RSP]) == (False, False, STACK - 6)


def test_real_mode_stack_wraps_and_faults(real: Any) -> None:
    real.cpu.regs[RSP] = 0x5555_0000
    deliver(real.cpu, 3, None, SOFTWARE)
    assert real.cpu.regs[RSP] == 0x5555_FFFA
    real.cpu.regs[RSP] = 1
    assert fails(real, 3, SOFTWARE) == (SS_FAULT, 0)
    real.cpu.idtr.limit = 0x0F
    assert fails(real, 4, SOFTWARE) == (GP, 4 * 8 + 2)
    assert real.caught.note == "IDT limit 0xf is below vector 4"


# -- 32-bit protected mode ----------------------------------------------------------------------------------------


def test_same_privilege(protected: Any) -> None:
    cpu = protected.cpu
    protected.gate(14, CODE0, HANDLER, INT_GATE)
    cpu.rflags = FLAGS | NT
    deliver(cpu, 14, 5, EXCEPTION)
    assert protected.stack(4, 4) == [5, CODE, CODE0, FLAGS | NT | RF]
    assert (cpu.rip, cpu.segs[CS].selector, cpu.regs[RSP], cpu.rflags) == (HANDLER, CODE0, STACK - 16, 2 | CF | ZF)


def test_trap_gate_keeps_if_and_pushes_no_rf(protected: Any) -> None:
    protected.gate(3, CODE0, HANDLER, TRAP_GATE)
    protected.cpu.rflags = FLAGS | RF
    deliver(protected.cpu, 3, None, TRAP, CODE + 1)
    assert protected.stack(3, 4) == [CODE + 1, CODE0, FLAGS]
    assert protected.cpu.rflags == 2 | CF | ZF | IF


def test_16_bit_gate(protected: Any) -> None:
    protected.gate(13, CODE0, 0x7771234, INT_GATE16)
    protected.cpu.regs[RSP] = 0x12007000 & 0x7FFF
    deliver(protected.cpu, 13, 0x50, EXCEPTION)
    assert protected.stack(4, 2) == [0x50, CODE & 0xFFFF, CODE0, 2]
    assert protected.cpu.rip == 0x1234


def test_inner_privilege_uses_the_tss_stack(protected: Any) -> None:
    cpu = protected.cpu
    protected.user()
    protected.gate(14, CODE0, HANDLER, INT_GATE)
    cpu.rflags = FLAGS
    deliver(cpu, 14, 7, EXCEPTION)
    assert protected.stack(6, 4) == [7, CODE, CODE3 | 3, FLAGS | RF, STACK, DATA3 | 3]
    assert (cpu.cpl, cpu.segs[SS].selector, cpu.segs[CS].selector) == (0, DATA0, CODE0)
    assert cpu.regs[RSP] == STACK0 - 24
    assert cpu.segs[DS].selector == DATA3 | 3


def test_inner_privilege_with_a_16_bit_tss(protected: Any) -> None:
    protected.cpu.tr = Segment(TSS_SELECTOR, TSS, 0x2B, 0x83)
    protected.memory.write(TSS + 2, 2, 0x9000)
    protected.memory.write(TSS + 4, 2, DATA0)
    protected.gate(0x80, CODE0, HANDLER, INT_GATE | 0x60)
    protected.user()
    deliver(protected.cpu, 0x80, None, SOFTWARE, CODE + 2)
    assert protected.cpu.regs[RSP] == 0x9000 - 20
    assert protected.stack(5, 4) == [CODE + 2, CODE3 | 3, 2, STACK, DATA3 | 3]


def test_conforming_handler_keeps_cpl(protected: Any) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF, 0xC09F)
    protected.gate(6, FREE, HANDLER, INT_GATE)
    protected.user()
    deliver(protected.cpu, 6, None, EXCEPTION)
    assert (protected.cpu.cpl, protected.cpu.segs[CS].selector) == (3, FREE | 3)
    assert protected.stack(3, 4) == [CODE, CODE3 | 3, 2 | RF]


def test_16_bit_stack_keeps_the_upper_half_of_esp(protected: Any) -> None:
    protected.gate(6, CODE0, HANDLER, INT_GATE)
    protected.cpu.segs[SS] = Segment(DATA0, 0, 0xFFFF, 0x0093)
    protected.cpu.regs[RSP] = 0xABCD_0004
    deliver(protected.cpu, 6, None, EXCEPTION)
    assert protected.cpu.regs[RSP] == 0xABCD_FFF8


def test_from_vm86(protected: Any) -> None:
    cpu = protected.cpu
    protected.gate(13, CODE0, HANDLER, INT_GATE)
    protected.vm86()
    deliver(cpu, 13, 0, EXCEPTION)
    image = 2 | VM | IF | RF
    assert protected.stack(10, 4) == [0, 0x100, 0x1000, image, 0x2000, 0x500, 0x600, 0x700, 0x800, 0x900]
    assert (cpu.cpl, cpu.mode, cpu.rflags) == (0, 32, 2)
    assert [cpu.segs[seg] for seg in (DS, GS)] == [Segment(0, 0, 0, 0)] * 2
    assert cpu.regs[RSP] == STACK0 - 40


def test_from_vm86_needs_a_level_0_handler(protected: Any) -> None:
    protected.vm86()
    protected.gate(13, CODE3, HANDLER, INT_GATE)
    assert fails(protected, 13, EXCEPTION, 0) == (GP, CODE3 | 1)
    protected.descriptor(FREE, 0, 0xFFFFFFFF, 0xC09F)
    protected.gate(13, FREE, HANDLER, INT_GATE)
    assert fails(protected, 13, EXCEPTION, 0) == (GP, FREE | 1)


# (vector, gate attributes, event, CPL 3?, faulting vector, error code, note)
GATES = [
    (0x20, 0x0E, HARDWARE, False, NP, 0x20 * 8 + 3, "IDT[32]: gate not present"),
    (0x20, 0x0E, SOFTWARE, False, NP, 0x20 * 8 + 2, "IDT[32]: gate not present"),
    (14, 0x0E, EXCEPTION, False, NP, 14 * 8 + 3, "IDT[14]: gate not present"),
    (0x20, 0x8E, SOFTWARE, True, GP, 0x20 * 8 + 2, "IDT[32]: gate DPL 0 is below CPL 3"),
    (3, 0x8E, TRAP, True, GP, 3 * 8 + 2, "IDT[3]: gate DPL 0 is below CPL 3"),
    (0x20, 0x8C, SOFTWARE, False, GP, 0x20 * 8 + 2, "IDT[32]: type 0xc is no interrupt, trap or task gate"),
    (0x20, 0x9E, HARDWARE, False, GP, 0x20 * 8 + 3, "IDT[32]: type 0x1e is no interrupt, trap or task gate"),
]


@pytest.mark.parametrize(("vector", "attr", "event", "user", "fault", "error", "note"), GATES)
def test_gate_checks(
    protected: Any, vector: int, attr: int, event: Event, user: bool, fault: int, error: int, note: str
) -> None:
    protected.gate(vector, CODE0, HANDLER, attr)
    if user:
        protected.user()
    assert fails(protected, vector, event) == (fault, error)
    assert protected.caught.note == note


def test_gate_privilege_does_not_matter_to_hardware(protected: Any) -> None:
    protected.gate(0x20, CODE0, HANDLER, INT_GATE)
    protected.gate(1, CODE0, HANDLER, INT_GATE)
    protected.user()
    deliver(protected.cpu, 0x20, None, HARDWARE)
    protected.user()
    deliver(protected.cpu, 1, None, TRAP)  # INT1 counts as hardware
    assert protected.cpu.rip == HANDLER


def test_idt_limit(protected: Any) -> None:
    protected.cpu.idtr.limit = 0x20 * 8 + 6
    protected.gate(0x20, CODE0, HANDLER, INT_GATE)
    assert fails(protected, 0x20, HARDWARE) == (GP, 0x20 * 8 + 3)
    protected.cpu.lidt_executed = False
    assert fails(protected, 0x20, SOFTWARE) == (GP, 0x20 * 8 + 2)
    assert protected.caught.note == "IDT limit 0x106 is below vector 32; lidt was never executed"


# (selector of the handler, attributes of FREE, fault, error of an exception)
HANDLERS = [
    (0, 0xC09B, GP, 1),
    (3, 0xC09B, GP, 1),
    (0x80, 0xC09B, GP, 0x81),
    (FREE, 0xC093, GP, FREE | 1),
    (FREE | 3, 0xC0FB, GP, FREE | 1),  # outer level
    (FREE, 0xC01B, NP, FREE | 1),
]


@pytest.mark.parametrize(("selector", "attr", "fault", "error"), HANDLERS)
def test_handler_segment_checks(protected: Any, selector: int, attr: int, fault: int, error: int) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF, attr)
    protected.gate(0x20, selector, HANDLER, INT_GATE)
    assert fails(protected, 0x20, HARDWARE) == (fault, error)
    assert fails(protected, 0x20, SOFTWARE) == (fault, error & ~1)


# (SS in the TSS, attributes of FREE, fault, error)
STACKS = [
    (0, 0xC093, TS, 1),
    (0x80, 0xC093, TS, 0x81),
    (FREE | 3, 0xC093, TS, FREE | 1),
    (FREE, 0xC0F3, TS, FREE | 1),
    (FREE, 0xC091, TS, FREE | 1),
    (FREE, 0xC09B, TS, FREE | 1),
    (FREE, 0xC013, SS_FAULT, FREE | 1),
]


@pytest.mark.parametrize(("selector", "attr", "fault", "error"), STACKS)
def test_inner_stack_checks(protected: Any, selector: int, attr: int, fault: int, error: int) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF, attr)
    protected.memory.write(TSS + 8, 2, selector)
    protected.gate(0x20, CODE0, HANDLER, INT_GATE | 0x60)
    protected.user()
    assert fails(protected, 0x20, HARDWARE) == (fault, error)
    assert fails(protected, 0x20, SOFTWARE) == (fault, error & ~1)


def test_tss_limit_and_stack_limits(protected: Any) -> None:
    protected.gate(0x20, CODE0, HANDLER, INT_GATE)
    protected.user()
    protected.descriptor(FREE, 0, 0xFFF, 0x4093)
    protected.memory.write(TSS + 8, 2, FREE)
    assert fails(protected, 0x20, HARDWARE) == (SS_FAULT, FREE | 1)
    protected.cpu.tr = Segment(TSS_SELECTOR, TSS, 8, 0x8B)
    assert fails(protected, 0x20, HARDWARE) == (TS, TSS_SELECTOR | 1)


def test_same_level_stack_limit_and_target_limit(protected: Any) -> None:
    protected.gate(0x20, CODE0, HANDLER, INT_GATE)
    protected.cpu.segs[SS] = Segment(DATA0, 0, 0xFFF, 0x4093)
    assert fails(protected, 0x20, HARDWARE) == (SS_FAULT, 1)
    assert fails(protected, 0x20, SOFTWARE) == (SS_FAULT, 0)
    protected.cpu.segs[SS] = Segment(DATA0, 0, 0xFFFFFFFF, 0xC093)
    protected.descriptor(FREE, 0, HANDLER - 1, 0x409B)
    protected.gate(0x20, FREE, HANDLER, INT_GATE)
    assert fails(protected, 0x20, HARDWARE) == (GP, 1)


def test_general_detect_is_cleared_by_delivering_db(protected: Any) -> None:
    protected.gate(1, CODE0, HANDLER, INT_GATE)
    protected.cpu.dr[7] = 0x2400
    deliver(protected.cpu, 1, None, EXCEPTION)
    assert protected.cpu.dr[7] == 0x400


# -- long mode ----------------------------------------------------------------------------------------------------


def test_long_mode_same_privilege_aligns_the_stack(long: Any) -> None:
    cpu = long.cpu
    long.gate(13, CODE0, 0xFFFF_8000_0000_1234, INT_GATE)
    cpu.regs[RSP], cpu.rflags = STACK - 3, FLAGS
    deliver(cpu, 13, 0x50, EXCEPTION)
    assert long.stack(6, 8) == [0x50, CODE, CODE0, FLAGS | RF, STACK - 3, DATA0]
    assert cpu.regs[RSP] == STACK - 16 - 48
    assert (cpu.rip, cpu.segs[SS].selector) == (0xFFFF_8000_0000_1234, DATA0)
    assert cpu.rflags == 2 | CF | ZF


@pytest.mark.parametrize("code", [CODE64_3, CODE3])
def test_long_mode_inner_privilege(long: Any, code: int) -> None:
    cpu = long.cpu
    long.gate(0x80, CODE0, HANDLER, TRAP_GATE | 0x60)
    long.user(code)
    deliver(cpu, 0x80, None, SOFTWARE, CODE + 2)
    assert long.stack(5, 8) == [CODE + 2, code | 3, 2, STACK, DATA3 | 3]
    assert (cpu.cpl, cpu.mode, cpu.segs[SS]) == (0, 64, Segment(0, 0, 0, 0))
    assert cpu.regs[RSP] == STACK0 - 40


def test_interrupt_stack_table(long: Any) -> None:
    long.gate(8, CODE0, HANDLER, INT_GATE, ist=7)
    long.memory.write(TSS + 36 + 8 * 6, 8, 0x9008)
    deliver(long.cpu, 8, 0, EXCEPTION)
    assert long.cpu.regs[RSP] == 0x9000 - 48
    assert long.cpu.segs[SS].selector == DATA0
    long.cpu.tr = Segment(TSS_SELECTOR, TSS, 36 + 8 * 6 + 6, 0x8B)
    assert fails(long, 8, EXCEPTION, 0) == (TS, TSS_SELECTOR | 1)


def test_long_mode_checks(long: Any) -> None:
    long.gate(0x20, CODE0, HANDLER, INT_GATE16)
    assert fails(long, 0x20, HARDWARE) == (GP, 0x20 * 8 + 3)  # 16-bit gates are gone
    long.gate(0x20, CODE0, HANDLER, TASK_GATE)
    assert fails(long, 0x20, SOFTWARE) == (GP, 0x20 * 8 + 2)
    long.descriptor(FREE, 0, 0xFFFFFFFF, 0xC09B)
    long.gate(0x20, FREE, HANDLER, INT_GATE)
    assert fails(long, 0x20, HARDWARE) == (GP, FREE | 1)  # not a 64-bit code segment
    long.gate(0x20, CODE0, 0x8000_0000_0000, INT_GATE)
    assert fails(long, 0x20, HARDWARE) == (GP, 1)
    long.gate(0x20, CODE0, HANDLER, INT_GATE)
    long.memory.write(TSS + 4, 8, 0x8000_0000_0000)
    long.user()
    assert fails(long, 0x20, HARDWARE) == (SS_FAULT, 1)
    long.cpu.idtr.limit = 0x20 * 16 + 14
    assert fails(long, 0x20, HARDWARE) == (GP, 0x20 * 8 + 3)


def test_stack_page_fault_pushes_nothing(long: Any) -> None:
    long.gate(0x20, CODE0, HANDLER, INT_GATE)
    long.map_4k(0x6000, 0)
    long.cpu.regs[RSP] = 0x7010  # the frame reaches into the missing page
    assert fails(long, 0x20, HARDWARE) == (PF, 2)
    assert long.caught.cr2 == 0x6FF8
    assert long.caught.note == "stack push at 0x6ff8 faulted"
    long.user()
    long.map_4k(0x7000, 0x7003)  # the TSS stack is a supervisor page: no user bit in the error code
    long.memory.write(TSS + 4, 8, 0x7010)
    assert fails(long, 0x20, HARDWARE) == (PF, 2)


# -- chains -------------------------------------------------------------------------------------------------------


def chain(machine: Any, fault: GuestFault) -> list[tuple[int, int | None, str]] | None:
    faults = deliver_exception(machine.cpu, fault)
    return None if faults is None else [(f.vector, f.error, f.note) for f in faults]


def test_page_fault_sets_cr2(long: Any) -> None:
    long.gate(PF, CODE0, HANDLER, INT_GATE)
    assert chain(long, GuestFault(PF, 2, 0xDEAD_BEEF)) is None
    assert long.cpu.cr2 == 0xDEAD_BEEF
    assert long.stack(2, 8) == [2, CODE]


def test_exceptions_without_error_codes_push_none(protected: Any) -> None:
    protected.gate(6, CODE0, HANDLER, INT_GATE)
    protected.gate(17, CODE0, HANDLER, INT_GATE)
    assert chain(protected, GuestFault(6, 99)) is None
    assert protected.stack(1, 4) == [CODE]
    protected.cpu.rip = CODE
    assert chain(protected, GuestFault(17)) is None
    assert protected.stack(2, 4) == [0, CODE]


# (first exception, what makes its delivery fail, vectors that have a handler, the one entered and its error code)
DOUBLE = [
    (GP, "not present", (DF,), DF, 0),  # contributory, contributory
    (PF, "not present", (DF,), DF, 0),
    (6, "not present", (NP, DF), NP, 6 * 8 + 3),  # benign first: handled one after the other
    (1, "not present", (NP, DF), NP, 1 * 8 + 3),
    (0, "not present", (DF,), DF, 0),
    (GP, "page", (PF, DF), PF, 3),  # contributory, then a page fault: serial
]


@pytest.mark.parametrize(("first", "how", "handled", "entered", "error"), DOUBLE)
def test_double_fault_table(
    long: Any, first: int, how: str, handled: tuple[int, ...], entered: int, error: int
) -> None:
    for vector in handled:
        long.gate(vector, CODE0, HANDLER + vector, INT_GATE)
    if how == "page":
        long.gate(first, CODE0, HANDLER, INT_GATE, ist=1)
        long.memory.write(TSS + 36, 8, 0x5800)
        long.map_4k(0x5000, 0x5001)  # read-only
    else:
        long.gate(first, CODE0, HANDLER, INT_GATE & ~0x80)
    assert chain(long, GuestFault(first, 0, 0x1000 if first == PF else None)) is None
    assert long.cpu.rip == HANDLER + entered
    assert long.stack(2, 8) == [error, CODE]


def test_page_fault_during_page_fault_is_double(long: Any) -> None:
    long.map_4k(0x6000, 0)
    long.gate(PF, CODE0, HANDLER, INT_GATE)
    long.gate(DF, CODE0, HANDLER + 8, INT_GATE, ist=1)
    long.memory.write(TSS + 36, 8, 0x9000)
    long.cpu.regs[RSP] = 0x6800
    assert chain(long, GuestFault(PF, 0, 0x1234)) is None
    assert long.cpu.rip == HANDLER + 8
    assert long.cpu.cr2 == 0x67F8
    assert long.stack(6, 8) == [0, CODE, CODE0, 2, 0x6800, DATA0]


def test_triple_fault_without_an_idt(protected: Any) -> None:
    cpu = protected.cpu
    cpu.lidt_executed = False
    cpu.idtr.limit = 0x3F
    before = protected.snapshot()
    assert chain(protected, GuestFault(PF, 0, 0xF000)) == [
        (PF, 0, ""),
        (GP, PF * 8 + 3, "IDT limit 0x3f is below vector 14; lidt was never executed"),
        (DF, 0, "exception 13 while delivering exception 14"),
        (GP, DF * 8 + 3, "IDT limit 0x3f is below vector 8; lidt was never executed"),
    ]
    assert protected.snapshot() == before
    assert cpu.cr2 == 0xF000


def test_triple_fault_chain_of_gates(long: Any) -> None:
    long.gate(PF, CODE0, HANDLER, INT_GATE & ~0x80)
    long.gate(DF, FREE, HANDLER, INT_GATE)
    assert chain(long, GuestFault(PF, 2, 0xFFFF_8000_0000_0000)) == [
        (PF, 2, ""),
        (NP, PF * 8 + 3, "IDT[14]: gate not present"),
        (DF, 0, "exception 11 while delivering exception 14"),
        (GP, FREE | 1, f"selector {FREE:#06x}: not a code segment (handler of vector 8)"),
    ]


def test_triple_fault_on_a_bad_stack(long: Any) -> None:
    long.gate(PF, CODE0, HANDLER, INT_GATE)
    long.gate(DF, CODE0, HANDLER, INT_GATE)
    long.map_4k(0x6000, 0)
    long.cpu.regs[RSP] = 0x6800
    notes = chain(long, GuestFault(PF, 0, 0x1234, "the first"))
    assert notes == [
        (PF, 0, "the first"),
        (PF, 2, "stack push at 0x67f8 faulted"),
        (DF, 0, "exception 14 while delivering exception 14"),
        (PF, 2, "stack push at 0x67f8 faulted"),
    ]


def test_idt_that_is_not_mapped(long: Any) -> None:
    long.cpu.idtr.base = 0x40_0000
    assert chain(long, GuestFault(13, 0)) == [
        (GP, 0, ""),
        (PF, 0, "reading IDT[13] at 0x4000d0 faulted"),
        (PF, 0, "reading IDT[14] at 0x4000e0 faulted"),
        (DF, 0, "exception 14 while delivering exception 14"),
        (PF, 0, "reading IDT[8] at 0x400080 faulted"),
    ]


def test_chain_of_a_caller_is_continued(protected: Any) -> None:
    protected.gate(DF, CODE0, HANDLER, INT_GATE)
    first, second = GuestFault(GP, 0), GuestFault(NP, 13 * 8 + 3)
    assert deliver_exception(protected.cpu, second, (first,)) is None
    assert protected.cpu.rip == HANDLER
    protected.gate(DF, CODE0, HANDLER, 0)
    protected.cpu.rip = CODE
    faults = deliver_exception(protected.cpu, second, (first,))
    assert faults is not None
    assert faults[:2] == (first, second)
    assert [fault.vector for fault in faults] == [GP, NP, DF, GP]
