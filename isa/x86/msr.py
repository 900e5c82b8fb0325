"""Model-specific registers: a table of what RDMSR and WRMSR reach, with the checks of each (SDM vol. 4, chapter 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86 import cpuid
from isa.x86.descriptors import M64
from isa.x86.paging import PHYSICAL_BITS
from isa.x86.segments import canonical, update_mode
from isa.x86.segmoves import set_base
from isa.x86.state import EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, FS, GP, GS

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_M32: Final = 0xFFFF_FFFF
_EFER_BITS: Final = EFER_SCE | EFER_LME | EFER_NXE
_APIC_RESERVED: Final = 0x6FF | ~((1 << PHYSICAL_BITS) - 1) & M64  # bit 10 is x2APIC mode, which there is none of
_APIC_BSP: Final = 1 << 8
_PAT_TYPES: Final = frozenset((0, 1, 4, 5, 6, 7))  # SDM vol. 3, table 11-10
_MTRR_TYPES: Final = frozenset((0, 1, 4, 5, 6))
_VARIABLE_MTRRS: Final = 8
_FAST_STRINGS: Final = 1
_MISC_FIXED: Final = 3 << 11  # no branch trace storage, no PEBS


@dataclass(frozen=True, slots=True)
class Msr:
    """One register: `write` is None where it is read-only; both raise #GP(0) as WRMSR and RDMSR do."""

    name: str
    read: Callable[[Cpu], int]
    write: Callable[[Cpu, int], None] | None


def read(cpu: Cpu, index: int) -> int:
    """Value of MSR `index`; raises #GP(0) where there is none."""
    found = _TABLE.get(index)
    if found is None:
        raise _no(f"RDMSR of unknown MSR {index:#x}")
    return found.read(cpu)


def write(cpu: Cpu, index: int, value: int) -> None:
    """Write MSR `index`; raises #GP(0) where there is none, it is read-only, or the value is reserved."""
    found = _TABLE.get(index)
    if found is None or found.write is None:
        raise _no(f"WRMSR to {'unknown' if found is None else 'read-only'} MSR {index:#x}")
    found.write(cpu, value)


def _no(why: str) -> GuestFault:
    return GuestFault(GP, 0, note=why)


def _need_canonical(value: int) -> None:
    if not canonical(value):
        raise _no(f"WRMSR of non-canonical {value:#x}")


# -- registers with behaviour -----------------------------------------------------------------------------------


def timestamp(cpu: Cpu) -> int:
    """The time-stamp counter (SDM vol. 3, 17.17)."""
    return cpu.outside.timestamp() + cpu.tsc_offset & M64


def _write_tsc(cpu: Cpu, value: int) -> None:
    _write_tsc_adjust(cpu, value - cpu.outside.timestamp() & M64)


def _read_tsc_adjust(cpu: Cpu) -> int:
    """IA32_TSC_ADJUST: what writes to it and to the TSC moved the TSC by since the reset (SDM vol. 3, 17.17.3)."""
    return cpu.tsc_offset


def _write_tsc_adjust(cpu: Cpu, value: int) -> None:
    cpu.tsc_offset = value
    deadline = cpu.outside.tsc_deadline
    if deadline:  # the same time of the counter is another time now
        cpu.outside.set_tsc_deadline(deadline)


def _read_apic_base(cpu: Cpu) -> int:
    if not cpu.apic_base:
        raise _no("RDMSR of IA32_APIC_BASE without a local APIC")
    return cpu.apic_base


def _write_apic_base(cpu: Cpu, value: int) -> None:
    if not cpu.apic_base or value & _APIC_RESERVED & ~_APIC_BSP:
        raise _no("WRMSR to IA32_APIC_BASE: reserved bits, or no local APIC")
    cpu.apic_base = value
    cpu.outside.apic_base_changed(value)


def _write_deadline(cpu: Cpu, value: int) -> None:
    cpu.outside.set_tsc_deadline(value)


