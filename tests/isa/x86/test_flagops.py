"""Flag instructions under IOPL and virtual-8086 rules, HLT and the software interrupts."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86.state import AC, CF, CS, DF, ID, IF, IOPL, NT, OF, RF, RSP, TF, VM, ZF, Segment

GP, UD, SS_FAULT = 13, 6, 12
CODE, STACK, HANDLER, CODE0 = 0x10000, 0x7000, 0x12345, 0x08
CLI, STI, PUSHF, POPF = "fa", "fb", "9c", "9d"


@pytest.mark.parametrize(("iopl", "allowed"), [(0, False), (2, False), (3, True)])
@pytest.mark.parametrize("vm86", [False, True])
def test_cli_and_sti_need_iopl(protected: Any, iopl: int, allowed: bool, vm86: bool) -> None:
    cpu = protected.cpu
    if vm86:
        protected.vm86(iopl)
    else:
        protected.user()
        cpu.rflags = 2 | IF | iopl << 12
    for text, wanted in ((CLI, 0), (STI, IF)):
        if allowed:
            protected.step(text)
            assert cpu.rflags & IF == wanted
        else:
            assert protected.fault(text) == (GP, 0)


def test_sti_shadow_only_when_if_was_clear(protected: Any) -> None:
    protected.step(STI)
    assert protected.cpu.shadow
    protected.cpu.shadow = False
    protected.step(STI)
    assert not protected.cpu.shadow


def test_pushf_hides_vm_and_rf(protected: Any) -> None:
    protected.cpu.rflags = 2 | RF | CF | AC | ID
    protected.step(PUSHF)
    assert protected.stack(1, 4) == [2 | CF | AC | ID]
    protected.step("66 9c")
    assert protected.stack(1, 2) == [2 | CF]
    assert protected.cpu.regs[RSP] == STACK - 6


def test_64_bit_sizes(long: Any) -> None:
    long.step(PUSHF)
    assert long.cpu.regs[RSP] == STACK - 8
    long.step(POPF)
    long.step("66 9c")
    assert long.cpu.regs[RSP] == STACK - 2


ALL = CF | ZF | TF | IF | DF | OF | IOPL | NT | RF | VM | AC | ID | 1 << 19 | 1 << 20 | 1 << 25
LOW = CF | ZF | TF | DF | OF | NT

# (CPL 3?, IOPL before, operand prefix, flags after POPF of all ones and of zero, from IF set)
POPS = [
    (False, 0, "", 2 | LOW | IF | IOPL | AC | ID, 2),
    (True, 0, "", 2 | LOW | IF | AC | ID, 2 | IF),
    (True, 3, "", 2 | LOW | IF | IOPL | AC | ID, 2 | IOPL),
    (True, 0, "66 ", 2 | LOW | IF, 2 | IF),
    (False, 0, "66 ", 2 | LOW | IF | IOPL, 2),
]


@pytest.mark.parametrize(("user", "iopl", "prefix", "ones", "zeros"), POPS)
def test_popf(protected: Any, user: bool, iopl: int, prefix: str, ones: int, zeros: int) -> None:
    if user:
        protected.user()
    size = 2 if prefix else 4
    for image, wanted in ((ALL, ones), (0, zeros)):
        protected.cpu.rflags = 2 | IF | iopl << 12
        protected.push(size, image & (1 << size * 8) - 1)
        protected.step(prefix + POPF)
        assert protected.cpu.rflags == wanted
        assert protected.cpu.regs[RSP] == STACK


def test_pushf_popf_and_int_in_vm86(protected: Any) -> None:
    protected.gate(0x21, CODE0, HANDLER, 0xEE)
    protected.vm86(iopl=2)
    for text in (PUSHF, POPF, "cd 21"):
        assert protected.fault(text) == (GP, 0)
    protected.vm86(iopl=3)
    protected.step(PUSHF)
    assert protected.stack(1, 2) == [2 | IF | IOPL]
    protected.push(2, CF)
    protected.step(POPF)
    assert protected.cpu.rflags == 2 | VM | IOPL | CF
    protected.step("cd 21")
    assert (protected.cpu.rip, protected.cpu.cpl) == (HANDLER, 0)


def test_push_outside_the_stack(protected: Any) -> None:
    protected.cpu.segs[2] = Segment(0x10, 0, 0xFFF, 0x4093)
    assert protected.fault(PUSHF) == (SS_FAULT, 0)
    assert protected.fault(POPF) == (SS_FAULT, 0)


def test_hlt(protected: Any) -> None:
    protected.step("f4")
    assert (protected.cpu.halted, protected.cpu.rip) == (True, CODE + 1)
    protected.cpu.halted = False
    protected.user()
    assert protected.fault("f4") == (GP, 0)


@pytest.mark.parametrize(("text", "vector"), [("cd 80", 0x80), ("cc", 3), ("f1", 1), ("ce", 4)])
def test_software_interrupts_push_the_next_address(protected: Any, text: str, vector: int) -> None:
    protected.gate(vector, CODE0, HANDLER, 0xEF)
    protected.cpu.rflags = 2 | OF
    protected.user()
    protected.step(text)
    assert (protected.cpu.rip, protected.cpu.cpl) == (HANDLER, 0)
    assert protected.stack(1, 4) == [CODE + len(bytes.fromhex(text))]


def test_software_interrupt_that_cannot_be_delivered(protected: Any) -> None:
    assert protected.fault("cd 80") == (GP, 0x80 * 8 + 2)
    protected.gate(0x80, CODE0, HANDLER, 0x8E)
    protected.user()
    assert protected.fault("cd 80") == (GP, 0x80 * 8 + 2)


def test_into_without_overflow(protected: Any) -> None:
    protected.step("ce")
    assert protected.cpu.rip == CODE + 1


def test_int_in_real_mode(real: Any) -> None:
    real.memory.write(0x10 * 4, 4, 0xC000_0123)
    real.step("cd 10")
    assert (real.cpu.segs[CS].selector, real.cpu.rip) == (0xC000, 0x123)
    assert real.stack(3, 2) == [0x102, 0x1000, 2]


def test_stac_and_clac(long: Any) -> None:
    long.step("0f 01 cb")
    assert long.cpu.rflags & AC
    long.step("0f 01 ca")
    assert not long.cpu.rflags & AC
    long.user(0x28)
    assert long.fault("0f 01 cb") == (UD, None)
