"""Shifts and rotations: ROL ROR RCL RCR SHL SHR SAR SHLD SHRD, and SHLX SHRX SARX RORX.

The manual defines OF for a count of one only. Intel processors were measured to give it for any count that is not zero
the value it has for a count of one, with one exception: ROL and ROR of a register by an immediate other than one leave
it alone. Shifts clear AF; rotations change only CF and OF.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.x86.bits import bextr
from isa.x86.decode import IMM, REG, Insn, Operand
from isa.x86.operands import MASKS, Binder, Op, Read, reader, rmw, writer
from isa.x86.state import RCX
from isa.x86.vex import PP_66, PP_F2, PP_F3, PP_NONE, VEX, guarded, pp, undefined

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

ROL, ROR, RCL, RCR, SHL, SHR, SAL, SAR = range(8)  # ModRM.reg of the group; SAL is another name of SHL

# From value, count (not zero; of RCL and RCR below the width of their ring) and CF: the result, CF and OF.
Compute = Callable[[int, int, int], tuple[int, int, int]]


def _rol(bits: int) -> Compute:
    mask = (1 << bits) - 1

    def rol(a: int, count: int, carry: int) -> tuple[int, int, int]:
        count %= bits
        result = (a << count | a >> bits - count) & mask
        return result, result & 1, (a >> bits - 1 ^ a >> bits - 2) & 1

    return rol


def _ror(bits: int) -> Compute:
    mask = (1 << bits) - 1

    def ror(a: int, count: int, carry: int) -> tuple[int, int, int]:
        count %= bits
        result = (a >> count | a << bits - count) & mask
        return result, result >> bits - 1, (a ^ a >> bits - 1) & 1

    return ror


def _rcl(bits: int) -> Compute:
    mask = (1 << bits) - 1

    def rcl(a: int, count: int, carry: int) -> tuple[int, int, int]:
        ring = carry << bits | a
        ring = ring << count | ring >> bits + 1 - count
        return ring & mask, ring >> bits & 1, (a >> bits - 1 ^ a >> bits - 2) & 1

    return rcl


def _rcr(bits: int) -> Compute:
    mask = (1 << bits) - 1

    def rcr(a: int, count: int, carry: int) -> tuple[int, int, int]:
        ring = carry << bits | a
        ring = ring >> count | ring << bits + 1 - count
        return ring & mask, ring >> bits & 1, (a >> bits - 1 ^ carry) & 1

    return rcr


def _shl(bits: int) -> Compute:
    mask = (1 << bits) - 1

    def shl(a: int, count: int, carry: int) -> tuple[int, int, int]:
        wide = a << count
        return wide & mask, wide >> bits & 1, (a >> bits - 1 ^ a >> bits - 2) & 1

    return shl


def _shr(bits: int) -> Compute:
    def shr(a: int, count: int, carry: int) -> tuple[int, int, int]:
        return a >> count, a >> count - 1 & 1, a >> bits - 1

    return shr


def _sar(bits: int) -> Compute:
    mask, sign = (1 << bits) - 1, 1 << bits - 1

    def sar(a: int, count: int, carry: int) -> tuple[int, int, int]:
        signed = (a ^ sign) - sign
        return signed >> count & mask, signed >> count - 1 & 1, 0

    return sar


_MAKERS: Final[dict[int, Callable[[int], Compute]]] = {
    ROL: _rol, ROR: _ror, RCL: _rcl, RCR: _rcr, SHL: _shl, SHR: _shr, SAL: _shl, SAR: _sar,
}  # fmt: skip
_COMPUTE: Final = {(n, size): make(size * 8) for n, make in _MAKERS.items() for size in MASKS}


def _count(insn: Insn, operand: Operand, size: int) -> tuple[Read, int]:
    """(reader of the masked count, its constant value or -1 where it is CL)."""
    limit = 63 if size == 8 else 31
    if operand.kind == IMM:
        constant = operand.imm & limit
        return lambda cpu: constant, constant
    return lambda cpu: cpu.regs[RCX] & limit, -1


def _group2(insn: Insn, pc: int) -> Op:
    """C0, C1 (by an immediate), D0, D1 (by one), D2, D3 (by CL)."""
    target, amount = insn.operands
    size, operation = target.size, insn.reg_field
    count, constant = _count(insn, amount, size)
    if operation < SHL:
        return _rotation(insn, target, pc, count, constant)
    if target.kind == REG and size >= 4 and constant > 0:
        return _BY_CONSTANT[operation](target.reg, constant, MASKS[size], size * 8)
    return _shift(insn, target, pc, count, _COMPUTE[operation, size])


def _shift(insn: Insn, target: Operand, pc: int, count: Read, compute: Compute) -> Op:
    read, write = rmw(insn, target, pc)
    bits, in_register = target.size * 8, target.kind == REG

    def shift(cpu: Cpu) -> None:
        n, a = count(cpu), read(cpu)
        if n:
            result, carry, overflow = compute(a, n, 0)
            write(cpu, result)
            cpu.fz = cpu.fr = result
            cpu.fc = (carry << 1 | carry ^ overflow) << bits - 1
            cpu.fs = bits
        elif in_register:
            write(cpu, a)  # a 32-bit register is zero-extended all the same

    return shift


def _rotation(insn: Insn, target: Operand, pc: int, count: Read, constant: int) -> Op:
    read, write = rmw(insn, target, pc)
    bits, in_register, operation = target.size * 8, target.kind == REG, insn.reg_field
    compute = _COMPUTE[operation, target.size]
    ring = bits + 1 if operation in (RCL, RCR) else 64  # CF is part of what RCL and RCR rotate
    keeps_overflow = in_register and operation in (ROL, ROR) and constant > 1

    def rotation(cpu: Cpu) -> None:
        n, a = count(cpu) % ring, read(cpu)
        if n:
            carries, sign = cpu.fc, cpu.fs - 1
            result, carry, overflow = compute(a, n, carries >> sign + 1 & 1)
            if keeps_overflow:
                overflow = (carries >> sign ^ carries >> sign + 1) & 1
            write(cpu, result)
            cpu.fc = carries & ~(3 << sign) | (carry << 1 | carry ^ overflow) << sign
        elif in_register:
            write(cpu, a)

    return rotation


# -- a 32- or 64-bit register by a constant: the commonest shape -----------------------------------------------------


def _shl_constant(n: int, count: int, mask: int, bits: int) -> Op:
    sign = bits - 1

    def shl(cpu: Cpu) -> None:
        a = cpu.regs[n] & mask
        wide = a << count
        carry = wide >> bits & 1
        cpu.regs[n] = cpu.fz = cpu.fr = wide & mask
        cpu.fc = (carry << 1 | carry ^ (a >> sign ^ a >> sign - 1) & 1) << sign
        cpu.fs = bits

    return shl


def _shr_constant(n: int, count: int, mask: int, bits: int) -> Op:
    sign = bits - 1

    def shr(cpu: Cpu) -> None:
        a = cpu.regs[n] & mask
        carry = a >> count - 1 & 1
        cpu.regs[n] = cpu.fz = cpu.fr = a >> count
        cpu.fc = (carry << 1 | carry ^ a >> sign) << sign
        cpu.fs = bits

    return shr


def _sar_constant(n: int, count: int, mask: int, bits: int) -> Op:
    sign = 1 << bits - 1

    def sar(cpu: Cpu) -> None:
        a = (cpu.regs[n] & mask ^ sign) - sign
        cpu.regs[n] = cpu.fz = cpu.fr = a >> count & mask
        cpu.fc = (a >> count - 1 & 1) * 3 << bits - 1
        cpu.fs = bits

    return sar


_BY_CONSTANT: Final = {SHL: _shl_constant, SAL: _shl_constant, SHR: _shr_constant, SAR: _sar_constant}


# -- double shifts ---------------------------------------------------------------------------------------------------


def _double(insn: Insn, pc: int) -> Op:
    """SHLD (0F A4, 0F A5) and SHRD (0F AC, 0F AD).

    For 16-bit operands and counts above 16, undefined in the manual, processors go on with the target's own bits.
    """
    target, source, amount = insn.operands
    count, _ = _count(insn, amount, target.size)
    read, write = rmw(insn, target, pc)
    read_source, mask, bits = reader(insn, source, pc), MASKS[target.size], target.size * 8
    in_register, left = target.kind == REG, insn.opcode < 0x0FA8

    def double(cpu: Cpu) -> None:
        n, a, b = count(cpu), read(cpu), read_source(cpu)
        if n:
            ring = (a << bits | b) << bits | a
            if left:
                ring <<= n
                result, carry = ring >> bits * 2 & mask, ring >> bits * 3 & 1
                overflow = (a >> bits - 1 ^ a >> bits - 2) & 1
            else:
                result, carry = ring >> n & mask, ring >> n - 1 & 1
                overflow = (a >> bits - 1 ^ b) & 1
            write(cpu, result)
            cpu.fz = cpu.fr = result
            cpu.fc = (carry << 1 | carry ^ overflow) << bits - 1
            cpu.fs = bits
        elif in_register:
            write(cpu, a)

    return double


# -- BMI2 ------------------------------------------------------------------------------------------------------------

_BY_PREFIX: Final = {PP_66: SHL, PP_F3: SAR, PP_F2: SHR}


def _without_flags(insn: Insn, pc: int) -> Op:
    """SHLX, SARX and SHRX; with no mandatory prefix the opcode is BEXTR."""
    prefix = pp(insn)
    if prefix == PP_NONE:
        return bextr(insn, pc)
    target, source, amount = insn.operands
    compute, limit = _COMPUTE[_BY_PREFIX[prefix], target.size], target.size * 8 - 1
    read, n, m = reader(insn, source, pc), target.reg, amount.reg

    def shift(cpu: Cpu) -> None:
        count, a = cpu.regs[m] & limit, read(cpu)
        cpu.regs[n] = compute(a, count, 0)[0] if count else a

    return guarded(insn, shift)


def _rorx(insn: Insn, pc: int) -> Op:
    if pp(insn) != PP_F2:
        return undefined
    target, source, amount = insn.operands
    compute, count = _COMPUTE[ROR, target.size], amount.imm & target.size * 8 - 1
    read, write = reader(insn, source, pc), writer(insn, target, pc)
    return guarded(insn, lambda cpu: write(cpu, compute(read(cpu), count, 0)[0]))


BINDERS: Final[dict[int, Binder]] = {
    **dict.fromkeys((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3), _group2),
    **dict.fromkeys((0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD), _double),
    VEX | 0x0F38F7: _without_flags,
    VEX | 0x0F3AF0: _rorx,
}
