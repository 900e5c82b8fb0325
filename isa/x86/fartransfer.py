"""Far JMP and far CALL: to code segments, conforming or not, through call gates (SDM vol. 3, 5.8), and to tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86 import tasks
from isa.x86.descriptors import (
    CALL_GATE,
    CALL_GATE16,
    M32,
    M64,
    Descriptor,
    fetch,
    fetch_system,
    null,
    selector_fault,
)
from isa.x86.frames import Frame, inner_rsp, inner_stack, stack_mask
from isa.x86.operands import MASKS, offset
from isa.x86.segments import check_target, code_segment, real_segment, real_style, stack_segment, update_mode
from isa.x86.state import CS, GP, NP, RSP, SS, TS, UD, Segment

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn

_DIRECT: Final = (0x9A, 0xEA)  # the far pointer is an immediate


def following(cpu: Cpu, insn: Insn) -> int:
    """RIP behind `insn`."""
    return cpu.rip + insn.size & (M64 if cpu.mode == 64 else M32)


def far_jmp(cpu: Cpu, insn: Insn) -> None:
    """JMP far, direct (EA) or through memory (FF /5)."""
    selector, rip = _pointer(cpu, insn)
    if real_style(cpu):
        cs = real_segment(cpu, CS, selector)
        _go(cpu, cs, check_target(cpu, cs, rip))
        return
    found = _target(cpu, selector)
    if found.system and found.type in tasks.KINDS:
        tasks.transfer(cpu, found, tasks.Cause.JUMP, following(cpu, insn))
        return
    if found.system:
        found, rip = _through_gate(cpu, found)
        if found.dpl > cpu.cpl if found.conforming else found.dpl != cpu.cpl:
            raise selector_fault(GP, found.selector, f"JMP through a gate to DPL {found.dpl} from CPL {cpu.cpl}")
        _check_present(found)
    else:
        _check_direct(cpu, found)
    cs = code_segment(cpu, found, cpu.cpl)
    _go(cpu, cs, check_target(cpu, cs, rip))


def far_call(cpu: Cpu, insn: Insn) -> None:
    """CALL far, direct (9A) or through memory (FF /3)."""
    selector, rip = _pointer(cpu, insn)
    back, size = following(cpu, insn), insn.opsize
    if real_style(cpu):
        cs = real_segment(cpu, CS, selector)
        _call(cpu, cs, rip, back, size)
        return
    found = _target(cpu, selector)
    if not found.system:
        _check_direct(cpu, found)
        _call(cpu, code_segment(cpu, found, cpu.cpl), rip, back, size)
        return
    if found.type in tasks.KINDS:
        tasks.transfer(cpu, found, tasks.Cause.NEST, back)
        return
    gate = found
    found, rip = _through_gate(cpu, gate)
    if found.dpl > cpu.cpl:
        raise selector_fault(GP, found.selector, f"call gate to DPL {found.dpl} from CPL {cpu.cpl}")
    _check_present(found)
    size = 8 if cpu.long_mode else 4 if gate.type == CALL_GATE else 2
    if found.conforming or found.dpl == cpu.cpl:
        _call(cpu, code_segment(cpu, found, cpu.cpl), rip, back, size)
    else:
        _call_inner(cpu, gate, found, rip, back, size)


def _pointer(cpu: Cpu, insn: Insn) -> tuple[int, int]:
    """(selector, offset) of the operand."""
    size = insn.opsize
    if insn.opcode in _DIRECT:
        at = insn.size - 2
        return int.from_bytes(insn.raw[at:], "little"), int.from_bytes(insn.raw[at - size : at], "little")
    operand = insn.mem
    if operand is None:
        raise GuestFault(UD)
    at = offset(insn, operand, cpu.rip)(cpu)
    rip = cpu.load(operand.seg, at, size)
    return cpu.load(operand.seg, at + size & MASKS[insn.adsize], 2), rip


def _target(cpu: Cpu, selector: int) -> Descriptor:
    """The descriptor a far transfer names: a code segment, a call gate, or outside IA-32e mode a task gate or TSS."""
    if null(selector):
        raise GuestFault(GP, 0, note="far transfer to a null selector")
    found = fetch(cpu, selector)
    if found.code:
        return found
    kind = found.type
    if found.system and not cpu.long_mode:
        if kind in (CALL_GATE, CALL_GATE16) or kind in tasks.KINDS:
            return found
    elif found.system and kind == CALL_GATE:
        return fetch_system(cpu, selector)
    raise selector_fault(GP, selector, "far transfer to neither a code segment nor a gate or TSS")


def _check_direct(cpu: Cpu, code: Descriptor) -> None:
    """A transfer without a gate never changes CPL (SDM vol. 3, 5.8.1)."""
    rpl = code.selector & 3
    denied = code.dpl > cpu.cpl if code.conforming else rpl > cpu.cpl or code.dpl != cpu.cpl
    if denied:
        raise selector_fault(GP, code.selector, f"far transfer to DPL {code.dpl} with RPL {rpl} from CPL {cpu.cpl}")
    if cpu.long_mode and code.long and code.big:
        raise selector_fault(GP, code.selector, "code segment with both L and D")
    _check_present(code)


def _check_present(code: Descriptor) -> None:
    if not code.present:
        raise selector_fault(NP, code.selector, "code segment not present")


def _through_gate(cpu: Cpu, gate: Descriptor) -> tuple[Descriptor, int]:
    """Check a call gate (SDM vol. 3, 5.8.4); returns its code segment and offset."""
    rpl = gate.selector & 3
    if gate.dpl < max(cpu.cpl, rpl):
        raise selector_fault(GP, gate.selector, f"call gate DPL {gate.dpl} is below CPL {cpu.cpl} or RPL {rpl}")
    if not gate.present:
        raise selector_fault(NP, gate.selector, "call gate not present")
    selector = gate.gate_selector
    if null(selector):
        raise GuestFault(GP, 0, note="call gate to a null code segment")
    code = fetch(cpu, selector)
    if not code.code:
        raise selector_fault(GP, selector, "call gate to what is not a code segment")
    if cpu.long_mode and (not code.long or code.big):
        raise selector_fault(GP, selector, "call gate to what is not a 64-bit code segment")
    return code, gate.gate_offset if gate.type == CALL_GATE else gate.gate_offset & 0xFFFF


def _call(cpu: Cpu, cs: Segment, rip: int, back: int, size: int) -> None:
    """Push the return address on this stack and go."""
    frame = Frame.current(cpu, size)
    frame.push(cpu.segs[CS].selector, back)
    rip = check_target(cpu, cs, rip)
    frame.commit()
    cpu.regs[RSP] = frame.sp
    _go(cpu, cs, rip)


def _call_inner(cpu: Cpu, gate: Descriptor, code: Descriptor, rip: int, back: int, size: int) -> None:
    """Switch to the inner level's stack, copying parameters there (SDM vol. 3, 5.8.5)."""
    cpl = code.dpl
    if cpu.long_mode:
        ss = Segment(cpl, 0, 0, 0)
        frame = Frame(cpu, None, inner_rsp(cpu, cpl), size, False)
        parameters: list[int] = []
    else:
        selector, sp = inner_stack(cpu, cpl)
        ss = stack_segment(cpu, selector, cpl, TS)
        frame = Frame(cpu, ss, sp, size, False, selector & 0xFFFC)
        mask, count = stack_mask(cpu.segs[SS]), gate.raw >> 32 & 31
        parameters = [cpu.load(SS, cpu.regs[RSP] + n * size & mask, size) for n in reversed(range(count))]
    frame.push(cpu.segs[SS].selector, cpu.regs[RSP], *parameters, cpu.segs[CS].selector, back)
    cs = code_segment(cpu, code, cpl)
    rip = check_target(cpu, cs, rip)
    frame.commit()
    cpu.regs[RSP] = frame.sp
    cpu.segs[SS] = ss
    _go(cpu, cs, rip)


def _go(cpu: Cpu, cs: Segment, rip: int) -> None:
    cpu.segs[CS] = cs
    cpu.rip = rip
    cpu.transferred = True
    update_mode(cpu)
