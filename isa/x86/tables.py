"""Descriptor tables and what software may ask about selectors: LGDT to STR, LAR, LSL, VERR, VERW and ARPL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.descriptors import (
    CALL_GATE,
    CALL_GATE16,
    LDT,
    TASK_GATE,
    TSS,
    TSS16,
    TSS16_BUSY,
    TSS_BUSY,
    Descriptor,
    busy,
    fetch_system,
    null,
    selector_fault,
)
from isa.x86.flags import set_arith
from isa.x86.operands import MASKS, offset
from isa.x86.privilege import (
    forbid_in_user_mode,
    is_memory,
    memory_operand,
    read16,
    reg_number,
    require_cpl0,
    rm_number,
    write_register,
    write_rm,
)
from isa.x86.segments import canonical, real_style
from isa.x86.state import GP, NP, UD, ZF, Segment, Table

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn

# System descriptor types that LAR and LSL accept (SDM vol. 2, tables 3-53 and 3-56).
_LAR_LEGACY: Final = frozenset((TSS16, LDT, TSS16_BUSY, CALL_GATE16, TASK_GATE, TSS, TSS_BUSY, CALL_GATE))
_LAR_LONG: Final = frozenset((LDT, TSS, TSS_BUSY, CALL_GATE))
_LSL_LEGACY: Final = frozenset((TSS16, LDT, TSS16_BUSY, TSS, TSS_BUSY))
_LSL_LONG: Final = frozenset((LDT, TSS, TSS_BUSY))


# -- GDTR and IDTR ----------------------------------------------------------------------------------------------


def _load_table(cpu: Cpu, insn: Insn) -> Table:
    """The 6- or 10-byte pseudo-descriptor; a 16-bit operand size takes 24 bits of the base (SDM vol. 2, LGDT)."""
    operand = memory_operand(insn)
    require_cpl0(cpu)
    at, mask = offset(insn, operand, cpu.rip)(cpu), MASKS[insn.adsize]
    limit = cpu.load(operand.seg, at, 2)
    base = cpu.load(operand.seg, at + 2 & mask, 8 if cpu.mode == 64 else 4)
    if cpu.mode == 64:
        if not canonical(base):
            raise GuestFault(GP, 0, note=f"descriptor table at non-canonical {base:#x}")
    elif insn.opsize == 2:
        base &= 0xFF_FFFF
    return Table(base, limit)


def _store_table(cpu: Cpu, insn: Insn, table: Table) -> None:
    operand = memory_operand(insn)
    forbid_in_user_mode(cpu)
    image = table.limit.to_bytes(2, "little") + table.base.to_bytes(8, "little")
    at = offset(insn, operand, cpu.rip)(cpu)
    cpu.store_bytes(operand.seg, at, image if cpu.mode == 64 else image[:6])


def lgdt(cpu: Cpu, insn: Insn) -> None:
    cpu.gdtr = _load_table(cpu, insn)


def lidt(cpu: Cpu, insn: Insn) -> None:
    cpu.idtr = _load_table(cpu, insn)
    cpu.lidt_executed = True


def sgdt(cpu: Cpu, insn: Insn) -> None:
    _store_table(cpu, insn, cpu.gdtr)


def sidt(cpu: Cpu, insn: Insn) -> None:
    _store_table(cpu, insn, cpu.idtr)


# -- LDTR and TR ------------------------------------------------------------------------------------------------


def _protected_only(cpu: Cpu) -> None:
    """#UD in real and virtual-8086 mode."""
    if real_style(cpu):
        raise GuestFault(UD)


def _system_segment(cpu: Cpu, selector: int, kinds: tuple[int, ...], what: str) -> Descriptor:
    """The descriptor for LDTR or TR, which must be in the GDT."""
    if selector & 4:
        raise selector_fault(GP, selector, f"{what} selector refers to the LDT")
    found = fetch_system(cpu, selector)
    if not found.system or found.type not in kinds:
        raise selector_fault(GP, selector, f"type {found.attr & 0x1F:#x} is no {what}")
    if not found.present:
        raise selector_fault(NP, selector, f"{what} not present")
    return found


