"""Control and debug registers: MOV CRn, MOV DRn, LMSW, SMSW, CLTS, and the TLB and cache instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86 import cpuid
from isa.x86.debug import DR6_BD, DR7_GD
from isa.x86.descriptors import M32, M64, TSS_BUSY
from isa.x86.operands import MASKS, offset
from isa.x86.paging import PHYSICAL_BITS, check_pdptes
from isa.x86.privilege import (
    forbid_in_user_mode,
    memory_operand,
    read16,
    reg_number,
    require_cpl0,
    rm_number,
    write_rm,
)
from isa.x86.segments import canonical, update_mode
from isa.x86.state import (  # named by CPUID leaf 7
    ATTR_L,
    CR0_AM,
    CR0_CD,
    CR0_EM,
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_DE,
    CR4_FSGSBASE,
    CR4_MCE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CR4_PCE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    CR4_TSD,
    CR4_UMIP,
    CS,
    DB,
    EFER_LMA,
    EFER_LME,
    FS,
    GP,
    UD,
)

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn

_CR0_BITS: Final = (
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG
)  # fmt: skip
_CR4_ALWAYS: Final = (
    CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT
)  # fmt: skip
_CR4_BY_FEATURE: Final = {
    "umip": CR4_UMIP, "fsgsbase": CR4_FSGSBASE, "pcid": CR4_PCIDE, "smep": CR4_SMEP, "smap": CR4_SMAP,
}  # fmt: skip
CR4_BITS: Final = _CR4_ALWAYS | sum(bit for name, bit in _CR4_BY_FEATURE.items() if cpuid.has(name))

_PCID: Final = 0xFFF  # bits of CR3 and of INVPCID's descriptor (SDM vol. 3, 4.10.1)
_CR3_KEEP: Final = 1 << 63  # with CR4.PCIDE: translations of the new PCID may stay
_INVPCID_ADDRESS, _INVPCID_CONTEXT, _INVPCID_LAST = 0, 1, 3  # types (SDM vol. 2, INVPCID)

_DR6_FIXED, _DR6_BITS = 0xFFFF_0FF0, 0xE00F  # SDM vol. 3, 17.2.3
_DR7_FIXED, _DR7_BITS = 0x400, 0xFFFF_23FF  # SDM vol. 3, 17.2.4


def _flush(cpu: Cpu) -> None:
    cpu.flush_tlb(None)
    cpu.outside.mapping_changed(None)


def _no(why: str) -> GuestFault:
    return GuestFault(GP, 0, note=why)


# -- control registers ------------------------------------------------------------------------------------------


def set_cr0(cpu: Cpu, value: int) -> None:
    """MOV to CR0: checks, IA-32e mode activation and mode bookkeeping (SDM vol. 3, 2.5, 4.1.1, 9.8.5)."""
    if value >> 32:
        raise _no("CR0: reserved bits above 31")
    if value & CR0_PG and not value & CR0_PE:
        raise _no("CR0: PG without PE")
    if value & CR0_NW and not value & CR0_CD:
        raise _no("CR0: NW without CD")
    value = value & _CR0_BITS | CR0_ET
    old, efer = cpu.cr0, cpu.efer
    if value & CR0_PG and not old & CR0_PG:
        efer = _enable_paging(cpu)
    elif old & CR0_PG and not value & CR0_PG:
        if cpu.mode == 64:
            raise _no("CR0: PG cleared in 64-bit mode")
        if cpu.cr4 & CR4_PCIDE:
            raise _no("CR0: PG cleared while CR4.PCIDE is set")  # SDM vol. 3, 4.10.1
        efer &= ~EFER_LMA
    cpu.cr0, cpu.efer = value, efer
    changed = old ^ value
    if changed & (CR0_PE | CR0_PG | CR0_WP | CR0_AM):
        update_mode(cpu)
        _flush(cpu)


def _enable_paging(cpu: Cpu) -> int:
    """Checks of setting CR0.PG; returns the EFER to go with it."""
    if cpu.efer & EFER_LME:
        if not cpu.cr4 & CR4_PAE:
            raise _no("CR0: PG with EFER.LME needs CR4.PAE")
        if cpu.segs[CS].attr & ATTR_L:
            raise _no("CR0: PG with EFER.LME while CS.L is set")
        if cpu.tr.attr & 0xF != TSS_BUSY:
            raise _no("CR0: PG with EFER.LME while TR holds a 16-bit TSS")
        return cpu.efer | EFER_LMA
    if cpu.cr4 & CR4_PAE:
        check_pdptes(cpu, cpu.cr3)
    return cpu.efer


def set_cr3(cpu: Cpu, value: int) -> None:
    """MOV to CR3; all translations are dropped, global ones too (a TLB may drop any at any time).

    With CR4.PCIDE, bit 63 allows to keep those of the new PCID (SDM vol. 3, 4.10.4.1): none are kept.
    """
    if cpu.cr4 & CR4_PCIDE:
        value &= ~_CR3_KEEP  # never stored
    if cpu.long_mode and value >> PHYSICAL_BITS:
        raise _no(f"CR3: {value:#x} is beyond the physical address width")
    if cpu.paging and cpu.cr4 & CR4_PAE and not cpu.long_mode:
        check_pdptes(cpu, value)
    cpu.cr3 = value
    _flush(cpu)


def set_cr4(cpu: Cpu, value: int) -> None:
    """MOV to CR4; bits of features that CPUID does not show are reserved."""
    if value & ~CR4_BITS:
        raise _no(f"CR4: reserved bits {value & ~CR4_BITS:#x}")
    old = cpu.cr4
    if cpu.long_mode and not value & CR4_PAE:
        raise _no("CR4: PAE cleared in IA-32e mode")
    changed = old ^ value
    if changed & value & CR4_PCIDE and (not cpu.long_mode or cpu.cr3 & _PCID):  # SDM vol. 3, 4.10.1
        raise _no("CR4: PCIDE set outside IA-32e mode, or while CR3 bits 0 to 11 are not 0")
    paging_bits = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP
    if cpu.paging and value & CR4_PAE and not cpu.long_mode and changed & paging_bits:
        check_pdptes(cpu, cpu.cr3)
    cpu.cr4 = value
    if changed & paging_bits:
        _flush(cpu)


def set_cr8(cpu: Cpu, value: int) -> None:
    """MOV to CR8, the task-priority register."""
    if value >> 4:
        raise _no("CR8: reserved bits above 3")
    cpu.outside.set_task_priority(value)


def _set_cr2(cpu: Cpu, value: int) -> None:
    cpu.cr2 = value


_CR_SETTERS: Final = {0: set_cr0, 2: _set_cr2, 3: set_cr3, 4: set_cr4, 8: set_cr8}
_CR_GETTERS: Final[dict[int, Callable[[Cpu], int]]] = {
    0: lambda cpu: cpu.cr0,
    2: lambda cpu: cpu.cr2,
    3: lambda cpu: cpu.cr3,
    4: lambda cpu: cpu.cr4,
    8: lambda cpu: cpu.outside.task_priority,
}


def _cr_number(cpu: Cpu, insn: Insn) -> int:
    number = reg_number(insn)
    if number not in _CR_SETTERS or (number == 8 and cpu.mode != 64):
        raise GuestFault(UD)
    require_cpl0(cpu)
    return number


def mov_to_cr(cpu: Cpu, insn: Insn) -> None:
    number = _cr_number(cpu, insn)
    value = cpu.regs[rm_number(insn)]
    _CR_SETTERS[number](cpu, value if cpu.mode == 64 else value & M32)


def mov_from_cr(cpu: Cpu, insn: Insn) -> None:
    number = _cr_number(cpu, insn)
    value = _CR_GETTERS[number](cpu)
    cpu.regs[rm_number(insn)] = value if cpu.mode == 64 else value & M32


def lmsw(cpu: Cpu, insn: Insn) -> None:
    """Loads PE, MP, EM and TS; PE can be set but not cleared."""
    require_cpl0(cpu)
    low = read16(cpu, insn) & 0xF
    set_cr0(cpu, cpu.cr0 & ~0xE | low)


def smsw(cpu: Cpu, insn: Insn) -> None:
    """Stores CR0: 16 bits in memory, the operand size in a register."""
    forbid_in_user_mode(cpu)
    write_rm(cpu, insn, cpu.cr0)


def clts(cpu: Cpu, insn: Insn) -> None:
    require_cpl0(cpu)
    cpu.cr0 &= ~CR0_TS


# -- debug registers --------------------------------------------------------------------------------------------


def _dr_number(cpu: Cpu, insn: Insn) -> int:
    """Checks of both MOV DRn (SDM vol. 3, 17.2)."""
    number = reg_number(insn)
    if number >= 8 or (number in (4, 5) and cpu.cr4 & CR4_DE):
        raise GuestFault(UD)
    require_cpl0(cpu)
    if cpu.dr[7] & DR7_GD:
        cpu.dr[6] |= DR6_BD
        raise GuestFault(DB, note="debug registers are guarded by DR7.GD")
    return number + 2 if number in (4, 5) else number  # aliases of DR6 and DR7 (SDM vol. 3, 17.2.2)


def mov_from_dr(cpu: Cpu, insn: Insn) -> None:
    number = _dr_number(cpu, insn)
    value = cpu.dr[number]
    cpu.regs[rm_number(insn)] = value if cpu.mode == 64 else value & M32


def mov_to_dr(cpu: Cpu, insn: Insn) -> None:
    number = _dr_number(cpu, insn)
    value = cpu.regs[rm_number(insn)]
    if cpu.mode != 64:
        value &= M32
    if number >= 6:
        if value >> 32:
            raise _no(f"DR{number}: reserved bits above 31")
        value = value & _DR6_BITS | _DR6_FIXED if number == 6 else value & _DR7_BITS | _DR7_FIXED
    cpu.dr[number] = value
    cpu.debug_changed()


# -- translations and caches ------------------------------------------------------------------------------------


def invlpg(cpu: Cpu, insn: Insn) -> None:
    """Drops the translation of one address; a non-canonical one is ignored (SDM vol. 2, INVLPG)."""
    operand = memory_operand(insn)
    require_cpl0(cpu)
    linear = offset(insn, operand, cpu.rip)(cpu)
    if cpu.mode != 64:
        linear = linear + cpu.segs[operand.seg].base & M32
    elif operand.seg >= FS:
        linear = linear + cpu.segs[operand.seg].base & M64
    if canonical(linear):
        cpu.flush_tlb(linear)
        cpu.outside.mapping_changed(linear)


def invpcid(cpu: Cpu, insn: Insn) -> None:
    """Drops one address's translation where the descriptor names the current PCID, else all of them, as is allowed."""
    operand = memory_operand(insn)
    if not cpuid.has("invpcid"):
        raise GuestFault(UD)
    require_cpl0(cpu)
    kind = cpu.regs[reg_number(insn)] & (M64 if cpu.mode == 64 else M32)
    if kind > _INVPCID_LAST:
        raise _no(f"INVPCID: type {kind:#x}")
    at = offset(insn, operand, cpu.rip)(cpu)
    pcid = cpu.load(operand.seg, at, 8)
    linear = cpu.load(operand.seg, at + 8 & MASKS[insn.adsize], 8)
    if pcid & ~_PCID:
        raise _no(f"INVPCID: reserved bits of the descriptor {pcid:#x}")
    if kind in (_INVPCID_ADDRESS, _INVPCID_CONTEXT) and pcid and not cpu.cr4 & CR4_PCIDE:
        raise _no(f"INVPCID: PCID {pcid:#x} without CR4.PCIDE")
    if kind == _INVPCID_ADDRESS and not canonical(linear):
        raise _no(f"INVPCID: {linear:#x} is not canonical")
    if kind == _INVPCID_ADDRESS and pcid == (cpu.cr3 & _PCID if cpu.cr4 & CR4_PCIDE else 0):
        cpu.flush_tlb(linear)
        cpu.outside.mapping_changed(linear)
    else:
        _flush(cpu)


def invalidate_caches(cpu: Cpu, insn: Insn) -> None:
    """INVD and WBINVD: there are no caches to write back."""
    require_cpl0(cpu)
