"""Hands one x87, MMX or SSE instruction to a native unit: its memory operand is fetched and stored by the interpreter.

The instruction is re-encoded as 64-bit code whose memory operand is RIP-relative, so the unit needs no guest memory.
The architectural checks in front of it (CR0, CR4.OSFXSR, pending x87 exceptions, alignment) are made here.
"""

from __future__ import annotations

from collections.abc import Callable
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
    FS,
    GP,
    NM,
    OF,
    RAX,
    RDI,
    RDX,
    SF,
    UD,
    XM,
)
from isa.x86.vector import (
    CONVERT,
    EXPLICIT_LENGTHS,
    GROUP15,
    MASKMOV,
    MOVNTI,
    TOUCH_MMX,
    WAIT,
    doubles_source,
    encode,
    has_66,
    is_mmx,
    is_sse,
    is_vector,
    is_x87,
    memory_size,
    needs_alignment,
    source_register,
    stores,
    waits_for_x87,
)
from isa.x86.vex import undefined

Lengths = Callable[[list[int]], list[int]]

_MXCSR_MASK: Final = 0xFFFF
# The FXSAVE image (SDM vol. 1, table 10-2).
_STATUS_AT, _MXCSR_AT, _MM_AT, _XMM_AT, _XMM8_AT, _IMAGE_END = 2, 24, 32, 160, 288, 416
# Where a stored environment or image has the last instruction's opcode and pointers, by its size (SDM vol. 1, 8.1.10).
_POINTERS: Final = {14: (6, 14), 94: (6, 14), 28: (12, 28), 108: (12, 28), 512: (6, 24)}


# -- checks ----------------------------------------------------------------------------------------------------------


def _checker(insn: Insn) -> Op:
    """#UD and #NM by CR0 and CR4 (SDM vol. 3, table 2-2 and 13.1)."""
    sse, x87 = is_sse(insn), is_x87(insn)

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


# What alignment checking asks of operands that are no 2, 4 or 8 bytes (SDM vol. 3, table 6-7).
_ALIGNMENT: Final = {10: 8, 14: 2, 94: 2, 28: 4, 108: 4}


def _check_writable(cpu: Cpu, seg: int, at: int, size: int) -> None:
    """Raise what storing `size` bytes would raise, without reading what is there: it may be a device."""
    linear = linearize(cpu, seg, at, size, True)
    cpu.check_alignment(linear, _ALIGNMENT.get(size, size))
    last = linear + size - 1 & (MASK64 if cpu.long_mode else MASK32)
    # A fault on the second page names its first byte.
    for address in (linear, last & ~0xFFF) if linear >> 12 != last >> 12 else (linear,):
        if address >> 12 not in cpu.write_tlb:
            paging.translate(cpu, address, Access.WRITE, cpu.cpl == 3)


def _lengths(insn: Insn) -> Lengths | None:
    """For PCMPESTRM and PCMPESTRI: the registers with RAX and RDX clamped, whose absolute values count (SDM vol. 2).

    Unicorn indexes beyond its registers for a length of -2**31, the absolute value of which is no 32-bit number.
    """
    if insn.opcode not in EXPLICIT_LENGTHS:
        return None
    sign = 1 << (63 if insn.rex & 8 else 31)
    most = 8 if insn.raw[-1] & 1 else 16

    def clamped(regs: list[int]) -> list[int]:
        out = list(regs)
        for reg in (RAX, RDX):
            out[reg] = min(abs((regs[reg] & 2 * sign - 1 ^ sign) - sign), most)
        return out

    return clamped


class _NotDone(Exception):
    """An unmasked x87 exception kept the instruction from being done; it is pending."""


def _run(
    cpu: Cpu, code: bytes, disp_at: int, data: bytes, waits: bool, lengths: Lengths | None = None
) -> tuple[bytes, int]:
    """Execute on the unit; returns memory and flags. With CR0.NE clear nobody acts on a pending x87 exception."""
    if waits and cpu.cr0 & CR0_NE:
        code, disp_at = bytes((WAIT,)) + code, disp_at + 1 if disp_at >= 0 else -1
    given = cpu.regs if lengths is None else lengths(cpu.regs)
    result = _unit(cpu).execute(code, disp_at, data, given, cpu.rflags)
    if not result.done:
        raise _NotDone
    if result.vector >= 0:
        masked = result.vector == XM and not cpu.cr4 & CR4_OSXMMEXCPT
        raise GuestFault(UD if masked else result.vector)
    if lengths is not None:
        result.regs[RAX], result.regs[RDX] = cpu.regs[RAX], cpu.regs[RDX]
    cpu.regs[:] = result.regs
    return result.memory, result.rflags & ARITH


