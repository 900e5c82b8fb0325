"""Integer addition, subtraction and logic: ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT.

Every closure computes, then writes memory (which may fault), then sets the flags. The commonest shapes are in
`isa.x86.alu_registers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.x86.alu_registers import ADC, ADD, AND, CMP, OR, REG_IMM, REG_REG, SBB, SUB, XOR, test_immediate, test_register
from isa.x86.decode import IMM, REG, Insn, Operand
from isa.x86.operands import MASKS, Binder, Op, Read, Write, reader, rmw

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu


def _nowhere(cpu: Cpu, value: int) -> None:
    """Where the results of CMP and TEST go."""


def _add(read: Read, write: Write, source: Read, size: int) -> Op:
    mask, bits = MASKS[size], size * 8

    def add(cpu: Cpu) -> None:
        a, b = read(cpu), source(cpu)
        total = a + b
        result = total & mask
        write(cpu, result)
        cpu.fc = a ^ b ^ total
        cpu.fz = cpu.fr = result
        cpu.fs = bits

    return add


def _adc(read: Read, write: Write, source: Read, size: int) -> Op:
    mask, bits = MASKS[size], size * 8

    def adc(cpu: Cpu) -> None:
        a, b = read(cpu), source(cpu)
        total = a + b + (cpu.fc >> cpu.fs & 1)
        result = total & mask
        write(cpu, result)
        cpu.fc = a ^ b ^ total
        cpu.fz = cpu.fr = result
        cpu.fs = bits

    return adc


def _sub(read: Read, write: Write, source: Read, size: int) -> Op:
    mask, bits = MASKS[size], size * 8

    def sub(cpu: Cpu) -> None:
        a, b = read(cpu), source(cpu)
        difference = a - b
        result = difference & mask
        write(cpu, result)
        cpu.fc = a ^ b ^ difference
        cpu.fz = cpu.fr = result
        cpu.fs = bits

    return sub


def _sbb(read: Read, write: Write, source: Read, size: int) -> Op:
    mask, bits = MASKS[size], size * 8

    def sbb(cpu: Cpu) -> None:
        a, b = read(cpu), source(cpu)
        difference = a - b - (cpu.fc >> cpu.fs & 1)
        result = difference & mask
        write(cpu, result)
        cpu.fc = a ^ b ^ difference
        cpu.fz = cpu.fr = result
        cpu.fs = bits

    return sbb


def _and(read: Read, write: Write, source: Read, size: int) -> Op:
    bits = size * 8

    def conjunction(cpu: Cpu) -> None:
        result = read(cpu) & source(cpu)
        write(cpu, result)
        cpu.fz = cpu.fr = result
        cpu.fc, cpu.fs = 0, bits  # AF, undefined in the manual, is cleared by real processors

    return conjunction


def _or(read: Read, write: Write, source: Read, size: int) -> Op:
    bits = size * 8

    def disjunction(cpu: Cpu) -> None:
        result = read(cpu) | source(cpu)
        write(cpu, result)
        cpu.fz = cpu.fr = result
        cpu.fc, cpu.fs = 0, bits

    return disjunction


def _xor(read: Read, write: Write, source: Read, size: int) -> Op:
    bits = size * 8

    def exclusive(cpu: Cpu) -> None:
        result = read(cpu) ^ source(cpu)
        write(cpu, result)
        cpu.fz = cpu.fr = result
        cpu.fc, cpu.fs = 0, bits

    return exclusive


def _cmp(read: Read, write: Write, source: Read, size: int) -> Op:
    mask, bits = MASKS[size], size * 8

    def cmp(cpu: Cpu) -> None:
        a, b = read(cpu), source(cpu)
        difference = a - b
        cpu.fc = a ^ b ^ difference
        cpu.fz = cpu.fr = difference & mask
        cpu.fs = bits

    return cmp


_GENERAL: Final[dict[int, Callable[[Read, Write, Read, int], Op]]] = {
    ADD: _add, OR: _or, ADC: _adc, SBB: _sbb, AND: _and, SUB: _sub, XOR: _xor, CMP: _cmp,
}  # fmt: skip


def _wide_register(op: Operand) -> bool:
    return op.kind == REG and op.size >= 4


def _arith(insn: Insn, pc: int, operation: int) -> Op:
    target, source = insn.operands
    size = target.size
    if _wide_register(target):
        if source.kind == REG and operation in REG_REG:
            return REG_REG[operation](target.reg, source.reg, MASKS[size], size * 8)
        if source.kind == IMM and operation in REG_IMM:
            return REG_IMM[operation](target.reg, source.imm & MASKS[size], MASKS[size], size * 8)
    if operation == CMP:
        return _cmp(reader(insn, target, pc), _nowhere, reader(insn, source, pc), size)
    read, write = rmw(insn, target, pc)
    return _GENERAL[operation](read, write, reader(insn, source, pc), size)


def _by_opcode(insn: Insn, pc: int) -> Op:
    return _arith(insn, pc, insn.opcode >> 3)


def _group1(insn: Insn, pc: int) -> Op:
    return _arith(insn, pc, insn.reg_field)


def _test(insn: Insn, pc: int) -> Op:
    left, right = insn.operands
    size = left.size
    if _wide_register(left) and right.kind == REG:
        return test_register(left.reg, right.reg, MASKS[size], size * 8)
    if _wide_register(left) and right.kind == IMM:
        return test_immediate(left.reg, right.imm & MASKS[size], MASKS[size], size * 8)
    return _and(reader(insn, left, pc), _nowhere, reader(insn, right, pc), size)


def inc_dec(insn: Insn, pc: int, step: int) -> Op:
    """INC (`step` 1) or DEC (-1): as ADD or SUB of 1, but CF stays (SDM vol. 2)."""
    target = insn.operands[0]
    mask, bits = MASKS[target.size], target.size * 8
    both = 3 << bits - 1  # the carries into and out of the sign bit: flipping both changes CF and keeps OF
    if _wide_register(target):
        n = target.reg

        def on_register(cpu: Cpu) -> None:
            a = cpu.regs[n] & mask
            total = a + step
            carries = a ^ 1 ^ total
            cpu.fc = carries if not (carries >> bits ^ cpu.fc >> cpu.fs) & 1 else carries ^ both
            cpu.regs[n] = cpu.fz = cpu.fr = total & mask
            cpu.fs = bits

        return on_register
    read, write = rmw(insn, target, pc)

    def general(cpu: Cpu) -> None:
        a = read(cpu)
        total = a + step
        write(cpu, total & mask)
        carries = a ^ 1 ^ total
        cpu.fc = carries if not (carries >> bits ^ cpu.fc >> cpu.fs) & 1 else carries ^ both
        cpu.fz = cpu.fr = total & mask
        cpu.fs = bits

    return general


def inc(insn: Insn, pc: int) -> Op:
    """INC: 40+r, FE /0, FF /0."""
    return inc_dec(insn, pc, 1)


def dec(insn: Insn, pc: int) -> Op:
    """DEC: 48+r, FE /1, FF /1."""
    return inc_dec(insn, pc, -1)


def _group4(insn: Insn, pc: int) -> Op:
    return (dec if insn.reg_field else inc)(insn, pc)


def _not(insn: Insn, pc: int) -> Op:
    target = insn.operands[0]
    mask = MASKS[target.size]
    read, write = rmw(insn, target, pc)

    def complement(cpu: Cpu) -> None:
        write(cpu, ~read(cpu) & mask)

    return complement


def _neg(insn: Insn, pc: int) -> Op:
    target = insn.operands[0]
    mask, bits = MASKS[target.size], target.size * 8
    read, write = rmw(insn, target, pc)

    def negate(cpu: Cpu) -> None:
        b = read(cpu)
        result = -b & mask
        write(cpu, result)
        cpu.fc = b ^ -b  # the borrows of 0 - b
        cpu.fz = cpu.fr = result
        cpu.fs = bits

    return negate


# F6 and F7 by ModRM.reg; /4 to /7 are multiplications and divisions (`isa.x86.muldiv`).
GROUP3: Final[dict[int, Binder]] = {0: _test, 1: _test, 2: _not, 3: _neg}

BINDERS: Final[dict[int, Binder]] = {
    **{opcode: _by_opcode for first in range(0, 0x40, 8) for opcode in range(first, first + 6)},
    **dict.fromkeys(range(0x80, 0x84), _group1),
    **dict.fromkeys((0x84, 0x85, 0xA8, 0xA9), _test),
    **dict.fromkeys(range(0x40, 0x48), inc),
    **dict.fromkeys(range(0x48, 0x50), dec),
    0xFE: _group4,
}
