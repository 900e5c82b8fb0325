"""One call of a BIOS service: the caller's registers and flags, and what a service may touch around them."""

from __future__ import annotations

from typing import Final, Protocol

from isa.x86.state import CF, RAX, RSP, SS, ZF, X86State

_LOW16: Final = 0xFFFF
_HIGH48: Final = ~_LOW16 & 0xFFFFFFFFFFFFFFFF


class Cpu(Protocol):
    """The vCPU as the BIOS sees it: its state is current while a port access runs, and taken over afterwards."""

    @property
    def state(self) -> X86State: ...


class Memory(Protocol):
    """The guest-physical memory the BIOS works on (`emu.memory.GuestMemory`)."""

    def read(self, gpa: int, size: int) -> int: ...

    def write(self, gpa: int, size: int, value: int) -> None: ...

    def read_bytes(self, gpa: int, length: int) -> bytes: ...

    def write_bytes(self, gpa: int, data: bytes, force: bool = False) -> None: ...

    def holds(self, gpa: int, length: int) -> bool: ...

    def protect(self, start: int, length: int) -> None: ...

    def e820(self) -> list[tuple[int, int, int]]: ...


class Call:
    """The registers of a caller, as its INT left them.

    The ROM's stub has pushed AX, so that the stack holds AX, IP, CS and FLAGS from SS:SP up. Registers are named by
    their index in `X86State.regs`; setting 8 or 16 bits keeps the others.
    """

    def __init__(self, state: X86State, memory: Memory) -> None:
        self.state = state
        self.memory = memory

    def _slot(self, offset: int) -> int:
        """Address of a word on the stack (a 16-bit stack wraps at 64 KiB)."""
        return self.state.segs[SS].base + (self.state.regs[RSP] + offset & _LOW16)

    def word(self, reg: int) -> int:
        if reg == RAX:
            return self.memory.read(self._slot(0), 2)
        return self.state.regs[reg] & _LOW16

    def set_word(self, reg: int, value: int) -> None:
        if reg == RAX:
            self.memory.write(self._slot(0), 2, value)
        else:
            self.state.regs[reg] = self.state.regs[reg] & _HIGH48 | value & _LOW16

    def low(self, reg: int) -> int:
        return self.word(reg) & 0xFF

    def high(self, reg: int) -> int:
        return self.word(reg) >> 8

    def set_low(self, reg: int, value: int) -> None:
        self.set_word(reg, self.word(reg) & 0xFF00 | value & 0xFF)

    def set_high(self, reg: int, value: int) -> None:
        self.set_word(reg, self.word(reg) & 0xFF | (value & 0xFF) << 8)

    def dword(self, reg: int) -> int:
        return self.state.regs[reg] & 0xFFFF0000 | self.word(reg)

    def set_dword(self, reg: int, value: int) -> None:
        self.state.regs[reg] = value & 0xFFFF0000 | self.state.regs[reg] & _LOW16
        self.set_word(reg, value)

    def address(self, segment: int, reg: int) -> int:
        """Linear address of segment:register (16-bit offset)."""
        return self.state.segs[segment].base + self.word(reg)

    def set_flag(self, mask: int, on: bool) -> None:
        """Set or clear a flag in the FLAGS image that IRET will load."""
        at = self._slot(6)
        flags = self.memory.read(at, 2)
        self.memory.write(at, 2, flags | mask if on else flags & ~mask)

    def carry(self, on: bool) -> None:
        self.set_flag(CF, on)

    def zero(self, on: bool) -> None:
        self.set_flag(ZF, on)

    def where(self) -> tuple[int, int]:
        """CS and IP of the return address."""
        return self.memory.read(self._slot(4), 2), self.memory.read(self._slot(2), 2)

    def answer(self, value: int) -> None:
        """AL of the ROM code itself, for the calls between ROM and monitor that return no caller's register."""
        self.state.regs[RAX] = self.state.regs[RAX] & ~0xFF | value
