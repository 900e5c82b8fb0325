"""Stack frames of transfers: pushes that all succeed or none, pops that move nothing, and the stacks a TSS names."""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Final

from isa.base import Access, GuestFault
from isa.x86.descriptors import M32, M64, system_linear
from isa.x86.segments import canonical, within
from isa.x86.state import ATTR_DB, RSP, SS, SS_FAULT, TS, Segment

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_TSS32_BIT: Final = 8  # in the type of a TSS descriptor
_LOWER_HALF: Final = 0x8000_0000_0000  # canonical addresses end here and begin again there
_UPPER_HALF: Final = 0xFFFF_8000_0000_0000
_LETTERS: Final = {2: "H", 4: "I", 8: "Q"}


def stack_mask(segment: Segment) -> int:
    """Mask of the stack pointer outside 64-bit mode (SDM vol. 1, 6.2.3)."""
    return M32 if segment.attr & ATTR_DB else 0xFFFF


@functools.cache
def _words(size: int, count: int) -> struct.Struct:
    """The format of `count` values of `size` bytes."""
    return struct.Struct(f"<{count}{_LETTERS[size]}")


class Frame:
    """Values of `size` bytes to push on a stack, possibly not yet the current one; memory changes only in `commit`.

    `segment` is None for the flat stack of 64-bit mode. `user` tells whether the code that will own the stack runs at
    CPL 3. Pushes outside the stack raise #SS with `error`. `sp` is the stack pointer after the pushes so far.
    """

    __slots__ = ("_cpu", "_error", "_items", "_mask", "_segment", "_size", "_user", "sp")

    def __init__(self, cpu: Cpu, segment: Segment | None, sp: int, size: int, user: bool, error: int = 0) -> None:
        self._cpu, self._segment, self._size, self._user, self._error = cpu, segment, size, user, error
        self._mask = M64 if segment is None else stack_mask(segment)
        self._items: list[tuple[int, int]] = []  # (linear address, value)
        self.sp = sp

    @classmethod
    def current(cls, cpu: Cpu, size: int, error: int = 0) -> Frame:
        """A frame on the stack in use."""
        return cls(cpu, None if cpu.mode == 64 else cpu.segs[SS], cpu.regs[RSP], size, cpu.cpl == 3, error)

    def push(self, *values: int) -> None:
        """Plan to push the low bytes of each value, the first one first."""
        size, segment, mask, bits = self._size, self._segment, self._mask, (1 << self._size * 8) - 1
        top, low = self.sp - size, self.sp - size * len(values)
        if segment is None and (low >= _UPPER_HALF or 0 <= low <= self.sp <= _LOWER_HALF):
            self._items += [(top - n * size, value & bits) for n, value in enumerate(values)]
            self.sp = low
            return
        for value in values:
            offset = self.sp - size & mask
            self.sp = self.sp & ~mask | offset
            if segment is None:
                if not (canonical(offset) and canonical(offset + size - 1 & M64)):
                    raise GuestFault(SS_FAULT, self._error, note=f"stack push at non-canonical {offset:#x}")
                linear = offset
            else:
                if not within(segment, offset, size):
                    note = f"stack push at {offset:#x} is outside the limit of SS"
                    raise GuestFault(SS_FAULT, self._error, note=note)
                linear = segment.base + offset & M32
            self._items.append((linear, value & bits))

    def commit(self) -> None:
        """Write all pushed values, after every page they touch was found writable; raises #PF otherwise."""
        if self._commit_at_once():
            return
        cpu, size = self._cpu, self._size
        pages = {}
        for linear, _ in self._items:
            for at in (linear, system_linear(cpu, linear + size - 1)):
                page = at & ~0xFFF
                if page not in pages:
                    pages[page] = self._writable(at) & ~0xFFF
        for linear, value in self._items:
            cpu.touched(linear, size, True)
            first = min(size, 0x1000 - (linear & 0xFFF))
            cpu.memory.write(pages[linear & ~0xFFF] | linear & 0xFFF, first, value & (1 << first * 8) - 1)
            if first < size:
                following = system_linear(cpu, linear + first)
                cpu.memory.write(pages[following & ~0xFFF], size - first, value >> first * 8)

    def _commit_at_once(self) -> bool:
        """Write values that lie one below the other in one page, if that is plain memory; False: nothing done."""
        items, cpu = self._items, self._cpu
        first, low = items[0][0], items[-1][0]
        length = self._size * len(items)
        if first - low != length - self._size or low & 0xFFF > 0x1000 - length:
            return False
        tlb = cpu.tlb(Access.WRITE, self._user)
        delta = tlb.get(low >> 12)
        if delta is None:
            self._writable(first)
            delta = tlb.get(low >> 12)
            if delta is None:  # watched, by a write trace or a breakpoint, or a device
                return False
        values = [value for _, value in reversed(items)]
        _words(self._size, len(items)).pack_into(cpu.ram, low + delta, *values)
        return True

    def _writable(self, at: int) -> int:
        """Guest-physical address for a write at `at`."""
        try:
            return self._cpu.physical(at, Access.WRITE, self._user)
        except GuestFault as fault:
            fault.note = f"stack push at {at:#x} faulted"
            raise


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

    def at_once(self, size: int, count: int) -> tuple[int, ...] | None:
        """The next `count` values, in 64-bit mode, if plain memory in one page holds them; None: nothing popped."""
        cpu, sp = self._cpu, self.sp
        delta = cpu.read_tlb.get(sp >> 12)
        if delta is None or cpu.mode != 64 or sp & 0xFFF > 0x1000 - size * count:
            return None
        self.sp = sp + size * count
        return _words(size, count).unpack_from(cpu.ram, sp + delta)


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
