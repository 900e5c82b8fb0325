"""What x87, MMX and SSE instructions are: their operands in memory, the checks they want, and their 64-bit encoding."""

from __future__ import annotations

from typing import Final

from isa.x86.decode import Insn

WAIT: Final = 0x9B
MOVNTI: Final = 0x0FC3
MASKMOV: Final = 0x0FF7
COMISD: Final = 0x0F2F
CONVERT: Final = 0x0F2A
GROUP15: Final = 0x0FAE  # /0 FXSAVE, /1 FXRSTOR, /2 LDMXCSR, /3 STMXCSR


def is_vector(insn: Insn) -> bool:
    """True for x87, MMX and SSE instructions, FXSAVE, FXRSTOR, LDMXCSR and STMXCSR included."""
    op = insn.opcode
    if insn.vex:
        return False
    if 0xD8 <= op <= 0xDF or op == WAIT:
        return True
    if 0x0F3800 <= op <= 0x0F38EF or 0x0F3A00 <= op <= 0x0F3AFF:
        return True
    if 0x0F10 <= op <= 0x0F17 or 0x0F28 <= op <= 0x0F2F or 0x0F50 <= op <= 0x0F77 or 0x0F7C <= op <= 0x0F7F:
        return True
    if 0x0FD0 <= op <= 0x0FFE or op in (0x0FC2, 0x0FC3, 0x0FC4, 0x0FC5, 0x0FC6):
        return True
    return op == GROUP15 and insn.modrm < 0xC0 and insn.reg_field < 4


# x87 memory forms that store: opcode -> ModRM.reg values (SDM vol. 2, appendix A.5).
_X87_STORES: Final = {0xD9: (2, 3, 6, 7), 0xDB: (1, 2, 3, 7), 0xDD: (1, 2, 3, 6, 7), 0xDF: (1, 2, 3, 6, 7)}
_X87_SIZES: Final = {
    0xD8: (4,) * 8, 0xD9: (4, 0, 4, 4, -14, 2, -14, 2), 0xDA: (4,) * 8, 0xDB: (4, 4, 4, 4, 0, 10, 0, 10),
    0xDC: (8,) * 8, 0xDD: (8, 8, 8, 8, -94, 0, -94, 2), 0xDE: (2,) * 8, 0xDF: (2, 2, 2, 2, 10, 8, 10, 8),
}  # fmt: skip
_WIDE_ENVIRONMENT: Final = {-14: 28, -94: 108}
# x87 instructions that do not wait for pending exceptions: memory forms by ModRM.reg, others by ModRM.
_NO_WAIT: Final = {0xD9: (6, 7), 0xDD: (6, 7)}  # FNSTENV FNSTCW, FNSAVE FNSTSW
_NO_WAIT_MODRM: Final = {0xDB: range(0xE0, 0xE5), 0xDF: (0xE0,)}  # FNENI FNDISI FNCLEX FNINIT FNSETPM, FNSTSW AX
_SSE_STORES: Final = {0x0F11, 0x0F13, 0x0F17, 0x0F29, 0x0F2B, 0x0F7F, 0x0FD6, 0x0FE7}
_SSE_IMMEDIATE: Final = {0x0F70, 0x0F71, 0x0F72, 0x0F73, 0x0FC2, 0x0FC4, 0x0FC5, 0x0FC6}
# 16-byte operands that need no alignment: MOVUPS/D, MOVDQU, LDDQU, PCMPxSTRx (SDM vol. 2).
_UNALIGNED: Final = {0x0F10, 0x0F11, 0x0FF0, *range(0x0F3A60, 0x0F3A64)}
EXPLICIT_LENGTHS: Final = (0x0F3A60, 0x0F3A61)  # PCMPESTRM, PCMPESTRI
_HORIZONTAL: Final = frozenset((0x0F3801, 0x0F3802, 0x0F3803, 0x0F3805, 0x0F3806, 0x0F3807))
EMMS: Final = 0x0F77
_CONVERT_MMX: Final = (0x0F2A, 0x0F2C, 0x0F2D)  # CVT(T) between XMM and MMX without F2 or F3
_MMX_RANGES: Final = (*range(0x0F60, 0x0F80), *range(0x0FD1, 0x0FFF), 0x0FC4, 0x0FC5, *range(0x0F3800, 0x0F3820))


def is_x87(insn: Insn) -> bool:
    """True for the x87 opcodes D8 to DF."""
    return 0xD8 <= insn.opcode <= 0xDF


def has_66(insn: Insn) -> bool:
    """True where there is a 66 prefix, whatever it means."""
    return 0x66 in insn.raw[: insn.opcode_at]


def is_mmx(insn: Insn) -> bool:
    """True where the operands are MMX registers only."""
    op = insn.opcode
    return (op in _MMX_RANGES or op == 0x0F3A0F) and not has_66(insn) and not insn.rep


def is_sse(insn: Insn) -> bool:
    """True for what CR4.OSFXSR governs: everything here but x87, MMX, FXSAVE and FXRSTOR."""
    if insn.opcode < 0x0F00 or (insn.opcode == GROUP15 and insn.reg_field < 2):
        return False
    return not is_mmx(insn)


def waits_for_x87(insn: Insn) -> bool:
    """True where a pending x87 exception is raised first: waiting x87 instructions and what touches MMX registers."""
    op = insn.opcode
    if op == WAIT:
        return False  # it is itself the wait
    if is_x87(insn):
        if insn.modrm < 0xC0:
            return insn.reg_field not in _NO_WAIT.get(op, ())
        return insn.modrm not in _NO_WAIT_MODRM.get(op, ())
    if op in _CONVERT_MMX:  # from memory CVTPI2PS and CVTPI2PD touch no MMX register
        return not insn.rep and (op != CONVERT or insn.modrm >= 0xC0)
    return is_mmx(insn) or (op == 0x0FD6 and bool(insn.rep))  # the last: MOVQ2DQ and MOVDQ2Q