def misaligned(cpu: Cpu, insn: Insn, pc: int) -> bool:
    """True where the memory operand of an SSE instruction at `pc` does not begin at a multiple of 16."""
    mem = insn.mem
    return mem is not None and bool(_linear(cpu, mem.seg, offset(insn, mem, pc)(cpu)) & 15)


def unmasks(cpu: Cpu, insn: Insn, pc: int) -> int:
    """What `NativeUnit.unmasked` becomes by loading control words from memory, as far as can be told before it."""
    mem, now = insn.mem, cpu.native.unmasked if cpu.native is not None else 0
    if mem is None:
        return now
    at = offset(insn, mem, pc)(cpu)
    try:
        if insn.opcode == GROUP15:
            mxcsr = cpu.load(mem.seg, at + (_MXCSR_AT if insn.reg_field == 1 else 0), 4)
            now = now & 2 | (1 if ~mxcsr & 0x1F80 else 0)
        if insn.opcode != GROUP15 or insn.reg_field == 1:
            now = now & 1 | (2 if ~cpu.load(mem.seg, at, 2) & 0x3F else 0)
    except GuestFault:
        pass  # the instruction will find out
    return now


def _linear(cpu: Cpu, seg: int, at: int) -> int:
    """The linear address of an offset, without any check."""
    return at + (cpu.segs[seg].base if cpu.mode != 64 or seg >= FS else 0)


# -- operations ------------------------------------------------------------------------------------------------------


def _wait(cpu: Cpu) -> None:
    """WAIT: #NM by TS and MP together, then #MF."""
    if cpu.cr0 & CR0_TS and cpu.cr0 & CR0_MP:
        raise GuestFault(NM)
    if cpu.cr0 & CR0_NE:
        _run(cpu, bytes((WAIT,)), -1, b"", False)


def _in_registers(insn: Insn) -> Op:
    check, waits, (code, _), lengths = _checker(insn), waits_for_x87(insn), encode(insn), _lengths(insn)
    # FCOMI and FUCOMI, with and without a pop, clear OF, SF and AF (SDM vol. 2); Unicorn leaves them.
    compares = insn.opcode in (0xDB, 0xDF) and 0xE8 <= insn.modrm <= 0xF7

    def execute(cpu: Cpu) -> None:
        check(cpu)
        before = cpu.rflags & ARITH
        try:
            _, flags = _run(cpu, code, -1, b"", waits, lengths)
        except _NotDone:
            return
        if compares:
            flags &= ~(OF | SF | AF)
        if flags != before:
            set_arith(cpu, flags)

    return execute


def _with_memory(insn: Insn, address: Read, seg: int) -> Op:
    check, waits, (code, disp_at), lengths = _checker(insn), waits_for_x87(insn), encode(insn), _lengths(insn)
    size, writes = memory_size(insn), stores(insn)
    aligned, scalar = needs_alignment(insn, size), size in MASKS
    control = insn.opcode == GROUP15
    keeps = insn.opcode == CONVERT and not insn.rep  # CVTPI2PS and CVTPI2PD enter MMX mode only from a register

    def access(cpu: Cpu) -> tuple[int, bytes]:
        """Offset and contents of the operand, which was found to be accessible."""
        at = address(cpu)
        if control and size == 512 and (cpu.mode == 64 or at + size <= 1 << 32):
            linearize(cpu, seg, at, size, writes)  # here the limit comes before the alignment, a wrap behind it
        if aligned and _linear(cpu, seg, at) & 15:
            raise GuestFault(GP, 0, note=f"misaligned {size}-byte operand")  # processors find this before the limit
        if writes:
            _check_writable(cpu, seg, at, size)  # before the unit changes its state
            return at, bytes(size)
        if scalar:
            return at, cpu.load(seg, at, size).to_bytes(size, "little")
        cpu.check_alignment(linearize(cpu, seg, at, size, False), _ALIGNMENT.get(size, 1))
        return at, cpu.load_bytes(seg, at, size)

    def execute(cpu: Cpu) -> None:
        check(cpu)
        try:
            at, data = access(cpu)
        except GuestFault:
            if waits and cpu.cr0 & CR0_NE:
                _run(cpu, bytes((WAIT,)), -1, b"", False)  # a pending x87 exception comes first
            raise
        if control and not writes:
            data = _checked_control(cpu, data)
        before = cpu.rflags & ARITH
        kept = _unit(cpu).save() if keeps else b""
        try:
            data, flags = _run(cpu, code, disp_at, data, waits, lengths)
        except _NotDone:
            return
        if keeps:
            after = _unit(cpu).save()
            _unit(cpu).load(kept[:_MXCSR_AT] + after[_MXCSR_AT:_MM_AT] + kept[_MM_AT:_XMM_AT] + after[_XMM_AT:])
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


