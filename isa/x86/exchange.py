"""Read-modify-write exchanges: XADD CMPXCHG CMPXCHG8B CMPXCHG16B (one vCPU: LOCK changes nothing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.decode import REG, Insn
from isa.x86.flags import set_arith
from isa.x86.operands import MASKS, Binder, Op, offset, reader, rmw, writer
from isa.x86.segments import linearize
from isa.x86.state import GP, RAX, RBX, RCX, RDX, ZF
from isa.x86.vex import undefined

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_M32: Final = 0xFFFF_FFFF


def _xadd(insn: Insn, pc: int) -> Op:
    target, source = insn.operands
    mask, bits = MASKS[target.size], target.size * 8
    read, write = rmw(insn, target, pc)
    read_source, write_source = reader(insn, source, pc), writer(insn, source, pc)

    def xadd(cpu: Cpu) -> None:
        a, b = read(cpu), read_source(cpu)
        total = a + b
        write_source(cpu, a)
        write(cpu, total & mask)  # last, because both may be one register
        cpu.fc = a ^ b ^ total
        cpu.fz = cpu.fr = total & mask
        cpu.fs = bits

    return xadd


def _cmpxchg(insn: Insn, pc: int) -> Op:
    """CMPXCHG; memory is written either way (SDM vol. 2), a register only where it was equal."""
    target, source = insn.operands
    mask, bits, in_register = MASKS[target.size], target.size * 8, target.kind == REG
    read, write = rmw(insn, target, pc)
    read_source = reader(insn, source, pc)
    keep = ~mask if target.size < 4 else 0

    def cmpxchg(cpu: Cpu) -> None:
        regs = cpu.regs
        accumulator, found = regs[RAX] & mask, read(cpu)
        difference = accumulator - found
        if not difference:
            write(cpu, read_source(cpu))
        else:
            if not in_register:
                write(cpu, found)
            regs[RAX] = regs[RAX] & keep | found
        cpu.fc = accumulator ^ found ^ difference
        cpu.fz = cpu.fr = difference & mask
        cpu.fs = bits

    return cmpxchg


def _wide(insn: Insn, pc: int) -> Op:
    """CMPXCHG8B and CMPXCHG16B: 0F C7 /1 with a memory operand; only ZF changes."""
    target = insn.mem
    if insn.reg_field != 1 or target is None:
        return undefined
    address, seg = offset(insn, target, pc), target.seg
    if insn.opsize == 8:

        def cmpxchg16b(cpu: Cpu) -> None:
            regs, at = cpu.regs, address(cpu)
            if linearize(cpu, seg, at, 16, True) & 15:
                raise GuestFault(GP, 0, note="CMPXCHG16B on a misaligned operand")
            low, high = cpu.load_rmw(seg, at, 8), cpu.load_rmw(seg, at + 8, 8)
            if low == regs[RAX] and high == regs[RDX]:
                cpu.store(seg, at, 8, regs[RBX])
                cpu.store(seg, at + 8, 8, regs[RCX])
                set_arith(cpu, ZF, ZF)
            else:
                cpu.store(seg, at, 8, low)
                cpu.store(seg, at + 8, 8, high)
                regs[RAX], regs[RDX] = low, high
                set_arith(cpu, 0, ZF)

        return cmpxchg16b

    def cmpxchg8b(cpu: Cpu) -> None:
        regs, at = cpu.regs, address(cpu)
        found = cpu.load_rmw(seg, at, 8)
        if found == (regs[RDX] & _M32) << 32 | regs[RAX] & _M32:
            cpu.store(seg, at, 8, (regs[RCX] & _M32) << 32 | regs[RBX] & _M32)
            set_arith(cpu, ZF, ZF)
        else:
            cpu.store(seg, at, 8, found)
            regs[RAX], regs[RDX] = found & _M32, found >> 32
            set_arith(cpu, 0, ZF)

    return cmpxchg8b


BINDERS: Final[dict[int, Binder]] = {
    **dict.fromkeys((0x0FC0, 0x0FC1), _xadd),
    **dict.fromkeys((0x0FB0, 0x0FB1), _cmpxchg),
    0x0FC7: _wide,
}
