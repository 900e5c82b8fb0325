"""Integer multiplication and division: MUL IMUL DIV IDIV MULX.

The manual leaves most of their flags undefined; here they are what Intel processors were measured to give: a
multiplication clears ZF and AF and takes SF and PF from the low half, a division changes no flag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.decode import IMM, REG, Insn
from isa.x86.operands import MASKS, Binder, Op, Read, reader, writer
from isa.x86.state import DE, RAX, RDX
from isa.x86.vex import PP_F2, VEX, guarded, pp, undefined

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu


def _multiplied(cpu: Cpu, low: int, overflow: bool, bits: int) -> None:
    """CF and OF tell that the high half matters."""
    cpu.fr, cpu.fz = low, 1
    cpu.fc, cpu.fs = (1 << bits if overflow else 0), bits


def _mul(read: Read, size: int) -> Op:
    mask, bits = MASKS[size], size * 8
    if size == 1:

        def mul8(cpu: Cpu) -> None:
            regs = cpu.regs
            product = (regs[RAX] & 0xFF) * read(cpu)
            regs[RAX] = regs[RAX] & ~0xFFFF | product
            _multiplied(cpu, product & 0xFF, product > 0xFF, 8)

        return mul8
    keep = ~0xFFFF if size == 2 else 0

    def mul(cpu: Cpu) -> None:
        regs = cpu.regs
        product = (regs[RAX] & mask) * read(cpu)
        low = product & mask
        regs[RAX] = regs[RAX] & keep | low
        regs[RDX] = regs[RDX] & keep | product >> bits
        _multiplied(cpu, low, product > mask, bits)

    return mul


def _imul(read: Read, size: int) -> Op:
    mask, bits, sign = MASKS[size], size * 8, 1 << size * 8 - 1
    if size == 1:

        def imul8(cpu: Cpu) -> None:
            regs = cpu.regs
            product = ((regs[RAX] & 0xFF ^ 0x80) - 0x80) * ((read(cpu) ^ 0x80) - 0x80)
            regs[RAX] = regs[RAX] & ~0xFFFF | product & 0xFFFF
            _multiplied(cpu, product & 0xFF, not -0x80 <= product <= 0x7F, 8)

        return imul8
    keep = ~0xFFFF if size == 2 else 0

    def imul(cpu: Cpu) -> None:
        regs = cpu.regs
        product = ((regs[RAX] & mask ^ sign) - sign) * ((read(cpu) ^ sign) - sign)
        low = product & mask
        regs[RAX] = regs[RAX] & keep | low
        regs[RDX] = regs[RDX] & keep | product >> bits & mask
        _multiplied(cpu, low, not -sign <= product < sign, bits)

    return imul


def _div(read: Read, size: int) -> Op:
    mask, bits = MASKS[size], size * 8
    if size == 1:

        def div8(cpu: Cpu) -> None:
            regs = cpu.regs
            divisor = read(cpu)
            if not divisor:
                raise GuestFault(DE)
            quotient, remainder = divmod(regs[RAX] & 0xFFFF, divisor)
            if quotient > 0xFF:
                raise GuestFault(DE)
            regs[RAX] = regs[RAX] & ~0xFFFF | remainder << 8 | quotient

        return div8
    keep = ~0xFFFF if size == 2 else 0

    def div(cpu: Cpu) -> None:
        regs = cpu.regs
        divisor = read(cpu)
        if not divisor:
            raise GuestFault(DE)
        quotient, remainder = divmod((regs[RDX] & mask) << bits | regs[RAX] & mask, divisor)
        if quotient > mask:
            raise GuestFault(DE)
        regs[RAX] = regs[RAX] & keep | quotient
        regs[RDX] = regs[RDX] & keep | remainder

    return div


def _signed_quotient(dividend: int, divisor: int, sign: int) -> tuple[int, int]:
    """Quotient, truncated towards zero, and remainder, which has the dividend's sign; #DE outside [-sign, sign)."""
    if not divisor:
        raise GuestFault(DE)
    quotient, remainder = divmod(abs(dividend), abs(divisor))
    if (dividend < 0) != (divisor < 0):
        quotient = -quotient
    if not -sign <= quotient < sign:
        raise GuestFault(DE)
    return quotient, -remainder if dividend < 0 else remainder


