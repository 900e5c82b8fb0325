"""Encodes an instruction of an encoding class: prefixes, operand sizes, every form of address, immediates."""

from __future__ import annotations

import random
import struct
from typing import Final

from isa.x86.state import AC, ARITH, CS, DF, DS, ES, FS, GS, IF, RBP, RBX, RDI, RSI, RSP, SS
from tests.differential import layout, values
from tests.differential.layout import DATA, DATA_SIZE, END, FIXED, Mode
from tests.differential.rows import ANY, BOTH, MEMORY, NONE, REGISTER, Row
from tests.differential.rows import FIXED as FIXED_MODRM

M64: Final = (1 << 64) - 1
# Base and index registers of 16-bit addressing by ModRM.rm (SDM vol. 2, table 2-1).
_SIXTEEN: Final = ((RBX, RSI), (RBX, RDI), (RBP, RSI), (RBP, RDI), (RSI,), (RDI,), (RBP,), (RBX,))


class Encoder:
    """The state before one case and the encoding of its instruction, while they are being made.

    Registers that an operand needs are `pinned`; the others follow from the address that is wanted (`target`).
    """

    def __init__(self, rng: random.Random, row: Row, mode: Mode, slot: int) -> None:
        self.rng, self.row, self.mode, self.slot = rng, row, mode, slot
        self.regs = [values.word(rng) & mode.mask for _ in range(16)]
        if mode.bits != 64:
            self.regs[8:] = [0] * 8
        self.data = bytearray(values.block(rng, DATA_SIZE))
        self.flags = rng.getrandbits(12) & ARITH | IF | 2
        if rng.random() < 0.2:
            self.flags |= DF
        if rng.random() < 0.04:
            self.flags |= AC
        self.pinned: set[int] = set()
        self.rex = 0
        self.seg = -1
        self.opsize = 4
        self.adsize = 8
        self.imm = b""
        self.rip_at = -1  # where a RIP-relative displacement lies in `tail`
        self.target = self.place()
        self.reg = self.rm = -1

    def place(self, size: int = 16) -> int:
        """A linear address for a memory operand: mostly in the data, sometimes across one of its edges."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.55:
            return DATA + rng.randrange(64, DATA_SIZE - 1024) & -16
        if kind < 0.80:
            return DATA + rng.randrange(64, DATA_SIZE - 1024)
        if kind < 0.88:
            return DATA + 0x1000 - rng.randrange(2 * size)
        if kind < 0.92:
            return FIXED - rng.randrange(2 * size)
        if kind < 0.95:
            return rng.randrange(FIXED, END - size)
        if kind < 0.97:
            return END - rng.randrange(size)
        if kind < 0.985:
            return DATA - rng.randrange(1, size)
        if self.mode.bits == 64 and rng.random() < 0.6:
            return rng.choice((0x8000_0000_0000, 1 << 63, 0xFFFF_7FFF_FFFF_FFF0))
        return END + rng.randrange(0x1000)

    def offset_of(self, linear: int, seg: int) -> int:
        """The offset in segment register `seg` of a linear address."""
        return linear - self.mode.base(seg) & (M64 if self.mode.bits == 64 else 0xFFFF_FFFF)

    def put(self, linear: int, content: bytes) -> None:
        """Store into the data where it lies there."""
        at = linear - DATA
        if 0 <= at <= DATA_SIZE - len(content):
            self.data[at : at + len(content)] = content

    def landing(self) -> int:
        """An offset in CS to jump to."""
        rng, mode = self.rng, self.mode
        if rng.random() < 0.08:
            wild = (0, 0x1234, END + 5, DATA + 0x40, layout.CODE + layout.CODE_SIZE, 0x8000_0000_0000)
            return rng.choice(wild) & (M64 if mode.bits == 64 else 0xFFFF_FFFF)
        linear = layout.CODE + (self.slot + rng.randrange(3)) % mode.slots * layout.SLOT + rng.randrange(0, 120)
        return linear - (mode.base(CS) if mode.bits != 64 else 0)

    def choose_sizes(self) -> list[int]:
        """Choose operand size, address size and segment; the prefixes for them but REX."""
        rng, row, mode = self.rng, self.row, self.mode
        prefixes: list[int] = []
        wide = mode.bits == 64 and (row.sized or row.wide) and rng.random() < 0.4
        o16 = row.sized and rng.random() < 0.25
        if mode.bits == 64:
            needs_rex = wide or rng.random() < 0.4
            self.rex = 0x40 | wide << 3 | (rng.getrandbits(3) if rng.random() < 0.6 else 0) if needs_rex else 0
            self.opsize = 8 if wide else 2 if o16 else 4
            self.adsize = 4 if rng.random() < 0.06 else 8
        else:
            self.opsize = 2 if (mode.bits == 16) != o16 else 4
            self.adsize = 2 if (mode.bits == 16) != (rng.random() < 0.06) else 4
        if o16:
            prefixes.append(0x66)
        if self.adsize * 8 != mode.bits:
            prefixes.append(0x67)
        if rng.random() < 0.1:
            self.seg = rng.choice((ES, CS, SS, DS, FS, GS))
        plain = row.vex < 0 and not row.prefix and len(row.opcode) == 1 and not row.lock and row.opcode[0] != 0x90
        if plain and not row.setup and rng.random() < 0.01:
            prefixes.append(rng.choice((0xF2, 0xF3)))  # without a meaning
        return prefixes

    def in_memory(self) -> bool:
        """True where ModRM names memory."""
        return self.rm < 0 and self.row.modrm != NONE and self.row.modrm < FIXED_MODRM

    def vex_prefix(self) -> bytes:
        """The three-byte VEX prefix; X, B and R are those drawn for REX, inverted (SDM vol. 2, 2.3.5)."""
        space = {b"\x0f\x38": 2, b"\x0f\x3a": 3}[self.row.opcode[:2]]
        free = 16 if self.mode.bits == 64 else 8
        unused = self.row.opcode == b"\x0f\x3a\xf0"
        self.vvvv = 0 if unused and self.rng.random() < 0.98 else self.rng.randrange(free)
        extension = self.rex & 7 if self.mode.bits == 64 else 0
        wide = self.rng.getrandbits(1)
        first = (~extension & 7) << 5 | space
        return bytes((0xC4, first, wide << 7 | (~self.vvvv & 15) << 3 | self.row.vex))

    def encode_operand(self) -> bytes:
        """ModRM, SIB and displacement."""
        rng, row = self.rng, self.row
        if row.modrm == NONE:
            if self.rex and len(row.opcode) == 1 and 0x50 <= row.opcode[0] <= 0x5F:
                self.reg = row.opcode[0] & 7
            return b""
        if row.modrm >= FIXED_MODRM:
            return bytes((row.modrm - FIXED_MODRM,))
        self.reg = rng.randrange(8) if row.modrm == BOTH else row.modrm
        memory = row.rm == MEMORY or (row.rm == ANY and rng.random() < 0.5)
        if not memory:
            rm = rng.randrange(8)
            self.rm = rm | (self.rex & 1) << 3
            return bytes((0xC0 | self.reg << 3 | rm,))
        assert row.rm != REGISTER
        return self._address16() if self.adsize == 2 else self._address()

    def default_segment(self, base: int) -> int:
        """The segment of an operand with that base register (-1: none)."""
        if self.seg >= 0 and (self.mode.bits != 64 or self.seg >= FS):
            return self.seg
        return SS if base in (RSP, RBP) else DS

    def _displacement(self, mod: int, form: str = "<i") -> int:
        return self.rng.randrange(-128, 128) if mod == 1 else self.rng.randrange(-0x800, 0x800) if mod == 2 else 0

    def _address16(self) -> bytes:
        rng = self.rng
        mod, rm = rng.randrange(3), rng.randrange(8)
        if mod == 0 and rm == 6:
            at = self.offset_of(self.target, self.default_segment(-1)) & 0xFFFF
            return struct.pack("<BH", self.reg << 3 | rm, at)
        used = _SIXTEEN[rm]
        disp = self._displacement(mod)
        wanted = self.offset_of(self.target, self.default_segment(RBP if RBP in used else -1)) - disp
        if len(used) == 2:
            wanted -= self.regs[used[0]]
        last = used[-1]
        if last not in self.pinned:
            self.regs[last] = self.regs[last] & ~0xFFFF | wanted & 0xFFFF
        return bytes((mod << 6 | self.reg << 3 | rm,)) + (
            b"" if mod == 0 else struct.pack("<bh"[0] + "bh"[mod - 1], disp)
        )

    def _address(self) -> bytes:
        """32- and 64-bit addressing (SDM vol. 2, tables 2-2 and 2-3): the base register makes up for the rest."""
        rng, regs = self.rng, self.regs
        mod, rm = rng.randrange(3), rng.randrange(8)
        head = bytes((mod << 6 | self.reg << 3 | rm,))
        mask = M64 if self.adsize == 8 else 0xFFFF_FFFF
        disp, rest = self._displacement(mod), 0
        base = rm | (self.rex & 1) << 3
        if rm == 4:
            scale, index, low = rng.randrange(4), rng.randrange(8), rng.randrange(8)
            head += bytes((scale << 6 | index << 3 | low,))
            base, number = low | (self.rex & 1) << 3, index | (self.rex & 2) << 2
            if low == 5 and mod == 0:
                base = -1
            if number != RSP:
                if number != base and number not in self.pinned and rng.random() < 0.7:
                    regs[number] = rng.randrange(-256, 256) & mask
                rest = regs[number] << scale
                if number == base and base not in self.pinned:
                    regs[base] = rng.randrange(256)
                    rest = (regs[base] << scale) + regs[base]
        elif rm == 5 and mod == 0:
            base = -1
            if self.mode.bits == 64:
                self.rip_at = len(head)
                return head + bytes(4)
        if base < 0:
            wanted = self.offset_of(self.target, self.default_segment(-1)) - rest & mask
            return head + struct.pack("<I", wanted & 0xFFFF_FFFF)
        wanted = self.offset_of(self.target, self.default_segment(base)) - disp - rest & mask
        fixed = base in self.pinned or (rm == 4 and number == base)
        if not fixed:
            upper = regs[base] & ~mask & M64
            regs[base] = upper | wanted
        elif mod == 2:
            if rm == 4 and number == base:
                disp = self.offset_of(self.target, self.default_segment(base)) - rest
            else:
                disp = self.offset_of(self.target, self.default_segment(base)) - rest - regs[base]
            disp = (disp + (1 << 31) & 0xFFFF_FFFF) - (1 << 31)
        return head + (b"" if mod == 0 else struct.pack("<b" if mod == 1 else "<i", disp))

    def fill_relative(self, code: bytes, head: int) -> bytes:
        """Fill in a displacement from the end of the instruction: that of a RIP-relative operand."""
        if self.rip_at < 0:
            return code[:15]
        at = head + self.rip_at
        end = layout.CODE + self.slot * layout.SLOT + layout.IN_SLOT + len(code)
        disp = self.offset_of(self.target, self.default_segment(-1)) - end
        return code[:at] + struct.pack("<I", disp & 0xFFFF_FFFF) + code[at + 4 :]

    def immediates(self) -> bytes:
        """The immediates, as the row lists them."""
        rng, out = self.rng, b""
        for kind in self.row.imm:
            match kind:
                case "b":
                    out += bytes((rng.randrange(8) if self.row.setup == "compare" and rng.random() < 0.9
                                  else rng.choice((0, 1, 7, 8, 0x7F, 0x80, 0xFF, rng.getrandbits(8))),))  # fmt: skip
                case "w":
                    out += struct.pack("<H", rng.randrange(64) if rng.random() < 0.8 else rng.getrandbits(16))
                case "z":
                    out += (values.word(rng) & M64).to_bytes(8, "little")[: 2 if self.opsize == 2 else 4]
                case "v":
                    out += (values.word(rng) & M64).to_bytes(8, "little")[: self.opsize]
                case "o":
                    wanted = self.offset_of(self.target, self.default_segment(-1))
                    out += wanted.to_bytes(8, "little")[: self.adsize]
                case "s" | "t":
                    out += self._branch(kind)
        return out

    def _branch(self, kind: str) -> bytes:
        """A displacement that does not lead into the instruction itself."""
        rng, mode = self.rng, self.mode
        if kind == "s":
            return struct.pack("<b", rng.choice((rng.randrange(-128, -16), rng.randrange(0, 128))))
        here = layout.CODE + self.slot * layout.SLOT + layout.IN_SLOT - (mode.base(CS) if mode.bits != 64 else 0)
        size = 2 if self.opsize == 2 else 4
        distance = self.landing() - here
        return (distance & 0xFFFF_FFFF).to_bytes(4, "little")[:size]
