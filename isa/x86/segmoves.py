"""Segment registers as operands: MOV, PUSH, POP, LDS to LGS, the FS/GS-base instructions and SWAPGS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86 import stack
from isa.x86.frames import Pops
from isa.x86.operands import MASKS, offset
from isa.x86.privilege import (
    memory_operand,
    read16,
    reg_number,
    require_cpl0,
    rm_number,
    write_register,
    write_rm,
)
from isa.x86.segments import canonical, load_segment
from isa.x86.state import CR4_FSGSBASE, CS, DS, ES, FS, GP, GS, RSP, SS, UD, Segment

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn

# The segment register an opcode names: PUSH, POP, and far-pointer loads.
_BY_OPCODE: Final = {
    0x06: ES, 0x07: ES, 0x0E: CS, 0x16: SS, 0x17: SS, 0x1E: DS, 0x1F: DS,
    0x0FA0: FS, 0x0FA1: FS, 0x0FA8: GS, 0x0FA9: GS,
    0xC4: ES, 0xC5: DS, 0x0FB2: SS, 0x0FB4: FS, 0x0FB5: GS,
}  # fmt: skip


def set_base(cpu: Cpu, seg: int, base: int) -> None:
    """Give FS or GS another base, keeping its selector and attributes."""
    old = cpu.segs[seg]
    cpu.segs[seg] = Segment(old.selector, base, old.limit, old.attr)


def mov_from_seg(cpu: Cpu, insn: Insn) -> None:
    """MOV r/m, Sreg (8C)."""
    if insn.reg_field > GS:
        raise GuestFault(UD)
    write_rm(cpu, insn, cpu.segs[insn.reg_field].selector)


def mov_to_seg(cpu: Cpu, insn: Insn) -> None:
    """MOV Sreg, r/m (8E); loading SS holds interrupts off for one instruction (SDM vol. 3, 6.8.3)."""
    seg = insn.reg_field
    if seg > GS or seg == CS:
        raise GuestFault(UD)
    load_segment(cpu, seg, read16(cpu, insn))
    if seg == SS:
        cpu.shadow = cpu.stack_shadow = True


def push_seg(cpu: Cpu, insn: Insn) -> None:
    stack.push(cpu, cpu.segs[_BY_OPCODE[insn.opcode]].selector, stack.stack_size(insn))


def pop_seg(cpu: Cpu, insn: Insn) -> None:
    seg, pops = _BY_OPCODE[insn.opcode], Pops(cpu)
    load_segment(cpu, seg, pops.pop(stack.stack_size(insn)) & 0xFFFF)
    cpu.regs[RSP] = pops.sp
    if seg == SS:
        cpu.shadow = cpu.stack_shadow = True


def load_far_pointer(cpu: Cpu, insn: Insn) -> None:
    """LDS, LES, LSS, LFS, LGS."""
    operand = memory_operand(insn)
    at, size = offset(insn, operand, cpu.rip)(cpu), insn.opsize
    value = cpu.load(operand.seg, at, size)
    selector = cpu.load(operand.seg, at + size & MASKS[insn.adsize], 2)
    load_segment(cpu, _BY_OPCODE[insn.opcode], selector)
    write_register(cpu, reg_number(insn), size, value)


def _require_fsgsbase(cpu: Cpu) -> None:
    if cpu.mode != 64 or not cpu.cr4 & CR4_FSGSBASE:
        raise GuestFault(UD)


def _read_base(cpu: Cpu, insn: Insn, seg: int) -> None:
    _require_fsgsbase(cpu)
    write_register(cpu, rm_number(insn), 8 if insn.opsize == 8 else 4, cpu.segs[seg].base)


def _write_base(cpu: Cpu, insn: Insn, seg: int) -> None:
    _require_fsgsbase(cpu)
    base = cpu.regs[rm_number(insn)] & MASKS[8 if insn.opsize == 8 else 4]
    if not canonical(base):
        raise GuestFault(GP, 0, note=f"segment base {base:#x} is not canonical")
    set_base(cpu, seg, base)


def rdfsbase(cpu: Cpu, insn: Insn) -> None:
    _read_base(cpu, insn, FS)


def rdgsbase(cpu: Cpu, insn: Insn) -> None:
    _read_base(cpu, insn, GS)


def wrfsbase(cpu: Cpu, insn: Insn) -> None:
    _write_base(cpu, insn, FS)


def wrgsbase(cpu: Cpu, insn: Insn) -> None:
    _write_base(cpu, insn, GS)


def swapgs(cpu: Cpu, insn: Insn) -> None:
    """Exchange the base of GS with IA32_KERNEL_GS_BASE."""
    if cpu.mode != 64:
        raise GuestFault(UD)
    require_cpl0(cpu)
    base = cpu.segs[GS].base
    set_base(cpu, GS, cpu.kernel_gs_base)
    cpu.kernel_gs_base = base
