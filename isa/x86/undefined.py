"""Which arithmetic flags an instruction leaves undefined (SDM vol. 1, appendix A, and vol. 2 by instruction)."""

from __future__ import annotations

from typing import Final

from isa.x86.decode import Insn
from isa.x86.state import AF, ARITH, CF, OF, PF, SF, ZF
from isa.x86.vex import PP_NONE, pp

_SHIFTS: Final = frozenset((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3))
_ONE_BIT: Final = (0xD0, 0xD1)
_DOUBLE_SHIFTS: Final = frozenset((0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD))
_BY_IMMEDIATE: Final = frozenset((0xC0, 0xC1, 0x0FA4, 0x0FAC))
_ROTATES: Final = 4  # ModRM.reg below: ROL, ROR, RCL, RCR
_SAR: Final = 7

# Opcode -> flags; AND, OR, XOR and TEST leave AF undefined, products all but CF and OF, quotients all.
_OPCODES: Final[dict[int, int]] = {
    **{base + form: AF for base in (0x08, 0x20, 0x30) for form in range(6)},
    **dict.fromkeys((0x84, 0x85, 0xA8, 0xA9), AF),
    **dict.fromkeys((0x69, 0x6B, 0x0FAF), SF | ZF | AF | PF),
    **dict.fromkeys((0x0FBC, 0x0FBD), ARITH & ~ZF),  # BSF, BSR; with F3 TZCNT and LZCNT
    **dict.fromkeys((0x0FA3, 0x0FAB, 0x0FB3, 0x0FBB, 0x0FBA), OF | SF | AF | PF),
    **dict.fromkeys((0x27, 0x2F), OF),
    **dict.fromkeys((0x37, 0x3F), OF | SF | ZF | PF),
    **dict.fromkeys((0xD4, 0xD5), OF | AF | CF),
}
_GROUP1: Final = frozenset((0x80, 0x81, 0x82, 0x83))
_GROUP3: Final = frozenset((0xF6, 0xF7))
_VEX: Final[dict[int, int]] = {
    0x0F38F2: AF | PF,  # ANDN
    0x0F38F3: AF | PF,  # BLSR, BLSMSK, BLSI
    0x0F38F5: AF | PF,  # BZHI
    0x0F38F7: SF | AF | PF,  # BEXTR
}


def undefined_flags(insn: Insn, rcx: int | None = None) -> int:
    """Mask of arithmetic flags whose values nothing may be concluded from after `insn`.

    `rcx` is RCX before it; with it the answer for a shift by CL is that for its count, else that for any count.
    """
    op = insn.opcode
    if insn.vex:
        return _VEX.get(op, 0) if pp(insn) == PP_NONE else 0  # PEXT, PDEP, MULX and the shifts change no flags
    if op in _SHIFTS or op in _DOUBLE_SHIFTS:
        return _after_shift(insn, rcx)
    if op in _GROUP1:
        return AF if insn.reg_field in (1, 4, 6) else 0
    if op in _GROUP3:
        return (AF, AF, 0, 0, SF | ZF | AF | PF, SF | ZF | AF | PF, ARITH, ARITH)[insn.reg_field]
    if op in (0x0FBC, 0x0FBD) and insn.rep == 0xF3:
        return OF | SF | AF | PF
    return _OPCODES.get(op, 0)


def _after_shift(insn: Insn, rcx: int | None) -> int:
    """Rotations leave OF undefined but for a count of one; shifts AF too, and CF for counts of the width or more."""
    op = insn.opcode
    rotates, double = op in _SHIFTS and insn.reg_field < _ROTATES, op in _DOUBLE_SHIFTS
    if op in _ONE_BIT:
        count: int | None = 1
    elif op in _BY_IMMEDIATE:
        count = insn.raw[-1]
    else:
        count = rcx
    if count is None:
        return OF if rotates else OF | AF | CF
    size = 1 if op in _SHIFTS and not op & 1 else insn.opsize
    count &= 0x3F if size == 8 else 0x1F
    if count == 0:
        return 0
    mask = 0 if count == 1 else OF
    if rotates:
        return mask
    if double and count > size * 8:
        return ARITH
    beyond = count >= size * 8 and not double and insn.reg_field != _SAR
    return mask | AF | (CF if beyond else 0)


def undefined_after(insns: list[Insn], before: int = 0) -> int:
    """The same after a sequence of instructions; `before` was undefined in front of it."""
    mask = before
    for insn in insns:
        mask = mask & ~insn.flags_written | undefined_flags(insn)
    return mask