def _register(image: bytes, number: int, wide: bool) -> bytes:
    """An XMM (or MMX) register in an FXSAVE image."""
    if wide:
        return image[_XMM_AT + 16 * number :][:16]
    top = int.from_bytes(image[_STATUS_AT : _STATUS_AT + 2], "little") >> 11 & 7
    return image[_MM_AT + 16 * (number - top & 7) :][:8]  # the image is in order of the x87 stack


def _doubled(insn: Insn) -> Op:
    """PHADDx and PHSUBx of a register with itself, as if the source were in memory."""
    check, waits, wide, raw = _checker(insn), waits_for_x87(insn), not is_mmx(insn), insn.raw
    head = b"\x66" if wide else TOUCH_MMX
    rex = 0x40 | insn.rex & 4 if wide else 0x40
    code = head + bytes((rex,)) + raw[insn.opcode_at : insn.modrm_at] + bytes((insn.modrm & 0x38 | 5,)) + bytes(4)

    def execute(cpu: Cpu) -> None:
        check(cpu)
        operand = _register(_unit(cpu).save(), source_register(insn), wide)
        _run(cpu, code, len(code) - 4, operand, waits)

    return execute


def _masked_move(insn: Insn) -> Op:
    """MASKMOVQ and MASKMOVDQU store the selected bytes at DS:rDI (SDM vol. 2, MASKMOVDQU)."""
    check, waits, wide = _checker(insn), waits_for_x87(insn), has_66(insn)
    segment, wrap = insn.seg if insn.seg >= 0 else DS, MASKS[insn.adsize]
    source = (insn.modrm >> 3 & 7) | (insn.rex & 4) << 1
    mask = (insn.modrm & 7) | (insn.rex & 1) << 3

    def move(cpu: Cpu) -> None:
        check(cpu)
        if waits and cpu.cr0 & CR0_NE:
            _run(cpu, bytes((WAIT,)), -1, b"", False)
        image = _unit(cpu).save()
        values, select = _register(image, source, wide), _register(image, mask, wide)
        start = cpu.regs[RDI] & wrap
        chosen = [n for n in range(len(values)) if select[n] & 0x80]
        for n in chosen:
            _check_writable(cpu, segment, start + n & wrap, 1)
        for n in chosen:
            cpu.store(segment, start + n & wrap, 1, values[n])
        if not wide:
            _run(cpu, TOUCH_MMX, -1, b"", False)

    return move


def _movnti(insn: Insn, pc: int) -> Op:
    """MOVNTI: an integer store with a hint; neither CR0 nor CR4.OSFXSR govern it."""
    if insn.modrm >= 0xC0 or insn.rep or has_66(insn):
        return undefined
    target, source = insn.operands
    read, write = reader(insn, source, pc), writer(insn, target, pc)
    return lambda cpu: write(cpu, read(cpu))


def bind(insn: Insn, pc: int) -> Op | None:
    """The closure of an x87, MMX or SSE instruction at offset `pc`, or None for any other."""
    if not is_vector(insn):
        return None
    if insn.opcode == WAIT:
        return _wait
    if insn.opcode == MOVNTI:
        return _movnti(insn, pc)
    if insn.opcode == MASKMOV:
        return _masked_move(insn) if insn.modrm >= 0xC0 else undefined
    if doubles_source(insn):
        return _doubled(insn)
    if insn.modrm < 0 or insn.modrm >= 0xC0:
        return _in_registers(insn)
    mem = insn.mem
    if mem is None or not memory_size(insn):
        return undefined
    return _with_memory(insn, offset(insn, mem, pc), mem.seg)
