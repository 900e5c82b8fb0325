"""Virtual-8086 mode (SDM vol. 3, chapter 20) where QEMU does not follow the manual; the rest is `judged/vm86.s`."""

from __future__ import annotations

from typing import Any

import pytest

from isa.base import GuestFault
from isa.x86.control import CR4_BITS
from isa.x86.cpuid import cpuid
from isa.x86.interp import Interpreter
from isa.x86.interrupts import Event, deliver
from isa.x86.state import CR4_PVI, CR4_VME, CS, RAX, RBX, RSP, SS, VM, Segment

CODE0 = 0x08
IDT = 0x2000
GP, SS_FAULT = 13, 12
AT = 0x10100  # CS 1000h, IP 100h


def run(machine: Any, text: str, iopl: int = 0, count: int = 1) -> tuple[int, int | None] | None:
    """(vector, error code) of the fault that `count` instructions of virtual-8086 mode raise, or None."""
    machine.vm86(iopl)
    raw = bytes.fromhex(text)
    machine.memory.bytes[AT : AT + len(raw)] = raw
    interpreter = Interpreter(machine.cpu)
    try:
        for _ in range(count):
            interpreter.step()
    except GuestFault as fault:
        return fault.vector, fault.error
    return None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a1 ff ff", (GP, 0)),  # mov ax, [0ffffh]: the second byte lies beyond the limit
        ("36 a1 ff ff", (SS_FAULT, 0)),
        ("67 a1 00 00 01 00", (GP, 0)),  # a 32-bit offset of 10000h
        ("a0 ff ff", None),
        ("67 66 a1 fc ff 00 00", None),
        ("2e a2 00 80", None),  # CS can be written
    ],
)
def test_segments_end_at_64_kib(protected: Any, text: str, expected: tuple[int, int] | None) -> None:
    assert run(protected, text) == expected


def test_stack_wraps_between_words_not_within(protected: Any) -> None:
    protected.vm86()
    assert run_at_sp(protected, "50 50", 2) is None
    assert protected.cpu.regs[RSP] == 0xFFFE
    assert run_at_sp(protected, "50", 1) == (SS_FAULT, 0)
    assert protected.cpu.regs[RSP] == 1


def run_at_sp(machine: Any, text: str, sp: int) -> tuple[int, int | None] | None:
    """`run`, one instruction a byte, from another stack pointer."""
    raw = bytes.fromhex(text)
    machine.vm86()
    machine.cpu.regs[RSP] = sp
    machine.memory.bytes[AT : AT + len(raw)] = raw
    interpreter = Interpreter(machine.cpu)
    try:
        for _ in raw:
            interpreter.step()
    except GuestFault as fault:
        return fault.vector, fault.error
    return None


def test_code_ends_at_64_kib(protected: Any) -> None:
    protected.vm86()
    protected.memory.bytes[0x1FFFF] = 0x90
    protected.cpu.rip = 0xFFFF
    interpreter = Interpreter(protected.cpu)
    interpreter.step()
    with pytest.raises(GuestFault) as caught:
        interpreter.step()
    assert (caught.value.vector, caught.value.error, protected.cpu.rip) == (GP, 0, 0x10000)


def test_interrupts_without_vme_go_through_the_idt(protected: Any) -> None:
    """CPUID shows neither VME nor PVI, so CR4 has not the bits and there is no redirection map (SDM vol. 3, 20.3)."""
    assert not CR4_BITS & (CR4_VME | CR4_PVI)
    assert not cpuid(protected.cpu, 1, 0)[3] & 2
    protected.gate(0x20, CODE0, 0x12345, 0xEE)
    assert run(protected, "cd 20", iopl=2) == (GP, 0)
    assert run(protected, "cd 20", iopl=3) is None
    assert (protected.cpu.cpl, protected.cpu.rip, protected.cpu.rflags & VM) == (0, 0x12345, 0)


def test_int1_needs_neither_iopl_nor_gate_privilege(protected: Any) -> None:
    protected.gate(1, CODE0, 0x12345, 0x8E)
    assert run(protected, "f1") is None
    assert protected.stack(5, 4) == [0x101, 0x1000, VM | 2 | 1 << 9, 0x2000, 0x500]


def test_null_selectors_after_an_interrupt(protected: Any) -> None:
    protected.vm86()
    protected.gate(0x20, CODE0, 0x12345, 0x8E)
    deliver(protected.cpu, 0x20, None, Event.HARDWARE)
    for seg in (0, 3, 4, 5):
        assert protected.cpu.segs[seg] == Segment(0, 0, 0, 0)
    assert protected.stack(9, 4)[5:] == [0x600, 0x700, 0x800, 0x900]


def test_loading_segments(protected: Any) -> None:
    assert run(protected, "b8 34 12 8e d0 8e d8", count=3) is None
    assert protected.cpu.segs[SS] == Segment(0x1234, 0x12340, 0xFFFF, 0xF3)
    assert run(protected, "ea 00 00 ff ff") is None
    assert protected.cpu.segs[CS] == Segment(0xFFFF, 0xFFFF0, 0xFFFF, 0xF3)


def test_vex_needs_protected_mode_proper(protected: Any) -> None:
    assert run(protected, "c4 e2 78 f2 c3") == (6, None)  # andn; C4 with a register operand is no LES either
    assert run(protected, "f3 0f b8 c3") is None  # popcnt
    assert protected.cpu.regs[RAX] == bin(protected.cpu.regs[RBX]).count("1")
