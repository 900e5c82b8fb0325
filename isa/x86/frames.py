"""Stack frames of transfers: pushes that all succeed or none, pops that move nothing, and the stacks a TSS names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.base import Access, GuestFault
from isa.x86.descriptors import M32, M64, system_linear
from isa.x86.paging import translate
from isa.x86.segments import canonical, within
from isa.x86.state import ATTR_DB, RSP, SS, SS_FAULT, TS, Segment

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_TSS32_BIT: Final = 8  # in the type of a TSS descriptor


def stack_mask(segment: Segment) -> int:
    """Mask of the stack pointer outside 64-bit mode (SDM vol. 1, 6.2.3)."""
    return M32 if segment.attr & ATTR_DB else 0xFFFF


class Frame:
    """Values to push on a stack, possibly not yet the current one; memory changes only in `commit`.

    `segment` is None for the flat stack of 64-bit mode. `user` tells whether the code that will own the stack runs at
    CPL 3. Pushes outside the stack raise #SS with `error`. `sp` is the stack pointer after the pushes so far.
    """

    __slots__ = ("_cpu", "_error", "_items", "_mask", "_segment", "_user", "sp")

    def __init__(self, cpu: Cpu, segment: Segment | None, sp: int, user: bool, error: int = 0) -> None:
        self._cpu, self._segment, self._user, self._error = cpu, segment, user, error
        self._mask = M64 if segment is None else stack_mask(segment)
        self._items: list[tuple[int, int, int]] = []
        self.sp = sp

    @classmethod
    def current(cls, cpu: Cpu, error: int = 0) -> Frame:
        """A frame on the stack in use."""
        return cls(cpu, None if cpu.mode == 64 else cpu.segs[SS], cpu.regs[RSP], cpu.cpl == 3, error)

    def push(self, value: int, size: int) -> None:
        """Plan to push the low `size` bytes of `value`."""
        offset = self.sp - size & self._mask
        self.sp = self.sp & ~self._mask | offset
        if self._segment is None:
            if not (canonical(offset) and canonical(offset + size - 1 & M64)):
                raise GuestFault(SS_FAULT, self._error, note=f"stack push at non-canonical {offset:#x}")
            linear = offset
        else:
            if not within(self._segment, offset, size):
                raise GuestFault(SS_FAULT, self._error, note=f"stack push at {offset:#x} is outside the limit of SS")
            linear = self._segment.base + offset & M32
        self._items.append((linear, size, value & (1 << size * 8) - 1))

    def commit(self) -> None:
        """Write all pushed values, after every page they touch was found writable; raises #PF otherwise."""
        cpu, pages = self._cpu, {}
        for linear, size, _ in self._items:
            for at in (linear, system_linear(cpu, linear + size - 1)):
                page = at & ~0xFFF
                if page not in pages:
                    try:
                        pages[page] = translate(cpu, at, Access.WRITE, self._user).gpa & ~0xFFF
                    except GuestFault as fault:
                        fault.note = f"stack push at {at:#x} faulted"
                        raise
        for linear, size, value in self._items:
            cpu.touched(linear, size, True)
            first = min(size, 0x1000 - (linear & 0xFFF))
            cpu.memory.write(pages[linear & ~0xFFF] | linear & 0xFFF, first, value & (1 << first * 8) - 1)
            if first < size:
                following = system_linear(cpu, linear + first)
                cpu.memory.write(pages[following & ~0xFFF], size - first, value >> first * 8)


class Pops:
    """Reads values off the current stack without moving its pointer; `sp` is what the pointer becomes."""

    __slots__ = ("_cpu", "_mask", "sp")

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._mask = M64 if cpu.mode == 64 else stack_mask(cpu.segs[SS])
        self.sp = cpu.regs[RSP]

    def pop(self, size: int) -> int:
        """The next `size` bytes; raises what a load through SS does."""
        value = self._cpu.load(SS, self.sp & self._mask, size)
        self.skip(size)
        return value

    def skip(self, count: int) -> None:
        self.sp = self.sp & ~self._mask | self.sp + count & self._mask


def inner_stack(cpu: Cpu, cpl: int, ext: int = 0) -> tuple[int, int]:
    """(SS selector, stack pointer) that a 16- or 32-bit TSS holds for level `cpl`; #TS beyond its limit."""
    wide = bool(cpu.tr.attr & _TSS32_BIT)
    at, size = (4 + cpl * 8, 4) if wide else (2 + cpl * 4, 2)
    _inside_tss(cpu, at + size + 1, ext)
    base = cpu.tr.base
    return (
        cpu.load_linear(system_linear(cpu, base + at + size), 2, False),
        cpu.load_linear(system_linear(cpu, base + at), size, False),
    )


def inner_rsp(cpu: Cpu, cpl: int, ist: int = 0, ext: int = 0) -> int:
    """RSP that a 64-bit TSS holds for level `cpl`, or in interrupt-stack-table entry `ist` (SDM vol. 3, 7.7)."""
    at = 28 + ist * 8 if ist else 4 + cpl * 8
    _inside_tss(cpu, at + 7, ext)
    rsp = cpu.load_linear(system_linear(cpu, cpu.tr.base + at), 8, False)
    if not canonical(rsp):
        raise GuestFault(SS_FAULT, ext, note=f"the TSS names the non-canonical stack {rsp:#x}")
    return rsp


def _inside_tss(cpu: Cpu, last: int, ext: int) -> None:
    if last > cpu.tr.limit:
        error = cpu.tr.selector & 0xFFFC | ext
        raise GuestFault(TS, error, note=f"TSS limit {cpu.tr.limit:#x} is below the stack fields (up to {last:#x})")
