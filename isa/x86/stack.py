"""The stack: PUSH, POP, PUSHA, POPA, ENTER, LEAVE, and the push and pop that calls and returns share."""

from __future__ import annotations

import dataclasses
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.decode import IMM, REG, Insn, Operand
from isa.x86.operands import MASKS, Binder, Op, reader, writer
from isa.x86.state import ATTR_DB, RBP, RSP, SS

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_M64: Final = 0xFFFF_FFFF_FFFF_FFFF


def stack_mask(cpu: Cpu) -> int:
    """Mask of the stack-address size: 64 bits in 64-bit mode, else by SS.B (SDM vol. 1, 6.2.3)."""
    if cpu.mode == 64:
        return _M64
    return 0xFFFF_FFFF if cpu.segs[SS].attr & ATTR_DB else 0xFFFF


def push(cpu: Cpu, value: int, size: int) -> None:
    """Push the low `size` bytes of `value`; on a fault rSP keeps its value."""
    regs = cpu.regs
    if cpu.mode == 64:
        top = regs[RSP] - size & _M64
        cpu.store(SS, top, size, value)
        regs[RSP] = top
        return
    mask = 0xFFFF_FFFF if cpu.segs[SS].attr & ATTR_DB else 0xFFFF
    top = regs[RSP] - size & mask
    cpu.store(SS, top, size, value)
    regs[RSP] = regs[RSP] & ~mask | top


def pop(cpu: Cpu, size: int) -> int:
    """Pop `size` bytes, zero-extended; on a fault rSP keeps its value."""
    regs = cpu.regs
    if cpu.mode == 64:
        value = cpu.load(SS, regs[RSP], size)
        regs[RSP] = regs[RSP] + size & _M64
        return value
    mask = 0xFFFF_FFFF if cpu.segs[SS].attr & ATTR_DB else 0xFFFF
    value = cpu.load(SS, regs[RSP] & mask, size)
    regs[RSP] = regs[RSP] & ~mask | regs[RSP] + size & mask
    return value


def add_to_sp(cpu: Cpu, count: int) -> None:
    """Move rSP by `count` bytes within the stack-address size."""
    mask = stack_mask(cpu)
    cpu.regs[RSP] = cpu.regs[RSP] & ~mask | cpu.regs[RSP] + count & mask


def stack_size(insn: Insn) -> int:
    """Operand size of a stack instruction in bytes: 64-bit mode knows only 8 and 2 (SDM vol. 1, 6.2.4)."""
    if insn.mode == 64:
        return 2 if insn.opsize == 2 else 8
    return insn.opsize


def _sized(insn: Insn) -> Operand:
    return dataclasses.replace(insn.operands[0], size=stack_size(insn))


def push_rm(insn: Insn, pc: int) -> Op:
    """PUSH of a register, memory or immediate: 50+r, FF /6, 68, 6A."""
    operand, size = _sized(insn), stack_size(insn)
    if operand.kind == IMM:
        # Read from the bytes: with both 66 and REX.W the decoder leaves the immediate without its sign.
        constant = int.from_bytes(insn.raw[insn.opcode_at + 1 :], "little", signed=True) & MASKS[size]
        return lambda cpu: push(cpu, constant, size)
    if operand.kind == REG:
        n = operand.reg
        if insn.mode == 64 and size == 8:

            def push64(cpu: Cpu) -> None:
                regs = cpu.regs
                top = regs[RSP] - 8 & _M64
                cpu.store(SS, top, 8, regs[n])
                regs[RSP] = top

            return push64
        return lambda cpu: push(cpu, cpu.regs[n], size)
    read = reader(insn, operand, pc)
    return lambda cpu: push(cpu, read(cpu), size)


