"""Segment registers as operands, FS and GS bases, SWAPGS."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86.state import CR4_FSGSBASE, DS, ES, FS, GS, RAX, RBX, RSP, SS, Segment

GP, NP, UD = 13, 11, 6
STACK, DATA0, FREE = 0x7000, 0x10, 0x50


def test_mov_from_segment(long: Any) -> None:
    cpu = long.cpu
    for text, wanted in (("8c db", DATA0), ("66 8c db", 0xFFFF_FFFF_FFFF_0010), ("48 8c db", DATA0)):
        cpu.regs[RBX] = (1 << 64) - 1
        long.step(text)
        assert cpu.regs[RBX] == wanted
    cpu.regs[RBX] = 0x6000
    long.memory.write(0x6000, 8, (1 << 64) - 1)
    long.step("8c 1b")
    assert long.memory.read(0x6000, 8) == (1 << 64) - 0x10000 | DATA0


def test_mov_to_segment(protected: Any) -> None:
    cpu = protected.cpu
    protected.descriptor(FREE, 0x1000, 0xFFF, 0x4093)
    cpu.regs[RAX] = 0xABCD_0000 | FREE
    protected.step("8e c0")
    assert cpu.segs[ES] == Segment(FREE, 0x1000, 0xFFF, 0x4093)
    assert not cpu.shadow
    protected.step("8e d0")
    assert cpu.segs[SS] == Segment(FREE, 0x1000, 0xFFF, 0x4093)
    assert cpu.shadow
    protected.descriptor(FREE, 0, 0xFFF, 0x4013)
    assert protected.fault("8e c0") == (NP, FREE)


def test_push_and_pop(protected: Any) -> None:
    cpu = protected.cpu
    protected.step("1e")
    assert protected.stack(1, 4) == [DATA0]
    protected.step("07")
    assert cpu.segs[ES].selector == DATA0
    protected.step("66 0f a0")
    assert cpu.regs[RSP] == STACK - 2
    protected.step("66 0f a9")
    protected.push(4, 0xFFFF_0000 | DATA0)
    protected.step("17")
    assert cpu.shadow
    protected.push(4, 0x80)
    assert protected.fault("1f") == (GP, 0x80)
    assert cpu.regs[RSP] == STACK - 4


def test_64_bit_push_and_pop(long: Any) -> None:
    long.step("0f a8")
    assert long.stack(1, 8) == [DATA0]
    long.step("0f a1")
    assert (long.cpu.regs[RSP], long.cpu.segs[FS].selector) == (STACK, DATA0)


@pytest.mark.parametrize(
    ("text", "seg"), [("c4 03", ES), ("c5 03", DS), ("0f b2 03", SS), ("0f b4 03", FS), ("0f b5 03", GS)]
)
def test_far_pointer_loads(protected: Any, text: str, seg: int) -> None:
    cpu = protected.cpu
    protected.descriptor(FREE, 0, 0xFFFFFFFF, 0xC093)
    protected.memory.write(0x6000, 4, 0x1234_5678)
    protected.memory.write(0x6004, 2, FREE)
    cpu.regs[RBX] = 0x6000
    protected.step(text)
    assert (cpu.segs[seg].selector, cpu.regs[RAX]) == (FREE, 0x1234_5678)
    assert not cpu.shadow
    protected.memory.write(0x6004, 2, 0x80)
    assert protected.fault(text) == (GP, 0x80)


def test_far_pointer_of_16_bits(real: Any) -> None:
    real.memory.write(0x500, 4, 0x2000_1234)
    real.cpu.regs[RBX], real.cpu.regs[RAX] = 0x500, 0xABCD_0000
    real.step("c4 07")
    assert (real.cpu.regs[RAX], real.cpu.segs[ES].base) == (0xABCD_1234, 0x20000)


def test_fs_and_gs_bases(long: Any) -> None:
    cpu = long.cpu
    for text in ("f3 48 0f ae c3", "f3 48 0f ae d3"):
        assert long.fault(text) == (UD, None)
    cpu.cr4 |= CR4_FSGSBASE
    long.user(0x28)
    cpu.regs[RBX] = 0xFFFF_8000_0000_1234
    long.step("f3 48 0f ae d3")  # wrfsbase rbx
    assert cpu.segs[FS].base == 0xFFFF_8000_0000_1234
    assert cpu.segs[FS].selector == 0x23
    long.step("f3 0f ae db")  # wrgsbase ebx
    assert cpu.segs[GS].base == 0x1234
    long.step("f3 0f ae c0")  # rdfsbase eax
    assert cpu.regs[RAX] == 0x1234
    long.step("f3 48 0f ae c0")
    assert cpu.regs[RAX] == 0xFFFF_8000_0000_1234
    cpu.regs[RBX] = 1 << 47
    assert long.fault("f3 48 0f ae d3") == (GP, 0)


def test_swapgs(long: Any, protected: Any) -> None:
    cpu = long.cpu
    cpu.segs[GS], cpu.kernel_gs_base = Segment(0, 0x1111, 0, 0), 0x2222
    long.step("0f 01 f8")
    assert (cpu.segs[GS].base, cpu.kernel_gs_base) == (0x2222, 0x1111)
    long.user(0x28)
    assert long.fault("0f 01 f8") == (GP, 0)
    assert protected.fault("0f 01 f8") == (UD, None)
