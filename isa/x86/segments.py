"""Segmentation: linear addresses with limit and type checks, and loads of segment registers (SDM vol. 3, 3.4, 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.descriptors import M32, M64, Descriptor, accessed, fetch, null, selector_fault
from isa.x86.state import (
    ATTR_DB,
    ATTR_DPL,
    ATTR_L,
    ATTR_P,
    CR0_PE,
    CS,
    DS,
    EFER_LMA,
    ES,
    FS,
    GP,
    GS,
    NP,
    SS,
    SS_FAULT,
    VM,
    Segment,
)

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_VM86_ATTR: Final = 0xF3  # present, DPL 3, data, read/write, accessed (SDM vol. 3, 20.2.1)
_CODE, _WRITABLE, _DOWN = 8, 2, 4  # type bits: code; writable data or readable code; expand-down data
DATA_SEGMENTS: Final = (ES, DS, FS, GS)


def canonical(address: int) -> bool:
    """True where bits 63 to 47 are equal (SDM vol. 1, 3.3.7.1)."""
    return not 0x8000_0000_0000 <= address < 0xFFFF_8000_0000_0000


def in_vm86(cpu: Cpu) -> bool:
    """True in virtual-8086 mode."""
    return bool(cpu.system_flags & VM) and cpu.protected


def real_style(cpu: Cpu) -> bool:
    """True where selectors are paragraph numbers: real and virtual-8086 mode."""
    return not cpu.protected or bool(cpu.system_flags & VM)


def update_mode(cpu: Cpu) -> None:
    """Recompute `cpu.mode` and `cpu.cpl` after CS, SS, CR0, EFER or EFLAGS.VM changed.

    CPL is the DPL of SS, as in a VMCS (SDM vol. 3, 24.4.1), because the RPL of CS is arbitrary between setting CR0.PE
    and the first far jump; a null SS in 64-bit mode holds CPL in its RPL.
    """
    attr = cpu.segs[CS].attr
    if attr & ATTR_L and cpu.efer & EFER_LMA:
        cpu.mode = 64
    else:
        cpu.mode = 32 if attr & ATTR_DB else 16
    if not cpu.cr0 & CR0_PE:
        cpu.cpl = 0
    elif cpu.system_flags & VM:
        cpu.cpl = 3
    else:
        stack = cpu.segs[SS]
        cpu.cpl = (stack.attr & ATTR_DPL) >> 5 if stack.attr & ATTR_P else stack.selector & 3


# -- linear addresses -------------------------------------------------------------------------------------------


def within(segment: Segment, offset: int, size: int) -> bool:
    """True where `size` bytes at `offset` lie inside the limit, which an expand-down segment has below."""
    last = offset + size - 1
    if segment.attr & (_CODE | _DOWN) == _DOWN:
        return offset > segment.limit and last <= (M32 if segment.attr & ATTR_DB else 0xFFFF)
    return last <= segment.limit


def linearize(cpu: Cpu, seg: int, offset: int, size: int, write: bool) -> int:
    """Linear address of `size` bytes at `offset` in segment register `seg`; raises #SS(0) for SS, else #GP(0)."""
    segment = cpu.segs[seg]
    if cpu.mode == 64:  # only FS and GS have a base, and none a limit or a type (SDM vol. 3, 3.4.4)
        linear = offset + segment.base & M64 if seg >= FS else offset
        if canonical(linear) and canonical(linear + size - 1 & M64):
            return linear
        raise _violation(seg, f"non-canonical address {linear:#x}")
    if not real_style(cpu):
        attr = segment.attr
        if not attr & ATTR_P:
            raise _violation(seg, "null segment used")
        if write and attr & (_CODE | _WRITABLE) != _WRITABLE:
            raise _violation(seg, "write to a segment that is not writable")
        if attr & (_CODE | _WRITABLE) == _CODE and not write:
            raise _violation(seg, "read from an execute-only segment")
    if not within(segment, offset, size):
        raise _violation(seg, f"offset {offset:#x} is outside the limit {segment.limit:#x}")
    return segment.base + offset & M32


def _violation(seg: int, why: str) -> GuestFault:
    return GuestFault(SS_FAULT if seg == SS else GP, 0, note=why)


# -- segment registers ------------------------------------------------------------------------------------------


