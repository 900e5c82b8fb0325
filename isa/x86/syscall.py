"""SYSCALL, SYSRET, SYSENTER and SYSEXIT, which load flat segments without descriptors (SDM vol. 3, 5.8.7, 5.8.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.debug import DR6_BS
from isa.x86.descriptors import M32
from isa.x86.fartransfer import following
from isa.x86.privilege import require_cpl0
from isa.x86.segments import canonical, in_vm86, update_mode
from isa.x86.state import (
    AC,
    ARITH,
    CS,
    DF,
    EFER_SCE,
    GP,
    ID,
    IF,
    IOPL,
    NT,
    RCX,
    RDX,
    RF,
    RSP,
    SS,
    TF,
    UD,
    VM,
    Segment,
)

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn

_R11: Final = 11
# Attributes of the flat segments: present, accessed, granularity 4 KiB, DPL 0; add _USER for DPL 3.
_CODE64, _CODE32, _DATA, _USER = 0xA09B, 0xC09B, 0xC093, 0x60
_SYSRET_FLAGS: Final = ARITH | TF | IF | DF | IOPL | NT | AC | ID  # RF and VM are cleared (SDM vol. 2, SYSRET)


def _flat(cpu: Cpu, cs: int, cs_attr: int, ss: int, user: bool) -> None:
    """Load CS and SS with flat segments of CPL 3 or 0."""
    dpl, rpl = (_USER, 3) if user else (0, 0)
    cpu.segs[CS] = Segment(cs & 0xFFFC | rpl, 0, M32, cs_attr | dpl)
    cpu.segs[SS] = Segment(ss & 0xFFFC | rpl, 0, M32, _DATA | dpl)
    cpu.transferred = True


def syscall(cpu: Cpu, insn: Insn) -> None:
    """To LSTAR; #UD outside 64-bit mode, in compatibility mode too (AMD's processors go to CSTAR), and without SCE."""
    if not cpu.efer & EFER_SCE or cpu.mode != 64:
        raise GuestFault(UD)
    cpu.regs[RCX] = following(cpu, insn)
    flags = cpu.rflags
    cpu.regs[_R11] = flags
    _flat(cpu, cpu.star >> 32, _CODE64, (cpu.star >> 32 & 0xFFFF) + 8, False)
    cpu.rflags = flags & ~(cpu.sfmask | RF) | 2
    if not cpu.system_flags & TF:
        cpu.debug_pending &= ~DR6_BS  # with TF masked, no single-step trap comes in the handler
    cpu.rip = cpu.lstar
    update_mode(cpu)


def sysret(cpu: Cpu, insn: Insn) -> None:
    """To 64-bit user code with REX.W, else to compatibility mode."""
    if not cpu.efer & EFER_SCE or cpu.mode != 64:
        raise GuestFault(UD)
    require_cpl0(cpu)
    selector, target = cpu.star >> 48, cpu.regs[RCX]
    if insn.opsize == 8:
        if not canonical(target):
            raise GuestFault(GP, 0, note=f"SYSRET to non-canonical {target:#x}")
        _flat(cpu, selector + 16, _CODE64, selector + 8, True)
    else:
        target &= M32
        _flat(cpu, selector, _CODE32, selector + 8, True)
    cpu.rflags = cpu.regs[_R11] & _SYSRET_FLAGS | 2
    cpu.rip = target
    update_mode(cpu)


def sysenter(cpu: Cpu, insn: Insn) -> None:
    """To SYSENTER_EIP at CPL 0, 64-bit code in IA-32e mode, 32-bit code else; IF and VM are cleared."""
    if not cpu.protected or not cpu.sysenter_cs & 0xFFFC:
        raise GuestFault(GP, 0, note="SYSENTER without protection or with a null IA32_SYSENTER_CS")
    wide = cpu.long_mode
    selector = cpu.sysenter_cs & 0xFFFC
    cpu.rflags = cpu.rflags & ~(VM | IF | RF)
    _flat(cpu, selector, _CODE64 if wide else _CODE32, selector + 8, False)
    cpu.regs[RSP] = cpu.sysenter_esp if wide else cpu.sysenter_esp & M32
    cpu.rip = cpu.sysenter_eip if wide else cpu.sysenter_eip & M32
    update_mode(cpu)


def sysexit(cpu: Cpu, insn: Insn) -> None:
    """To EDX (RDX) with stack ECX (RCX) at CPL 3."""
    if not cpu.protected or in_vm86(cpu) or not cpu.sysenter_cs & 0xFFFC:
        raise GuestFault(GP, 0, note="SYSEXIT without protection or with a null IA32_SYSENTER_CS")
    require_cpl0(cpu)
    selector, rip, rsp = cpu.sysenter_cs & 0xFFFC, cpu.regs[RDX], cpu.regs[RCX]
    if insn.opsize == 8:
        if not (canonical(rip) and canonical(rsp)):
            raise GuestFault(GP, 0, note="SYSEXIT to a non-canonical address")
        _flat(cpu, selector + 32, _CODE64, selector + 40, True)
    else:
        rip, rsp = rip & M32, rsp & M32
        _flat(cpu, selector + 16, _CODE32, selector + 24, True)
    cpu.rip, cpu.regs[RSP] = rip, rsp
    update_mode(cpu)
