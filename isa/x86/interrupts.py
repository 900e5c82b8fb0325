"""Delivers interrupts and exceptions through the IVT or IDT, up to double and triple fault (SDM vol. 3, chapter 6)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86 import tasks
from isa.x86.debug import DR7_GD
from isa.x86.descriptors import (
    INTERRUPT_GATE,
    INTERRUPT_GATE16,
    TASK_GATE,
    TRAP_GATE,
    TRAP_GATE16,
    Descriptor,
    describe,
    fetch,
    null,
    selector_fault,
    system_linear,
)
from isa.x86.frames import Frame, inner_rsp, inner_stack
from isa.x86.segments import (
    DATA_SEGMENTS,
    check_target,
    code_segment,
    in_vm86,
    real_segment,
    stack_segment,
    update_mode,
)
from isa.x86.state import (
    AC,
    BR,
    CS,
    DB,
    DE,
    DF_FAULT,
    DS,
    ES,
    FS,
    GP,
    GS,
    IF,
    NM,
    NP,
    NT,
    PAGE_FAULT,
    RF,
    RSP,
    SS,
    SS_FAULT,
    TF,
    TS,
    UD,
    VECTORS_WITH_ERROR,
    VM,
    XM,
    Segment,
)
from isa.x86.state import AC_FAULT as ALIGNMENT
from isa.x86.state import MF as FP_ERROR

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_IDT: Final = 2  # error-code bit: the index is that of an IDT entry (SDM vol. 3, 6.13)
_INT1: Final = 1
# Exceptions of the fault class: RF is set in the pushed image, so that an instruction breakpoint does not hit again
# (SDM vol. 3, 17.3.1.1). #DB is left out: the CPU raises it here only as a trap or for DR7.GD, which RF does not mask.
_FAULTS: Final = frozenset((DE, BR, UD, NM, TS, NP, SS_FAULT, GP, PAGE_FAULT, FP_ERROR, ALIGNMENT, XM))
_CONTRIBUTORY: Final = frozenset((DE, TS, NP, SS_FAULT, GP))  # SDM vol. 3, table 6-4


class Event(enum.Enum):
    """What is delivered."""

    HARDWARE = "hardware"  # an external interrupt or NMI
    SOFTWARE = "software"  # INT n
    EXCEPTION = "exception"
    TRAP = "trap"  # INT3, INTO, INT1


def deliver(cpu: Cpu, vector: int, error: int | None, event: Event, return_rip: int | None = None) -> None:
    """Deliver one event through the guest's table; raises the GuestFault of doing so, with nothing changed.

    `error` is the error code to push or None; `return_rip` the RIP to push (that of the CPU unless given). Ends HLT and
    an interrupt shadow. A fault of the task that a task gate switched to has `behind` set: the switch is done.
    """
    rip = cpu.rip if return_rip is None else return_rip
    flags = cpu.rflags
    if event is Event.EXCEPTION:
        image = flags | RF if vector in _FAULTS else flags
    else:
        image = flags if event is Event.HARDWARE else flags & ~RF
    try:
        if not cpu.protected:
            _through_ivt(cpu, vector, rip, image)
        else:
            _through_idt(cpu, vector, error, event, rip, image)
    except GuestFault as fault:
        if not cpu.lidt_executed and "IDT" in fault.note:
            fault.note += "; lidt was never executed"
        raise
    if vector == DB and event in (Event.EXCEPTION, Event.TRAP):
        cpu.dr[7] &= ~DR7_GD  # the handler may use the debug registers (SDM vol. 3, 17.2.4)
    cpu.shadow = cpu.halted = False


def _through_ivt(cpu: Cpu, vector: int, rip: int, image: int) -> None:
    """Real mode: a table of far pointers (SDM vol. 3, 20.1.4)."""
    limit = cpu.idtr.limit
    if vector * 4 + 3 > limit:
        raise GuestFault(GP, vector * 8 | _IDT, note=f"IDT limit {limit:#x} is below vector {vector}")
    entry = cpu.load_linear(system_linear(cpu, cpu.idtr.base + vector * 4), 4, False)
    frame = Frame.current(cpu, 2)
    frame.push(image, cpu.segs[CS].selector, rip)
    frame.commit()
    cpu.regs[RSP] = frame.sp
    cpu.segs[CS] = real_segment(cpu, CS, entry >> 16)
    cpu.rip = entry & 0xFFFF
    cpu.rflags = cpu.rflags & ~(IF | TF | AC | RF)
    update_mode(cpu)


# -- protected and long mode ------------------------------------------------------------------------------------


def _read_gate(cpu: Cpu, vector: int, event: Event, ext: int) -> Descriptor:
    """The checked gate of `vector`."""
    size = 16 if cpu.long_mode else 8
    error, limit = vector * 8 | _IDT | ext, cpu.idtr.limit
    if vector * size + size - 1 > limit:
        raise GuestFault(GP, error, note=f"IDT limit {limit:#x} is below vector {vector}")
    address = system_linear(cpu, cpu.idtr.base + vector * size)
    try:
        raw = cpu.load_linear(address, 8, False)
        high = cpu.load_linear(system_linear(cpu, address + 8), 8, False) if size == 16 else 0
    except GuestFault as fault:
        fault.note = f"reading IDT[{vector}] at {address:#x} faulted"
        raise
    gate = describe(0, address, raw, high)
    kinds: tuple[int, ...] = (INTERRUPT_GATE, TRAP_GATE)
    if not cpu.long_mode:
        kinds += (INTERRUPT_GATE16, TRAP_GATE16, TASK_GATE)
    if not gate.system or gate.type not in kinds:
        what = "empty entry" if raw == 0 else f"type {gate.attr & 0x1F:#x} is no interrupt, trap or task gate"
        raise GuestFault(GP, error, note=f"IDT[{vector}]: {what}")
    asked_by_software = event is Event.SOFTWARE or (event is Event.TRAP and vector != _INT1)
    if asked_by_software and gate.dpl < cpu.cpl:
        raise GuestFault(GP, error, note=f"IDT[{vector}]: gate DPL {gate.dpl} is below CPL {cpu.cpl}")
    if not gate.present:
        raise GuestFault(NP, error, note=f"IDT[{vector}]: gate not present")
    return gate


def _handler_code(cpu: Cpu, gate: Descriptor, vector: int, ext: int) -> Descriptor:
    """The checked code segment of a gate."""
    selector = gate.gate_selector
    if null(selector):
        raise GuestFault(GP, ext, note=f"IDT[{vector}]: null code segment")
    code = fetch(cpu, selector, GP, ext)
    why = ""
    if not code.code:
        why = "not a code segment"
    elif code.dpl > cpu.cpl:
        why = f"DPL {code.dpl} is above CPL {cpu.cpl}"
    elif cpu.long_mode and (not code.long or code.big):
        why = "not a 64-bit code segment"
    elif in_vm86(cpu) and (code.conforming or code.dpl != 0):
        why = "a handler for virtual-8086 mode must have DPL 0"
    if why:
        raise selector_fault(GP, selector, f"{why} (handler of vector {vector})", ext)
    if not code.present:
        raise selector_fault(NP, selector, f"code segment not present (handler of vector {vector})", ext)
    return code


def _through_idt(cpu: Cpu, vector: int, error: int | None, event: Event, rip: int, image: int) -> None:
    ext = int(event is Event.HARDWARE or event is Event.EXCEPTION or (event is Event.TRAP and vector == _INT1))
    gate = _read_gate(cpu, vector, event, ext)
    if gate.type == TASK_GATE:
        task = tasks.gate_target(cpu, gate.gate_selector, ext)
        tasks.switch(cpu, task, tasks.Cause.NEST, rip, image, ext, error)
        return
    code = _handler_code(cpu, gate, vector, ext)
    cpl = cpu.cpl if code.conforming else code.dpl
    cs = code_segment(cpu, code, cpl)
    values = [image, cpu.segs[CS].selector, rip]
    if error is not None:
        values.append(error)
    if cpu.long_mode:
        size = 8
        ss, frame = _long_frame(cpu, gate, cpl, ext)
        frame.push(cpu.segs[SS].selector, cpu.regs[RSP], *values)
    else:
        size = 4 if gate.type & 8 else 2
        ss, frame = _legacy_frame(cpu, cpl, size, ext)
        frame.push(*values)
    target = check_target(cpu, cs, gate.gate_offset if size > 2 else gate.gate_offset & 0xFFFF, ext)
    frame.commit()
    if in_vm86(cpu):
        for seg in DATA_SEGMENTS:
            cpu.segs[seg] = Segment(0, 0, 0, 0)
    cpu.regs[RSP] = frame.sp
    if ss is not None:
        cpu.segs[SS] = ss
    cpu.segs[CS] = cs
    cpu.rip = target
    cleared = TF | NT | RF | VM
    if not gate.type & 1:
        cleared |= IF  # an interrupt gate
    cpu.system_flags &= ~cleared
    update_mode(cpu)


def _long_frame(cpu: Cpu, gate: Descriptor, cpl: int, ext: int) -> tuple[Segment | None, Frame]:
    """The new SS, if it changes, and the frame: 16-byte aligned, on an IST or inner stack or this one."""
    ist = gate.raw >> 32 & 7
    ss = None
    if cpl != cpu.cpl:
        ss = Segment(cpl, 0, 0, 0)
    rsp = inner_rsp(cpu, cpl, ist, ext) if ist or ss else cpu.regs[RSP]
    return ss, Frame(cpu, None, rsp & ~0xF, 8, cpl == 3, ext)


def _legacy_frame(cpu: Cpu, cpl: int, size: int, ext: int) -> tuple[Segment | None, Frame]:
    """The new SS, if privilege changes, and the frame with the old stack (and in virtual-8086 mode, data) segments."""
    if cpl == cpu.cpl:
        return None, Frame.current(cpu, size, ext)
    selector, sp = inner_stack(cpu, cpl, ext)
    ss = stack_segment(cpu, selector, cpl, TS, ext)
    frame = Frame(cpu, ss, sp, size, False, selector & 0xFFFC | ext)
    if in_vm86(cpu):
        frame.push(*(cpu.segs[seg].selector for seg in (GS, FS, DS, ES)))
    frame.push(cpu.segs[SS].selector, cpu.regs[RSP])
    return ss, frame


# -- exceptions while delivering exceptions ---------------------------------------------------------------------


def _becomes_double(first: int, second: int) -> bool:
    """SDM vol. 3, table 6-5: the two cannot be handled one after the other."""
    if first in _CONTRIBUTORY:
        return second in _CONTRIBUTORY
    return first == PAGE_FAULT and (second == PAGE_FAULT or second in _CONTRIBUTORY)


def _shuts_down(vector: int) -> bool:
    return vector == PAGE_FAULT or vector in _CONTRIBUTORY


def deliver_exception(cpu: Cpu, fault: GuestFault, chain: tuple[GuestFault, ...] = ()) -> tuple[GuestFault, ...] | None:
    """Deliver an exception, and whatever its delivery raises, until a handler is entered: then None.

    `chain` holds earlier exceptions whose delivery raised `fault` (empty for one that an instruction or the delivery
    of an external interrupt raised). On a triple fault the whole chain is returned, first fault first, double fault
    included: the `note` of each says what made the delivery of the one before it fail. CR2 is that of the last #PF.
    """
    faults = list(chain)
    current: GuestFault | None = faults[-1] if faults else None
    raised = fault
    while True:
        faults.append(raised)
        if raised.vector == PAGE_FAULT and raised.cr2 is not None:
            cpu.cr2 = raised.cr2
        if current is not None and current.vector == DF_FAULT and _shuts_down(raised.vector):
            return tuple(faults)
        if current is not None and _becomes_double(current.vector, raised.vector):
            note = f"exception {raised.vector} while delivering exception {current.vector}"
            raised = GuestFault(DF_FAULT, 0, note=note)
            faults.append(raised)
        current = raised
        error = (current.error or 0) if current.vector in VECTORS_WITH_ERROR else None
        try:
            deliver(cpu, current.vector, error, Event.EXCEPTION)
        except GuestFault as next_fault:
            raised = next_fault
        else:
            return None
