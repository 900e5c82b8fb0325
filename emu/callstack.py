"""Finds a guest's callers by its frame pointers, without touching the guest."""

from __future__ import annotations

from typing import Final

from emu.memory import GuestMemory
from isa.x86 import paging
from isa.x86.cpu import Cpu
from isa.x86.state import CS, RBP, SS

_DEEPEST: Final = 128  # frames
_CALL_SIZES: Final = (2, 3, 4, 6, 7)  # of an indirect CALL, FF /2, by its addressing form (SDM vol. 2, CALL)


def callers(cpu: Cpu, memory: GuestMemory) -> list[int]:
    """Linear return addresses, the innermost first, as far as the chain of saved frame pointers leads upwards.

    Every one lies behind a CALL: code without frame pointers leaves other values in RBP, and the chain ends there.
    """
    width = cpu.mode // 8
    mask = (1 << cpu.mode) - 1
    code, stack = (0, 0) if cpu.mode == 64 else (cpu.segs[CS].base, cpu.segs[SS].base)
    frame = cpu.regs[RBP] & mask
    found: list[int] = []
    while len(found) < _DEEPEST:
        data = _read(cpu, memory, stack + frame, 2 * width)
        if data is None:
            break
        above = int.from_bytes(data[:width], "little")
        back = code + int.from_bytes(data[width:], "little")
        if not _behind_call(cpu, memory, back):
            break
        found.append(back)
        if above <= frame:
            break
        frame = above
    return found


def _behind_call(cpu: Cpu, memory: GuestMemory, linear: int) -> bool:
    before = _read(cpu, memory, linear - 7, 7)
    if before is None:
        return False
    relative = before[-5] == 0xE8 or (cpu.mode == 16 and before[-3] == 0xE8)
    return relative or any(before[-size] == 0xFF and before[1 - size] >> 3 & 7 == 2 for size in _CALL_SIZES)


def _read(cpu: Cpu, memory: GuestMemory, linear: int, length: int) -> bytes | None:
    """Bytes of RAM at a linear address; None where there are none."""
    data = b""
    while length:
        linear &= (1 << 64) - 1 if cpu.mode == 64 else 0xFFFFFFFF
        part = min(length, 0x1000 - (linear & 0xFFF))
        mapping = paging.probe(cpu, linear)
        if mapping is None or memory.ram_offset(mapping.gpa) < 0:
            return None
        data += memory.read_bytes(mapping.gpa, part)
        linear, length = linear + part, length - part
    return data
