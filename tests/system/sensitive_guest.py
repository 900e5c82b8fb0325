"""Builds the guest that tries every row of the sensitive table in one mode, and reads what it printed.

The environment is one of two assembly sources in `table/`; behind it lies what is generated here: a count, the size of
the area, the kind of mode, the area (instructions, operands and stacks, which is copied to AREA), and a record a case.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from guests.assembler import Program, assemble
from tests.system.sensitive_rows import COMPAT, LONG, OK, P16, P32, QEMU_CANNOT, REAL, ROWS, VM86, Cell, Row, cells

ORIGIN: Final = 0x100000
_SOURCES: Final = Path(__file__).parent / "table"
_COMMON: Final = Path(__file__).parents[2] / "guests"

_AREA: Final = 0x20000
_SEGMENT: Final = _AREA >> 4  # of real and virtual-8086 mode
# What follows an instruction: INT 2Fh, or in virtual-8086 mode, where INT is sensitive itself, a division by zero (AAM)
_LEAVE: Final = bytes((0xCD, 0x2F))
_LEAVE_VM86: Final = bytes((0xD4, 0x00))
_LEFT: Final = (0x2F, 0)  # the vectors of either
_KIND: Final = {VM86: 1, REAL: 2}
_SIXTEEN: Final = (REAL, VM86, P16)
_WIDTH: Final = {REAL: 2, VM86: 2, P16: 2, P32: 4, COMPAT: 4, LONG: 8}  # of a stack slot
_CODE: Final = {(P16, 0): 0x28, (P16, 3): 0x3B, (P32, 0): 0x08, (P32, 3): 0x1B, (COMPAT, 0): 0x30, (COMPAT, 3): 0x1B,
                (LONG, 0): 0x08, (LONG, 3): 0x2B}  # fmt: skip
_DATA: Final = {(P16, 0): 0x30, (P16, 3): 0x43}
_VM, _CR4_PAE = 1 << 17, 1 << 5
_CR4_ON: Final = 1 << 2 | 1 << 3 | 1 << 8 | 1 << 11 | 1 << 16  # TSD, DE, PCE, UMIP, FSGSBASE
_PML4: Final = 0x200000
_ROOM: Final = 128  # bytes below a stack's contents: a frame of an exception at level 0
_REGISTERS: Final = ("eax", "ecx", "edx", "ebx", "esi", "edi")
_NAMES: Final = {6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF"}

Case = tuple[Row, Cell]


@functools.lru_cache
def _environment(name: str) -> Program:
    def read(file: str) -> str:
        path = _SOURCES / file
        return (path if path.exists() else _COMMON / file).read_text(encoding="ascii")

    return assemble(name, read, ORIGIN, 32)


def cases(mode: str, under_qemu: bool = False) -> list[Case]:
    """All cells of `mode` for every row that exists in it, and that QEMU can try."""
    rows = [row for row in ROWS if mode in row.modes and not (under_qemu and (row.name, mode) in QEMU_CANNOT)]
    return [(row, cell) for row in rows for cell in cells(mode)]


def build(mode: str, tried: Sequence[Case]) -> bytes:
    """The multiboot image that tries these cases of one mode."""
    environment = _environment("long.s" if mode in (COMPAT, LONG) else "legacy.s")
    builder = _Builder(mode, environment)
    records = [builder.record(row, cell) for row, cell in tried]
    area = bytes(builder.area) + bytes(-len(builder.area) % 4)
    head = struct.pack("<3I", len(records), len(area), _KIND.get(mode, 0))
    return environment.image + head + area + b"".join(records)


def encode(row: Row, rm: int, far: bytes) -> bytes:
    """The bytes of a row's instruction, where `rm` is the rm field for [BX] or [RBX] and `far` a far pointer."""
    text = re.sub(r"/m(\d)", lambda found: f"{int(found[1]) << 3 | rm:02x}", row.code)
    return bytes.fromhex(text.replace("far", far.hex()))


def outcomes(console: str) -> list[str]:
    """What the lines "VECTOR ERROR" of a guest say; anything else is kept as it is."""
    return [_outcome(line) for line in console.splitlines()]


def _outcome(line: str) -> str:
    found = re.fullmatch(r"([0-9a-f]{2}) ([0-9a-f]{4})", line)
    if found is None:
        return line
    vector, error = int(found[1], 16), int(found[2], 16)
    if vector in _LEFT:
        return OK
    if vector not in _NAMES:
        return f"vector {vector:x}"
    return _NAMES[vector] + (f"({error:x})" if vector != 6 else "")


