"""Near control transfers: Jcc, JMP, CALL, RET, LOOP and JCXZ, and the group of opcode FF they share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86 import alu, flags, stack
from isa.x86.decode import Insn
from isa.x86.operands import MASKS, Binder, Op, Read, reader
from isa.x86.segments import canonical
from isa.x86.state import CS, GP, RCX, RSP, SS, UD

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_M64: Final = 0xFFFF_FFFF_FFFF_FFFF


def check_target(cpu: Cpu, target: int) -> None:
    """Raise #GP(0) where a near transfer may not go: not canonical, or beyond the limit of CS."""
    if cpu.mode == 64:
        if not canonical(target):
            raise GuestFault(GP, 0, note=f"branch to non-canonical {target:#x}")
    elif target > cpu.segs[CS].limit:
        raise GuestFault(GP, 0, note=f"branch to {target:#x}, beyond the limit of CS")


def _following(insn: Insn, pc: int) -> int:
    """Offset of the next instruction."""
    return pc + insn.size & (_M64 if insn.mode == 64 else 0xFFFF_FFFF)


def _near_size(insn: Insn) -> int:
    """Operand size of a near branch in bytes: always 8 in 64-bit mode (SDM vol. 2, CALL; a 66 prefix is ignored)."""
    return 8 if insn.mode == 64 else insn.opsize


def _unchecked(insn: Insn, target: int) -> bool:
    """True where the target can be judged at binding: 64-bit mode has no limit."""
    return insn.mode == 64 and canonical(target)


def _jmp(insn: Insn, pc: int) -> Op:
    target = insn.target(pc)
    if _unchecked(insn, target):

        def direct(cpu: Cpu) -> None:
            cpu.rip = target

        return direct

    def checked(cpu: Cpu) -> None:
        check_target(cpu, target)
        cpu.rip = target

    return checked


def _jcc(insn: Insn, pc: int) -> Op:
    code, target, following = insn.opcode & 15, insn.target(pc), _following(insn, pc)
    if not _unchecked(insn, target):
        test = flags.condition(code)

        def checked(cpu: Cpu) -> None:
            if test(cpu):
                check_target(cpu, target)
                cpu.rip = target
            else:
                cpu.rip = following

        return checked
    taken, other = (following, target) if code & 1 else (target, following)
    if code >> 1 == 2:  # JZ, JNZ

        def on_zero(cpu: Cpu) -> None:
            cpu.rip = other if cpu.fz else taken

        return on_zero
    if code >> 1 == 1:  # JC, JNC

        def on_carry(cpu: Cpu) -> None:
            cpu.rip = taken if cpu.fc >> cpu.fs & 1 else other

        return on_carry
    positive = flags.condition(code & 14)

    def jcc(cpu: Cpu) -> None:
        cpu.rip = taken if positive(cpu) else other

    return jcc


def _call(insn: Insn, pc: int) -> Op:
    target, following, size = insn.target(pc), _following(insn, pc), _near_size(insn)
    if _unchecked(insn, target):

        def direct(cpu: Cpu) -> None:
            regs = cpu.regs
            top = regs[RSP] - 8 & _M64
            cpu.store(SS, top, 8, following)
            regs[RSP] = top
            cpu.rip = target

        return direct

    def checked(cpu: Cpu) -> None:
        _check_call(cpu, target, size)
        stack.push(cpu, following, size)
        cpu.rip = target

    return checked


def _check_call(cpu: Cpu, target: int, size: int) -> None:
    """Raise the fault of a near call's target; in 64-bit mode processors try the push first."""
    if cpu.mode == 64:
        cpu.load_rmw(SS, cpu.regs[RSP] - size & _M64, size)
    check_target(cpu, target)


def _pointer(insn: Insn, pc: int) -> Read:
    """Reads the target of an indirect branch."""
    return reader(insn, dataclasses.replace(insn.operands[0], size=_near_size(insn)), pc)


def _call_indirect(insn: Insn, pc: int) -> Op:
    read, following, size = _pointer(insn, pc), _following(insn, pc), _near_size(insn)

    def call(cpu: Cpu) -> None:
        target = read(cpu)
        _check_call(cpu, target, size)
        stack.push(cpu, following, size)
        cpu.rip = target

    return call


def _jmp_indirect(insn: Insn, pc: int) -> Op:
    read = _pointer(insn, pc)

    def jmp(cpu: Cpu) -> None:
        target = read(cpu)
        check_target(cpu, target)
        cpu.rip = target

    return jmp


def _ret(insn: Insn, pc: int) -> Op:
    size = _near_size(insn)
    release = int.from_bytes(insn.raw[-2:], "little") if insn.opcode == 0xC2 else 0

    def ret(cpu: Cpu) -> None:
        before = cpu.regs[RSP]
        target = stack.pop(cpu, size)
        try:
            check_target(cpu, target)
        except GuestFault:
            cpu.regs[RSP] = before
            raise
        if release:
            stack.add_to_sp(cpu, release)
        cpu.rip = target

    return ret


def _loop(insn: Insn, pc: int) -> Op:
    """LOOPNE, LOOPE, LOOP (E0 to E2): the address size chooses CX, ECX or RCX."""
    mask, target, following = MASKS[insn.adsize], insn.target(pc), _following(insn, pc)
    keep = ~0xFFFF if insn.adsize == 2 else 0
    wanted = {0xE0: (True,), 0xE1: (False,), 0xE2: (False, True)}[insn.opcode]

    def loop(cpu: Cpu) -> None:
        regs = cpu.regs
        count = regs[RCX] - 1 & mask
        taken = count != 0 and bool(cpu.fz) in wanted
        if taken:
            check_target(cpu, target)
        regs[RCX] = regs[RCX] & keep | count
        cpu.rip = target if taken else following

    return loop


def _jcxz(insn: Insn, pc: int) -> Op:
    mask, target, following = MASKS[insn.adsize], insn.target(pc), _following(insn, pc)

    def jcxz(cpu: Cpu) -> None:
        if cpu.regs[RCX] & mask:
            cpu.rip = following
        else:
            check_target(cpu, target)
            cpu.rip = target

    return jcxz


def _undefined(cpu: Cpu) -> None:
    raise GuestFault(UD)


# FF by ModRM.reg; /3 and /5 are far transfers, which are system instructions.
_GROUP5: Final[dict[int, Binder]] = {
    0: alu.inc, 1: alu.dec, 2: _call_indirect, 4: _jmp_indirect, 6: stack.push_rm,
}  # fmt: skip


def _group5(insn: Insn, pc: int) -> Op:
    binder = _GROUP5.get(insn.reg_field)
    return binder(insn, pc) if binder is not None else _undefined


BINDERS: Final[dict[int, Binder]] = {
    **dict.fromkeys((*range(0x70, 0x80), *range(0x0F80, 0x0F90)), _jcc),
    **dict.fromkeys((0xE0, 0xE1, 0xE2), _loop),
    0xE3: _jcxz,
    0xE8: _call,
    **dict.fromkeys((0xE9, 0xEB), _jmp),
    **dict.fromkeys((0xC2, 0xC3), _ret),
    0xFF: _group5,
}
