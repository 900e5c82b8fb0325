"""IRET and far RET in every mode, to the same and to outer levels, and their faults."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86.state import AC, CF, CS, DS, ES, FS, GS, ID, IF, IOPL, NT, RF, RSP, SS, TF, TS, VM, ZF, Segment

CODE0, DATA0, CODE3, DATA3, CODE64_3, FREE = 0x08, 0x10, 0x18 | 3, 0x20 | 3, 0x28 | 3, 0x50
STACK, TARGET, USER_STACK = 0x7000, 0x12345, 0x6000
GP, NP, SS_FAULT = 13, 11, 12
IRETD, IRETQ, IRETW = "cf", "48 cf", "66 cf"


# -- real and virtual-8086 mode -----------------------------------------------------------------------------------


def test_iret_in_real_mode(real: Any) -> None:
    real.push(2, CF | IF | IOPL | NT, 0x2000, 0x1234)
    real.step("cf")
    cpu = real.cpu
    assert (cpu.rip, cpu.segs[CS].selector, cpu.segs[CS].base) == (0x1234, 0x2000, 0x20000)
    assert cpu.rflags == 2 | CF | IF | IOPL | NT
    assert cpu.regs[RSP] == STACK


def test_iretd_in_real_mode(real: Any) -> None:
    real.push(4, AC | ID | RF | VM | ZF, 0x2000, 0x1234)
    real.step("66 cf")
    assert real.cpu.rflags == 2 | AC | ID | RF | ZF  # VM is not changed
    real.push(4, 0, 0x2000, 0x1_0000)
    assert real.fault("66 cf") == (GP, 0)


def test_iret_in_vm86(protected: Any) -> None:
    protected.vm86(iopl=3)
    protected.push(2, CF, 0x2000, 0x1234)
    protected.step("cf")
    assert protected.cpu.rflags == 2 | VM | IOPL | CF  # IF cleared, IOPL kept
    assert protected.cpu.segs[CS] == Segment(0x2000, 0x20000, 0xFFFF, 0xF3)
    protected.vm86(iopl=2)
    assert protected.fault("cf") == (GP, 0)


# -- IRET in protected mode ---------------------------------------------------------------------------------------


def test_iret_same_privilege(protected: Any) -> None:
    protected.push(4, CF | IF | IOPL | AC, CODE0, TARGET)
    protected.step(IRETD)
    cpu = protected.cpu
    assert (cpu.rip, cpu.segs[CS].selector, cpu.rflags) == (TARGET, CODE0, 2 | CF | IF | IOPL | AC)
    assert cpu.regs[RSP] == STACK


def test_16_bit_iret_keeps_the_upper_flags(protected: Any) -> None:
    protected.cpu.rflags = 2 | AC
    protected.push(2, CF, CODE0, 0x1234)
    protected.step(IRETW)
    assert (protected.cpu.rflags, protected.cpu.rip) == (2 | AC | CF, 0x1234)


def test_iret_to_outer_privilege(protected: Any) -> None:
    cpu = protected.cpu
    cpu.segs[ES] = Segment(DATA3, 0, 0xFFFFFFFF, 0xC0F3)
    protected.push(4, DATA3, USER_STACK, IF | TF | 2, CODE3, TARGET)
    protected.step(IRETD)
    assert (cpu.cpl, cpu.rip, cpu.segs[CS].selector, cpu.segs[SS].selector) == (3, TARGET, CODE3, DATA3)
    assert (cpu.regs[RSP], cpu.rflags) == (USER_STACK, 2 | IF | TF)
    assert cpu.segs[DS] == Segment(0, 0, 0, 0)  # DPL 0: not for user code
    assert cpu.segs[ES].selector == DATA3


def test_iret_to_a_16_bit_stack_changes_sp_only(protected: Any) -> None:
    protected.descriptor(FREE, 0, 0xFFFF, 0x00F3)
    protected.cpu.regs[RSP] = 0x0003_7000
    protected.push(4, FREE | 3, 0xABCD_6000, 2, CODE3, TARGET)
    protected.step(IRETD)
    assert protected.cpu.regs[RSP] == 0x0003_6000


def test_user_cannot_change_iopl_or_if(protected: Any) -> None:
    protected.user()
    protected.cpu.rflags = 2 | IF
    protected.push(4, IOPL | ZF, CODE3, TARGET)
    protected.step(IRETD)
    assert protected.cpu.rflags == 2 | IF | ZF
    protected.cpu.rflags = 2 | IF | IOPL
    protected.push(4, 0, CODE3, TARGET)
    protected.step(IRETD)
    assert protected.cpu.rflags == 2 | IOPL


def test_iret_to_vm86(protected: Any) -> None:
    cpu = protected.cpu
    protected.push(4, 0x900, 0x800, 0x700, 0x600, 0x500, 0x2000, VM | IF | IOPL | CF, 0x1000, 0x0100)
    protected.step(IRETD)
    assert (cpu.cpl, cpu.mode, cpu.rip, cpu.regs[RSP]) == (3, 16, 0x100, 0x2000)
    assert cpu.rflags == 2 | VM | IF | IOPL | CF
    selectors = {CS: 0x1000, SS: 0x500, ES: 0x600, DS: 0x700, FS: 0x800, GS: 0x900}
    for seg, selector in selectors.items():
        assert cpu.segs[seg] == Segment(selector, selector << 4, 0xFFFF, 0xF3)


def test_vm_bit_is_ignored_at_outer_levels(protected: Any) -> None:
    protected.user()
    protected.push(4, VM, CODE3, TARGET)
    protected.step(IRETD)
    assert not protected.cpu.rflags & VM


# (CS to return to, attributes of FREE, from CPL 3?, fault, error)
CODES = [
    (0, 0xC09B, False, GP, 0),
    (3, 0xC09B, False, GP, 0),
    (0x80, 0xC09B, False, GP, 0x80),
    (FREE, 0xC093, False, GP, FREE),  # data
    (FREE, 0x0089, False, GP, FREE),  # TSS
    (CODE0, 0xC09B, True, GP, CODE0),  # RPL 0 from CPL 3
    (FREE | 3, 0xC09B, False, GP, FREE),  # DPL 0 with RPL 3
    (FREE, 0xC0FF, False, GP, FREE),  # conforming with DPL above RPL
    (FREE, 0xC01B, False, NP, FREE),
]


@pytest.mark.parametrize(("selector", "attr", "user", "fault", "error"), CODES)
@pytest.mark.parametrize("text", [IRETD, "cb"], ids=["iret", "retf"])
def test_code_checks(protected: Any, selector: int, attr: int, user: bool, fault: int, error: int, text: str) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF, attr)
    if user:
        protected.user()
    values = (2, selector, TARGET) if text == IRETD else (selector, TARGET)
    protected.push(4, *values)
    assert protected.fault(text) == (fault, error)


# (SS to return to, attributes of FREE, fault, error)
STACKS = [
    (0, 0xC0F3, GP, 0),
    (0x83, 0xC0F3, GP, 0x80),
    (FREE, 0xC0F3, GP, FREE),
    (FREE | 3, 0xC093, GP, FREE),
    (FREE | 3, 0xC0F1, GP, FREE),
    (FREE | 3, 0xC073, SS_FAULT, FREE),
]


@pytest.mark.parametrize(("selector", "attr", "fault", "error"), STACKS)
@pytest.mark.parametrize("text", [IRETD, "cb"], ids=["iret", "retf"])
def test_outer_stack_checks(protected: Any, selector: int, attr: int, fault: int, error: int, text: str) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF, attr)
    values = (2, CODE3, TARGET) if text == IRETD else (CODE3, TARGET)
    protected.push(4, selector, USER_STACK, *values)
    assert protected.fault(text) == (fault, error)


def test_return_beyond_the_limit(protected: Any) -> None:
    protected.descriptor(FREE, 0, 0xFFF, 0x409B)
    protected.push(4, 2, FREE, 0x1000)
    assert protected.fault(IRETD) == (GP, 0)


def test_stack_that_ends_too_early(protected: Any) -> None:
    protected.cpu.segs[SS] = Segment(DATA0, 0, STACK + 3, 0x4093)
    assert protected.fault(IRETD) == (SS_FAULT, 0)


def test_nested_task(protected: Any, long: Any) -> None:
    protected.cpu.rflags |= NT
    assert protected.fault(IRETD) == (TS, 0)  # the back link is null; test_tasks.py has the rest
    long.cpu.rflags |= NT
    assert long.fault(IRETQ) == (GP, 0)


# -- IRET in long mode --------------------------------------------------------------------------------------------


def test_iretq_always_pops_the_stack(long: Any) -> None:
    long.push(8, DATA0, 0x5000, CF | RF, CODE0, TARGET)
    long.step(IRETQ)
    assert (long.cpu.rip, long.cpu.regs[RSP], long.cpu.rflags) == (TARGET, 0x5000, 2 | CF | RF)


@pytest.mark.parametrize(("code", "mode"), [(CODE64_3, 64), (CODE3, 32)])
def test_iretq_to_user(long: Any, code: int, mode: int) -> None:
    cpu = long.cpu
    cpu.segs[GS] = Segment(0, 0x7777, 0, 0)
    long.push(8, DATA3, 0x5000, IF, code, TARGET)
    long.step(IRETQ)
    assert (cpu.cpl, cpu.mode, cpu.rip, cpu.regs[RSP]) == (3, mode, TARGET, 0x5000)
    assert cpu.segs[DS] == Segment(0, 0, 0, 0)
    assert cpu.segs[GS].base == 0x7777


def test_null_stack_segment(long: Any) -> None:
    long.push(8, 0, 0x5000, 2, CODE0, TARGET)
    long.step(IRETQ)
    assert long.cpu.segs[SS] == Segment(0, 0, 0, 0)
    long.push(8, 3, 0x5000, 2, CODE64_3, TARGET)
    assert long.fault(IRETQ) == (GP, 0)
    long.descriptor(FREE, 0, 0xFFFFFFFF, 0xC09B)
    long.push(8, 0, 0x5000, 2, FREE, TARGET)  # compatibility mode needs a stack
    assert long.fault(IRETQ) == (GP, 0)


def test_iretq_faults(long: Any) -> None:
    long.push(8, DATA0, 0x5000, 2, CODE0, 0x8000_0000_0000)
    assert long.fault(IRETQ) == (GP, 0)
    long.descriptor(FREE, 0, 0xFFFFFFFF, 0xE09B)  # both L and D
    long.push(8, DATA0, 0x5000, 2, FREE, TARGET)
    assert long.fault(IRETQ) == (GP, FREE)
    long.cpu.regs[RSP] = 0x8000_0000_0000
    assert long.fault(IRETQ) == (SS_FAULT, 0)


def test_iretd_from_compatibility_mode_to_the_same_level_leaves_the_stack(long: Any) -> None:
    long.user()
    long.push(4, CF, CODE3, TARGET)
    long.step(IRETD)
    assert (long.cpu.mode, long.cpu.cpl, long.cpu.regs[RSP]) == (32, 3, STACK)


# -- far RET ------------------------------------------------------------------------------------------------------


def test_far_ret_in_real_mode(real: Any) -> None:
    real.push(2, 0xAAAA, 0xBBBB, 0x2000, 0x1234)
    real.step("ca 04 00")
    assert (real.cpu.rip, real.cpu.segs[CS].base, real.cpu.regs[RSP]) == (0x1234, 0x20000, STACK)


def test_far_ret_same_privilege(protected: Any) -> None:
    protected.push(4, 1, 2, CODE0, TARGET)
    protected.step("ca 08 00")
    assert (protected.cpu.rip, protected.cpu.regs[RSP]) == (TARGET, STACK)


def test_far_ret_to_outer_privilege(protected: Any) -> None:
    cpu = protected.cpu
    protected.push(4, DATA3, USER_STACK, 0xAAAA, 0xBBBB, CODE3, TARGET)
    protected.step("ca 08 00")
    assert (cpu.cpl, cpu.rip, cpu.segs[SS].selector) == (3, TARGET, DATA3)
    assert cpu.regs[RSP] == USER_STACK + 8  # the parameters are released on both stacks
    assert cpu.segs[DS] == Segment(0, 0, 0, 0)


def test_64_bit_far_ret(long: Any) -> None:
    long.push(8, DATA3, 0x5000, CODE64_3, TARGET)
    long.step("48 cb")
    assert (long.cpu.cpl, long.cpu.mode, long.cpu.regs[RSP]) == (3, 64, 0x5000)
    long.push(8, CODE64_3, TARGET + 1)
    long.step("48 cb")
    assert (long.cpu.rip, long.cpu.regs[RSP]) == (TARGET + 1, 0x5000)
