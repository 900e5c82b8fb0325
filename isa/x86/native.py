"""Hands one x87, MMX or SSE instruction to a native unit: its memory operand is fetched and stored by the interpreter.

The instruction is re-encoded as 64-bit code whose memory operand is RIP-relative, so the unit needs no guest memory.
The architectural checks in front of it (CR0, CR4.OSFXSR, pending x87 exceptions, alignment) are made here.
"""

from __future__ import annotations

from typing import Final

from isa.base import Access, GuestFault, NativeUnit
from isa.x86 import paging
from isa.x86.cpu import MASK32, MASK64, Cpu
from isa.x86.decode import Insn
from isa.x86.flags import set_arith
from isa.x86.operands import MASKS, Op, Read, offset, reader, writer
from isa.x86.segments import linearize
from isa.x86.state import (
    AF,
    ARITH,
    CR0_EM,
    CR0_MP,
    CR0_NE,
    CR0_TS,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    DS,
    GP,
    NM,
    OF,
    RDI,
    SF,
    UD,
    XM,
)
from isa.x86.vex import undefined

_WAIT: Final = 0x9B
_MOVNTI: Final = 0x0FC3
_MASKMOV: Final = 0x0FF7
_COMISD: Final = 0x0F2F
_GROUP15: Final = 0x0FAE  # /0 FXSAVE, /1 FXRSTOR, /2 LDMXCSR, /3 STMXCSR
_MXCSR_MASK: Final = 0xFFFF
# The FXSAVE image (SDM vol. 1, table 10-2).
_STATUS_AT, _MXCSR_AT, _MM_AT, _XMM_AT, _XMM8_AT, _IMAGE_END = 2, 24, 32, 160, 288, 416
# Where a stored environment or image has the last instruction's opcode and pointers, by its size (SDM vol. 1, 8.1.10).
_POINTERS: Final = {14: (6, 14), 94: (6, 14), 28: (12, 28), 108: (12, 28), 512: (6, 24)}
_TOUCH_MMX: Final = b"\x0f\x6f\xc0"  # movq mm0, mm0: what any MMX instruction does to the x87 top and tags


def is_vector(insn: Insn) -> bool:
    """True for x87, MMX and SSE instructions, FXSAVE, FXRSTOR, LDMXCSR and STMXCSR included."""
    op = insn.opcode
    if insn.vex:
        return False
    if 0xD8 <= op <= 0xDF or op == _WAIT:
        return True
    if 0x0F3800 <= op <= 0x0F38EF or 0x0F3A00 <= op <= 0x0F3AFF:
        return True
    if 0x0F10 <= op <= 0x0F17 or 0x0F28 <= op <= 0x0F2F or 0x0F50 <= op <= 0x0F77 or 0x0F7C <= op <= 0x0F7F:
        return True
    if 0x0FD0 <= op <= 0x0FFE or op in (0x0FC2, 0x0FC3, 0x0FC4, 0x0FC5, 0x0FC6):
        return True
    return op == _GROUP15 and insn.modrm < 0xC0 and insn.reg_field < 4


# -- what an instruction is ------------------------------------------------------------------------------------------

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
_CONVERT_MMX: Final = (0x0F2A, 0x0F2C, 0x0F2D)  # CVT(T) between XMM and MMX without F2 or F3
_MMX_RANGES: Final = (*range(0x0F60, 0x0F80), *range(0x0FD1, 0x0FFF), 0x0FC4, 0x0FC5, *range(0x0F3800, 0x0F3820))


def _is_x87(insn: Insn) -> bool:
    return 0xD8 <= insn.opcode <= 0xDF


def _wide_prefix(insn: Insn) -> bool:
    return 0x66 in insn.raw[: insn.opcode_at]


def _is_mmx(insn: Insn) -> bool:
    """True where the operands are MMX registers only."""
    op = insn.opcode
    return (op in _MMX_RANGES or op == 0x0F3A0F) and not _wide_prefix(insn) and not insn.rep


