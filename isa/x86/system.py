"""The dispatch of system instructions: one function a row of the sensitive table, by its name.

Each function is called with `cpu.rip` on the instruction. It raises GuestFault with nothing changed, or completes; if
it chose the next RIP itself (or wants to run again) it sets `cpu.transferred`, else its runner advances RIP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86 import control, cpuid, fartransfer, flagops, msr, portio, returns, segmoves, syscall, tables
from isa.x86.decode import Insn
from isa.x86.descriptors import M32
from isa.x86.privilege import require_cpl0, undefined
from isa.x86.state import CR4_PCE, CR4_TSD, GP, RAX, RBX, RCX, RDX, UD

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

SystemFunction = Callable[["Cpu", Insn], None]


def _split(cpu: Cpu, value: int) -> None:
    """A 64-bit result into EDX:EAX."""
    cpu.regs[RAX], cpu.regs[RDX] = value & M32, value >> 32


def _cpuid(cpu: Cpu, insn: Insn) -> None:
    regs = cpu.regs
    regs[RAX], regs[RBX], regs[RCX], regs[RDX] = cpuid.cpuid(cpu, regs[RAX] & M32, regs[RCX] & M32)


def _check_tsd(cpu: Cpu) -> None:
    if cpu.cr4 & CR4_TSD and cpu.cpl != 0:
        raise GuestFault(GP, 0, note="the time-stamp counter is kept from user code by CR4.TSD")


def _rdtsc(cpu: Cpu, insn: Insn) -> None:
    _check_tsd(cpu)
    _split(cpu, msr.timestamp(cpu))


def _rdtscp(cpu: Cpu, insn: Insn) -> None:
    if not cpuid.has("rdtscp"):
        raise GuestFault(UD)
    _check_tsd(cpu)
    _split(cpu, msr.timestamp(cpu))
    cpu.regs[RCX] = cpu.tsc_aux


def _rdpmc(cpu: Cpu, insn: Insn) -> None:
    """There are no performance counters, so every index is invalid."""
    why = "no such performance counter" if cpu.cpl == 0 or cpu.cr4 & CR4_PCE else "RDPMC needs CPL 0 or CR4.PCE"
    raise GuestFault(GP, 0, note=why)


def _serialize(cpu: Cpu, insn: Insn) -> None:
    """SERIALIZE: nothing runs ahead here (SDM vol. 3, 9.3)."""


def _rdmsr(cpu: Cpu, insn: Insn) -> None:
    require_cpl0(cpu)
    _split(cpu, msr.read(cpu, cpu.regs[RCX] & M32))


def _wrmsr(cpu: Cpu, insn: Insn) -> None:
    require_cpl0(cpu)
    msr.write(cpu, cpu.regs[RCX] & M32, (cpu.regs[RDX] & M32) << 32 | cpu.regs[RAX] & M32)


SYSTEM: Final[dict[str, SystemFunction]] = {
    "serialize": _serialize,
    "cli": flagops.cli,
    "sti": flagops.sti,
    "pushf": flagops.pushf,
    "popf": flagops.popf,
    "hlt": flagops.hlt,
    "in": portio.port_in,
    "out": portio.port_out,
    "ins": portio.ins,
    "outs": portio.outs,
    "int": flagops.int_n,
    "int3": flagops.int3,
    "into": flagops.into,
    "int1": flagops.int1,
    "iret": returns.iret,
    "far_call": fartransfer.far_call,
    "far_jmp": fartransfer.far_jmp,
    "far_ret": returns.far_ret,
    "mov_from_cr": control.mov_from_cr,
    "mov_to_cr": control.mov_to_cr,
    "mov_from_dr": control.mov_from_dr,
    "mov_to_dr": control.mov_to_dr,
    "lmsw": control.lmsw,
    "smsw": control.smsw,
    "clts": control.clts,
    "lgdt": tables.lgdt,
    "lidt": tables.lidt,
    "sgdt": tables.sgdt,
    "sidt": tables.sidt,
    "lldt": tables.lldt,
    "ltr": tables.ltr,
    "sldt": tables.sldt,
    "str": tables.store_tr,
    "lar": tables.lar,
    "lsl": tables.lsl,
    "verr": tables.verr,
    "verw": tables.verw,
    "arpl": tables.arpl,
    "push_seg": segmoves.push_seg,
    "pop_seg": segmoves.pop_seg,
    "mov_from_seg": segmoves.mov_from_seg,
    "mov_to_seg": segmoves.mov_to_seg,
    "load_far_pointer": segmoves.load_far_pointer,
    "cpuid": _cpuid,
    "rdtsc": _rdtsc,
    "rdtscp": _rdtscp,
    "rdpmc": _rdpmc,
    "rdmsr": _rdmsr,
    "wrmsr": _wrmsr,
    "swapgs": segmoves.swapgs,
    "syscall": syscall.syscall,
    "sysret": syscall.sysret,
    "sysenter": syscall.sysenter,
    "sysexit": syscall.sysexit,
    "invlpg": control.invlpg,
    "invd": control.invalidate_caches,
    "wbinvd": control.invalidate_caches,
    "invpcid": control.invpcid,
    "stac": flagops.stac,
    "clac": flagops.clac,
    "rdfsbase": segmoves.rdfsbase,
    "rdgsbase": segmoves.rdgsbase,
    "wrfsbase": segmoves.wrfsbase,
    "wrgsbase": segmoves.wrgsbase,
    "ud": undefined,
    # Not in this CPU's feature set: XSAVE (so CR4.OSXSAVE cannot be set), protection keys, MONITOR, RDRAND,
    # RDSEED, VMX and SVM; and RSM outside system-management mode, which there is none of.
    "xgetbv": undefined,
    "xsetbv": undefined,
    "xsave": undefined,
    "rdpkru": undefined,
    "wrpkru": undefined,
    "monitor": undefined,
    "mwait": undefined,
    "rdrand": undefined,
    "rdseed": undefined,
    "rsm": undefined,
    "vmx": undefined,
    "undefined_feature": undefined,
}