def _write_efer(cpu: Cpu, value: int) -> None:
    """IA32_EFER: LMA is read-only (writes to it are ignored), LME fixed while paging is on (SDM vol. 3, 2.2.1)."""
    if value & ~(_EFER_BITS | EFER_LMA):
        raise _no("IA32_EFER: reserved bits")
    changed = (cpu.efer ^ value) & _EFER_BITS
    if changed & EFER_LME and cpu.paging:
        raise _no("IA32_EFER: LME changed while paging is on")
    cpu.efer = value & _EFER_BITS | cpu.efer & EFER_LMA
    if changed & (EFER_LME | EFER_NXE):
        update_mode(cpu)
        cpu.flush_tlb(None)
        cpu.outside.mapping_changed(None)


def _write_star(cpu: Cpu, value: int) -> None:
    cpu.star = value


def _write_lstar(cpu: Cpu, value: int) -> None:
    _need_canonical(value)
    cpu.lstar = value


def _write_cstar(cpu: Cpu, value: int) -> None:
    _need_canonical(value)
    cpu.cstar = value


def _write_sfmask(cpu: Cpu, value: int) -> None:
    if value >> 32:
        raise _no("IA32_FMASK: reserved bits above 31")
    cpu.sfmask = value


def _write_fs_base(cpu: Cpu, value: int) -> None:
    _need_canonical(value)
    set_base(cpu, FS, value)


def _write_gs_base(cpu: Cpu, value: int) -> None:
    _need_canonical(value)
    set_base(cpu, GS, value)


def _write_kernel_gs_base(cpu: Cpu, value: int) -> None:
    _need_canonical(value)
    cpu.kernel_gs_base = value


def _write_sysenter_cs(cpu: Cpu, value: int) -> None:
    cpu.sysenter_cs = value & _M32


def _write_sysenter_esp(cpu: Cpu, value: int) -> None:
    _need_canonical(value)
    cpu.sysenter_esp = value


def _write_sysenter_eip(cpu: Cpu, value: int) -> None:
    _need_canonical(value)
    cpu.sysenter_eip = value


def _write_tsc_aux(cpu: Cpu, value: int) -> None:
    if value >> 32:
        raise _no("IA32_TSC_AUX: reserved bits above 31")
    cpu.tsc_aux = value


def _write_pat(cpu: Cpu, value: int) -> None:
    if any(byte not in _PAT_TYPES for byte in value.to_bytes(8, "little")):
        raise _no("IA32_PAT: reserved memory type")
    cpu.pat = value


# -- registers that only hold a value ---------------------------------------------------------------------------


def _constant(name: str, value: int) -> Msr:
    return Msr(name, lambda cpu: value, None)


def _storage(name: str, index: int, reset: int, check: Callable[[int], bool], mask: int = M64) -> Msr:
    """A value in `misc_msrs`; `check` refuses what is reserved, bits outside `mask` keep their reset value."""

    def store(cpu: Cpu, value: int) -> None:
        if not check(value):
            raise _no(f"{name}: reserved value {value:#x}")
        cpu.misc_msrs[index] = value & mask | reset & ~mask

    return Msr(name, lambda cpu: cpu.misc_msrs.get(index, reset), store)


def _any(value: int) -> bool:
    return True


def _zero(value: int) -> bool:
    return value == 0


def _fixed_mtrr(value: int) -> bool:
    return all(byte in _MTRR_TYPES for byte in value.to_bytes(8, "little"))


def _mtrr_base(value: int) -> bool:
    return value >> PHYSICAL_BITS == 0 and not value & 0xF00 and value & 0xFF in _MTRR_TYPES


def _mtrr_mask(value: int) -> bool:
    return value >> PHYSICAL_BITS == 0 and not value & 0x7FF


def _mtrr_default(value: int) -> bool:
    return not value & ~0xCFF and value & 0xFF in _MTRR_TYPES


