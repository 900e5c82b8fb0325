"""Instructions that a software CPU under the translator is known to execute wrongly: the interpreter executes them.

The list was found by running Unicorn 2.1 against a processor; all of them are rare in compiled code.
"""

from __future__ import annotations

from typing import Final

from isa.x86.decode import Insn
from isa.x86.vector import EXPLICIT_LENGTHS, MASKMOV, doubles_source, forgets_mmx

_LAHF, _SAHF, _PAUSE, _ENTER, _CVTPI2, _POPCNT, _CRC32 = 0x9F, 0x9E, 0x90, 0xC8, 0x0F2A, 0x0FB8, 0x0F38F1
# BLSI leaves a wrong CF, BZHI drops bit 31 or 63, PDEP and PEXT do not zero the upper half, BEXTR takes CL's low bits.
_VEX: Final = frozenset((0x0F38F3, 0x0F38F5, 0x0F38F7))
_SHIFTS: Final = frozenset((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3))
_THROUGH_CARRY: Final = (2, 3)  # ModRM.reg of RCL and RCR
_NEG: Final = 3
_IDIV, _CWD = 7, 0x99  # ModRM.reg of IDIV; CWD, CDQ and CQO
# With an operand size by mode or prefix that Unicorn derives from 66 alone: POPCNT, MOVBE, CRC32.
_SIZED: Final = frozenset((_POPCNT, 0x0F38F0, _CRC32))


def misexecuted(insn: Insn) -> bool:
    """True where the interpreter must execute an innocuous instruction, because the machine would not do it right."""
    op, in_memory = insn.opcode, 0 <= insn.modrm < 0xC0
    if insn.vex:
        return op in _VEX
    if op == MASKMOV:  # it stores what comes before the byte that faults
        return True
    if op in EXPLICIT_LENGTHS:  # a length of -2**31 makes Unicorn read outside its own memory
        return True
    if op in (_LAHF, _SAHF, _PAUSE) and insn.rex:  # it takes SPL for AH, and F3 REX.B 90 for XCHG
        return op != _PAUSE or insn.rep == 0xF3
    if op == _ENTER:  # it does not try whether the new top of the stack can be written
        return True
    if op in _SHIFTS:  # it changes the flags that these read before their store may fault
        return in_memory and insn.reg_field in _THROUGH_CARRY
    if op in (0xF6, 0xF7):  # the flags of LOCK NEG
        return insn.lock and insn.reg_field == _NEG
    if op in _SIZED:
        return insn.mode == 16 or (bool(insn.rex & 8) and 0x66 in insn.raw[: insn.opcode_at])
    if op in (0xD9, 0xDD) and insn.rex & 8 and in_memory:  # REX.W would make an x87 environment larger
        return insn.reg_field in (4, 6)
    if op == _CVTPI2:  # from memory it must not enter MMX mode
        return not insn.rep and in_memory
    return forgets_mmx(insn) or doubles_source(insn)


def may_divide_out_of_range(insn: Insn, before: Insn | None) -> bool:
    """True for an IDIV of 16 or 32 bits which nothing keeps from dividing the least number by -1.

    Unicorn divides with the C operator before it looks at the quotient, and the host answers with SIGFPE, which ends
    this process. Behind CWD, CDQ or CQO (`before`, the instruction in front of it) there is no such dividend.
    """
    if insn.opcode != 0xF7 or insn.reg_field != _IDIV or insn.opsize == 8:
        return False
    return before is None or before.opcode != _CWD or before.opsize < insn.opsize
