"""SYSCALL, SYSRET, SYSENTER and SYSEXIT."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86.state import CF, CS, DF, EFER_SCE, IF, IOPL, NT, RCX, RDX, RF, RSP, SS, TF, VM, ZF, Segment

GP, UD = 13, 6
CODE, STACK, CODE64_3 = 0x10000, 0x7000, 0x28
R11 = 11
FLAT = 0xFFFFFFFF


@pytest.fixture
def ready(long: Any) -> Any:
    cpu = long.cpu
    cpu.efer |= EFER_SCE
    cpu.star = 0x0018_0008 << 32
    cpu.lstar, cpu.cstar, cpu.sfmask = 0xFFFF_8000_0000_1000, 0x5555_0000, IF | DF | TF
    return long


def test_syscall(ready: Any) -> None:
    cpu = ready.cpu
    ready.user(CODE64_3)
    cpu.rflags = 2 | CF | IF | DF
    ready.step("0f 05")
    assert (cpu.rip, cpu.cpl, cpu.mode) == (0xFFFF_8000_0000_1000, 0, 64)
    assert (cpu.regs[RCX], cpu.regs[R11], cpu.rflags) == (CODE + 2, 2 | CF | IF | DF, 2 | CF)
    assert cpu.segs[CS] == Segment(8, 0, FLAT, 0xA09B)
    assert cpu.segs[SS] == Segment(0x10, 0, FLAT, 0xC093)
    assert cpu.regs[RSP] == STACK


def test_sysret_to_64_bit_code(ready: Any) -> None:
    cpu = ready.cpu
    cpu.regs[RCX], cpu.regs[R11] = 0x1234, IF | ZF | RF | VM | NT | IOPL | 1 << 3
    ready.step("48 0f 07")
    assert (cpu.rip, cpu.cpl, cpu.mode, cpu.rflags) == (0x1234, 3, 64, 2 | IF | ZF | NT | IOPL)
    assert cpu.segs[CS] == Segment(0x2B, 0, FLAT, 0xA0FB)
    assert cpu.segs[SS] == Segment(0x23, 0, FLAT, 0xC0F3)


def test_sysret_to_compatibility_mode(ready: Any) -> None:
    ready.cpu.regs[RCX] = 0xFFFF_0000_1234
    ready.step("0f 07")
    assert (ready.cpu.rip, ready.cpu.mode) == (0x1234, 32)
    assert ready.cpu.segs[CS] == Segment(0x1B, 0, FLAT, 0xC0FB)


def test_syscall_faults(ready: Any, protected: Any) -> None:
    ready.cpu.regs[RCX] = 1 << 47
    assert ready.fault("48 0f 07") == (GP, 0)
    ready.user(CODE64_3)
    assert ready.fault("48 0f 07") == (GP, 0)
    ready.user()
    assert ready.fault("0f 07") == (UD, None)
    assert ready.fault("0f 05") == (UD, None)  # compatibility mode
    ready.user(CODE64_3)
    ready.cpu.efer &= ~EFER_SCE
    assert ready.fault("0f 05") == (UD, None)
    protected.cpu.efer |= EFER_SCE
    assert protected.fault("0f 05") == (UD, None)


def test_sysenter_and_sysexit_32(protected: Any) -> None:
    cpu = protected.cpu
    cpu.sysenter_cs, cpu.sysenter_esp, cpu.sysenter_eip = 0x0B, 0x9000, 0x1234
    protected.user()
    cpu.rflags = 2 | IF | CF
    protected.step("0f 34")
    assert (cpu.rip, cpu.regs[RSP], cpu.cpl, cpu.mode, cpu.rflags) == (0x1234, 0x9000, 0, 32, 2 | CF)
    assert (cpu.segs[CS], cpu.segs[SS]) == (Segment(8, 0, FLAT, 0xC09B), Segment(0x10, 0, FLAT, 0xC093))
    cpu.regs[RCX], cpu.regs[RDX] = 0x6000, 0x4321
    protected.step("0f 35")
    assert (cpu.rip, cpu.regs[RSP], cpu.cpl, cpu.rflags) == (0x4321, 0x6000, 3, 2 | CF)
    assert (cpu.segs[CS], cpu.segs[SS]) == (Segment(0x1B, 0, FLAT, 0xC0FB), Segment(0x23, 0, FLAT, 0xC0F3))
    assert protected.fault("0f 35") == (GP, 0)


def test_sysenter_from_vm86(protected: Any) -> None:
    protected.cpu.sysenter_cs = 8
    protected.vm86()
    protected.step("0f 34")
    assert (protected.cpu.cpl, protected.cpu.rflags & VM, protected.cpu.mode) == (0, 0, 32)


def test_sysenter_and_sysexit_64(long: Any) -> None:
    cpu = long.cpu
    cpu.sysenter_cs, cpu.sysenter_esp, cpu.sysenter_eip = 8, 0xFFFF_8000_0000_9000, 0xFFFF_8000_0000_1234
    long.user()
    long.step("0f 34")
    assert (cpu.rip, cpu.regs[RSP], cpu.mode) == (0xFFFF_8000_0000_1234, 0xFFFF_8000_0000_9000, 64)
    cpu.regs[RCX], cpu.regs[RDX] = 0x6000, 1 << 47
    assert long.fault("48 0f 35") == (GP, 0)
    cpu.regs[RDX] = 0x4321
    long.step("48 0f 35")
    assert (cpu.mode, cpu.cpl, cpu.segs[CS].selector, cpu.segs[SS].selector) == (64, 3, 0x2B, 0x33)


def test_sysenter_faults(protected: Any, real: Any) -> None:
    assert protected.fault("0f 34") == (GP, 0)
    assert protected.fault("0f 35") == (GP, 0)
    protected.cpu.sysenter_cs = 3
    assert protected.fault("0f 34") == (GP, 0)
    real.cpu.sysenter_cs = 8
    assert real.fault("0f 34") == (GP, 0)
    assert real.fault("0f 35") == (GP, 0)
