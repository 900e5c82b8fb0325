"""Closures that read and write the operands of one instruction: addresses are worked out once, at binding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.x86.decode import IMM, MEM, REG, RIP_BASE, Insn, Operand

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

Op = Callable[["Cpu"], None]
Read = Callable[["Cpu"], int]
Write = Callable[["Cpu", int], None]
Binder = Callable[[Insn, int], Op]

MASKS: Final = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}


def offset(insn: Insn, op: Operand, pc: int) -> Read:
    """Effective address of memory operand `op`, truncated to the address size (SDM vol. 1, 3.7.5)."""
    mask = MASKS[insn.adsize]
    base, index, scale, disp = op.base, op.index, op.scale, op.disp
    if base == RIP_BASE:
        base, disp = -1, disp + pc + insn.size
    if base < 0 and index < 0:
        fixed = disp & mask
        return lambda cpu: fixed
    if index < 0:
        if disp == 0 and insn.adsize == 8:
            return lambda cpu: cpu.regs[base]
        return lambda cpu: cpu.regs[base] + disp & mask
    if base < 0:
        return lambda cpu: cpu.regs[index] * scale + disp & mask

    def scaled(cpu: Cpu) -> int:
        regs = cpu.regs
        return regs[base] + regs[index] * scale + disp & mask

    return scaled


def reader(insn: Insn, op: Operand, pc: int) -> Read:
    """The value of `op`, zero-extended from `op.size` bytes; reading memory may raise GuestFault."""
    if op.kind == REG:
        return _register_reader(op)
    if op.kind == IMM:
        value = op.imm & MASKS[op.size]
        return lambda cpu: value
    if op.kind == MEM:
        address, seg, size = offset(insn, op, pc), op.seg, op.size
        return lambda cpu: cpu.load(seg, address(cpu), size)
    raise ValueError(f"{insn!r}: operand of kind {op.kind} has no integer value")


def _register_reader(op: Operand) -> Read:
    n = op.reg
    if op.high:
        return lambda cpu: cpu.regs[n] >> 8 & 0xFF
    if op.size == 8:
        return lambda cpu: cpu.regs[n]
    mask = MASKS[op.size]
    return lambda cpu: cpu.regs[n] & mask


def writer(insn: Insn, op: Operand, pc: int) -> Write:
    """Stores the low `op.size` bytes of a value; writing memory may raise GuestFault."""
    if op.kind == REG:
        return _register_writer(op)
    if op.kind == MEM:
        address, seg, size = offset(insn, op, pc), op.seg, op.size
        return lambda cpu, value: cpu.store(seg, address(cpu), size, value)
    raise ValueError(f"{insn!r}: operand of kind {op.kind} cannot be written")


def _register_writer(op: Operand) -> Write:
    n = op.reg
    if op.size >= 4:  # 32-bit results are zero-extended (SDM vol. 1, 3.4.1.1)
        mask = MASKS[op.size]

        def wide(cpu: Cpu, value: int) -> None:
            cpu.regs[n] = value & mask

        return wide
    if op.high:

        def high(cpu: Cpu, value: int) -> None:
            cpu.regs[n] = cpu.regs[n] & ~0xFF00 | (value & 0xFF) << 8

        return high
    low, keep = MASKS[op.size], ~MASKS[op.size]

    def narrow(cpu: Cpu, value: int) -> None:
        cpu.regs[n] = cpu.regs[n] & keep | value & low

    return narrow


def rmw(insn: Insn, op: Operand, pc: int) -> tuple[Read, Write]:
    """Reader and writer of a destination that is also a source, to be called in this order.

    The address is worked out once, by the reader; it faults as the write would, so the write cannot fault.
    """
    if op.kind == REG:
        return _register_reader(op), _register_writer(op)
    if op.kind != MEM:
        raise ValueError(f"{insn!r}: operand of kind {op.kind} cannot be modified")
    address, seg, size = offset(insn, op, pc), op.seg, op.size
    at = 0

    def read(cpu: Cpu) -> int:
        nonlocal at
        at = address(cpu)
        return cpu.load_rmw(seg, at, size)

    def write(cpu: Cpu, value: int) -> None:
        cpu.store(seg, at, size, value)

    return read, write
