"""VEX-encoded general-purpose instructions: the prefix's fields, and the conditions under which they are undefined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.segments import real_style
from isa.x86.state import UD

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn
    from isa.x86.operands import Op

VEX: Final = 1 << 24  # added to the opcode of a VEX-encoded instruction in the keys of BINDERS

# The pp field stands for a mandatory prefix (SDM vol. 2, 2.3.6.2).
PP_NONE, PP_66, PP_F3, PP_F2 = range(4)
_REFUSED: Final = frozenset((0x66, 0xF0, 0xF2, 0xF3))  # in front of VEX they raise #UD (SDM vol. 2, 2.3.2 and 2.3.3)


def undefined(cpu: Cpu) -> None:
    """The operation of bytes that are no instruction."""
    raise GuestFault(UD)


def pp(insn: Insn) -> int:
    """The mandatory prefix in the last byte of the VEX prefix, one of PP_*."""
    return insn.raw[insn.opcode_at + (2 if insn.raw[insn.opcode_at] == 0xC4 else 1)] & 3


def guarded(insn: Insn, op: Op) -> Op:
    """`op`, except where a prefix or the mode makes the instruction undefined."""
    if insn.rex or _REFUSED.intersection(insn.raw[: insn.opcode_at]):
        return undefined
    if insn.mode == 64:
        return op

    def outside_real_mode(cpu: Cpu) -> None:
        if real_style(cpu):  # no VEX prefix in real and virtual-8086 mode (SDM vol. 2, table 2-29)
            raise GuestFault(UD)
        op(cpu)

    return outside_real_mode
