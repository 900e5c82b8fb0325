"""Far JMP and CALL: directly, through memory and through call gates."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86.state import CS, RAX, RBX, RSP, SS, Segment

CODE0, DATA0, CODE3, DATA3, CODE64_3, TSS_SELECTOR, FREE, GATE = 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x50, 0x60
CODE, STACK, STACK0, TSS, TARGET = 0x10000, 0x7000, 0x8000, 0x3000, 0x12345
GP, NP, SS_FAULT, TS, UD = 13, 11, 12, 10, 6


def far(opcode: str, selector: int, offset: int, size: int = 4) -> str:
    return f"{opcode} {(offset.to_bytes(size, 'little') + selector.to_bytes(2, 'little')).hex(' ')}"


# -- real mode ----------------------------------------------------------------------------------------------------


def test_real_mode_jump_and_call(real: Any) -> None:
    real.step(far("ea", 0xF000, 0xFFF0, 2))
    assert (real.cpu.segs[CS].base, real.cpu.rip) == (0xF0000, 0xFFF0)
    real.step(far("9a", 0x1000, 0x200, 2))
    assert (real.cpu.segs[CS].base, real.cpu.rip) == (0x10000, 0x200)
    assert real.stack(2, 2) == [0xFFF5, 0xF000]
    real.step(far("66 9a", 0x2000, 0x300, 4))
    assert real.stack(2, 4) == [0x208, 0x1000]
    assert real.fault(far("66 ea", 0x2000, 0x10000, 4)) == (GP, 0)


def test_real_mode_through_memory(real: Any) -> None:
    real.cpu.regs[RBX] = 0x500
    real.memory.write(0x500, 4, 0x1234_5678)
    real.step("ff 2f")  # jmp far [bx]
    assert (real.cpu.segs[CS].selector, real.cpu.rip) == (0x1234, 0x5678)


def test_entering_protected_mode(real: Any) -> None:
    real.descriptor(CODE0, 0, 0xFFFFFFFF, 0xC09B)
    real.cpu.gdtr.base, real.cpu.gdtr.limit = 0x1000, 0x7F
    real.cpu.regs[RAX] = 1
    real.step("0f 22 c0")  # mov cr0, eax
    assert (real.cpu.mode, real.cpu.cpl) == (16, 0)
    real.step(far("66 ea", CODE0, 0x1_0000, 4))
    assert (real.cpu.mode, real.cpu.rip, real.cpu.segs[CS].base) == (32, 0x10000, 0)


# -- protected mode -----------------------------------------------------------------------------------------------

# (selector, attributes of FREE, from CPL 3?, fault, error)
CHECKS = [
    (0, 0xC09B, False, GP, 0),
    (2, 0xC09B, False, GP, 0),
    (0x80, 0xC09B, False, GP, 0x80),
    (FREE, 0xC093, False, GP, FREE),
    (FREE, 0x0082, False, GP, FREE),
    (FREE | 3, 0xC09B, False, GP, FREE),  # RPL above CPL
    (FREE, 0xC0FB, False, GP, FREE),  # DPL above CPL
    (FREE, 0xC09B, True, GP, FREE),  # DPL below CPL
    (FREE, 0xC0FF, False, GP, FREE),  # conforming, DPL above CPL
    (FREE, 0xC01B, False, NP, FREE),
]


@pytest.mark.parametrize(("selector", "attr", "user", "fault", "error"), CHECKS)
@pytest.mark.parametrize("opcode", ["ea", "9a"])
def test_direct_checks(
    protected: Any, selector: int, attr: int, user: bool, fault: int, error: int, opcode: str
) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF, attr)
    if user:
        protected.user()
    assert protected.fault(far(opcode, selector, TARGET)) == (fault, error)


def test_conforming_code_keeps_cpl(protected: Any) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF, 0xC09F)
    protected.user()
    protected.step(far("ea", FREE, TARGET))
    assert (protected.cpu.cpl, protected.cpu.segs[CS].selector, protected.cpu.rip) == (3, FREE | 3, TARGET)


def test_call_pushes_and_checks_its_stack(protected: Any) -> None:
    protected.step(far("9a", CODE0, TARGET))
    assert protected.stack(2, 4) == [CODE + 7, CODE0]
    assert protected.cpu.rip == TARGET
    protected.cpu.segs[SS] = Segment(DATA0, 0, 0xFFF, 0x4093)
    assert protected.fault(far("9a", CODE0, TARGET)) == (SS_FAULT, 0)


def test_target_beyond_the_limit(protected: Any) -> None:
    protected.descriptor(FREE, 0, 0xFFF, 0x409B)
    assert protected.fault(far("ea", FREE, 0x1000)) == (GP, 0)
    assert protected.fault(far("9a", FREE, 0x1000)) == (GP, 0)


# -- call gates ---------------------------------------------------------------------------------------------------


def test_call_gate_to_the_same_level(protected: Any) -> None:
    protected.call_gate(GATE, CODE0, TARGET, 0x8C)
    protected.step(far("9a", GATE, 0xDEAD))
    assert protected.stack(2, 4) == [CODE + 7, CODE0]
    assert protected.cpu.rip == TARGET
    protected.step(far("ea", GATE, 0xDEAD))
    assert protected.cpu.rip == TARGET


def test_call_gate_to_an_inner_level_copies_parameters(protected: Any) -> None:
    protected.call_gate(GATE, CODE0, TARGET, 0xEC, count=3)
    protected.user()
    protected.push(4, 33, 22, 11)
    protected.step(far("9a", GATE | 3, 0))
    assert protected.stack(7, 4) == [CODE + 7, CODE3 | 3, 11, 22, 33, STACK - 12, DATA3 | 3]
    assert (protected.cpu.cpl, protected.cpu.regs[RSP], protected.cpu.segs[SS].selector) == (0, STACK0 - 28, DATA0)
    protected.step("ca 0c 00")  # and back
    assert (protected.cpu.cpl, protected.cpu.rip, protected.cpu.regs[RSP]) == (3, CODE + 7, STACK)


def test_16_bit_call_gate(protected: Any) -> None:
    protected.call_gate(GATE, CODE0, 0x1234, 0xE4, count=1)
    protected.user()
    protected.push(2, 0x77)
    protected.step(far("9a", GATE, 0))
    assert protected.stack(5, 2) == [(CODE + 7) & 0xFFFF, CODE3 | 3, 0x77, STACK - 2, DATA3 | 3]
    assert protected.cpu.rip == 0x1234


# (gate attributes, target, attributes of FREE, gate RPL, from CPL 3?, fault and error of CALL, of JMP)
GATES = [
    (0x0C, CODE0, 0, 0, False, (NP, GATE), (NP, GATE)),
    (0x8C, CODE0, 0, 0, True, (GP, GATE), (GP, GATE)),
    (0x8C, CODE0, 0, 3, False, (GP, GATE), (GP, GATE)),
    (0xEC, 0, 0, 0, False, (GP, 0), (GP, 0)),
    (0xEC, 0x80, 0, 0, False, (GP, 0x80), (GP, 0x80)),
    (0xEC, DATA0, 0, 0, False, (GP, DATA0), (GP, DATA0)),
    (0xEC, CODE3, 0, 0, False, (GP, CODE3), (GP, CODE3)),
    (0xEC, FREE, 0xC01B, 0, False, (NP, FREE), (NP, FREE)),
    (0xEC, CODE0, 0, 0, True, None, (GP, CODE0)),  # JMP never changes privilege
]


@pytest.mark.parametrize(("attr", "target", "code", "rpl", "user", "call", "jump"), GATES)
def test_call_gate_checks(
    protected: Any, attr: int, target: int, code: int, rpl: int, user: bool, call: Any, jump: Any
) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF, code)
    protected.call_gate(GATE, target, TARGET, attr)
    if user:
        protected.user()
    assert protected.fault(far("ea", GATE | rpl, 0)) == jump
    if call is not None:
        assert protected.fault(far("9a", GATE | rpl, 0)) == call


# (SS in the TSS, attributes of FREE, fault, error)
STACKS = [
    (0, 0xC093, TS, 0),
    (0x80, 0xC093, TS, 0x80),
    (FREE | 3, 0xC093, TS, FREE),
    (FREE, 0xC0F3, TS, FREE),
    (FREE, 0xC091, TS, FREE),
    (FREE, 0xC013, SS_FAULT, FREE),
    (FREE, 0x4093, SS_FAULT, FREE),  # no room
]


@pytest.mark.parametrize(("selector", "attr", "fault", "error"), STACKS)
def test_call_gate_stack_checks(protected: Any, selector: int, attr: int, fault: int, error: int) -> None:
    protected.descriptor(FREE, 0, 0xFFFFFFFF if attr & 0x8000 else 0xFFF, attr)
    protected.memory.write(TSS + 8, 2, selector)
    protected.call_gate(GATE, CODE0, TARGET, 0xEC)
    protected.user()
    assert protected.fault(far("9a", GATE, 0)) == (fault, error)
    protected.cpu.tr = Segment(TSS_SELECTOR, TSS, 8, 0x8B)
    assert protected.fault(far("9a", GATE, 0)) == (TS, TSS_SELECTOR)


# -- long mode ----------------------------------------------------------------------------------------------------


def pointer(machine: Any, selector: int, offset: int, size: int) -> None:
    machine.cpu.regs[RBX] = 0x5000
    machine.memory.write(0x5000, size, offset)
    machine.memory.write(0x5000 + size, 2, selector)


def test_far_jump_to_compatibility_mode_and_back(long: Any) -> None:
    long.descriptor(FREE, 0, 0xFFFFFFFF, 0xC09B)
    pointer(long, FREE, TARGET, 4)
    long.step("ff 2b")  # jmp far dword [rbx]
    assert (long.cpu.mode, long.cpu.rip) == (32, TARGET)
    long.step(far("ea", CODE0, CODE))
    assert (long.cpu.mode, long.cpu.rip) == (64, CODE)


def test_64_bit_far_call(long: Any) -> None:
    pointer(long, CODE0, 0xFFFF_8000_0000_0000, 8)
    long.step("48 ff 1b")  # call far qword [rbx]
    assert long.cpu.rip == 0xFFFF_8000_0000_0000
    assert long.stack(2, 8) == [CODE + 3, CODE0]
    pointer(long, CODE0, 0x8000_0000_0000, 8)
    assert long.fault("48 ff 2b") == (GP, 0)


def test_code_segment_with_l_and_d(long: Any) -> None:
    long.descriptor(FREE, 0, 0xFFFFFFFF, 0xE09B)
    pointer(long, FREE, TARGET, 4)
    assert long.fault("ff 2b") == (GP, FREE)


def test_64_bit_call_gate(long: Any) -> None:
    long.call_gate(GATE, CODE0, 0xFFFF_8000_1234_5678, 0xEC)
    long.user(CODE64_3)
    pointer(long, GATE, 0, 4)
    long.step("ff 1b")
    assert long.stack(4, 8) == [CODE + 2, CODE64_3 | 3, STACK, DATA3 | 3]
    assert (long.cpu.cpl, long.cpu.rip, long.cpu.regs[RSP]) == (0, 0xFFFF_8000_1234_5678, STACK0 - 32)
    assert long.cpu.segs[SS] == Segment(0, 0, 0, 0)


def test_64_bit_call_gate_checks(long: Any) -> None:
    long.descriptor(FREE, 0, 0xFFFFFFFF, 0xC09B)
    long.call_gate(GATE, FREE, TARGET, 0xEC)
    pointer(long, GATE, 0, 4)
    assert long.fault("ff 1b") == (GP, FREE)  # not 64-bit code
    long.memory.write(0x1000 + GATE + 8, 8, 0xC << 40)
    assert long.fault("ff 1b") == (GP, GATE)  # the upper half has a type
    long.memory.write(0x1000 + GATE, 8, 0x84 << 40)
    assert long.fault("ff 1b") == (GP, GATE)  # 16-bit gates are gone
    pointer(long, TSS_SELECTOR, 0, 4)
    assert long.fault("ff 2b") == (GP, TSS_SELECTOR)
