"""Hands one x87, MMX or SSE instruction to a native unit: its memory operand is fetched and stored by the interpreter.

The instruction is re-encoded as 64-bit code whose memory operand is RIP-relative, so the unit needs no guest memory.
The architectural checks in front of it (CR0.TS, CR0.EM, CR4.OSFXSR, alignment) are made here.
"""

from __future__ import annotations

from typing import Final

from isa.base import GuestFault
from isa.x86.cpu import Cpu
from isa.x86.decode import Insn
from isa.x86.flags import set_arith
from isa.x86.operands import Op, offset
from isa.x86.state import (
    ARITH,
    CR0_EM,
    CR0_MP,
    CR0_TS,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    DS,
    GP,
    NM,
    RDI,
    UD,
    XM,
)

_MASKMOV: Final = 0x0FF7
_XMM_AT: Final = 160  # XMM0 in the FXSAVE image (SDM vol. 1, table 10-2); MM0 is at 32
_MM_AT: Final = 32


def is_vector(insn: Insn) -> bool:
    """True for x87, MMX and SSE instructions, FXSAVE, FXRSTOR, LDMXCSR and STMXCSR included."""
    op = insn.opcode
    if insn.vex:
        return False
    if 0xD8 <= op <= 0xDF or op == 0x9B:
        return True
    if 0x0F3800 <= op <= 0x0F38EF or 0x0F3A00 <= op <= 0x0F3AFF:
        return True
    if 0x0F10 <= op <= 0x0F17 or 0x0F28 <= op <= 0x0F2F or 0x0F50 <= op <= 0x0F77 or 0x0F7C <= op <= 0x0F7F:
        return True
    if 0x0FD0 <= op <= 0x0FFE or op in (0x0FC2, 0x0FC3, 0x0FC4, 0x0FC5, 0x0FC6):
        return True
    return op == 0x0FAE and insn.modrm < 0xC0 and insn.reg_field < 4


# x87 memory forms that store: opcode -> ModRM.reg values (SDM vol. 2, appendix A.5).
_X87_STORES: Final = {0xD9: (2, 3, 6, 7), 0xDB: (1, 2, 3, 7), 0xDD: (1, 2, 3, 6, 7), 0xDF: (1, 2, 3, 6, 7)}
_X87_SIZES: Final = {
    0xD8: (4,) * 8, 0xD9: (4, 0, 4, 4, -14, 2, -14, 2), 0xDA: (4,) * 8, 0xDB: (4, 4, 4, 4, 0, 10, 0, 10),
    0xDC: (8,) * 8, 0xDD: (8, 8, 8, 8, -94, 0, -94, 2), 0xDE: (2,) * 8, 0xDF: (2, 2, 2, 2, 10, 8, 10, 8),
}  # fmt: skip
_WIDE_ENVIRONMENT: Final = {-14: 28, -94: 108}
_SSE_STORES: Final = {0x0F11, 0x0F13, 0x0F17, 0x0F29, 0x0F2B, 0x0F7F, 0x0FC3, 0x0FD6, 0x0FE7}
_SSE_IMMEDIATE: Final = {0x0F70, 0x0F71, 0x0F72, 0x0F73, 0x0FC2, 0x0FC4, 0x0FC5, 0x0FC6}
# 16-byte operands that need no alignment: MOVUPS/D, MOVDQU, LDDQU, PCMPxSTRx (SDM vol. 2).
_UNALIGNED: Final = {0x0F10, 0x0F11, 0x0FF0, *range(0x0F3A60, 0x0F3A64)}


def _is_x87(insn: Insn) -> bool:
    return 0xD8 <= insn.opcode <= 0xDF


def _is_sse(insn: Insn) -> bool:
    """True for what CR4.OSFXSR governs: everything here but x87, MMX, FXSAVE and FXRSTOR."""
    op = insn.opcode
    if op < 0x0F00 or op == 0x0F77 or (op == 0x0FAE and insn.reg_field < 2):
        return False
    mmx = 0x0F60 <= op <= 0x0F7F or 0x0FD1 <= op <= 0x0FFE
    return not mmx or 0x66 in insn.raw[: insn.opcode_at] or bool(insn.rep)


def _memory_size(insn: Insn) -> int:
    """Bytes of the memory operand."""
    if _is_x87(insn):
        size = _X87_SIZES[insn.opcode][insn.reg_field]
        if size < 0:
            return -size if insn.opsize == 2 else _WIDE_ENVIRONMENT[size]
        return size
    if insn.opcode == 0x0FAE:
        return 512 if insn.reg_field < 2 else 4
    mem = insn.mem
    return 0 if mem is None else mem.size


def _stores(insn: Insn) -> bool:
    op = insn.opcode
    if _is_x87(insn):
        return insn.reg_field in _X87_STORES.get(op, ())
    if op == 0x0FAE:
        return insn.reg_field in (0, 3)
    if op == 0x0F7E:
        return insn.rep != 0xF3  # F3 0F 7E is MOVQ xmm, m64: a load
    return op in _SSE_STORES or 0x0F3A14 <= op <= 0x0F3A17