class _Builder:
    """The area while it grows, and the records that refer to it."""

    def __init__(self, mode: str, environment: Program) -> None:
        self._mode, self._environment = mode, environment
        self._sixteen, self._width = mode in _SIXTEEN, _WIDTH[mode]
        self._base = 0 if self._sixteen else _AREA  # of offsets that the mode's code uses
        self._made: dict[tuple[object, ...], int] = {}
        self._leave = _LEAVE_VM86 if mode == VM86 else _LEAVE
        self.area = bytearray(self._leave)  # where transfers go

    # -- pieces of the area ------------------------------------------------------------------------------------

    def _put(self, content: bytes, room: int = 0) -> int:
        """Append; the offset of `content` as the code of this mode uses it."""
        self.area += bytes(room + -(len(self.area) + room) % 16)
        self.area += content
        return self._base + len(self.area) - len(content)

    def _once(self, key: tuple[object, ...], content: bytes, room: int = 0) -> int:
        if key not in self._made:
            self._made[key] = self._put(content, room)
        return self._made[key]

    def _words(self, *values: int) -> bytes:
        return b"".join(value.to_bytes(self._width, "little") for value in values)

    def _code_selector(self, cpl: int) -> int:
        return _CODE.get((self._mode, cpl), _SEGMENT)

    def _data_selector(self, cpl: int) -> int:
        if self._mode in (REAL, VM86):
            return _SEGMENT
        return _DATA.get((self._mode, cpl), 0x10 if cpl == 0 else 0x23)

    def _stack(self, kind: str, cpl: int) -> int:
        """The stack pointer under which the contents `kind` lie; each serves one case, whose end overwrites them."""
        cs, ss, target = self._code_selector(cpl), self._data_selector(cpl), self._base
        content = {
            "plain": b"",
            "flags": self._words(2),
            "data": self._words(ss),
            "far": self._words(target, cs),
            "iret": self._words(target, cs, 2),
        }[kind]
        if kind == "iret" and self._mode == LONG:
            content += self._words(self._stack("plain", cpl), ss)
        if not content:
            return self._once(("stack", cpl), bytes(16), _ROOM)
        return self._put(content, _ROOM)

    def _pointer(self, offset: int, selector: int) -> bytes:
        return offset.to_bytes(2 if self._sixteen else 4, "little") + selector.to_bytes(2, "little")

    def _table(self, name: str) -> bytes:
        """The pseudo-descriptor that the environment loaded, or in real mode that of the vector table."""
        if self._mode == REAL and name == "idtr":
            return struct.pack("<HI", 0x3FF, 0)
        at = self._environment.symbols[name] - ORIGIN
        return self._environment.image[at : at + 10]

    def _value(self, name: str, cell: Cell) -> int:
        """The value that a register has by this name in this cell."""
        cpl, long = cell.cpl, self._mode in (COMPAT, LONG)
        match name:
            case "data":
                return self._data_selector(cpl)
            case "ldt":
                return 0x48 if long else 0x50
            case "tss":
                return 0x58
            case "cr0":
                return 0x8000_0011 if long else 0x10 if self._mode == REAL else 0x11
            case "cr2":
                return 0
            case "cr3":
                return _PML4 if long else 0
            case "cr4":
                return self._cr4(cell)
            case "flat_target":
                return _AREA
            case "flat_stack":
                return self._stack("plain", cpl) - self._base + _AREA
            case "scratch":
                return self._once((name,), bytes(32))
            case "zeros":
                return self._once((name,), bytes(16))
            case "gdtr" | "idtr":
                return self._once((name,), self._table(name))
            case "code_pointer":
                return self._once((name, cpl), self._pointer(self._base, self._code_selector(cpl)))
            case "data_pointer":
                return self._once((name, cpl), self._pointer(self._stack("plain", cpl), self._data_selector(cpl)))
        raise ValueError(f"no register value {name!r}")

    def _cr4(self, cell: Cell) -> int:
        return (_CR4_ON if cell.on else 0) | (_CR4_PAE if self._mode in (COMPAT, LONG) else 0)

    # -- cases -------------------------------------------------------------------------------------------------

    def _code(self, row: Row, cpl: int) -> int:
        rm = 7 if self._sixteen else 3  # [BX]; [EBX] or [RBX] (SDM vol. 2, tables 2-1 and 2-2)
        code = encode(row, rm, self._pointer(self._base, self._code_selector(cpl))) + self._leave
        return self._once(("code", code), code)

    def record(self, row: Row, cell: Cell) -> bytes:
        """One case, as `table/*.s` lay it out."""
        flags = 2 | cell.iopl << 12 | row.flags | (_VM if self._mode == VM86 else 0)
        values = dict(row.regs)
        registers = [self._value(v, cell) if isinstance(v, str) else v for v in (values.get(r, 0) for r in _REGISTERS)]
        head = (self._code(row, cell.cpl), self._code_selector(cell.cpl), flags, self._stack(row.stack, cell.cpl))
        return struct.pack("<13I", *head, self._data_selector(cell.cpl), *registers, self._cr4(cell), row.timer)
