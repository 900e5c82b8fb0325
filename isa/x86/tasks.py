"""Hardware task switches through TSS descriptors, task gates and IRET (SDM vol. 3, chapter 7); legacy modes only."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from isa.base import Access, GuestFault
from isa.x86.control import set_cr3
from isa.x86.debug import DR6_BT, DR7_LOCAL
from isa.x86.descriptors import (
    LDT,
    M32,
    TASK_GATE,
    TSS,
    TSS16,
    TSS16_BUSY,
    TSS_BUSY,
    Descriptor,
    accessed,
    fetch,
    null,
    selector_fault,
)
from isa.x86.frames import Frame
from isa.x86.segments import check_target, data_segment, stack_segment, update_mode, vm86_segment
from isa.x86.state import (
    AC,
    ARITH,
    CR0_TS,
    CS,
    DF,
    DS,
    ES,
    FS,
    GP,
    GS,
    ID,
    IF,
    IOPL,
    NP,
    NT,
    RF,
    RSP,
    SS,
    TF,
    TS,
    VM,
    Segment,
)

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

KINDS: Final = frozenset((TSS, TSS16, TSS_BUSY, TSS16_BUSY, TASK_GATE))  # descriptors a far JMP or CALL can name
_BUSY: Final = 2  # bit of a TSS descriptor's type
_WIDE_BIT: Final = 8
_LINK, _CR3, _TRAP = 0, 0x1C, 0x64  # offsets in a TSS; the last two exist in a 32-bit one only
_SEGMENTS: Final = (ES, CS, SS, DS, FS, GS)  # in the order of their fields
_FLAGS16: Final = ARITH | TF | IF | DF | IOPL | NT
_FLAGS32: Final = _FLAGS16 | RF | VM | AC | ID


class Cause(enum.Enum):
    """What starts a task switch: it decides about busy bits, NT and the back link (SDM vol. 3, table 7-2)."""

    JUMP = "jump"
    NEST = "nest"  # CALL, an interrupt or an exception
    RETURN = "return"  # IRET with NT set


class _Layout(NamedTuple):
    """Where a TSS keeps what (SDM vol. 3, figures 7-2 and 7-10): offsets in bytes, `size` of a register."""

    last: int  # lowest limit allowed
    size: int
    ip: int
    flags: int
    regs: int
    segs: int
    seg_step: int
    seg_count: int
    ldt: int


_WIDE: Final = _Layout(0x67, 4, 0x20, 0x24, 0x28, 0x48, 4, 6, 0x60)
_NARROW: Final = _Layout(0x2B, 2, 0x0E, 0x10, 0x12, 0x22, 2, 4, 0x2A)


class _Image(NamedTuple):
    """What a TSS holds for a task that is not running."""

    cr3: int
    ip: int
    flags: int
    regs: list[int]
    selectors: list[int]
    ldt: int
    trap: bool


# -- how a switch is asked for ----------------------------------------------------------------------------------


def transfer(cpu: Cpu, found: Descriptor, cause: Cause, back: int) -> None:
    """Far JMP or CALL to a descriptor of one of KINDS (SDM vol. 2, JMP and CALL); `back` is the RIP behind it."""
    what = "task gate" if found.type == TASK_GATE else "TSS"
    rpl = found.selector & 3
    if found.dpl < max(cpu.cpl, rpl):
        why = f"{what} DPL {found.dpl} is below CPL {cpu.cpl} or RPL {rpl}"
        raise selector_fault(GP, found.selector, why)
    if found.type == TASK_GATE:
        if not found.present:
            raise selector_fault(NP, found.selector, "task gate not present")
        found = gate_target(cpu, found.gate_selector)
    else:
        _check_available(found, 0)
    switch(cpu, found, cause, back, cpu.rflags)
    cpu.transferred = True


def gate_target(cpu: Cpu, selector: int, ext: int = 0) -> Descriptor:
    """The available TSS that a task gate names."""
    if selector & 4:
        raise selector_fault(GP, selector, "task gate names a TSS in the LDT", ext)
    if null(selector):
        raise GuestFault(GP, ext, note="task gate to a null TSS")
    found = fetch(cpu, selector, GP, ext)
    _check_available(found, ext)
    return found


def _check_available(found: Descriptor, ext: int) -> None:
    if not found.system or found.type not in (TSS, TSS16) or found.selector & 4:
        why = f"type {found.attr & 0x1F:#x} is no available TSS in the GDT"
        raise selector_fault(GP, found.selector, why, ext)
    if not found.present:
        raise selector_fault(NP, found.selector, "TSS not present", ext)


def leave_nested(cpu: Cpu, back: int) -> None:
    """IRET with NT set: back to the task that the TSS links to (SDM vol. 2, IRET, TASK-RETURN)."""
    selector = cpu.load_linear(cpu.tr.base + _LINK & M32, 2, False)
    if selector & 4:
        raise selector_fault(TS, selector, "back link to a TSS in the LDT")
    if null(selector):
        raise GuestFault(TS, 0, note="back link to a null TSS")
    found = fetch(cpu, selector, TS)
    if not found.system or found.type not in (TSS_BUSY, TSS16_BUSY):
        raise selector_fault(TS, selector, f"back link to type {found.attr & 0x1F:#x}, which is no busy TSS")
    if not found.present:
        raise selector_fault(NP, selector, "TSS not present")
    switch(cpu, found, Cause.RETURN, back, cpu.rflags & ~NT)
    cpu.transferred = True


# -- the switch -------------------------------------------------------------------------------------------------


def switch(
    cpu: Cpu, tss: Descriptor, cause: Cause, rip: int, flags: int, ext: int = 0, error: int | None = None
) -> None:
    """Save the running task with `rip` and `flags`, and load the one of the checked descriptor `tss` (7.3).

    `ext` is 1 where an event asks for it, `error` the error code to push on the new task's stack. A GuestFault of the
    old task changes nothing; one of the new task, whose state is then in place, has `behind` set.
    """
    old, new = _layout(cpu.tr.attr), _layout(tss.type)
    if tss.limit < new.last:
        raise selector_fault(TS, tss.selector, f"TSS limit {tss.limit:#x} is below {new.last:#x}", ext)
    if cpu.tr.limit < old.last:
        why = f"limit {cpu.tr.limit:#x} of the TSS to leave is below {old.last:#x}"
        raise selector_fault(TS, cpu.tr.selector, why, ext)
    left = cpu.gdtr.base + (cpu.tr.selector & 0xFFF8) + 5 & M32  # the byte of its descriptor that holds the type
    entered = tss.address + 5 & M32
    _check_pages(cpu, tss, cause, old, new, left, entered)

    _save(cpu, old, rip, flags)
    if cause is not Cause.NEST:
        cpu.store_linear(left, 1, cpu.load_linear(left, 1, False) & ~_BUSY, False)
    if cause is not Cause.RETURN:
        cpu.store_linear(entered, 1, cpu.load_linear(entered, 1, False) | _BUSY, False)
    if cause is Cause.NEST:
        cpu.store_linear(tss.base + _LINK, 2, cpu.tr.selector, False)
    image = _read(cpu, tss, new)
    cpu.tr = tss.segment(tss.selector)
    cpu.tr.attr |= _BUSY
    cpu.cr0 |= CR0_TS
    if cpu.dr[7] & DR7_LOCAL:
        cpu.dr[7] &= ~DR7_LOCAL
        cpu.debug_changed()
    try:
        _load(cpu, image, new, cause is Cause.NEST, ext)
        if error is not None:
            frame = Frame.current(cpu, new.size, ext)
            frame.push(error)
            frame.commit()
            cpu.regs[RSP] = frame.sp
    except GuestFault as fault:
        fault.behind = True
        raise
    if image.trap:
        cpu.debug_pending |= DR6_BT  # before the first instruction of the new task (17.3.1.5)


def _layout(kind: int) -> _Layout:
    return _WIDE if kind & _WIDE_BIT else _NARROW


def _check_pages(cpu: Cpu, tss: Descriptor, cause: Cause, old: _Layout, new: _Layout, left: int, entered: int) -> None:
    """Everything the switch reads and writes in the old task's context must be reachable before it begins."""
    cpu.reach_linear(tss.base, new.last + 1, Access.READ)
    cpu.reach_linear(cpu.tr.base + old.ip & M32, old.segs + old.seg_step * old.seg_count - old.ip, Access.WRITE)
    if cause is not Cause.NEST:
        cpu.reach_linear(left, 1, Access.WRITE)
    if cause is not Cause.RETURN:
        cpu.reach_linear(entered, 1, Access.WRITE)
    if cause is Cause.NEST:
        cpu.reach_linear(tss.base + _LINK, 2, Access.WRITE)