def _mtrrs() -> dict[int, Msr]:
    """Memory types are stored and do nothing, for there are no caches (SDM vol. 3, 11.11)."""
    found = {
        0xFE: _constant("IA32_MTRRCAP", 1 << 10 | 1 << 8 | _VARIABLE_MTRRS),  # write combining, fixed ranges
        0x2FF: _storage("IA32_MTRR_DEF_TYPE", 0x2FF, 0, _mtrr_default),
    }
    for n in range(_VARIABLE_MTRRS):
        found[0x200 + 2 * n] = _storage(f"IA32_MTRR_PHYSBASE{n}", 0x200 + 2 * n, 0, _mtrr_base)
        found[0x201 + 2 * n] = _storage(f"IA32_MTRR_PHYSMASK{n}", 0x201 + 2 * n, 0, _mtrr_mask)
    for index in (0x250, 0x258, 0x259, *range(0x268, 0x270)):
        found[index] = _storage(f"IA32_MTRR_FIX {index:#x}", index, 0, _fixed_mtrr)
    return found


# Every load is checked by software before it is made, so none of these leaks is possible: RDCL, L1TF on entry to a
# guest, SSB, MDS, page-size change, TAA, the three of stale MMIO data, BHI, PBRSB, GDS, RFDS, ITS (SDM vol. 4, table
# 2-2).
_NOT_AFFECTED: Final = sum(1 << bit for bit in (0, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62))


def _table() -> dict[int, Msr]:
    table = {
        0x10: Msr("IA32_TIME_STAMP_COUNTER", timestamp, _write_tsc),
        0x3B: Msr("IA32_TSC_ADJUST", _read_tsc_adjust, _write_tsc_adjust),
        0x17: _constant("IA32_PLATFORM_ID", 0),
        0x1B: Msr("IA32_APIC_BASE", _read_apic_base, _write_apic_base),
        0x8B: _storage("IA32_BIOS_SIGN_ID", 0x8B, 0, _any),
        0x174: Msr("IA32_SYSENTER_CS", lambda cpu: cpu.sysenter_cs, _write_sysenter_cs),
        0x175: Msr("IA32_SYSENTER_ESP", lambda cpu: cpu.sysenter_esp, _write_sysenter_esp),
        0x176: Msr("IA32_SYSENTER_EIP", lambda cpu: cpu.sysenter_eip, _write_sysenter_eip),
        0x179: _constant("IA32_MCG_CAP", 0),  # no machine-check banks
        0x17A: _storage("IA32_MCG_STATUS", 0x17A, 0, _zero),
        0x1A0: _storage("IA32_MISC_ENABLE", 0x1A0, _MISC_FIXED | _FAST_STRINGS, _any, _FAST_STRINGS),
        0x277: Msr("IA32_PAT", lambda cpu: cpu.pat, _write_pat),
        0xC000_0080: Msr("IA32_EFER", lambda cpu: cpu.efer, _write_efer),
        0xC000_0081: Msr("IA32_STAR", lambda cpu: cpu.star, _write_star),
        0xC000_0082: Msr("IA32_LSTAR", lambda cpu: cpu.lstar, _write_lstar),
        0xC000_0083: Msr("IA32_CSTAR", lambda cpu: cpu.cstar, _write_cstar),
        0xC000_0084: Msr("IA32_FMASK", lambda cpu: cpu.sfmask, _write_sfmask),
        0xC000_0100: Msr("IA32_FS_BASE", lambda cpu: cpu.segs[FS].base, _write_fs_base),
        0xC000_0101: Msr("IA32_GS_BASE", lambda cpu: cpu.segs[GS].base, _write_gs_base),
        0xC000_0102: Msr("IA32_KERNEL_GS_BASE", lambda cpu: cpu.kernel_gs_base, _write_kernel_gs_base),
    }
    if cpuid.has("arch_capabilities"):
        table[0x10A] = _constant("IA32_ARCH_CAPABILITIES", _NOT_AFFECTED)
    if cpuid.has("tsc_deadline"):
        table[0x6E0] = Msr("IA32_TSC_DEADLINE", lambda cpu: cpu.outside.tsc_deadline, _write_deadline)
    if cpuid.has("rdtscp"):
        table[0xC000_0103] = Msr("IA32_TSC_AUX", lambda cpu: cpu.tsc_aux, _write_tsc_aux)
    return table | _mtrrs()


_TABLE: Final = _table()