def _is_sse(insn: Insn) -> bool:
    """True for what CR4.OSFXSR governs: everything here but x87, MMX, FXSAVE and FXRSTOR."""
    if insn.opcode < 0x0F00 or (insn.opcode == _GROUP15 and insn.reg_field < 2):
        return False
    return not _is_mmx(insn)


def _waits(insn: Insn) -> bool:
    """True where a pending x87 exception is raised first: waiting x87 instructions and what touches MMX registers."""
    op = insn.opcode
    if op == _WAIT:
        return False  # it is itself the wait
    if _is_x87(insn):
        if insn.modrm < 0xC0:
            return insn.reg_field not in _NO_WAIT.get(op, ())
        return insn.modrm not in _NO_WAIT_MODRM.get(op, ())
    if op in _CONVERT_MMX:  # CVTPI2PD from memory touches no MMX register
        return not insn.rep and (op != 0x0F2A or insn.modrm >= 0xC0 or not _wide_prefix(insn))
    return _is_mmx(insn) or (op == 0x0FD6 and bool(insn.rep))  # the last: MOVQ2DQ and MOVDQ2Q


def memory_size(insn: Insn) -> int:
    """Bytes of the memory operand of an instruction that has one; 0 where the encoding is undefined."""
    if _is_x87(insn):
        size = _X87_SIZES[insn.opcode][insn.reg_field]
        if size < 0:
            return -size if insn.opsize == 2 else _WIDE_ENVIRONMENT[size]
        return size
    if insn.opcode == _GROUP15:
        return 512 if insn.reg_field < 2 else 4
    if insn.opcode == _COMISD and _wide_prefix(insn):
        return 8  # capstone says 16
    mem = insn.mem
    return 0 if mem is None else mem.size


def stores(insn: Insn) -> bool:
    """True where the memory operand is written (and then not read)."""
    op = insn.opcode
    if _is_x87(insn):
        return insn.reg_field in _X87_STORES.get(op, ())
    if op == _GROUP15:
        return insn.reg_field in (0, 3)
    if op == 0x0F7E:
        return insn.rep != 0xF3  # F3 0F 7E is MOVQ xmm, m64: a load
    return op in _SSE_STORES or 0x0F3A14 <= op <= 0x0F3A17


def _needs_alignment(insn: Insn, size: int) -> bool:
    op = insn.opcode
    if op == _GROUP15:
        return size == 512
    if size != 16 or op in _UNALIGNED or _is_x87(insn):
        return False
    return not (op in (0x0F6F, 0x0F7F) and insn.rep == 0xF3)


def encode(insn: Insn) -> tuple[bytes, int]:
    """The instruction as 64-bit code, its memory operand RIP-relative: (code, offset of the displacement or -1)."""
    raw = insn.raw
    prefixes = bytes(b for b in raw[: insn.opcode_at] if b in (0x66, 0xF2, 0xF3))
    if _is_x87(insn) or insn.opcode == _WAIT:
        # 66 only matters for environments, whose size follows the effective operand size
        prefixes = b"\x66" if insn.modrm < 0xC0 and insn.opsize == 2 and memory_size(insn) in (14, 94) else b""
    rex = 0 if _is_x87(insn) else insn.rex  # REX.W would make Unicorn take a larger environment
    if insn.modrm < 0:
        return prefixes + raw[insn.opcode_at :], -1
    if insn.modrm >= 0xC0:
        return prefixes + (bytes((rex,)) if rex else b"") + raw[insn.opcode_at :], -1
    rex &= ~3  # X and B named the guest's index and base
    head = prefixes + (bytes((rex,)) if rex else b"") + raw[insn.opcode_at : insn.modrm_at]
    immediate = raw[-1:] if insn.opcode in _SSE_IMMEDIATE or insn.opcode >= 0x0F3A00 else b""
    return head + bytes((insn.modrm & 0x38 | 5,)) + bytes(4) + immediate, len(head) + 1


# -- checks ----------------------------------------------------------------------------------------------------------


