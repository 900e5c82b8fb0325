"""BOUND: checks a signed index against a pair of bounds in memory; undefined in 64-bit mode (SDM vol. 2, BOUND)."""

from __future__ import annotations

from typing import Final

from isa.base import GuestFault
from isa.x86.cpu import Cpu
from isa.x86.decode import Insn
from isa.x86.operands import Binder, Op, offset
from isa.x86.state import BR, UD


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


def _undefined(cpu: Cpu) -> None:
    raise GuestFault(UD)


def _bound(insn: Insn, pc: int) -> Op:
    mem = insn.mem
    if insn.mode == 64 or mem is None:
        return _undefined
    size, bits, register = insn.opsize, 8 * insn.opsize, insn.reg_field
    address, seg = offset(insn, mem, pc), mem.seg

    def bound(cpu: Cpu) -> None:
        at = address(cpu)
        lower = _signed(cpu.load(seg, at, size), bits)
        index = _signed(cpu.regs[register] & (1 << bits) - 1, bits)
        # Processors do not read the upper bound where the lower one is missed.
        if index < lower or index > _signed(cpu.load(seg, at + size, size), bits):
            raise GuestFault(BR)

    return bound


BINDERS: Final[dict[int, Binder]] = {0x62: _bound}