def _idiv(read: Read, size: int) -> Op:
    mask, bits, sign = MASKS[size], size * 8, 1 << size * 8 - 1
    if size == 1:

        def idiv8(cpu: Cpu) -> None:
            regs = cpu.regs
            divisor = (read(cpu) ^ 0x80) - 0x80
            quotient, remainder = _signed_quotient((regs[RAX] & 0xFFFF ^ 0x8000) - 0x8000, divisor, 0x80)
            regs[RAX] = regs[RAX] & ~0xFFFF | (remainder & 0xFF) << 8 | quotient & 0xFF

        return idiv8
    keep, wide_sign = (~0xFFFF if size == 2 else 0), 1 << bits * 2 - 1

    def idiv(cpu: Cpu) -> None:
        regs = cpu.regs
        divisor = (read(cpu) ^ sign) - sign
        dividend = (regs[RDX] & mask) << bits | regs[RAX] & mask
        quotient, remainder = _signed_quotient((dividend ^ wide_sign) - wide_sign, divisor, sign)
        regs[RAX] = regs[RAX] & keep | quotient & mask
        regs[RDX] = regs[RDX] & keep | remainder & mask

    return idiv


_GROUP3: Final = {4: _mul, 5: _imul, 6: _div, 7: _idiv}


def _group3(insn: Insn, pc: int) -> Op:
    """F6 and F7, /4 to /7 (/0 to /3 are not multiplications)."""
    make = _GROUP3.get(insn.reg_field)
    if make is None:
        return undefined
    operand = insn.operands[0]
    return make(reader(insn, operand, pc), operand.size)


def _imul_register(insn: Insn, pc: int) -> Op:
    """0F AF (two operands), 69 and 6B (three)."""
    target, *sources = insn.operands
    size = target.size
    mask, bits, sign = MASKS[size], size * 8, 1 << size * 8 - 1
    read = reader(insn, sources[0], pc)
    write = writer(insn, target, pc)
    n = target.reg
    if len(sources) == 2:
        last = sources[1]
        assert last.kind == IMM
        factor = (last.imm & mask ^ sign) - sign

        def by_constant(cpu: Cpu) -> None:
            product = ((read(cpu) ^ sign) - sign) * factor
            low = product & mask
            write(cpu, low)
            _multiplied(cpu, low, not -sign <= product < sign, bits)

        return by_constant
    if size >= 4 and sources[0].kind == REG:
        m = sources[0].reg

        def registers(cpu: Cpu) -> None:
            regs = cpu.regs
            product = ((regs[n] & mask ^ sign) - sign) * ((regs[m] & mask ^ sign) - sign)
            regs[n] = low = product & mask
            _multiplied(cpu, low, not -sign <= product < sign, bits)

        return registers

    def general(cpu: Cpu) -> None:
        product = ((cpu.regs[n] & mask ^ sign) - sign) * ((read(cpu) ^ sign) - sign)
        low = product & mask
        write(cpu, low)
        _multiplied(cpu, low, not -sign <= product < sign, bits)

    return general


def _mulx(insn: Insn, pc: int) -> Op:
    """MULX: rDX times the source, no flags; where both targets are one register it gets the high half."""
    if pp(insn) != PP_F2:
        return undefined
    high, low, source = insn.operands
    mask, bits = MASKS[high.size], high.size * 8
    read, n_high, n_low = reader(insn, source, pc), high.reg, low.reg

    def mulx(cpu: Cpu) -> None:
        product = (cpu.regs[RDX] & mask) * read(cpu)
        cpu.regs[n_low] = product & mask
        cpu.regs[n_high] = product >> bits

    return guarded(insn, mulx)


BINDERS: Final[dict[int, Binder]] = {
    0xF6: _group3,
    0xF7: _group3,
    **dict.fromkeys((0x69, 0x6B, 0x0FAF), _imul_register),
    VEX | 0x0F38F6: _mulx,
}