def _checker(insn: Insn) -> Op:
    """#UD and #NM by CR0 and CR4 (SDM vol. 3, table 2-2 and 13.1)."""
    sse, x87 = _is_sse(insn), _is_x87(insn)

    def check(cpu: Cpu) -> None:
        cr0 = cpu.cr0
        if cr0 & CR0_EM:
            raise GuestFault(NM if x87 else UD)
        if sse and not cpu.cr4 & CR4_OSFXSR:
            raise GuestFault(UD)
        if cr0 & CR0_TS:
            raise GuestFault(NM)

    return check


def _unit(cpu: Cpu) -> NativeUnit:
    if cpu.native is None:
        raise GuestFault(UD)
    return cpu.native


def _check_writable(cpu: Cpu, seg: int, at: int, size: int) -> None:
    """Raise what storing `size` bytes would raise, without reading what is there: it may be a device."""
    linear = linearize(cpu, seg, at, size, True)
    last = linear + size - 1 & (MASK64 if cpu.long_mode else MASK32)
    for address in (linear, last) if linear >> 12 != last >> 12 else (linear,):
        if address >> 12 not in cpu.write_tlb:
            paging.translate(cpu, address, Access.WRITE, cpu.cpl == 3)


def _run(cpu: Cpu, code: bytes, disp_at: int, data: bytes, waits: bool) -> tuple[bytes, int]:
    """Execute on the unit; returns memory and flags. With CR0.NE clear nobody acts on a pending x87 exception."""
    if waits and cpu.cr0 & CR0_NE:
        code, disp_at = bytes((_WAIT,)) + code, disp_at + 1 if disp_at >= 0 else -1
    result = _unit(cpu).execute(code, disp_at, data, cpu.regs, cpu.rflags)
    if result.vector >= 0:
        masked = result.vector == XM and not cpu.cr4 & CR4_OSXMMEXCPT
        raise GuestFault(UD if masked else result.vector)
    cpu.regs[:] = result.regs
    return result.memory, result.rflags & ARITH


# -- operations ------------------------------------------------------------------------------------------------------


def _wait(cpu: Cpu) -> None:
    """WAIT: #NM by TS and MP together, then #MF."""
    if cpu.cr0 & CR0_TS and cpu.cr0 & CR0_MP:
        raise GuestFault(NM)
    if cpu.cr0 & CR0_NE:
        _run(cpu, bytes((_WAIT,)), -1, b"", False)


def _in_registers(insn: Insn) -> Op:
    check, waits, (code, _) = _checker(insn), _waits(insn), encode(insn)
    # FCOMI and FUCOMI, with and without a pop, clear OF, SF and AF (SDM vol. 2); Unicorn leaves them.
    compares = insn.opcode in (0xDB, 0xDF) and 0xE8 <= insn.modrm <= 0xF7

    def execute(cpu: Cpu) -> None:
        check(cpu)
        before = cpu.rflags & ARITH
        _, flags = _run(cpu, code, -1, b"", waits)
        if compares:
            flags &= ~(OF | SF | AF)
        if flags != before:
            set_arith(cpu, flags)

    return execute


def _with_memory(insn: Insn, address: Read, seg: int) -> Op:
    check, waits, (code, disp_at) = _checker(insn), _waits(insn), encode(insn)
    size, writes = memory_size(insn), stores(insn)
    aligned, scalar = _needs_alignment(insn, size), size in MASKS
    control = insn.opcode == _GROUP15

    def execute(cpu: Cpu) -> None:
        check(cpu)
        at = address(cpu)
        if aligned and linearize(cpu, seg, at, size, writes) & 15:
            raise GuestFault(GP, 0, note=f"misaligned {size}-byte operand")
        if writes:
            _check_writable(cpu, seg, at, size)  # before the unit changes its state
            data = bytes(size)
        else:
            data = cpu.load(seg, at, size).to_bytes(size, "little") if scalar else cpu.load_bytes(seg, at, size)
        if control and not writes:
            data = _checked_control(cpu, data)
        before = cpu.rflags & ARITH
        data, flags = _run(cpu, code, disp_at, data, waits)
        if writes and scalar:
            cpu.store(seg, at, size, int.from_bytes(data, "little"))
        elif writes:
            if size in _POINTERS:  # they tell where the unit executed, which is no business of the guest's
                start, end = _POINTERS[size]
                data = data[:start] + bytes(end - start) + data[end:]
            # FXSAVE leaves alone what software may use, and outside 64-bit mode XMM8 to XMM15.
            end = size if not control else _IMAGE_END if cpu.mode == 64 else _XMM8_AT
            cpu.store_bytes(seg, at, data[:end])
        if flags != before:
            set_arith(cpu, flags)

    return execute