def _save(cpu: Cpu, layout: _Layout, rip: int, flags: int) -> None:
    """Write the dynamic fields of the old TSS; LDT selector, CR3 and stacks of inner levels stay (7.2.1)."""
    base, size = cpu.tr.base, layout.size
    mask = (1 << size * 8) - 1
    cpu.store_linear(base + layout.ip & M32, size, rip & mask, False)
    cpu.store_linear(base + layout.flags & M32, size, flags & mask, False)
    for n in range(8):
        cpu.store_linear(base + layout.regs + n * size & M32, size, cpu.regs[n] & mask, False)
    for n, seg in enumerate(_SEGMENTS[: layout.seg_count]):
        cpu.store_linear(base + layout.segs + n * layout.seg_step & M32, 2, cpu.segs[seg].selector, False)


def _read(cpu: Cpu, tss: Descriptor, layout: _Layout) -> _Image:
    def field(at: int, size: int) -> int:
        return cpu.load_linear(tss.base + at & M32, size, False)

    size, wide = layout.size, layout is _WIDE
    selectors = [field(layout.segs + n * layout.seg_step, 2) for n in range(layout.seg_count)]
    return _Image(
        field(_CR3, 4) if wide else 0,
        field(layout.ip, size),
        field(layout.flags, size) & (_FLAGS32 if wide else _FLAGS16),
        [field(layout.regs + n * size, size) for n in range(8)],
        selectors + [0] * (6 - len(selectors)),  # a 16-bit task has null selectors in FS and GS
        field(layout.ldt, 2),
        wide and bool(field(_TRAP, 1) & 1),
    )


