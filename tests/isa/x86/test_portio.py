"""IN, OUT, INS and OUTS: values, permission and precise string loops."""

from __future__ import annotations

from typing import Any

import pytest

from isa.base import GuestFault
from isa.x86.debug import DR6_BS
from isa.x86.state import DF, ES, IOPL, RAX, RCX, RDI, RDX, RF, RSI, Segment

GP, PF = 13, 14
CODE, TSS, TSS_SELECTOR = 0x10000, 0x3000, 0x30


def test_in_and_out(long: Any) -> None:
    cpu, outside = long.cpu, long.outside
    outside.inputs = {0x60: [0xAB], 0x1F0: [0xBEEF, 0xCAFE_F00D]}
    cpu.regs[RAX], cpu.regs[RDX] = 0x1122_3344_5566_7788, 0xFFFF_01F0
    long.step("e4 60")
    assert cpu.regs[RAX] == 0x1122_3344_5566_77AB
    long.step("66 ed")
    assert cpu.regs[RAX] == 0x1122_3344_5566_BEEF
    long.step("ed")
    assert cpu.regs[RAX] == 0xCAFE_F00D
    for text in ("e6 80", "66 e7 81", "ef", "ee", "48 ef"):
        long.step(text)
    assert outside.outputs == [
        (0x80, 1, 0x0D), (0x81, 2, 0xF00D), (0x1F0, 4, 0xCAFE_F00D), (0x1F0, 1, 0x0D), (0x1F0, 4, 0xCAFE_F00D),
    ]  # fmt: skip


# (bits of the map forbidden, base of the map, TSS limit, port, access as hexadecimal, allowed at CPL 3)
MAPS = [
    ((), 0x68, 0x88, 0x60, "ee", True),
    ((0x60,), 0x68, 0x88, 0x60, "ee", False),
    ((0x61,), 0x68, 0x88, 0x60, "ee", True),
    ((0x61,), 0x68, 0x88, 0x60, "66 ef", False),
    ((0x63,), 0x68, 0x88, 0x60, "ef", False),
    ((0x64,), 0x68, 0x88, 0x60, "ef", True),
    ((0x68,), 0x68, 0x88, 0x67, "66 ef", False),  # the second port is in the next byte
    ((), 0x68, 0x68 + 12, 0x60, "ee", False),  # the map ends: two bytes are always read
    ((), 0x68, 0x68 + 13, 0x60, "ee", True),
    ((), 0x68, 0x67, 0x00, "ee", False),  # no map
    ((), 0xFFFF, 0x88, 0x60, "ee", False),
]


@pytest.mark.parametrize(("forbidden", "base", "limit", "port", "text", "allowed"), MAPS)
def test_permission_map(
    protected: Any, forbidden: tuple[int, ...], base: int, limit: int, port: int, text: str, allowed: bool
) -> None:
    cpu = protected.cpu
    cpu.tr = Segment(TSS_SELECTOR, TSS, limit, 0x8B)
    protected.memory.write(TSS + 102, 2, base)
    for bad in forbidden:
        at = TSS + base + (bad >> 3)
        protected.memory.write(at, 1, protected.memory.read(at, 1) | 1 << (bad & 7))
    protected.user()
    cpu.regs[RDX] = port
    for vm86 in (False, True):
        if vm86:
            protected.vm86(iopl=3)  # the map counts whatever IOPL says
        if vm86 and text != "ee":
            continue
        if allowed:
            protected.step(text)
        else:
            assert protected.fault(text) == (GP, 0)


def test_16_bit_tss_has_no_map(protected: Any) -> None:
    protected.cpu.tr = Segment(TSS_SELECTOR, TSS, 0x200, 0x83)
    protected.user()
    assert protected.fault("ee") == (GP, 0)


def test_iopl_permits_everything(protected: Any) -> None:
    protected.user()
    protected.cpu.rflags = 2 | IOPL
    protected.step("ee")
    protected.cpu.rflags = 2
    assert protected.fault("ee") == (GP, 0)
    for text in ("e4 60", "6c", "6e", "f3 6d"):
        protected.cpu.regs[RCX] = 1
        assert protected.fault(text) == (GP, 0)