def real_segment(cpu: Cpu, seg: int, selector: int) -> Segment:
    """What loading `selector` in real or virtual-8086 mode gives.

    Real mode changes only selector and base: limit and size bits survive from protected mode ("unreal mode"), unless
    the register was unusable. Virtual-8086 mode has fixed attributes.
    """
    if cpu.protected:
        return Segment(selector, selector << 4, 0xFFFF, _VM86_ATTR)
    old = cpu.segs[seg]
    limit, size_bits = (old.limit, old.attr & ~0xFF) if old.attr & ATTR_P else (0xFFFF, 0)
    return Segment(selector, selector << 4, limit, size_bits | (0x9B if seg == CS else 0x93))


def vm86_segment(selector: int) -> Segment:
    """A segment register of virtual-8086 mode, loaded on the way into it."""
    return Segment(selector, selector << 4, 0xFFFF, _VM86_ATTR)


def load_segment(cpu: Cpu, seg: int, selector: int) -> None:
    """Load ES, SS, DS, FS or GS as MOV and POP do; raises #GP, #NP or #SS and then changes nothing."""
    if real_style(cpu):
        cpu.segs[seg] = real_segment(cpu, seg, selector)
    elif seg == SS:
        if null(selector) and cpu.mode == 64 and cpu.cpl != 3 and selector & 3 == cpu.cpl:
            cpu.segs[SS] = Segment(selector, 0, 0, 0)
        else:
            cpu.segs[SS] = stack_segment(cpu, selector, cpu.cpl, GP)
    else:
        cpu.segs[seg] = data_segment(cpu, selector, GP)


def data_segment(cpu: Cpu, selector: int, vector: int, ext: int = 0) -> Segment:
    """A segment register for data (SDM vol. 2, MOV); a null selector makes it unusable and its base 0.

    Raises `vector` (#GP, or #TS where a TSS gave the selector), and #NP where not present.
    """
    if null(selector):
        return Segment(selector, 0, 0, 0)
    found = fetch(cpu, selector, vector, ext)
    if not found.readable:
        raise selector_fault(vector, selector, "neither data nor readable code", ext)
    if not (found.code and found.conforming) and max(selector & 3, cpu.cpl) > found.dpl:
        why = f"DPL {found.dpl} is below CPL {cpu.cpl} or RPL {selector & 3}"
        raise selector_fault(vector, selector, why, ext)
    if not found.present:
        raise selector_fault(NP, selector, "segment not present", ext)
    return accessed(cpu, found).segment(selector)


def stack_segment(cpu: Cpu, selector: int, cpl: int, vector: int, ext: int = 0) -> Segment:
    """SS for privilege level `cpl`; raises `vector` (#GP, or #TS where a TSS gave it), and #SS where not present."""
    if null(selector):
        raise GuestFault(vector, ext, note="null stack segment")
    found = fetch(cpu, selector, vector, ext)
    if selector & 3 != cpl or found.dpl != cpl:
        why = f"stack segment has RPL {selector & 3} and DPL {found.dpl}, wanted {cpl}"
        raise selector_fault(vector, selector, why, ext)
    if not found.writable:
        raise selector_fault(vector, selector, "stack segment is not writable data", ext)
    if not found.present:
        raise selector_fault(SS_FAULT, selector, "stack segment not present", ext)
    return accessed(cpu, found).segment(selector)


def code_segment(cpu: Cpu, found: Descriptor, cpl: int) -> Segment:
    """CS for a checked code descriptor: its selector carries `cpl`; sets the accessed bit."""
    return accessed(cpu, found).segment(found.selector & 0xFFFC | cpl)


def check_target(cpu: Cpu, segment: Segment, rip: int, ext: int = 0) -> int:
    """The offset a transfer into `segment` goes to; raises #GP(0) outside its limit or the canonical range."""
    if segment.attr & ATTR_L and cpu.long_mode:
        if not canonical(rip):
            raise GuestFault(GP, ext, note=f"transfer to non-canonical {rip:#x}")
        return rip
    rip &= M32
    if rip > segment.limit:
        raise GuestFault(GP, ext, note=f"transfer to {rip:#x}, beyond the limit {segment.limit:#x} of CS")
    return rip


def drop_privileged_data(cpu: Cpu, cpl: int) -> None:
    """On a return to outer level `cpl`, empty the data segment registers it may not use (SDM vol. 3, 5.8.6)."""
    for seg in DATA_SEGMENTS:
        held = cpu.segs[seg]
        if not held.attr & ATTR_P or (seg >= FS and cpu.long_mode and null(held.selector)):
            continue  # unusable already; FS and GS then keep the base that an MSR gave them
        if held.attr & (_CODE | _DOWN) == _CODE | _DOWN:  # conforming code
            continue
        if (held.attr & ATTR_DPL) >> 5 < cpl:
            cpu.segs[seg] = Segment(0, 0, 0, 0)
