"""Encodes the few x86 instructions the translator adds to guest code, for each of the three modes.

Monitor data is reached without the guest's help: RIP-relative in 64-bit code, by absolute 32-bit address elsewhere,
through DS where the guest's DS is flat and else through a GS that the monitor took over. Nothing here touches the
flags unless its name says so. Every encoding is compared with keystone's by a test (`tests/isa/x86/test_emit.py`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, Protocol

_DISPLACEMENT: Final = struct.Struct("<i")

# Offsets in the monitor's data.
SPILL: Final = (0x00, 0x08, 0x10)  # three spill slots
BUDGET: Final = 0x20  # instructions left, counted down by every block; 32 bits
PENDING: Final = 0x24  # non-zero while an interrupt waits for the guest's IF
VIRTUAL_IF: Final = 0x28  # the guest's IF, as the flag's bit: 0 or 0x200
SELECTORS: Final = 0x30  # the guest's six segment selectors, 16 bits each
USER_TABLE: Final = 0x40  # host address of the jump table of the user code that runs
KERNEL_GS: Final = 0x48  # the guest's IA32_KERNEL_GS_BASE
SCRATCH_STACK: Final = 0x80  # the end of a stack that takes one register
TABLES: Final = 0x1000  # jump tables: TABLE_SLOTS negated targets, then as many host addresses
TABLE_SLOTS: Final = 1 << 16  # indexed by the low 16 bits of the target: MOVZX needs no flags
TABLE_BYTES: Final = TABLE_SLOTS * 16

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


class HostLayout(Protocol):
    """Where a backend put the code cache and the monitor's data, and how it leaves (`emu.backends.base.Layout`)."""

    @property
    def code_base(self) -> dict[int, int]: ...
    @property
    def data_base(self) -> dict[int, int]: ...
    @property
    def user_data(self) -> int: ...
    @property
    def leave(self) -> bytes: ...
    @property
    def void(self) -> dict[int, int]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where code is being emitted for: guest mode, backend layout, offset of the jump table in the monitor's data.

    For `user` code, which runs at CPL 3, `table` is the offset of the address of the table that belongs to the address
    space. `through_gs` tells that data is reached through GS. Code finds a target in the table under the number that is
    `salt` more, by which modes that share a table are told apart.
    """

    mode: int
    layout: HostLayout
    table: int
    through_gs: bool = False
    user: bool = False
    salt: int = 0
    operands: dict[tuple[bytes, int, int, bytes, bool], tuple[bytes, int]] = field(
        default_factory=dict, compare=False, repr=False
    )  # instructions on the monitor's data, as the emitter encoded them


class Emitter:
    """Accumulates code for one place in the cache: `start` is its offset there."""

    def __init__(self, target: Target, start: int) -> None:
        self.mode = target.mode
        self.target = target
        self.start = start
        self.code = bytearray()
        self.fixups: list[int] = []  # cache offsets of displacements that depend on where the code lies
        self._data = target.layout.data_base[target.mode] + (target.layout.user_data if target.user else 0)
        self._base = target.layout.code_base[target.mode]
        self._host = self._base + start
        self._known = target.operands
        self._wide = target.mode == 64
        self._gs = self._prefix = b"\x65" if target.through_gs else b""
        if target.mode == 16:
            self._prefix = b"\x66\x67" + self._prefix  # 32-bit operand and address

    @property
    def at(self) -> int:
        """Offset in the code cache of the next byte."""
        return self.start + len(self.code)

    def raw(self, code: bytes) -> None:
        self.code += code

    def _data_operand(self, opcode: bytes, reg: int, offset: int, immediate: bytes = b"", wide: bool = True) -> None:
        """opcode /reg on monitor data; 64-bit operand in 64-bit code where `wide`, else 32-bit."""
        key = opcode, reg, offset, immediate, wide
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._encode(*key)
        head, displacement = known
        if not self._wide:
            self.code += head
            return
        code = self.code
        code += head
        at = self.start + len(code)
        self.fixups.append(at)
        code += _DISPLACEMENT.pack(displacement - at)
        code += immediate

    def _encode(self, opcode: bytes, reg: int, offset: int, immediate: bytes, wide: bool) -> tuple[bytes, int]:
        """The bytes of an instruction on monitor data, or in 64-bit code those before its displacement, with what this
        is less the offset at which it lies."""
        modrm = 0x05 | (reg & 7) << 3
        if not self._wide:
            head = self._prefix + opcode + bytes((modrm,))
            return head + struct.pack("<I", self._data + offset) + immediate, 0
        rex = 0x40 | (8 if wide else 0) | (reg >> 3) << 2
        head = (bytes((rex,)) if rex != 0x40 else b"") + opcode + bytes((modrm,))
        return head, self._data + offset - self._base - 4 - len(immediate)

    def spill(self, reg: int, slot: int) -> None:
        self.store(reg, SPILL[slot])

    def reload(self, reg: int, slot: int) -> None:
        self.load(reg, SPILL[slot])

    def load(self, reg: int, offset: int) -> None:
        """MOV reg, [data], of the natural size."""
        self._data_operand(b"\x8b", reg, offset)

    def store(self, reg: int, offset: int) -> None:
        self._data_operand(b"\x89", reg, offset)

    def load32(self, reg: int, offset: int) -> None:
        self._data_operand(b"\x8b", reg, offset, wide=False)

    def load_byte(self, reg: int, offset: int) -> None:
        """MOVZX reg32, byte [data]."""
        self._data_operand(b"\x0f\xb6", reg, offset, wide=False)

    def load_selector(self, reg: int, number: int, size: int) -> None:
        """MOV reg16, [selector], or for other operand sizes MOVZX reg32 (all 16 registers)."""
        if size == 2:
            # in 16-bit code the prefix that makes the operand 32-bit must not be there, else one that makes it 16-bit
            start = len(self.code)
            self._data_operand(b"\x8b", reg, SELECTORS + 2 * number, wide=False)
            if self.mode == 16:
                del self.code[start]
            elif self.mode == 32:
                self.code.insert(start, 0x66)
            else:
                self._shorten(start)
        else:
            self._data_operand(b"\x0f\xb7", reg, SELECTORS + 2 * number, wide=False)

    def _shorten(self, start: int) -> None:
        """Put 66 in front of the last instruction, which begins at `start` and ends with a displacement from RIP."""
        displacement = struct.unpack_from("<i", self.code, len(self.code) - 4)[0] - 1
        struct.pack_into("<i", self.code, len(self.code) - 4, displacement)
        self.code.insert(start, 0x66)
        self.fixups[-1] += 1

    def store32(self, reg: int, offset: int) -> None:
        self._data_operand(b"\x89", reg, offset, wide=False)

    def set32(self, offset: int, value: int) -> None:
        """MOV dword [data], imm32."""
        self._data_operand(b"\xc7", 0, offset, struct.pack("<I", value & 0xFFFFFFFF), wide=False)

    def subtract32_clobbering_flags(self, offset: int, value: int) -> None:
        """SUB dword [data], imm: the only helper that changes flags."""
        if value < 128:
            self._data_operand(b"\x83", 5, offset, bytes((value,)), wide=False)
        else:
            self._data_operand(b"\x81", 5, offset, struct.pack("<I", value), wide=False)

    def compare32_clobbering_flags(self, offset: int, value: int) -> None:
        """CMP dword [data], imm8."""
        self._data_operand(b"\x83", 7, offset, bytes((value,)), wide=False)

    def lea32(self, reg: int, base: int, displacement: int) -> None:
        """LEA reg32, [base + disp32] (registers 0..7, not ESP)."""
        self.code += self._plain() + bytes((0x8D, 0x80 | reg << 3 | base)) + struct.pack("<i", displacement)

    def lea32_sum(self, reg: int, base: int, index: int, displacement: int) -> None:
        """LEA reg32, [base + index + disp32] (registers 0..7, index not ESP)."""
        self.code += self._plain() + bytes((0x8D, 0x84 | reg << 3, index << 3 | base)) + struct.pack("<i", displacement)

    def wide(self, code: bytes, *, data: bool = False) -> None:
        """Code with operands and addresses of 32 bits in 16-bit code, of the natural size elsewhere.

        Its memory operand is the monitor's `data` or goes through the segment that the instruction names.
        """
        self.code += (self._prefix if data else self._plain()) + code

    def _plain(self) -> bytes:
        """Prefixes that give an instruction without a data operand 32-bit operand and address size."""
        return b"\x66\x67" if self.mode == 16 else b""

    def table_address(self, reg: int) -> None:
        """LEA reg, [the jump table]; in user code MOV reg, [its address]."""
        if self.target.user:
            self.load(reg, self.target.table)
        else:
            self.data_address(reg, self.target.table)

    def data_address(self, reg: int, offset: int) -> None:
        """LEA reg, [data]."""
        self._data_operand(b"\x8d", reg, offset)

    def load_constant(self, reg: int, value: int) -> None:
        """MOV reg, value in 32- and 64-bit code (registers 0..7)."""
        if not self._wide:
            self.code += bytes((0xB8 | reg,)) + struct.pack("<I", value)
            return
        signed = value - (1 << 64) if value >> 63 else value
        if INT32_MIN <= signed <= INT32_MAX:
            self.code += bytes((0x48, 0xC7, 0xC0 | reg)) + struct.pack("<i", signed)
        else:
            self.code += bytes((0x48, 0xB8 | reg)) + struct.pack("<Q", value)

    def void_address(self, reg: int) -> None:
        """The address at which every access faults, in a register (not r8 to r15)."""
        void = self.target.layout.void[self.mode]
        if self._wide:
            behind = self._host + len(self.code) + 7
            self.code += bytes((0x48, 0x8D, 0x05 | reg << 3)) + struct.pack("<i", void - behind)
            self.fixups.append(self.at - 4)
        else:
            self.code += (b"\x66" if self.mode == 16 else b"") + bytes((0xB8 | reg,)) + struct.pack("<I", void)

    def fault_unless_zero_rcx(self) -> None:
        """REP LODSB from RSI, which holds the void address: nothing for RCX = 0, else a page fault.

        Of the conditional transfers that leave the flags alone it is the one Unicorn chains; JRCXZ goes through its
        main loop.
        """
        self.code += self._gs + (b"\x67" if self.mode == 16 else b"") + b"\xf3\xac"

    def jump_if_zero_ecx(self, distance: int) -> None:
        """JECXZ in every mode."""
        prefix = {16: b"\x66\x67", 32: b"", 64: b"\x67"}[self.mode]
        self.code += prefix + b"\xe3" + struct.pack("<b", distance)

    def jump(self) -> int:
        """JMP rel32; returns the cache offset of its displacement, to be filled in."""
        self.code += b"\x66\xe9" if self.mode == 16 else b"\xe9"
        self.code += bytes(4)
        return self.at - 4

    def branch(self, condition: int) -> int:
        """Jcc rel32; returns the cache offset of its displacement."""
        self.code += (b"\x66\x0f" if self.mode == 16 else b"\x0f") + bytes((0x80 | condition,)) + bytes(4)
        return self.at - 4

    def leave(self) -> int:
        """An exit from the cache; returns the offset behind it, which identifies the exit."""
        self.code += self.target.layout.leave
        return self.at

    def push_constant(self, value: int, size: int) -> None:
        """PUSH of a `size`-byte constant, in at most two instructions."""
        if size == 8:
            low = value & 0xFFFFFFFF
            signed = low - (1 << 32) if low >> 31 else low
            self.code += b"\x68" + struct.pack("<i", signed)
            if signed & 0xFFFFFFFFFFFFFFFF != value:  # the push wrote all eight bytes, so this one cannot fault
                self.code += b"\xc7\x44\x24\x04" + struct.pack("<I", value >> 32)
            return
        default = 2 if self.mode == 16 else 4
        self.code += (b"\x66" if size != default else b"") + b"\x68" + value.to_bytes(size, "little")

    def fill_displacement(self, at: int, target: int) -> None:
        """Point the 4-byte displacement at cache offset `at` (inside this code) to cache offset `target`."""
        struct.pack_into("<i", self.code, at - self.start, target - (at + 4))