def memory_size(insn: Insn) -> int:
    """Bytes of the memory operand of an instruction that has one; 0 where the encoding is undefined."""
    if is_x87(insn):
        size = _X87_SIZES[insn.opcode][insn.reg_field]
        if size < 0:
            return -size if insn.opsize == 2 else _WIDE_ENVIRONMENT[size]
        return size
    if insn.opcode == GROUP15:
        return 512 if insn.reg_field < 2 else 4
    if insn.opcode == COMISD and has_66(insn):
        return 8  # capstone says 16
    mem = insn.mem
    return 0 if mem is None else mem.size


def stores(insn: Insn) -> bool:
    """True where the memory operand is written (and then not read)."""
    op = insn.opcode
    if is_x87(insn):
        return insn.reg_field in _X87_STORES.get(op, ())
    if op == GROUP15:
        return insn.reg_field in (0, 3)
    if op == 0x0F7E:
        return insn.rep != 0xF3  # F3 0F 7E is MOVQ xmm, m64: a load
    return op in _SSE_STORES or 0x0F3A14 <= op <= 0x0F3A17


def needs_alignment(insn: Insn, size: int) -> bool:
    """True where a misaligned memory operand of that size raises #GP (SDM vol. 1, 4.1.1)."""
    op = insn.opcode
    if op == GROUP15:
        return size == 512
    if size != 16 or op in _UNALIGNED or is_x87(insn):
        return False
    return not (op in (0x0F6F, 0x0F7F) and insn.rep == 0xF3)


def sees_exceptions(insn: Insn) -> bool:
    """True for what reads or replaces the exception flags of x87 status word or MXCSR."""
    op, field = insn.opcode, insn.reg_field
    if op == GROUP15:
        return insn.modrm < 0xC0 and field < 4
    if insn.modrm >= 0xC0:
        return (op == 0xDF and insn.modrm == 0xE0) or (
            op == 0xDB and insn.modrm in (0xE2, 0xE3)
        )  # FNSTSW, FNCLEX, FNINIT
    return (op == 0xD9 and field in (4, 6)) or (
        op == 0xDD and field in (4, 6, 7)
    )  # FLDENV FNSTENV, FRSTOR FNSAVE FNSTSW


def loads_control(insn: Insn) -> bool:
    """True for what loads x87 control word or MXCSR from memory, and so decides which exceptions are masked."""
    op, field = insn.opcode, insn.reg_field
    if insn.modrm < 0 or insn.modrm >= 0xC0:
        return False
    if op == GROUP15:
        return field in (1, 2)
    return (op == 0xD9 and field in (4, 5)) or (op == 0xDD and field == 4)  # FLDENV, FLDCW, FRSTOR


def forgets_mmx(insn: Insn) -> bool:
    """True for MMX instructions behind 0F 38 and 0F 3A: Unicorn does not set the x87 top and tags for them."""
    return insn.opcode > 0xFFFF and is_mmx(insn)


def doubles_source(insn: Insn) -> bool:
    """True for PHADDx and PHSUBx of a register with itself: Unicorn overwrites the source while it still reads it."""
    if insn.opcode not in _HORIZONTAL or insn.modrm < 0xC0:
        return False
    return source_register(insn) == (insn.reg_field | (insn.rex & 4) << 1 if not is_mmx(insn) else insn.reg_field)


def source_register(insn: Insn) -> int:
    """The register of ModRM.rm; MMX registers have no REX bits."""
    return insn.modrm & 7 | (0 if is_mmx(insn) else (insn.rex & 1) << 3)


TOUCH_MMX: Final = b"\x0f\x6f\xc0"  # movq mm0, mm0: what any MMX instruction does to the x87 top and tags


def encode(insn: Insn) -> tuple[bytes, int]:
    """The instruction as 64-bit code, its memory operand RIP-relative: (code, offset of the displacement or -1)."""
    raw = insn.raw
    prefixes = bytes(b for b in raw[: insn.opcode_at] if b in (0x66, 0xF2, 0xF3))
    if forgets_mmx(insn) or insn.opcode == EMMS:
        prefixes = TOUCH_MMX + prefixes  # in front, because the displacement counts from the end
    if is_x87(insn) or insn.opcode == WAIT:
        # 66 only matters for environments, whose size follows the effective operand size
        prefixes = b"\x66" if insn.modrm < 0xC0 and insn.opsize == 2 and memory_size(insn) in (14, 94) else b""
    # REX.W would make Unicorn take a larger environment; it extends the MMX registers of SSSE3 by R and B
    rex = 0 if is_x87(insn) or forgets_mmx(insn) else insn.rex
    if insn.modrm < 0:
        return prefixes + raw[insn.opcode_at :], -1
    if insn.modrm >= 0xC0:
        return prefixes + (bytes((rex,)) if rex else b"") + raw[insn.opcode_at :], -1
    rex &= ~3  # X and B named the guest's index and base
    head = prefixes + (bytes((rex,)) if rex else b"") + raw[insn.opcode_at : insn.modrm_at]
    immediate = raw[-1:] if insn.opcode in _SSE_IMMEDIATE or insn.opcode >= 0x0F3A00 else b""
    return head + bytes((insn.modrm & 0x38 | 5,)) + bytes(4) + immediate, len(head) + 1
