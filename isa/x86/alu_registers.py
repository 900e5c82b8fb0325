"""Arithmetic in the shapes most of compiled code uses: a 32- or 64-bit register with a register or an immediate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.x86.operands import Op

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

# Order of the operations in opcode bits 5..3 and in ModRM.reg of group 1 (SDM vol. 2, table A-6).
ADD, OR, ADC, SBB, AND, SUB, XOR, CMP = range(8)

# -- a 32- or 64-bit register with a register ---------------------------------------------------------------------


def _add_rr(d: int, s: int, mask: int, bits: int) -> Op:
    def add(cpu: Cpu) -> None:
        regs = cpu.regs
        a, b = regs[d] & mask, regs[s] & mask
        total = a + b
        cpu.fc = a ^ b ^ total
        regs[d] = cpu.fz = cpu.fr = total & mask
        cpu.fs = bits

    return add


def _sub_rr(d: int, s: int, mask: int, bits: int) -> Op:
    def sub(cpu: Cpu) -> None:
        regs = cpu.regs
        a, b = regs[d] & mask, regs[s] & mask
        difference = a - b
        cpu.fc = a ^ b ^ difference
        regs[d] = cpu.fz = cpu.fr = difference & mask
        cpu.fs = bits

    return sub


def _cmp_rr(d: int, s: int, mask: int, bits: int) -> Op:
    def cmp(cpu: Cpu) -> None:
        regs = cpu.regs
        a, b = regs[d] & mask, regs[s] & mask
        difference = a - b
        cpu.fc = a ^ b ^ difference
        cpu.fz = cpu.fr = difference & mask
        cpu.fs = bits

    return cmp


def _and_rr(d: int, s: int, mask: int, bits: int) -> Op:
    def conjunction(cpu: Cpu) -> None:
        regs = cpu.regs
        regs[d] = cpu.fz = cpu.fr = regs[d] & regs[s] & mask
        cpu.fc, cpu.fs = 0, bits

    return conjunction


def _or_rr(d: int, s: int, mask: int, bits: int) -> Op:
    def disjunction(cpu: Cpu) -> None:
        regs = cpu.regs
        regs[d] = cpu.fz = cpu.fr = (regs[d] | regs[s]) & mask
        cpu.fc, cpu.fs = 0, bits

    return disjunction


def _xor_rr(d: int, s: int, mask: int, bits: int) -> Op:
    if d == s:  # the usual way to clear a register

        def clear(cpu: Cpu) -> None:
            cpu.regs[d] = cpu.fz = cpu.fr = cpu.fc = 0
            cpu.fs = bits

        return clear

    def exclusive(cpu: Cpu) -> None:
        regs = cpu.regs
        regs[d] = cpu.fz = cpu.fr = (regs[d] ^ regs[s]) & mask
        cpu.fc, cpu.fs = 0, bits

    return exclusive


def test_register(d: int, s: int, mask: int, bits: int) -> Op:
    def test(cpu: Cpu) -> None:
        regs = cpu.regs
        cpu.fz = cpu.fr = regs[d] & regs[s] & mask
        cpu.fc, cpu.fs = 0, bits

    return test


# -- a 32- or 64-bit register with an immediate -------------------------------------------------------------------


def _add_ri(d: int, b: int, mask: int, bits: int) -> Op:
    def add(cpu: Cpu) -> None:
        a = cpu.regs[d] & mask
        total = a + b
        cpu.fc = a ^ b ^ total
        cpu.regs[d] = cpu.fz = cpu.fr = total & mask
        cpu.fs = bits

    return add


def _sub_ri(d: int, b: int, mask: int, bits: int) -> Op:
    def sub(cpu: Cpu) -> None:
        a = cpu.regs[d] & mask
        difference = a - b
        cpu.fc = a ^ b ^ difference
        cpu.regs[d] = cpu.fz = cpu.fr = difference & mask
        cpu.fs = bits

    return sub


def _cmp_ri(d: int, b: int, mask: int, bits: int) -> Op:
    def cmp(cpu: Cpu) -> None:
        a = cpu.regs[d] & mask
        difference = a - b
        cpu.fc = a ^ b ^ difference
        cpu.fz = cpu.fr = difference & mask
        cpu.fs = bits

    return cmp


def _and_ri(d: int, b: int, mask: int, bits: int) -> Op:
    def conjunction(cpu: Cpu) -> None:
        cpu.regs[d] = cpu.fz = cpu.fr = cpu.regs[d] & b
        cpu.fc, cpu.fs = 0, bits

    return conjunction


def _or_ri(d: int, b: int, mask: int, bits: int) -> Op:
    def disjunction(cpu: Cpu) -> None:
        cpu.regs[d] = cpu.fz = cpu.fr = (cpu.regs[d] | b) & mask
        cpu.fc, cpu.fs = 0, bits

    return disjunction


def _xor_ri(d: int, b: int, mask: int, bits: int) -> Op:
    def exclusive(cpu: Cpu) -> None:
        cpu.regs[d] = cpu.fz = cpu.fr = (cpu.regs[d] ^ b) & mask
        cpu.fc, cpu.fs = 0, bits

    return exclusive


def test_immediate(d: int, b: int, mask: int, bits: int) -> Op:
    def test(cpu: Cpu) -> None:
        cpu.fz = cpu.fr = cpu.regs[d] & b
        cpu.fc, cpu.fs = 0, bits

    return test


Shape = Callable[[int, int, int, int], Op]
REG_REG: Final[dict[int, Shape]] = {
    ADD: _add_rr, OR: _or_rr, AND: _and_rr, SUB: _sub_rr, XOR: _xor_rr, CMP: _cmp_rr,
}  # fmt: skip
REG_IMM: Final[dict[int, Shape]] = {
    ADD: _add_ri, OR: _or_ri, AND: _and_ri, SUB: _sub_ri, XOR: _xor_ri, CMP: _cmp_ri,
}  # fmt: skip