def _load(cpu: Cpu, image: _Image, layout: _Layout, nested: bool, ext: int) -> None:
    """Load the new task's registers, then LDT and segments, whose faults are its own."""
    cpu.rip = image.ip
    cpu.rflags = image.flags | 2 | (NT if nested else 0)
    cpu.regs[:8] = image.regs
    virtual = bool(image.flags & VM)
    cpl = 3 if virtual else image.selectors[1] & 3
    for seg, selector in zip(_SEGMENTS, image.selectors, strict=True):
        cpu.segs[seg] = vm86_segment(selector) if virtual else Segment(selector, 0, 0, 0)
    cpu.ldtr = Segment(image.ldt, 0, 0, 0)
    update_mode(cpu)
    cpu.cpl = cpl  # CS says so until SS is loaded
    if layout is _WIDE and cpu.paging and image.cr3 != cpu.cr3:
        set_cr3(cpu, image.cr3)
    _load_ldt(cpu, image.ldt, ext)
    if not virtual:
        cpu.segs[CS] = _code(cpu, image.selectors[1], ext)
        update_mode(cpu)
        cpu.cpl = cpl
        cpu.segs[SS] = stack_segment(cpu, image.selectors[2], cpl, TS, ext)
        for seg in (ES, DS, FS, GS):
            cpu.segs[seg] = data_segment(cpu, cpu.segs[seg].selector, TS, ext)
    check_target(cpu, cpu.segs[CS], image.ip, ext)


def _load_ldt(cpu: Cpu, selector: int, ext: int) -> None:
    if null(selector):
        return
    if selector & 4:
        raise selector_fault(TS, selector, "LDT of the new task lies in an LDT", ext)
    found = fetch(cpu, selector, TS, ext)
    if not found.system or found.type != LDT or not found.present:
        raise selector_fault(TS, selector, "LDT of the new task is no LDT or not present", ext)
    cpu.ldtr = found.segment(selector)


def _code(cpu: Cpu, selector: int, ext: int) -> Segment:
    """CS of the new task, whose CPL is its RPL (SDM vol. 3, table 6-6)."""
    if null(selector):
        raise GuestFault(TS, ext, note="null code segment in the TSS")
    found, rpl = fetch(cpu, selector, TS, ext), selector & 3
    if not found.code or (found.dpl > rpl if found.conforming else found.dpl != rpl):
        raise selector_fault(TS, selector, "no code segment for the CPL of the new task", ext)
    if not found.present:
        raise selector_fault(NP, selector, "code segment of the new task not present", ext)
    return accessed(cpu, found).segment(selector)