def lldt(cpu: Cpu, insn: Insn) -> None:
    """Loads LDTR; a null selector makes it unusable."""
    _protected_only(cpu)
    require_cpl0(cpu)
    selector = read16(cpu, insn)
    if null(selector):
        cpu.ldtr = Segment(selector, 0, 0, 0)
    else:
        cpu.ldtr = _system_segment(cpu, selector, (LDT,), "LDT").segment(selector)


def ltr(cpu: Cpu, insn: Insn) -> None:
    """Loads TR and marks the TSS busy."""
    _protected_only(cpu)
    require_cpl0(cpu)
    selector = read16(cpu, insn)
    if null(selector):
        raise GuestFault(GP, 0, note="LTR with a null selector")
    kinds = (TSS,) if cpu.long_mode else (TSS, TSS16)
    cpu.tr = busy(cpu, _system_segment(cpu, selector, kinds, "available TSS")).segment(selector)


def sldt(cpu: Cpu, insn: Insn) -> None:
    _protected_only(cpu)
    forbid_in_user_mode(cpu)
    write_rm(cpu, insn, cpu.ldtr.selector)


def store_tr(cpu: Cpu, insn: Insn) -> None:
    """STR."""
    _protected_only(cpu)
    forbid_in_user_mode(cpu)
    write_rm(cpu, insn, cpu.tr.selector)


# -- questions about selectors ----------------------------------------------------------------------------------


def _visible(cpu: Cpu, selector: int, system_kinds: frozenset[int]) -> Descriptor | None:
    """The descriptor if it exists, is of a code, data or accepted system kind, and CPL and RPL may see it."""
    if null(selector):
        return None
    try:
        found = fetch_system(cpu, selector)
    except GuestFault as fault:
        if fault.vector != GP:
            raise  # a page fault on the table is the guest's to handle
        return None
    if found.system and found.type not in system_kinds:
        return None
    if not (found.code and found.conforming) and found.dpl < max(cpu.cpl, selector & 3):
        return None
    return found


def _answer(cpu: Cpu, yes: bool) -> None:
    set_arith(cpu, ZF if yes else 0, ZF)


def lar(cpu: Cpu, insn: Insn) -> None:
    """Load the access-rights word, bits 8 to 23 of the descriptor's upper half; ZF tells whether it was allowed."""
    _protected_only(cpu)
    found = _visible(cpu, read16(cpu, insn), _LAR_LONG if cpu.long_mode else _LAR_LEGACY)
    if found is not None:
        mask = 0xFF00 if insn.opsize == 2 else 0xFF_FF00
        write_register(cpu, reg_number(insn), insn.opsize, found.raw >> 32 & mask)
    _answer(cpu, found is not None)


def lsl(cpu: Cpu, insn: Insn) -> None:
    """Load the segment limit in bytes; ZF tells whether it was allowed."""
    _protected_only(cpu)
    found = _visible(cpu, read16(cpu, insn), _LSL_LONG if cpu.long_mode else _LSL_LEGACY)
    if found is not None:
        write_register(cpu, reg_number(insn), insn.opsize, found.limit)
    _answer(cpu, found is not None)


def verr(cpu: Cpu, insn: Insn) -> None:
    _protected_only(cpu)
    found = _visible(cpu, read16(cpu, insn), frozenset())
    _answer(cpu, found is not None and found.readable)


def verw(cpu: Cpu, insn: Insn) -> None:
    _protected_only(cpu)
    found = _visible(cpu, read16(cpu, insn), frozenset())
    _answer(cpu, found is not None and found.writable)


def arpl(cpu: Cpu, insn: Insn) -> None:
    """Raise the RPL of the first operand to that of the second; ZF tells whether it changed."""
    _protected_only(cpu)
    rpl = cpu.regs[reg_number(insn)] & 3
    if is_memory(insn):
        operand = memory_operand(insn)
        at = offset(insn, operand, cpu.rip)(cpu)
        selector = cpu.load_rmw(operand.seg, at, 2)
        if selector & 3 < rpl:
            cpu.store(operand.seg, at, 2, selector & ~3 | rpl)
    else:
        selector = cpu.regs[rm_number(insn)] & 0xFFFF
        if selector & 3 < rpl:
            write_register(cpu, rm_number(insn), 2, selector & ~3 | rpl)
    _answer(cpu, selector & 3 < rpl)
