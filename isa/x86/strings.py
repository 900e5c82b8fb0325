"""String instructions MOVS, CMPS, SCAS, LODS and STOS with their repeat prefixes (SDM vol. 2, REP).

A repeated instruction that faults keeps what it has done: the registers tell how far it came. Where the elements lie in
plain RAM that the software TLB knows, or go upwards to RAM with a write trace, a whole page of them is handled at once;
everything else goes element by element, so that faults, limits and MMIO are exact. INS and OUTS are system instructions
(`isa.x86.portio`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault, Interrupted
from isa.x86.debug import between_iterations
from isa.x86.operands import MASKS, Binder, Op
from isa.x86.segments import linearize, within
from isa.x86.state import DF, DS, ES, RAX, RCX, RDI, RF, RSI, TF

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn

_TURNS: Final = 4096  # elements, or runs of them within a page, that one execution of a REP handles at most
_PAGE: Final = 0x1000
_FORMATS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}  # of `struct`


class _Shape:
    """What opcode and prefixes say: element size and mask, address mask, register bits that stay, source segment."""

    __slots__ = ("bits", "keep", "limit", "mask", "rep", "seg", "size")

    def __init__(self, insn: Insn) -> None:
        self.size = insn.opsize if insn.opcode & 1 else 1
        self.limit, self.bits = MASKS[self.size], self.size * 8
        self.mask = MASKS[insn.adsize]
        self.keep = ~0xFFFF if insn.adsize == 2 else 0  # 32-bit results are zero-extended
        self.seg = insn.seg if insn.seg >= 0 else DS
        self.rep = insn.rep

    def advance(self, cpu: Cpu, index: int, elements: int) -> None:
        """Move an index register by a number of elements in the direction of DF."""
        old, by = cpu.regs[index], elements * self.size
        cpu.regs[index] = old & self.keep | (old - by if cpu.system_flags & DF else old + by) & self.mask


def _window(cpu: Cpu, shape: _Shape, seg: int, index: int, count: int, write: bool) -> tuple[int, int]:
    """(offset in `cpu.ram` of the lowest, number) of the next elements that are plain RAM within one page.

    At most `count` of them, from the index register in the direction of DF; 0 where the next one needs care.
    """
    size, at = shape.size, cpu.regs[index] & shape.mask
    try:
        linear = linearize(cpu, seg, at, size, write)
    except GuestFault:
        return 0, 0
    delta = (cpu.write_tlb if write else cpu.read_tlb).get(linear >> 12)
    within_page = linear & _PAGE - 1
    if delta is None or within_page + size > _PAGE:
        return 0, 0
    if cpu.system_flags & DF:
        count = min(count, within_page // size + 1, at // size + 1)
        down = (count - 1) * size
    else:
        count = min(count, (_PAGE - within_page) // size, (shape.mask + 1 - at) // size)
        down = 0
    if count < 1 or (cpu.mode != 64 and not within(cpu.segs[seg], at - down, count * size)):
        return 0, 0
    return linear - down + delta, count


def _traced(cpu: Cpu, shape: _Shape, count: int) -> tuple[int, int]:
    """(guest-physical address, number) of the next elements to write, in one page of RAM that has a write trace.

    At most `count` of them, upwards from RDI; 0 where the next one needs care.
    """
    size, at = shape.size, cpu.regs[RDI] & shape.mask
    if cpu.system_flags & DF:
        return 0, 0
    try:
        linear = linearize(cpu, ES, at, size, True)
        count = min(count, (_PAGE - (linear & _PAGE - 1)) // size, (shape.mask + 1 - at) // size)
        if count < 1 or (cpu.mode != 64 and not within(cpu.segs[ES], at, count * size)):
            return 0, 0
        gpa = cpu.traced_page(linear)
    except GuestFault:
        return 0, 0
    return (gpa, count) if gpa >= 0 else (0, 0)


# -- MOVS, STOS, LODS ------------------------------------------------------------------------------------------------

Step = Callable[["Cpu"], None]  # one element; registers change behind everything that may fault
Bulk = Callable[["Cpu", int], int]  # up to that many elements at once; how many, or 0 where the next one needs care


def _movs(shape: _Shape) -> tuple[Step, Bulk]:
    size, mask, seg = shape.size, shape.mask, shape.seg

    def step(cpu: Cpu) -> None:
        cpu.store(ES, cpu.regs[RDI] & mask, size, cpu.load(seg, cpu.regs[RSI] & mask, size))
        shape.advance(cpu, RSI, 1)
        shape.advance(cpu, RDI, 1)

    def bulk(cpu: Cpu, count: int) -> int:
        source, readable = _window(cpu, shape, seg, RSI, count, False)
        if not readable:
            return 0
        target, count = _window(cpu, shape, ES, RDI, readable, True)
        gpa = -1
        if not count:
            gpa, count = _traced(cpu, shape, readable)
            if not count:
                return 0
            target = cpu.memory.ram_offset(gpa) + gpa % _PAGE
        ram, length = cpu.ram, count * size
        if cpu.system_flags & DF:
            source += (readable - count) * size  # a window begins at its lowest element
            if 0 < source - target < length:
                return 0  # a downward copy that reads what it wrote
            data = bytes(ram[source : source + length])
        else:
            distance = target - source
            if 0 < distance < size:
                return 0
            if 0 < distance < length:  # an upward copy that reads what it wrote repeats its first bytes
                pattern = bytes(ram[source:target])
                data = (pattern * (length // distance + 1))[:length]
            else:
                data = bytes(ram[source : source + length])
        if gpa < 0:
            ram[target : target + length] = data
        else:
            cpu.memory.write_bytes(gpa, data)
        shape.advance(cpu, RSI, count)
        shape.advance(cpu, RDI, count)
        return count

    return step, bulk


def _stos(shape: _Shape) -> tuple[Step, Bulk]:
    size, mask, limit = shape.size, shape.mask, shape.limit

    def step(cpu: Cpu) -> None:
        cpu.store(ES, cpu.regs[RDI] & mask, size, cpu.regs[RAX] & limit)
        shape.advance(cpu, RDI, 1)

    def bulk(cpu: Cpu, upto: int) -> int:
        target, count = _window(cpu, shape, ES, RDI, upto, True)
        element = (cpu.regs[RAX] & limit).to_bytes(size, "little")
        if count:
            cpu.ram[target : target + count * size] = element * count
        else:
            gpa, count = _traced(cpu, shape, upto)
            if count:
                cpu.memory.write_bytes(gpa, element * count)
        shape.advance(cpu, RDI, count)
        return count

    return step, bulk


def _lods(shape: _Shape) -> tuple[Step, Bulk]:
    size, mask, seg = shape.size, shape.mask, shape.seg
    keep = ~shape.limit if size < 4 else 0

    def step(cpu: Cpu) -> None:
        value = cpu.load(seg, cpu.regs[RSI] & mask, size)
        cpu.regs[RAX] = cpu.regs[RAX] & keep | value
        shape.advance(cpu, RSI, 1)

    def bulk(cpu: Cpu, count: int) -> int:
        source, count = _window(cpu, shape, seg, RSI, count, False)
        if count:  # only the last element stays
            last = source if cpu.system_flags & DF else source + (count - 1) * size
            value = int.from_bytes(cpu.ram[last : last + size], "little")
            cpu.regs[RAX] = cpu.regs[RAX] & keep | value
            shape.advance(cpu, RSI, count)
        return count

    return step, bulk


_MOVERS: Final[dict[int, Callable[[_Shape], tuple[Step, Bulk]]]] = {
    0xA4: _movs, 0xA5: _movs, 0xAA: _stos, 0xAB: _stos, 0xAC: _lods, 0xAD: _lods,
}  # fmt: skip


def _move(insn: Insn, pc: int) -> Op:
    shape = _Shape(insn)
    step, bulk = _MOVERS[insn.opcode](shape)
    if not insn.rep:
        return step
    mask, keep = shape.mask, shape.keep

    def repeat(cpu: Cpu) -> None:
        regs = cpu.regs
        count = regs[RCX] & mask
        regs[RCX] = regs[RCX] & keep | count
        stepping = cpu.system_flags & TF
        turns = _TURNS
        while count:
            done = 0 if stepping else bulk(cpu, count)
            if not done:
                step(cpu)
                done = 1
            count -= done
            regs[RCX] = regs[RCX] & keep | count
            if not count:
                return
            if cpu.debug_pending:
                raise between_iterations(cpu)
            turns -= 1
            if not turns:
                cpu.system_flags |= RF  # an interrupt that comes now pushes it (SDM vol. 3, 17.3.1.1)
                raise Interrupted

    return repeat


# -- CMPS, SCAS ------------------------------------------------------------------------------------------------------

Pair = Callable[["Cpu"], tuple[int, int]]  # the next two values to compare; the index registers move on
# From a count and whether equality goes on: (elements passed, the last two values), 0 where the next one needs care.
Search = Callable[["Cpu", int, bool], tuple[int, int, int]]


def _values(cpu: Cpu, at: int, count: int, size: int) -> tuple[int, ...]:
    """`count` elements from offset `at` of RAM on."""
    return struct.unpack_from(f"<{count}{_FORMATS[size]}", cpu.ram, at)


def _first(left: tuple[int, ...], right: tuple[int, ...], equal: bool) -> int:
    """Index of the first elements that are equal (or differ), or the common length."""
    for n, (a, b) in enumerate(zip(left, right, strict=True)):
        if (a == b) is equal:
            return n
    return len(left)


def _cmps(shape: _Shape) -> tuple[Pair, Search]:
    size, mask, seg = shape.size, shape.mask, shape.seg

    def pair(cpu: Cpu) -> tuple[int, int]:
        a = cpu.load(seg, cpu.regs[RSI] & mask, size)
        b = cpu.load(ES, cpu.regs[RDI] & mask, size)
        shape.advance(cpu, RSI, 1)
        shape.advance(cpu, RDI, 1)
        return a, b

    def search(cpu: Cpu, count: int, while_equal: bool) -> tuple[int, int, int]:
        if cpu.system_flags & DF:
            return 0, 0, 0
        first, count = _window(cpu, shape, seg, RSI, count, False)
        if count:
            second, count = _window(cpu, shape, ES, RDI, count, False)
        if not count:
            return 0, 0, 0
        one, other = _values(cpu, first, count, size), _values(cpu, second, count, size)
        stop = count if while_equal and one == other else _first(one, other, not while_equal)
        last = min(stop, count - 1)
        shape.advance(cpu, RSI, last + 1)
        shape.advance(cpu, RDI, last + 1)
        return last + 1, one[last], other[last]

    return pair, search


def _scas(shape: _Shape) -> tuple[Pair, Search]:
    size, mask, limit = shape.size, shape.mask, shape.limit

    def pair(cpu: Cpu) -> tuple[int, int]:
        b = cpu.load(ES, cpu.regs[RDI] & mask, size)
        shape.advance(cpu, RDI, 1)
        return cpu.regs[RAX] & limit, b

    def search(cpu: Cpu, count: int, while_equal: bool) -> tuple[int, int, int]:
        if cpu.system_flags & DF:
            return 0, 0, 0
        at, count = _window(cpu, shape, ES, RDI, count, False)
        if not count:
            return 0, 0, 0
        wanted, values = cpu.regs[RAX] & limit, _values(cpu, at, count, size)
        if size == 1 and not while_equal:  # strlen and memchr
            stop = bytes(cpu.ram[at : at + count]).find(wanted)
        else:
            stop = next((n for n, value in enumerate(values) if (value == wanted) is not while_equal), -1)
        last = stop if stop >= 0 else count - 1
        shape.advance(cpu, RDI, last + 1)
        return last + 1, wanted, values[last]

    return pair, search


_COMPARERS: Final[dict[int, Callable[[_Shape], tuple[Pair, Search]]]] = {
    0xA6: _cmps, 0xA7: _cmps, 0xAE: _scas, 0xAF: _scas,
}  # fmt: skip


def _set_flags(cpu: Cpu, a: int, b: int, shape: _Shape) -> None:
    difference = a - b
    cpu.fc = a ^ b ^ difference
    cpu.fz = cpu.fr = difference & shape.limit
    cpu.fs = shape.bits


def _compare(insn: Insn, pc: int) -> Op:
    shape = _Shape(insn)
    pair, search = _COMPARERS[insn.opcode](shape)
    if not insn.rep:
        return lambda cpu: _set_flags(cpu, *pair(cpu), shape)
    mask, keep, while_equal = shape.mask, shape.keep, insn.rep == 0xF3

    def repeat(cpu: Cpu) -> None:
        regs = cpu.regs
        count = regs[RCX] & mask
        regs[RCX] = regs[RCX] & keep | count
        stepping = cpu.system_flags & TF
        turns = _TURNS
        while count:
            done, a, b = (0, 0, 0) if stepping else search(cpu, count, while_equal)
            if not done:
                a, b = pair(cpu)  # a fault leaves the flags of before the instruction (SDM vol. 2, REP)
                done = 1
            count -= done
            regs[RCX] = regs[RCX] & keep | count
            if not count or (a == b) is not while_equal:
                _set_flags(cpu, a, b, shape)
                return
            if cpu.debug_pending:
                _set_flags(cpu, a, b, shape)
                raise between_iterations(cpu)
            turns -= 1
            if not turns:
                cpu.system_flags |= RF
                raise Interrupted

    return repeat


BINDERS: Final[dict[int, Binder]] = {**dict.fromkeys(_MOVERS, _move), **dict.fromkeys(_COMPARERS, _compare)}