def pop_rm(insn: Insn, pc: int) -> Op:
    """POP to a register or memory: 58+r, 8F /0."""
    operand, size = _sized(insn), stack_size(insn)
    write = writer(insn, operand, pc)
    if operand.kind == REG:
        n = operand.reg
        if insn.mode == 64 and size == 8:

            def pop64(cpu: Cpu) -> None:
                regs = cpu.regs
                value = cpu.load(SS, regs[RSP], 8)
                regs[RSP] = regs[RSP] + 8 & _M64
                regs[n] = value

            return pop64
        return lambda cpu: write(cpu, pop(cpu, size))

    def pop_memory(cpu: Cpu) -> None:
        before = cpu.regs[RSP]
        value = pop(cpu, size)
        try:
            write(cpu, value)  # an address based on rSP uses its new value (SDM vol. 2, POP)
        except GuestFault:
            cpu.regs[RSP] = before
            raise

    return pop_memory


def _pusha(insn: Insn, pc: int) -> Op:
    size = insn.opsize

    def pusha(cpu: Cpu) -> None:
        mask, regs = stack_mask(cpu), cpu.regs
        places = [regs[RSP] - size * n & mask for n in range(1, 9)]
        for place in places:
            cpu.load_rmw(SS, place, size)
        for place, value in zip(places, regs[:8], strict=True):
            cpu.store(SS, place, size, value)
        regs[RSP] = regs[RSP] & ~mask | places[7]

    return pusha


def _popa(insn: Insn, pc: int) -> Op:
    size = insn.opsize
    keep, low = (~0xFFFF, 0xFFFF) if size == 2 else (0, 0xFFFF_FFFF)

    def popa(cpu: Cpu) -> None:
        mask, regs = stack_mask(cpu), cpu.regs
        values = [cpu.load(SS, regs[RSP] + size * n & mask, size) for n in range(8)]
        for n in range(8):
            if n != 3:  # the saved stack pointer is skipped
                regs[7 - n] = regs[7 - n] & keep | values[n] & low
        add_to_sp(cpu, size * 8)

    return popa


def _enter(insn: Insn, pc: int) -> Op:
    """ENTER: saves rBP, copies `level` - 1 frame pointers of the display, makes room (SDM vol. 2 and vol. 1, 6.6.1)."""
    size, room, level = stack_size(insn), int.from_bytes(insn.raw[-3:-1], "little"), insn.raw[-1] & 31

    def enter(cpu: Cpu) -> None:
        mask, regs = stack_mask(cpu), cpu.regs
        places = [regs[RSP] - size * n & mask for n in range(1, level + 2 if level else 2)]
        display = [regs[RBP] - size * n & mask for n in range(1, level)]
        final = places[-1] - room & mask
        cpu.load_rmw(SS, places[0], size)
        for source, place in zip_longest(display, places[1:]):
            if source is not None:
                cpu.load(SS, source, size)
            cpu.load_rmw(SS, place, size)
        cpu.load_rmw(SS, final, size)  # a write at the final stack pointer must be possible
        cpu.store(SS, places[0], size, regs[RBP])
        for source, place in zip(display, places[1:], strict=False):  # one by one: the two may overlap
            cpu.store(SS, place, size, cpu.load(SS, source, size))
        if level:
            cpu.store(SS, places[-1], size, places[0])
        width = mask & MASKS[size]  # the narrower of stack and operand
        regs[RBP] = regs[RBP] & ~width | places[0] & width
        regs[RSP] = regs[RSP] & ~mask | final

    return enter


def _leave(insn: Insn, pc: int) -> Op:
    size = stack_size(insn)
    low = MASKS[size]

    def leave(cpu: Cpu) -> None:
        mask, regs = stack_mask(cpu), cpu.regs
        top = regs[RBP] & mask
        value = cpu.load(SS, top, size)
        regs[RSP] = regs[RSP] & ~mask | top + size & mask
        regs[RBP] = regs[RBP] & ~low & _KEEP[size] | value

    return leave


_KEEP: Final = {2: _M64, 4: 0, 8: 0}  # only a 16-bit write leaves the rest of the register

BINDERS: Final[dict[int, Binder]] = {
    **dict.fromkeys((*range(0x50, 0x58), 0x68, 0x6A), push_rm),
    **dict.fromkeys((*range(0x58, 0x60), 0x8F), pop_rm),
    0x60: _pusha,
    0x61: _popa,
    0xC8: _enter,
    0xC9: _leave,
}