def _checked_control(cpu: Cpu, data: bytes) -> bytes:
    """What LDMXCSR or FXRSTOR loads; #GP(0) for reserved bits of MXCSR. Outside 64-bit mode XMM8 to XMM15 stay."""
    at = _MXCSR_AT if len(data) == 512 else 0
    if int.from_bytes(data[at : at + 4], "little") & ~_MXCSR_MASK:
        raise GuestFault(GP, 0, note="reserved bits of MXCSR")
    if len(data) == 512 and cpu.mode != 64:
        return data[:_XMM8_AT] + _unit(cpu).save()[_XMM8_AT:_IMAGE_END] + data[_IMAGE_END:]
    return data


def _masked_move(insn: Insn) -> Op:
    """MASKMOVQ and MASKMOVDQU store the selected bytes at DS:rDI (SDM vol. 2, MASKMOVDQU)."""
    check, waits, wide = _checker(insn), _waits(insn), _wide_prefix(insn)
    segment, wrap = insn.seg if insn.seg >= 0 else DS, MASKS[insn.adsize]
    source = (insn.modrm >> 3 & 7) | (insn.rex & 4) << 1
    mask = (insn.modrm & 7) | (insn.rex & 1) << 3

    def register(image: bytes, number: int) -> bytes:
        if wide:
            return image[_XMM_AT + 16 * number :][:16]
        top = int.from_bytes(image[_STATUS_AT : _STATUS_AT + 2], "little") >> 11 & 7
        return image[_MM_AT + 16 * (number - top & 7) :][:8]  # the image is in order of the x87 stack

    def move(cpu: Cpu) -> None:
        check(cpu)
        if waits and cpu.cr0 & CR0_NE:
            _run(cpu, bytes((_WAIT,)), -1, b"", False)
        image = _unit(cpu).save()
        values, select = register(image, source), register(image, mask)
        start = cpu.regs[RDI] & wrap
        chosen = [n for n in range(len(values)) if select[n] & 0x80]
        for n in chosen:
            _check_writable(cpu, segment, start + n & wrap, 1)
        for n in chosen:
            cpu.store(segment, start + n & wrap, 1, values[n])
        if not wide:
            _run(cpu, _TOUCH_MMX, -1, b"", False)

    return move


def _movnti(insn: Insn, pc: int) -> Op:
    """MOVNTI: an integer store with a hint; neither CR0 nor CR4.OSFXSR govern it."""
    if insn.modrm >= 0xC0 or insn.rep or _wide_prefix(insn):
        return undefined
    target, source = insn.operands
    read, write = reader(insn, source, pc), writer(insn, target, pc)
    return lambda cpu: write(cpu, read(cpu))


def bind(insn: Insn, pc: int) -> Op | None:
    """The closure of an x87, MMX or SSE instruction at offset `pc`, or None for any other."""
    if not is_vector(insn):
        return None
    if insn.opcode == _WAIT:
        return _wait
    if insn.opcode == _MOVNTI:
        return _movnti(insn, pc)
    if insn.opcode == _MASKMOV:
        return _masked_move(insn) if insn.modrm >= 0xC0 else undefined
    if insn.modrm < 0 or insn.modrm >= 0xC0:
        return _in_registers(insn)
    mem = insn.mem
    if mem is None or not memory_size(insn):
        return undefined
    return _with_memory(insn, offset(insn, mem, pc), mem.seg)
