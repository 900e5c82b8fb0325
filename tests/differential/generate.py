"""Makes cases from encoding classes: encodings with every kind of prefix and address, and operands that suit them."""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

from isa.x86.state import CS, DS, ES, FS, GS, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, SS
from tests.differential import values
from tests.differential.encode import M64, Encoder
from tests.differential.harness import Case
from tests.differential.layout import DATA, MODES
from tests.differential.rows import FIXED as FIXED_MODRM
from tests.differential.rows import ROWS, Row

_WEIGHTS: Final = {"64": 10, "32": 5, "32-limits": 1, "32-types": 1, "16": 2}
_OVERRIDE: Final = {ES: 0x26, CS: 0x2E, SS: 0x36, DS: 0x3E, FS: 0x64, GS: 0x65}


@functools.lru_cache
def _order(modes: tuple[str, ...]) -> list[Row]:
    """Rows in the order in which cases take them: a register form of x87 once where others come four times."""
    widths = {MODES[name].bits for name in modes}
    order = []
    for row in ROWS:
        rare = row.modrm >= FIXED_MODRM and row.values == "x87"
        if widths & set(row.bits):
            order += [row] * (1 if rare else 4)
    random.Random(1).shuffle(order)
    return order


def case(seed: int, number: int, modes: Sequence[str]) -> Case:
    """Case `number` of the campaign `seed`; `modes` are those that may be used."""
    rng = random.Random(seed << 40 | number)
    order = _order(tuple(modes))
    row = order[number % len(order)]
    allowed = [MODES[name] for name in modes if MODES[name].bits in row.bits]
    mode = rng.choices(allowed, [_WEIGHTS[mode.name] for mode in allowed])[0]
    return _Maker(rng, row, mode, number % mode.slots).make()