def _needs_alignment(insn: Insn, size: int) -> bool:
    op = insn.opcode
    if op == 0x0FAE:
        return size == 512
    if size != 16 or op in _UNALIGNED or _is_x87(insn):
        return False
    return not (op in (0x0F6F, 0x0F7F) and insn.rep == 0xF3)


def encode(insn: Insn) -> tuple[bytes, int]:
    """The instruction as 64-bit code, its memory operand RIP-relative: (code, offset of the displacement or -1)."""
    raw = insn.raw
    prefixes = bytes(b for b in raw[: insn.opcode_at] if b in (0x66, 0xF2, 0xF3))
    if _is_x87(insn) or insn.opcode == 0x9B:
        # 66 only matters for environments, whose size follows the effective operand size
        prefixes = b"\x66" if insn.modrm < 0xC0 and insn.opsize == 2 and _memory_size(insn) in (14, 94) else b""
    rex = insn.rex
    if insn.modrm < 0:
        return prefixes + raw[insn.opcode_at :], -1
    if insn.modrm >= 0xC0:
        return prefixes + (bytes((rex,)) if rex else b"") + raw[insn.opcode_at :], -1
    rex &= ~3  # X and B named the guest's index and base
    head = prefixes + (bytes((rex,)) if rex else b"") + raw[insn.opcode_at : insn.modrm_at]
    immediate = raw[-1:] if insn.opcode in _SSE_IMMEDIATE or insn.opcode >= 0x0F3A00 else b""
    return head + bytes((insn.modrm & 0x38 | 5,)) + bytes(4) + immediate, len(head) + 1


def bind(insn: Insn, pc: int) -> Op | None:
    """The closure of an x87, MMX or SSE instruction at offset `pc`, or None for any other."""
    if not is_vector(insn):
        return None
    sse, x87 = _is_sse(insn), _is_x87(insn)
    wait = insn.opcode == 0x9B
    code, disp_at = encode(insn)
    size = _memory_size(insn) if disp_at >= 0 else 0
    stores, aligned = _stores(insn), _needs_alignment(insn, size)
    mem = insn.mem if disp_at >= 0 else None
    address = offset(insn, mem, pc) if mem is not None else None
    seg = mem.seg if mem is not None else DS
    loads_control = insn.opcode == 0x0FAE and insn.reg_field == 2 and disp_at >= 0

    def check(cpu: Cpu) -> None:
        cr0 = cpu.cr0
        if wait:
            if cr0 & CR0_TS and cr0 & CR0_MP:
                raise GuestFault(NM)
            return
        if cr0 & CR0_EM:
            raise GuestFault(NM if x87 else UD)
        if sse and not cpu.cr4 & CR4_OSFXSR:
            raise GuestFault(UD)
        if cr0 & CR0_TS:
            raise GuestFault(NM)

    def execute(cpu: Cpu) -> None:
        check(cpu)
        data = b""
        at = 0
        if address is not None:
            at = address(cpu)
            if aligned and cpu.segs[seg].base + at & 15:
                raise GuestFault(GP, 0, note="misaligned 16-byte operand")
            # a store must not read what it overwrites whole, but must fault before the unit changes its state
            data = cpu.load_bytes(seg, at, size) if not stores else bytes(size)
            if stores:
                cpu.load_rmw(seg, at, 1)
                cpu.load_rmw(seg, at + size - 1, 1)
            if loads_control and int.from_bytes(data, "little") >> 16:
                raise GuestFault(GP, 0, note="reserved bits of MXCSR")
        if cpu.native is None:
            raise GuestFault(UD)
        result = cpu.native.execute(code, disp_at, data, cpu.regs, cpu.rflags)
        if result.vector >= 0:
            vector = result.vector
            raise GuestFault(UD if vector == XM and not cpu.cr4 & CR4_OSXMMEXCPT else vector)
        if stores:
            cpu.store_bytes(seg, at, result.memory)
        cpu.regs[:] = result.regs
        if result.rflags & ARITH != cpu.rflags & ARITH:
            set_arith(cpu, result.rflags & ARITH)

    def masked_move(cpu: Cpu) -> None:
        """MASKMOVQ and MASKMOVDQU store the selected bytes at DS:rDI (SDM vol. 2, MASKMOVDQU)."""
        check(cpu)
        if cpu.native is None:
            raise GuestFault(UD)
        image = cpu.native.save()
        wide = 0x66 in insn.raw[: insn.opcode_at]
        base, step, width = (_XMM_AT, 16, 16) if wide else (_MM_AT, 16, 8)
        source = (insn.modrm >> 3 & 7) | (insn.rex & 4) << 1
        mask = (insn.modrm & 7) | (insn.rex & 1) << 3
        if not wide:
            source, mask = source & 7, mask & 7
        values = image[base + step * source :][:width]
        select = image[base + step * mask :][:width]
        start = cpu.regs[RDI] & (1 << 8 * insn.adsize) - 1
        segment = insn.seg if insn.seg >= 0 else DS
        chosen = [n for n in range(width) if select[n] & 0x80]
        for n in chosen:
            cpu.load_rmw(segment, start + n, 1)
        for n in chosen:
            cpu.store(segment, start + n, 1, values[n])

    return masked_move if insn.opcode == _MASKMOV else execute