# -- strings ------------------------------------------------------------------------------------------------------


def test_single_ins_and_outs(protected: Any) -> None:
    cpu, outside = protected.cpu, protected.outside
    cpu.regs[RDX], cpu.regs[RDI], cpu.regs[RSI] = 0x1F0, 0x6000, 0x6001
    outside.inputs = {0x1F0: [0xBEEF]}
    protected.step("66 6d")
    assert (protected.memory.read(0x6000, 2), cpu.regs[RDI]) == (0xBEEF, 0x6002)
    cpu.rflags = 2 | DF
    protected.step("6e")
    assert (outside.outputs, cpu.regs[RSI]) == ([(0x1F0, 1, 0xBE)], 0x6000)


def test_outs_takes_an_override_but_ins_does_not(real: Any) -> None:
    real.cpu.segs[ES] = Segment(0x700, 0x7000, 0xFFFF, 0x93)
    real.memory.write(0x7004, 1, 0x42)
    real.cpu.regs[RSI], real.cpu.regs[RDX] = 0xABCD_0004, 9
    real.step("26 6e")
    assert real.outside.outputs == [(9, 1, 0x42)]
    assert real.cpu.regs[RSI] == 0xABCD_0005


def test_rep_ins(long: Any) -> None:
    cpu = long.cpu
    cpu.regs[RDX], cpu.regs[RDI], cpu.regs[RCX] = 0x1F0, 0x6000, 256
    long.outside.inputs = {0x1F0: list(range(256))}
    long.step("f3 66 6d")
    assert [long.memory.read(0x6000 + 2 * n, 2) for n in range(256)] == list(range(256))
    assert (cpu.regs[RCX], cpu.regs[RDI], cpu.rip) == (0, 0x6200, CODE + 3)


def test_rep_with_a_zero_count_does_nothing(protected: Any) -> None:
    protected.user()  # not even the permission is asked for
    protected.cpu.regs[RCX] = 0
    protected.step("f3 6d")
    assert protected.cpu.rip == CODE + 2


def test_long_rep_stays_interruptible(protected: Any) -> None:
    cpu = protected.cpu
    cpu.regs[RCX], cpu.regs[RSI] = 5000, 0x20000
    protected.step("f3 6e")
    assert (cpu.regs[RCX], cpu.regs[RSI], cpu.rip) == (5000 - 512, 0x20200, CODE)
    for _ in range(9):
        protected.step("f3 6e")
    assert (cpu.regs[RCX], cpu.rip, len(protected.outside.outputs)) == (0, CODE + 2, 5000)


def test_single_step_sees_every_element(protected: Any) -> None:
    cpu = protected.cpu
    cpu.regs[RCX], cpu.debug_pending = 3, DR6_BS  # as the interpreter leaves it with TF set
    with pytest.raises(GuestFault) as caught:
        protected.step("f3 6e")
    assert (caught.value.vector, caught.value.behind) == (1, False)
    assert (cpu.regs[RCX], cpu.rip, cpu.dr[6], cpu.rflags & RF) == (2, CODE, 0xFFFF_4FF0, RF)


def test_fault_in_the_middle_of_rep_ins_loses_no_input(long: Any) -> None:
    cpu = long.cpu
    long.map_4k(0x6000, 0)
    long.outside.inputs = {0: [1, 2, 3, 4]}
    cpu.regs[RCX], cpu.regs[RDI], cpu.regs[RDX] = 4, 0x5FFE, 0
    with pytest.raises(GuestFault) as caught:
        long.step("f3 6c")
    assert (caught.value.vector, caught.value.error, caught.value.cr2) == (PF, 2, 0x6000)
    assert (cpu.regs[RCX], cpu.regs[RDI], cpu.rip) == (2, 0x6000, CODE)
    assert long.outside.inputs == {0: [3, 4]}
    long.map_4k(0x6000, 0x6007)
    long.step("f3 6c")
    assert long.memory.read(0x5FFE, 4) == 0x0403_0201