class _Maker(Encoder):
    """Builds one case: what its row needs, around the encoding."""

    def make(self) -> Case:
        row, rng, mode = self.row, self.rng, self.mode
        prefixes = self.choose_sizes()
        for setup in row.setup.split():
            before = _BEFORE.get(setup)
            if before is not None:
                before(self)
        tail = self.encode_operand()
        for setup in row.setup.split():
            after = _AFTER.get(setup)
            if after is not None:
                after(self)
        self.imm += self.immediates()
        if self.seg >= 0:
            prefixes.append(_OVERRIDE[self.seg])
        if row.lock and self.in_memory() and rng.random() < 0.25:
            prefixes.append(0xF0)
        elif rng.random() < 0.004 and row.vex < 0:
            prefixes.append(0xF0)  # illegal, or on a register
        rng.shuffle(prefixes)
        head = bytes(prefixes)
        if row.prefix and row.vex < 0:
            head += bytes((row.prefix,))
        if row.vex >= 0:
            head += self.vex_prefix() + row.opcode[-1:]
        else:
            head += (bytes((self.rex,)) if self.rex else b"") + row.opcode
        code = self.fill_relative(head + tail + self.imm, len(head))
        vector = bool(row.values) or rng.random() < 0.03
        fx = values.image(rng, row.values) if vector else _QUIET
        if row.values:
            self.put(self.target, self._memory_value())
        mask = mode.mask
        return Case(
            row.name, mode, code, self.slot, [value & mask for value in self.regs], self.flags, fx, bytes(self.data),
            vector,
        )  # fmt: skip

    def _memory_value(self) -> bytes:
        row, rng = self.row, self.rng
        if row.setup == "mxcsr":
            return struct.pack("<I", rng.getrandbits(16) if rng.random() < 0.9 else rng.getrandbits(32))
        if row.setup == "fxrstor":
            stored = bytearray(values.image(rng, "x87"))
            if rng.random() < 0.1:
                stored[26] |= 1  # a reserved bit of MXCSR
            return bytes(stored)
        if row.setup == "fxsave":
            return b""
        if row.values == "x87":
            number, code = row.modrm & 7, row.opcode[0]
            if (code, number) in ((0xD9, 4), (0xDD, 4)) and row.modrm < FIXED_MODRM:
                return self._environment()
            kind = {0xD8: "f32", 0xD9: "f32", 0xDC: "f64", 0xDD: "f64"}.get(code, "x87" if number in (5, 7) else "int")
            return values.vector(rng, kind)
        return values.vector(rng, row.values)

    def _environment(self) -> bytes:
        """What FLDENV and FRSTOR load."""
        rng = self.rng
        fields = (0x40 | rng.getrandbits(6) | rng.getrandbits(4) << 8, rng.getrandbits(7) | rng.getrandbits(7) << 8,
                  rng.getrandbits(16), 0, 0, 0, 0)  # fmt: skip
        stack = b"".join(values.extended(rng) for _ in range(8))
        return struct.pack("<7H" if self.opsize == 2 else "<7I", *fields) + stack

    def _pointer(self, register: int, seg: int, spread: int = 64) -> None:
        """Let a register that is an implicit address point to the data."""
        linear = self.place(spread)
        self.regs[register] = self.offset_of(linear, seg) & (M64 if self.mode.bits == 64 else 0xFFFF_FFFF)
        self.pinned.add(register)

    def stack(self) -> None:
        self._pointer(RSP, SS)

    def string(self) -> None:
        rng = self.rng
        self._pointer(RSI, self.default_segment(-1))
        self._pointer(RDI, ES)
        if rng.random() < 0.3:
            delta = rng.randrange(-24, 24) + self.mode.base(DS) - self.mode.base(ES)
            self.regs[RDI] = self.regs[RSI] + delta & self.mode.mask
        self.count()
        if rng.random() < 0.95:
            high = self.regs[RCX] & ~((1 << self.adsize * 8) - 1) if rng.random() < 0.3 else 0
            self.regs[RCX] = high | rng.randrange(40)
        self.target = DATA  # no ModRM operand

    def count(self) -> None:
        self.regs[RCX] = self.regs[RCX] & ~0xFF | self.rng.choice(
            (0, 1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 0x80, 255)
        )
        self.pinned.add(RCX)

    def loop(self) -> None:
        self.regs[RCX] = self.rng.choice((0, 1, 2, 3, 0x1_0000, 0x1_0000_0000)) & self.mode.mask

    def xlat(self) -> None:
        self._pointer(RBX, self.default_segment(-1), 256)
        if self.adsize == 2:
            self.regs[RBX] &= 0xFFFF

    def enter(self) -> None:
        self._pointer(RSP, SS)
        self._pointer(RBP, SS)

    def leave(self) -> None:
        self._pointer(RBP, SS)

    def maskmov(self) -> None:
        self._pointer(RDI, self.default_segment(-1))

    def divide(self) -> None:
        rng = self.rng
        if rng.random() < 0.75:
            self.regs[RDX] = rng.choice((0, rng.getrandbits(3), M64))
            self.regs[RAX] = rng.getrandbits(rng.choice((6, 11, 30, 62)))
            self.pinned |= {RAX, RDX}

    def returning(self) -> None:
        self._pointer(RSP, SS)
        size = 8 if self.mode.bits == 64 and self.opsize != 2 else 4
        linear = self.regs[RSP] + (self.mode.base(SS) if self.mode.bits != 64 else 0)
        if self.mode.stack_bits == 16:
            linear = (self.regs[RSP] & 0xFFFF) + self.mode.base(SS)
        self.put(linear, self.landing().to_bytes(8, "little")[:size])

    def jump_target(self) -> None:
        where = self.landing()
        if self.rm >= 0:
            self.regs[self.rm] = where
        else:
            self.put(self.target, where.to_bytes(8, "little"))

    def exchange(self) -> None:
        """Let the accumulator be equal to the destination half of the time."""
        if self.rng.random() < 0.5:
            return
        if self.rm >= 0:
            self.regs[self.rm] = self.regs[RAX]
        else:
            self.put(self.target, (self.regs[RAX] & M64).to_bytes(8, "little"))

    def exchange_pair(self) -> None:
        rng = self.rng
        if rng.random() < 0.4:
            return
        size = 8 if self.rex & 8 else 4
        low, high = (self.regs[n].to_bytes(8, "little")[:size] for n in (RAX, RDX))
        self.put(self.target, low + high)

    def bit_string(self) -> None:
        """A register counts bits from memory: keep it near."""
        number = self.reg | (self.rex & 4) << 1
        if self.in_memory() and number not in self.pinned and self.rng.random() < 0.9:
            near = self.rng.randrange(-900, 900)
            old = self.regs[number]
            self.regs[number] = near & self.mode.mask
            if self.opsize == 2:
                self.regs[number] = old & ~0xFFFF | near & 0xFFFF

    def sparse(self) -> None:
        """Sources without or with a single bit."""
        rng = self.rng
        value = 0 if rng.random() < 0.5 else 1 << rng.randrange(64)
        if rng.random() < 0.4:
            if self.rm >= 0:
                self.regs[self.rm] = value & self.mode.mask
            else:
                self.put(self.target, value.to_bytes(8, "little"))

    def fields(self) -> None:
        """Starts and lengths for BEXTR, counts for BZHI and the shifts."""
        rng = self.rng
        number = rng.randrange(8)
        if not self.in_memory() and rng.random() < 0.7:
            self.regs[number] = rng.randrange(70) | rng.randrange(70) << 8


_Setup = Callable[[_Maker], None]
_BEFORE: Final[dict[str, _Setup]] = {
    "stack": _Maker.stack, "string": _Maker.string, "count": _Maker.count, "loop": _Maker.loop, "xlat": _Maker.xlat,
    "enter": _Maker.enter, "leave": _Maker.leave, "maskmov": _Maker.maskmov, "div": _Maker.divide,
    "return": _Maker.returning,
}  # fmt: skip
_AFTER: Final[dict[str, _Setup]] = {
    "target": _Maker.jump_target, "cmpxchg": _Maker.exchange, "cmpxchg8b": _Maker.exchange_pair,
    "bit string": _Maker.bit_string, "sparse": _Maker.sparse, "fields": _Maker.fields,
}  # fmt: skip
_QUIET: Final = struct.pack("<H22xI484x", 0x37F, 0x1F80)
