"""Privilege checks, register operands and small steps that the system instructions share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isa.base import GuestFault
from isa.x86.operands import MASKS, offset
from isa.x86.state import CR4_UMIP, GP, IOPL, UD

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn, Operand


def require_cpl0(cpu: Cpu) -> None:
    """#GP(0) unless CPL is 0, which it is in real mode and never in virtual-8086 mode."""
    if cpu.cpl != 0:
        raise GuestFault(GP, 0, note=f"privileged instruction at CPL {cpu.cpl}")


def forbid_in_user_mode(cpu: Cpu) -> None:
    """#GP(0) where CR4.UMIP keeps SGDT, SIDT, SLDT, SMSW and STR from user code (SDM vol. 3, 2.5)."""
    if cpu.cpl != 0 and cpu.cr4 & CR4_UMIP:
        raise GuestFault(GP, 0, note="instruction forbidden by CR4.UMIP")


def io_privileged(cpu: Cpu) -> bool:
    """True where CPL does not exceed IOPL; always in real mode, and in virtual-8086 mode only with IOPL 3."""
    return cpu.cpl <= (cpu.system_flags & IOPL) >> 12


def require_iopl(cpu: Cpu) -> None:
    """#GP(0) where CPL exceeds IOPL."""
    if not io_privileged(cpu):
        raise GuestFault(GP, 0, note=f"CPL {cpu.cpl} exceeds IOPL")


def undefined(cpu: Cpu, insn: Insn) -> None:
    """#UD, whatever the mode and privilege."""
    raise GuestFault(UD)


def rm_number(insn: Insn) -> int:
    """The general register that ModRM.rm names."""
    return insn.modrm & 7 | (insn.rex & 1) << 3


def reg_number(insn: Insn) -> int:
    """The register that ModRM.reg names, with REX.R."""
    return insn.reg_field | (insn.rex & 4) << 1


def is_memory(insn: Insn) -> bool:
    return insn.modrm >> 6 != 3


def memory_operand(insn: Insn) -> Operand:
    """The memory operand of an instruction that has no register form; #UD where it names a register."""
    operand = insn.mem
    if operand is None:
        raise GuestFault(UD)
    return operand


def read16(cpu: Cpu, insn: Insn) -> int:
    """The 16-bit r/m operand."""
    if not is_memory(insn):
        return cpu.regs[rm_number(insn)] & 0xFFFF
    operand = memory_operand(insn)
    return cpu.load(operand.seg, offset(insn, operand, cpu.rip)(cpu), 2)


def write_rm(cpu: Cpu, insn: Insn, value: int) -> None:
    """Store a system word: `opsize` bytes, zero-extended, into a register, but always 16 bits into memory."""
    if is_memory(insn):
        operand = memory_operand(insn)
        cpu.store(operand.seg, offset(insn, operand, cpu.rip)(cpu), 2, value)
    else:
        write_register(cpu, rm_number(insn), insn.opsize, value)


def write_register(cpu: Cpu, number: int, size: int, value: int) -> None:
    """Write a general register of 2, 4 or 8 bytes; 2 keep the rest, 4 clear it (SDM vol. 1, 3.4.1.1)."""
    value &= MASKS[size]
    cpu.regs[number] = cpu.regs[number] & ~0xFFFF | value if size == 2 else value
