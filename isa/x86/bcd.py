"""Decimal arithmetic: DAA DAS AAA AAS AAM AAD, undefined in 64-bit mode.

Flags that the manual leaves undefined are what Intel processors were measured to give: SF, ZF and PF follow AL
everywhere, OF is clear, AAM clears CF and AF too, and AAD sets all flags as the addition it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.flags import set_arith, szp
from isa.x86.operands import Binder, Op
from isa.x86.state import AF, CF, DE, RAX
from isa.x86.vex import undefined

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn


def _outcome(cpu: Cpu, ax: int, flags: int) -> None:
    """Write AX, and SF, ZF and PF of AL beside `flags`."""
    cpu.regs[RAX] = cpu.regs[RAX] & ~0xFFFF | ax & 0xFFFF
    set_arith(cpu, szp(ax & 0xFF, 1) | flags)


def _packed(cpu: Cpu, sign: int) -> None:
    """Correct AL after the addition (`sign` 1) or subtraction (-1) of two packed numbers."""
    old, al, flags = cpu.rflags, cpu.regs[RAX] & 0xFF, 0
    correction = 0
    if al & 0xF > 9 or old & AF:
        correction, flags = 6, AF
        if sign < 0 and al < 6:
            flags |= CF
    if al > 0x99 or old & CF:
        correction += 0x60
        flags |= CF
    _outcome(cpu, cpu.regs[RAX] & 0xFF00 | al + sign * correction & 0xFF, flags)


def _unpacked(cpu: Cpu, sign: int) -> None:
    """Correct AX after the addition or subtraction of two digits; the correction carries from AL into AH."""
    ax, flags = cpu.regs[RAX] & 0xFFFF, 0
    if ax & 0xF > 9 or cpu.rflags & AF:
        ax, flags = ax + sign * 0x106, AF | CF
    _outcome(cpu, ax & 0xFF0F, flags)


def _daa(cpu: Cpu) -> None:
    _packed(cpu, 1)


def _das(cpu: Cpu) -> None:
    _packed(cpu, -1)


def _aaa(cpu: Cpu) -> None:
    _unpacked(cpu, 1)


def _aas(cpu: Cpu) -> None:
    _unpacked(cpu, -1)


def _divide(cpu: Cpu) -> None:
    raise GuestFault(DE)


def _aam(base: int) -> Op:
    def aam(cpu: Cpu) -> None:
        high, low = divmod(cpu.regs[RAX] & 0xFF, base)
        _outcome(cpu, high << 8 | low, 0)

    return aam if base else _divide


def _aad(base: int) -> Op:
    def aad(cpu: Cpu) -> None:
        ax = cpu.regs[RAX] & 0xFFFF
        a, b = ax & 0xFF, (ax >> 8) * base & 0xFF
        total = a + b
        cpu.regs[RAX] = cpu.regs[RAX] & ~0xFFFF | total & 0xFF
        cpu.fc = a ^ b ^ total
        cpu.fz = cpu.fr = total & 0xFF
        cpu.fs = 8

    return aad


_PLAIN: Final[dict[int, Op]] = {0x27: _daa, 0x2F: _das, 0x37: _aaa, 0x3F: _aas}


def _bind(insn: Insn, pc: int) -> Op:
    if insn.mode == 64:
        return undefined
    plain = _PLAIN.get(insn.opcode)
    if plain is not None:
        return plain
    base = insn.raw[insn.size - 1]
    return _aam(base) if insn.opcode == 0xD4 else _aad(base)


BINDERS: Final[dict[int, Binder]] = dict.fromkeys((0x27, 0x2F, 0x37, 0x3F, 0xD4, 0xD5), _bind)
