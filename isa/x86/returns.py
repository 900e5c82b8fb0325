"""IRET and far RET: returns to the same or an outer privilege level, to virtual-8086 mode, and in real mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86 import tasks
from isa.x86.descriptors import M32, Descriptor, fetch, null, selector_fault
from isa.x86.frames import Pops, stack_mask
from isa.x86.segments import (
    check_target,
    code_segment,
    drop_privileged_data,
    in_vm86,
    real_segment,
    real_style,
    stack_segment,
    update_mode,
    vm86_segment,
)
from isa.x86.state import AC, ARITH, CS, DF, DS, ES, FS, GP, GS, ID, IF, IOPL, NP, NT, RF, RSP, SS, TF, VM, Segment

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn

_FAR_RET_RELEASE: Final = 0xCA


def flags_from(cpu: Cpu, image: int, size: int) -> int:
    """RFLAGS after POPF or IRET with an operand of `size` bytes at the current privilege (SDM vol. 2, POPF, IRET).

    VIF and VIP stay clear: this CPU has neither CR4.VME nor CR4.PVI. RF is the caller's business.
    """
    flags = cpu.rflags
    changes = ARITH | TF | DF | NT
    if size >= 4:
        changes |= AC | ID
    if cpu.cpl <= (flags & IOPL) >> 12:
        changes |= IF
    if cpu.cpl == 0:
        changes |= IOPL
    return flags & ~changes | image & changes


def check_return_code(cpu: Cpu, selector: int) -> Descriptor:
    """The code segment a far return goes to (SDM vol. 2, RET, IRET)."""
    if null(selector):
        raise GuestFault(GP, 0, note="return to a null code segment")
    code, rpl = fetch(cpu, selector), selector & 3
    why = ""
    if not code.code:
        why = "return to what is not a code segment"
    elif rpl < cpu.cpl:
        why = f"return to RPL {rpl} from CPL {cpu.cpl}"
    elif code.dpl > rpl if code.conforming else code.dpl != rpl:
        why = f"return to DPL {code.dpl} with RPL {rpl}"
    elif cpu.long_mode and code.long and code.big:
        why = "return to a code segment with both L and D"
    if why:
        raise selector_fault(GP, selector, why)
    if not code.present:
        raise selector_fault(NP, selector, "return to a code segment that is not present")
    return code


def _return_stack(cpu: Cpu, selector: int, cpl: int, code: Descriptor) -> Segment:
    """SS for level `cpl`; null only under 64-bit code that is not at CPL 3."""
    if null(selector) and cpu.long_mode and code.long and cpl != 3 and selector & 3 == cpl:
        return Segment(selector, 0, 0, 0)
    return stack_segment(cpu, selector, cpl, GP)


def _new_sp(cpu: Cpu, ss: Segment, code: Descriptor, sp: int) -> int:
    """RSP of the outer level: a 16-bit stack takes over SP only."""
    if cpu.long_mode and code.long:
        return sp
    mask = stack_mask(ss)
    return cpu.regs[RSP] & ~mask & 0xFFFF_FFFF | sp & mask


def far_ret(cpu: Cpu, insn: Insn) -> None:
    """RET far, with or without an immediate count of parameter bytes to release."""
    size = insn.opsize
    release = int.from_bytes(insn.raw[-2:], "little") if insn.opcode == _FAR_RET_RELEASE else 0
    stack = Pops(cpu)
    rip, selector = stack.pop(size), stack.pop(size) & 0xFFFF
    stack.skip(release)
    if real_style(cpu):
        cs = real_segment(cpu, CS, selector)
        rip = check_target(cpu, cs, rip)
        cpu.regs[RSP] = stack.sp
    else:
        code, cpl = check_return_code(cpu, selector), selector & 3
        if cpl == cpu.cpl:
            cs = code_segment(cpu, code, cpl)
            rip = check_target(cpu, cs, rip)
            cpu.regs[RSP] = stack.sp
        else:
            sp, ss_selector = stack.pop(size), stack.pop(size) & 0xFFFF
            ss = _return_stack(cpu, ss_selector, cpl, code)
            cs = code_segment(cpu, code, cpl)
            rip = check_target(cpu, cs, rip)
            sp = _new_sp(cpu, ss, code, sp)
            mask = 0xFFFF_FFFF_FFFF_FFFF if cpu.long_mode and code.long else stack_mask(ss)
            cpu.regs[RSP] = sp & ~mask | sp + release & mask
            cpu.segs[SS] = ss
            drop_privileged_data(cpu, cpl)
    _go(cpu, cs, rip)


def iret(cpu: Cpu, insn: Insn) -> None:
    """IRET, IRETD and IRETQ."""
    size = insn.opsize
    if cpu.nmi_blocked:
        cpu.nmi_blocked = False
        cpu.stop_requested |= cpu.nmi  # another one has its turn
    if not cpu.protected:
        _iret_real(cpu, size)
    elif in_vm86(cpu):
        if cpu.rflags & IOPL != IOPL:
            raise GuestFault(GP, 0, note="IRET in virtual-8086 mode with IOPL below 3")
        _iret_real(cpu, size)
    elif cpu.rflags & NT:
        if cpu.long_mode:
            raise GuestFault(GP, 0, note="IRET with NT set in IA-32e mode")
        tasks.leave_nested(cpu, cpu.rip + insn.size & M32)
    else:
        _iret_protected(cpu, size)


def _iret_real(cpu: Cpu, size: int) -> None:
    stack = Pops(cpu)
    rip, selector, image = stack.pop(size), stack.pop(size) & 0xFFFF, stack.pop(size)
    cs = real_segment(cpu, CS, selector)
    rip = check_target(cpu, cs, rip)
    cpu.regs[RSP] = stack.sp
    _set_flags(cpu, image, size)
    _go(cpu, cs, rip)


def _iret_protected(cpu: Cpu, size: int) -> None:
    stack = Pops(cpu)
    popped = stack.at_once(size, 5)
    if popped is not None:
        rip, selector, image, outer_sp, ss_selector = popped
    else:
        rip, selector, image = stack.pop(size), stack.pop(size), stack.pop(size)
    selector &= 0xFFFF
    if image & VM and cpu.cpl == 0 and size == 4 and not cpu.long_mode:
        _iret_to_vm86(cpu, stack, rip, selector, image)
        return
    code, cpl = check_return_code(cpu, selector), selector & 3
    outer = cpl != cpu.cpl
    ss: Segment | None = None
    sp = stack.sp
    if outer or cpu.mode == 64:  # 64-bit mode always pops SS and RSP (SDM vol. 3, 6.14.3)
        if popped is None:
            outer_sp, ss_selector = stack.pop(size), stack.pop(size)
        ss = _return_stack(cpu, ss_selector & 0xFFFF, cpl, code)
        sp = _new_sp(cpu, ss, code, outer_sp)
    cs = code_segment(cpu, code, cpl)
    rip = check_target(cpu, cs, rip)
    cpu.regs[RSP] = sp
    _set_flags(cpu, image, size)
    if ss is not None:
        cpu.segs[SS] = ss
    if outer:
        drop_privileged_data(cpu, cpl)
    _go(cpu, cs, rip)


def _iret_to_vm86(cpu: Cpu, stack: Pops, rip: int, selector: int, image: int) -> None:
    """From CPL 0 to virtual-8086 mode: nine double words (SDM vol. 3, 20.2.5)."""
    sp, *selectors = (stack.pop(4) for _ in range(6))
    cs = vm86_segment(selector)
    rip = check_target(cpu, cs, rip)
    cpu.regs[RSP] = sp
    for seg, value in zip((SS, ES, DS, FS, GS), selectors, strict=True):
        cpu.segs[seg] = vm86_segment(value & 0xFFFF)
    kept = ARITH | TF | IF | DF | IOPL | NT | RF | VM | AC | ID
    cpu.rflags = image & kept | 2
    _go(cpu, cs, rip)


def _set_flags(cpu: Cpu, image: int, size: int) -> None:
    """Flags of IRET, which restores RF where its operand has it."""
    flags = flags_from(cpu, image, size)
    cpu.rflags = flags & ~RF | image & RF if size >= 4 else flags


def _go(cpu: Cpu, cs: Segment, rip: int) -> None:
    cpu.segs[CS] = cs
    cpu.rip = rip
    cpu.transferred = True
    update_mode(cpu)
