"""Data movement and single flags: MOV and its extensions, LEA, XCHG, CMOVcc, SETcc, byte order, flags, hints."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from isa.x86 import flags
from isa.x86.decode import IMM, MEM, REG, Insn
from isa.x86.operands import MASKS, Binder, Op, offset, reader, rmw, writer
from isa.x86.state import AF, CF, DF, DS, PF, RAX, RBX, RDX, SF, ZF

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_LAHF: Final = SF | ZF | AF | PF | CF


def _nothing(cpu: Cpu) -> None:
    """NOP, hints, fences and prefetches: vemu models no caches and no reordering."""


def _nop(insn: Insn, pc: int) -> Op:
    return _nothing


# -- MOV ------------------------------------------------------------------------------------------------------------


def _mov(insn: Insn, pc: int) -> Op:
    target, source = insn.operands
    size = target.size
    if target.kind == REG and size >= 4:
        n, mask = target.reg, MASKS[size]
        if source.kind == REG:
            return _mov_register(n, source.reg, mask)
        if source.kind == IMM:
            return _mov_constant(n, source.imm & mask)
        address, seg = offset(insn, source, pc), source.seg

        def load(cpu: Cpu) -> None:
            cpu.regs[n] = cpu.load(seg, address(cpu), size)

        return load
    if target.kind == MEM:
        address, seg = offset(insn, target, pc), target.seg
        if source.kind == IMM:
            constant = source.imm & MASKS[size]
            return lambda cpu: cpu.store(seg, address(cpu), size, constant)
        if not source.high:  # `store` truncates
            n = source.reg
            return lambda cpu: cpu.store(seg, address(cpu), size, cpu.regs[n])
    read, write = reader(insn, source, pc), writer(insn, target, pc)
    return lambda cpu: write(cpu, read(cpu))


def _mov_register(d: int, s: int, mask: int) -> Op:
    def mov(cpu: Cpu) -> None:
        regs = cpu.regs
        regs[d] = regs[s] & mask

    return mov


def _mov_constant(d: int, value: int) -> Op:
    def mov(cpu: Cpu) -> None:
        cpu.regs[d] = value

    return mov


def _movzx(insn: Insn, pc: int) -> Op:
    target, source = insn.operands
    read = reader(insn, source, pc)
    if target.size >= 4:
        n = target.reg

        def movzx(cpu: Cpu) -> None:
            cpu.regs[n] = read(cpu)

        return movzx
    write = writer(insn, target, pc)
    return lambda cpu: write(cpu, read(cpu))


def _sign_extending(insn: Insn, pc: int, size: int) -> Op:
    """Copy the second operand, `size` bytes wide, sign-extended into the first, a register."""
    target, source = insn.operands
    read = reader(insn, dataclasses.replace(source, size=size), pc)
    mask, sign = MASKS[target.size], 1 << size * 8 - 1
    if target.size >= 4:
        n = target.reg

        def movsx(cpu: Cpu) -> None:
            cpu.regs[n] = (read(cpu) ^ sign) - sign & mask

        return movsx
    write = writer(insn, target, pc)
    return lambda cpu: write(cpu, (read(cpu) ^ sign) - sign & mask)


def _movsx(insn: Insn, pc: int) -> Op:
    return _sign_extending(insn, pc, 1 if insn.opcode == 0x0FBE else 2)


def movsxd(insn: Insn, pc: int) -> Op:
    """MOVSXD, opcode 63 in 64-bit mode (elsewhere ARPL); with a 16-bit operand its source is 16 bits wide too."""
    return _sign_extending(insn, pc, min(4, insn.opsize))


def _lea(insn: Insn, pc: int) -> Op:
    target, source = insn.operands
    address, n, mask = offset(insn, source, pc), target.reg, MASKS[target.size]
    if target.size == 2:
        write = writer(insn, target, pc)
        return lambda cpu: write(cpu, address(cpu))
    if target.size >= insn.adsize:

        def full(cpu: Cpu) -> None:
            cpu.regs[n] = address(cpu)

        return full

    def truncated(cpu: Cpu) -> None:
        cpu.regs[n] = address(cpu) & mask

    return truncated


def _movbe(insn: Insn, pc: int) -> Op:
    target, source = insn.operands
    read, write, size = reader(insn, source, pc), writer(insn, target, pc), target.size
    return lambda cpu: write(cpu, int.from_bytes(read(cpu).to_bytes(size, "little"), "big"))


def _bswap(insn: Insn, pc: int) -> Op:
    target = insn.operands[0]
    n, size = target.reg, target.size
    if size == 2:  # undefined in the manual; processors clear the word
        write = writer(insn, target, pc)
        return lambda cpu: write(cpu, 0)

    def bswap(cpu: Cpu) -> None:
        cpu.regs[n] = int.from_bytes((cpu.regs[n] & MASKS[size]).to_bytes(size, "little"), "big")

    return bswap


def _xlat(insn: Insn, pc: int) -> Op:
    mask, seg = MASKS[insn.adsize], insn.seg if insn.seg >= 0 else DS

    def xlat(cpu: Cpu) -> None:
        regs = cpu.regs
        al = regs[RAX] & 0xFF
        regs[RAX] = regs[RAX] & ~0xFF | cpu.load(seg, regs[RBX] + al & mask, 1)

    return xlat


# -- XCHG, conditions, sign extension in the accumulator ------------------------------------------------------------


def _xchg(insn: Insn, pc: int) -> Op:
    if len(insn.operands) < 2:  # 90 without REX.B: NOP or PAUSE
        return _nothing
    first, second = insn.operands
    if second.kind == MEM:
        first, second = second, first
    read, write = rmw(insn, first, pc)
    read_other, write_other = reader(insn, second, pc), writer(insn, second, pc)

    def xchg(cpu: Cpu) -> None:
        a, b = read(cpu), read_other(cpu)
        write(cpu, b)
        write_other(cpu, a)

    return xchg


def _cmov(insn: Insn, pc: int) -> Op:
    target, source = insn.operands
    test = flags.condition(insn.opcode & 15)
    read, write = reader(insn, source, pc), writer(insn, target, pc)
    read_target = reader(insn, target, pc)

    def cmov(cpu: Cpu) -> None:
        value = read(cpu)  # the source is read, and may fault, whatever the condition
        write(cpu, value if test(cpu) else read_target(cpu))  # a 32-bit target is zero-extended either way

    return cmov


def _setcc(insn: Insn, pc: int) -> Op:
    test, write = flags.condition(insn.opcode & 15), writer(insn, insn.operands[0], pc)
    return lambda cpu: write(cpu, 1 if test(cpu) else 0)


def _cbw(insn: Insn, pc: int) -> Op:
    """CBW, CWDE, CDQE: sign-extend the lower half of the accumulator into all of it."""
    size = insn.opsize
    sign, half, keep = 1 << size * 4 - 1, (1 << size * 4) - 1, ~0xFFFF if size == 2 else 0

    def extend(cpu: Cpu) -> None:
        regs = cpu.regs
        regs[RAX] = regs[RAX] & keep | ((regs[RAX] & half ^ sign) - sign) & MASKS[size]

    return extend


def _cwd(insn: Insn, pc: int) -> Op:
    """CWD, CDQ, CQO: fill rDX with the sign of rAX."""
    size = insn.opsize
    sign, mask, keep = size * 8 - 1, MASKS[size], ~0xFFFF if size == 2 else 0

    def fill(cpu: Cpu) -> None:
        regs = cpu.regs
        regs[RDX] = regs[RDX] & keep | (mask if regs[RAX] >> sign & 1 else 0)

    return fill


# -- flags ----------------------------------------------------------------------------------------------------------


def _lahf(cpu: Cpu) -> None:
    regs = cpu.regs
    regs[RAX] = regs[RAX] & ~0xFF00 | (cpu.rflags & _LAHF | 2) << 8


def _sahf(cpu: Cpu) -> None:
    flags.set_arith(cpu, cpu.regs[RAX] >> 8 & 0xFF, _LAHF)


def _clc(cpu: Cpu) -> None:
    flags.set_cf(cpu, 0)


def _stc(cpu: Cpu) -> None:
    flags.set_cf(cpu, 1)


def _cmc(cpu: Cpu) -> None:
    flags.set_cf(cpu, flags.get_cf(cpu) ^ 1)


def _cld(cpu: Cpu) -> None:
    cpu.system_flags &= ~DF


def _std(cpu: Cpu) -> None:
    cpu.system_flags |= DF


_FLAG_OPS: Final[dict[int, Op]] = {
    0x9E: _sahf, 0x9F: _lahf, 0xF5: _cmc, 0xF8: _clc, 0xF9: _stc, 0xFC: _cld, 0xFD: _std,
}  # fmt: skip


def _flag(insn: Insn, pc: int) -> Op:
    return _FLAG_OPS[insn.opcode]


# -- fences and cache lines -------------------------------------------------------------------------------------------


def fence(insn: Insn, pc: int) -> Op | None:
    """LFENCE, MFENCE, SFENCE, CLFLUSH and CLFLUSHOPT of opcode 0F AE; None for its other instructions."""
    if insn.rep:
        return None
    if insn.modrm >> 6 == 3:
        return _nothing if insn.reg_field >= 5 and 0x66 not in insn.raw[: insn.opcode_at] else None
    if insn.reg_field != 7 or insn.mem is None:
        return None
    address, seg = offset(insn, insn.mem, pc), insn.mem.seg

    def clflush(cpu: Cpu) -> None:
        cpu.load(seg, address(cpu), 1)  # subject to the checks of a byte load (SDM vol. 2, CLFLUSH)

    return clflush


BINDERS: Final[dict[int, Binder]] = {
    **dict.fromkeys((*range(0x88, 0x8C), *range(0xA0, 0xA4), *range(0xB0, 0xC0), 0xC6, 0xC7), _mov),
    **dict.fromkeys((0x86, 0x87, *range(0x90, 0x98)), _xchg),
    **dict.fromkeys(range(0x0F40, 0x0F50), _cmov),
    **dict.fromkeys(range(0x0F90, 0x0FA0), _setcc),
    **dict.fromkeys(range(0x0FC8, 0x0FD0), _bswap),
    **dict.fromkeys((0x0F0D, *range(0x0F18, 0x0F20)), _nop),
    **dict.fromkeys(_FLAG_OPS, _flag),
    **dict.fromkeys((0x0FB6, 0x0FB7), _movzx),
    **dict.fromkeys((0x0FBE, 0x0FBF), _movsx),
    **dict.fromkeys((0x0F38F0, 0x0F38F1), _movbe),
    0x63: movsxd,
    0x8D: _lea,
    0x98: _cbw,
    0x99: _cwd,
    0xD7: _xlat,
}
