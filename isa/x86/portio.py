"""IN, OUT, INS and OUTS, with the I/O permission bit map of the TSS (SDM vol. 1, chapter 19)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.debug import between_iterations, port_accessed
from isa.x86.descriptors import system_linear
from isa.x86.operands import MASKS
from isa.x86.privilege import io_privileged, write_register
from isa.x86.segments import in_vm86
from isa.x86.state import DF, DS, ES, GP, RAX, RCX, RDI, RDX, RF, RSI

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn

_IMMEDIATE: Final = 8  # opcodes E4-E7 name the port, EC-EF (this bit set) take it from DX
_CHUNK: Final = 512  # bytes that one execution of INS or OUTS with REP moves at most: a disk sector
_IO_MAP_BASE: Final = 102  # offset of the field in a 32- or 64-bit TSS
_MIN_LIMIT: Final = 103


def check_port(cpu: Cpu, port: int, size: int) -> None:
    """#GP(0) where CPL exceeds IOPL (or in virtual-8086 mode) unless the TSS permits all `size` ports."""
    if not cpu.protected or (io_privileged(cpu) and not in_vm86(cpu)):
        return
    tr = cpu.tr
    if tr.attr & 8 and tr.limit >= _MIN_LIMIT:
        base = cpu.load_linear(system_linear(cpu, tr.base + _IO_MAP_BASE), 2, False)
        at = base + (port >> 3)
        if at + 1 <= tr.limit:  # two bytes are always read, so that any access fits
            bits = cpu.load_linear(system_linear(cpu, tr.base + at), 2, False)
            if not bits >> (port & 7) & ((1 << size) - 1):
                return
    raise GuestFault(GP, 0, note=f"port {port:#x} is not permitted at CPL {cpu.cpl}")


def _size(insn: Insn) -> int:
    """Bytes of one access: the lowest opcode bit chooses between 1 and the operand size, at most 4."""
    return min(insn.opsize, 4) if insn.opcode & 1 else 1


def _port(cpu: Cpu, insn: Insn) -> int:
    return cpu.regs[RDX] & 0xFFFF if insn.opcode & _IMMEDIATE else insn.raw[insn.size - 1]


def port_in(cpu: Cpu, insn: Insn) -> None:
    """IN."""
    port, size = _port(cpu, insn), _size(insn)
    check_port(cpu, port, size)
    value = cpu.outside.port_in(port, size) & MASKS[size]
    if cpu.watching:
        port_accessed(cpu, port, size)
    if size == 1:
        cpu.regs[RAX] = cpu.regs[RAX] & ~0xFF | value
    else:
        write_register(cpu, RAX, size, value)


def port_out(cpu: Cpu, insn: Insn) -> None:
    """OUT."""
    port, size = _port(cpu, insn), _size(insn)
    check_port(cpu, port, size)
    cpu.outside.port_out(port, size, cpu.regs[RAX] & MASKS[size])
    if cpu.watching:
        port_accessed(cpu, port, size)


def _advance(cpu: Cpu, number: int, step: int, mask: int) -> None:
    """Move an index register, or count down RCX, within the address size."""
    old = cpu.regs[number]
    new = old + step & mask
    cpu.regs[number] = old & ~0xFFFF | new if mask == 0xFFFF else new


def ins(cpu: Cpu, insn: Insn) -> None:
    """INS: from the port DX to ES:rDI. The write is checked before the port is read, which may have side effects."""
    port, size, mask = cpu.regs[RDX] & 0xFFFF, _size(insn), MASKS[insn.adsize]

    def one(at: int) -> None:
        cpu.load_rmw(ES, at, size)
        cpu.store(ES, at, size, cpu.outside.port_in(port, size))

    _string(cpu, insn, port, size, RDI, mask, one)


def outs(cpu: Cpu, insn: Insn) -> None:
    """OUTS: from DS:rSI (or another segment) to the port DX."""
    port, size, mask = cpu.regs[RDX] & 0xFFFF, _size(insn), MASKS[insn.adsize]
    seg = insn.seg if insn.seg >= 0 else DS

    def one(at: int) -> None:
        cpu.outside.port_out(port, size, cpu.load(seg, at, size))

    _string(cpu, insn, port, size, RSI, mask, one)


def _string(cpu: Cpu, insn: Insn, port: int, size: int, index: int, mask: int, one: Callable[[int], None]) -> None:
    """Move one element, or with REP up to _CHUNK bytes; RIP stays until RCX is 0. A fault keeps what was moved."""
    flags = cpu.rflags
    step = -size if flags & DF else size
    if not insn.rep:
        check_port(cpu, port, size)
        one(cpu.regs[index] & mask)
        if cpu.watching:
            port_accessed(cpu, port, size)
        _advance(cpu, index, step, mask)
        return
    count = cpu.regs[RCX] & mask
    if not count:
        return
    check_port(cpu, port, size)
    for _ in range(min(count, _CHUNK // size)):
        one(cpu.regs[index] & mask)
        if cpu.watching:
            port_accessed(cpu, port, size)
        _advance(cpu, index, step, mask)
        _advance(cpu, RCX, -1, mask)
        if cpu.debug_pending and cpu.regs[RCX] & mask:
            raise between_iterations(cpu)
    if cpu.regs[RCX] & mask:
        cpu.transferred = True  # RIP stays on the instruction
        cpu.system_flags |= RF  # which an interrupt pushes (SDM vol. 3, 17.3.1.1)
