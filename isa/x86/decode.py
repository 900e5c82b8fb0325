"""Decodes x86 instructions through capstone into plain records; the only module that knows capstone.

capstone is called through its C iterator with one preallocated record, because its Python objects cost ten times the
decoding itself. Decoded instructions are remembered by their bytes: an `Insn` holds no address.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Final

import capstone
from capstone import x86_const as cx
from capstone.x86 import CsX86, X86Op

from isa.base import Flow
from isa.x86 import standin
from isa.x86 import state as s

MAX_LENGTH: Final = 15  # SDM vol. 2, 2.3.11

# Operand kinds.
REG, MEM, IMM, SEG, CR, DR, VEC, OTHER = range(8)

_LEGACY = {0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65}
_SEG_PREFIX = {0x26: s.ES, 0x2E: s.CS, 0x36: s.SS, 0x3E: s.DS, 0x64: s.FS, 0x65: s.GS}


@dataclass(frozen=True, slots=True)
class Operand:
    """One explicit operand in Intel order.

    REG: `reg` is the general register's number, `high` marks AH..BH. MEM: `seg` is the segment register used
    (override or default), `base`/`index` general register numbers or -1 (`base` is RIP_BASE for RIP-relative),
    `scale`, `disp` (signed). IMM: `imm` (signed as decoded). SEG, CR, DR: `reg` is the register's number.
    VEC: an x87, MMX or SSE register. `size` is in bytes; `read`/`written` tell the access.
    """

    kind: int
    size: int
    reg: int = -1
    high: bool = False
    seg: int = s.DS
    base: int = -1
    index: int = -1
    scale: int = 1
    disp: int = 0
    imm: int = 0
    read: bool = False
    written: bool = False


RIP_BASE: Final = 16

# Opcodes for which 66 is an operand-size prefix and nothing else.
_SIZED: Final = frozenset(
    (
        *range(0x100),
        *range(0x0F40, 0x0F50),
        *range(0x0FA3, 0x0FAE),
        *range(0x0FAF, 0x0FC2),
        *range(0x0FC8, 0x0FD0),
        0x0F38F0,
        0x0F38F1,
    )
)


_LOW: Final = s.SF | s.ZF | s.AF | s.PF | s.CF
# Flags read and written where capstone is wrong: it takes CMPPS and CMPSD for integer compares.
_FLAGS: Final = {
    0x0FC2: (0, 0), 0x27: (s.AF | s.CF, s.ARITH), 0x2F: (s.AF | s.CF, s.ARITH), 0x37: (s.AF, s.ARITH),
    0x3F: (s.AF, s.ARITH), 0x9E: (0, _LOW), 0x9F: (_LOW, 0),
}  # fmt: skip


class Insn:
    """One decoded instruction, independent of its address; treat as immutable.

    `opcode` is 0xNN, 0x0FNN, 0x0F38NN or 0x0F3ANN (for VEX, the same with `vex` set); `opsize` and `adsize` are the
    effective operand and address sizes in bytes; `rep` is 0, 0xF2 or 0xF3; `seg` the segment override or -1; `modrm` is
    -1 where there is none; `*_at` are byte offsets into `raw` (0: absent); `flags_read`/`flags_written` are RFLAGS
    masks of arithmetic flags and DF (written includes undefined).
    """

    __slots__ = (
        "_detail", "_operands", "_text", "adsize", "disp_at", "disp_size", "flags_read", "flags_written", "flow", "id",
        "imm_at", "imm_size", "lock", "mode", "modrm", "modrm_at", "opcode", "opcode_at", "opsize", "raw", "rep", "rex",
        "seg", "size", "traits", "vex",
    )  # fmt: skip

    raw: bytes
    size: int
    mode: int
    id: int
    rep: int
    lock: bool
    seg: int
    opsize: int
    adsize: int
    rex: int
    vex: bool
    opcode: int
    opcode_at: int
    modrm: int
    modrm_at: int
    disp_at: int
    disp_size: int
    imm_at: int
    imm_size: int
    flags_read: int
    flags_written: int
    flow: Flow
    _detail: bytes  # capstone's record, kept because most readers never ask for the operands
    _text: bytes
    _operands: tuple[Operand, ...] | None
    traits: object  # None, or what the rewriter found out about it

    def __init__(self) -> None:
        self.traits = None

    @property
    def operands(self) -> tuple[Operand, ...]:
        """The explicit operands, built at first use."""
        if self._operands is None:
            count = self._detail[_COUNT_AT] if self._detail else 0
            self._operands = tuple(_operand(self, n) for n in range(count))
        return self._operands

    @property
    def mem(self) -> Operand | None:
        """The (first) memory operand, or None."""
        return next((op for op in self.operands if op.kind == MEM), None)

    @property
    def name(self) -> str:
        """The mnemonic, with capstone's `lock`/`rep` prefix words."""
        return self._text[:_MNEMONIC].split(b"\0", 1)[0].decode()

    @property
    def text_operands(self) -> str:
        return self._text[_MNEMONIC:].split(b"\0", 1)[0].decode()

    @property
    def reg_field(self) -> int:
        """ModRM.reg without REX.R: the opcode extension of group opcodes."""
        return (self.modrm >> 3) & 7

    @property
    def rip_relative(self) -> bool:
        return self.mode == 64 and self.modrm >= 0 and self.modrm & 0xC7 == 5

    def target(self, pc: int) -> int:
        """Target of a direct branch at offset `pc` in its code segment, wrapped to the operand size."""
        raw = (pc + self.size + self.displacement()) & 0xFFFFFFFFFFFFFFFF
        if self.mode == 64:
            return raw
        return raw & (0xFFFF if self.opsize == 2 else 0xFFFFFFFF)

    def displacement(self) -> int:
        """Signed displacement of a direct branch (its last 1, 2 or 4 bytes)."""
        length = self.imm_size
        return int.from_bytes(self.raw[self.size - length :], "little", signed=True)

    def text(self) -> str:
        """Assembly text in Intel syntax; branch targets are relative to address 0."""
        return f"{self.name} {self.text_operands}".rstrip()

    def __repr__(self) -> str:
        return f"<Insn {self.raw.hex()} {self.text()} ({self.mode}-bit)>"


def _general_registers() -> dict[int, tuple[int, int, bool]]:
    """capstone register number -> (number, size, is high byte)."""
    out: dict[int, tuple[int, int, bool]] = {}
    legacy = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
    for n, name in enumerate(legacy):
        up = name.upper()
        out[getattr(cx, f"X86_REG_R{up}")] = (n, 8, False)
        out[getattr(cx, f"X86_REG_E{up}")] = (n, 4, False)
        out[getattr(cx, f"X86_REG_{up}")] = (n, 2, False)
    for n, name in enumerate(("AL", "CL", "DL", "BL", "SPL", "BPL", "SIL", "DIL")):
        out[getattr(cx, f"X86_REG_{name}")] = (n, 1, False)
    for n, name in enumerate(("AH", "CH", "DH", "BH")):
        out[getattr(cx, f"X86_REG_{name}")] = (n, 1, True)
    for n in range(8, 16):
        out[getattr(cx, f"X86_REG_R{n}")] = (n, 8, False)
        out[getattr(cx, f"X86_REG_R{n}D")] = (n, 4, False)
        out[getattr(cx, f"X86_REG_R{n}W")] = (n, 2, False)
        out[getattr(cx, f"X86_REG_R{n}B")] = (n, 1, False)
    return out


_GENERAL = _general_registers()
_SEGS = {getattr(cx, f"X86_REG_{name.upper()}"): n for n, name in enumerate(s.SEG_NAMES)}
_CRS = {getattr(cx, f"X86_REG_CR{n}"): n for n in range(16)}
_DRS = {getattr(cx, f"X86_REG_DR{n}"): n for n in range(16)}
_RIPS = {cx.X86_REG_RIP, cx.X86_REG_EIP}

# RFLAGS bit -> the capstone masks that mean "tested" and "changed in any way, or left undefined".
_FLAG_NAMES = {s.CF: "CF", s.PF: "PF", s.AF: "AF", s.ZF: "ZF", s.SF: "SF", s.OF: "OF", s.DF: "DF"}


def _flag_masks(prefixes: tuple[str, ...]) -> list[tuple[int, int]]:
    out = []
    for bit, name in _FLAG_NAMES.items():
        mask = 0
        for prefix in prefixes:
            mask |= getattr(cx, f"X86_EFLAGS_{prefix}_{name}", 0)
        out.append((bit, mask))
    return out


_TESTED = _flag_masks(("TEST", "PRIOR"))
_CHANGED = _flag_masks(("MODIFY", "RESET", "SET", "UNDEFINED"))
_FPU_GROUP = cx.X86_GRP_FPU
_flag_memo: dict[int, tuple[int, int]] = {}


def _flags_of(eflags: int) -> tuple[int, int]:
    found = _flag_memo.get(eflags)
    if found is None:
        read = sum(bit for bit, mask in _TESTED if eflags & mask)
        written = sum(bit for bit, mask in _CHANGED if eflags & mask)
        found = _flag_memo[eflags] = (read, written)
    return found


_X86_AT = capstone._cs_detail.arch.offset
_OPERANDS_AT = _X86_AT + CsX86.operands.offset
_OPERAND_SIZE = ctypes.sizeof(X86Op)
_ENCODING_AT = _X86_AT + CsX86.encoding.offset
_FLAGS_AT = _X86_AT + CsX86.flags.offset
_COUNT_AT = _X86_AT + CsX86.op_count.offset
_ADDR_SIZE_AT = _X86_AT + CsX86.addr_size.offset
_GROUPS_AT = capstone._cs_detail.groups.offset
_GROUPS_COUNT_AT = capstone._cs_detail.groups_count.offset
_operand_struct = struct.Struct("<I4xIIIiqBB")  # type, seg|reg, base, index, scale, disp, size, access
_MNEMONIC = capstone._cs_insn.op_str.offset - capstone._cs_insn.mnemonic.offset
_WORDS_AT = capstone._cs_insn.mnemonic.offset
_WORDS = capstone._cs_insn.detail.offset - _WORDS_AT
_DETAIL_BYTES = ctypes.sizeof(capstone._cs_detail)


def _copied(found: Insn) -> Insn:
    insn = Insn()
    for name in Insn.__slots__:
        setattr(insn, name, getattr(found, name))
    insn._operands = insn.traits = None
    return insn


def _shift(insn: Insn, by: int) -> None:
    """Move the offsets into `raw`, those that are there."""
    for name in ("opcode_at", "modrm_at", "disp_at", "imm_at"):
        at = getattr(insn, name)
        setattr(insn, name, at + by if at else 0)


class Decoder:
    """Decodes one mode (16, 32 or 64 bit) and remembers what it decoded."""

    _SIZES = {16: 2, 32: 4, 64: 4}

    def __init__(self, mode: int) -> None:
        self.mode = mode
        width = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[mode]
        self._capstone = capstone.Cs(capstone.CS_ARCH_X86, width)
        self._capstone.detail = True
        lib = capstone._cs
        self._lib = ctypes.CDLL(lib._name)
        self._iterate = self._lib.cs_disasm_iter
        self._iterate.restype = ctypes.c_bool
        self._iterate.argtypes = [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._lib.cs_malloc.restype = ctypes.c_void_p
        self._lib.cs_malloc.argtypes = [ctypes.c_size_t]
        self._handle = ctypes.c_size_t(self._capstone.csh.value)
        record = self._lib.cs_malloc(self._handle)
        self._insn = capstone._cs_insn.from_address(record)
        self._record = ctypes.c_void_p(record)
        detail = ctypes.cast(self._insn.detail, ctypes.c_void_p).value
        assert detail is not None
        self._detail = memoryview((ctypes.c_char * _DETAIL_BYTES).from_address(detail)).cast("B")
        self._words = memoryview((ctypes.c_char * _WORDS).from_address(record + _WORDS_AT)).cast("B")
        self._buffer = ctypes.create_string_buffer(32)
        self._code = ctypes.c_void_p()
        self._left = ctypes.c_size_t()
        self._address = ctypes.c_uint64()
        self._args = (
            self._handle,
            ctypes.cast(ctypes.byref(self._code), ctypes.c_void_p),
            ctypes.cast(ctypes.byref(self._left), ctypes.c_void_p),
            ctypes.cast(ctypes.byref(self._address), ctypes.c_void_p),
            self._record,
        )
        self._start = ctypes.addressof(self._buffer)
        self._memo: dict[bytes, Insn] = {}  # by the instruction's bytes; by all that was looked at where it is none
        self._lengths: dict[bytes, tuple[int, ...]] = {}  # of the keys, by their first bytes
        self._wide: Decoder | None = None

    def decode(self, code: bytes) -> Insn | None:
        """Decode the first instruction in `code` (15 bytes are enough).

        Returns an `Insn` with flow INVALID and size 1 where the bytes are no instruction, or None where `code` ends
        before the instruction does and is shorter than 15 bytes (the rest is on the next page).
        """
        # What an instruction is depends on its own bytes alone; those that begin alike seldom differ in length.
        start = code[:3]
        for length in self._lengths.get(start, ()):
            found = self._memo.get(code[:length])
            if found is not None:
                return found
        code = code[:MAX_LENGTH]
        ctypes.memmove(self._start, code, len(code))
        self._code.value = self._start
        self._left.value = len(code)
        self._address.value = 0
        other = standin.as_32(code) if self.mode == 16 else None
        better = standin.preferred(code) if self.mode == 64 else None
        if other is not None:
            translated = self._through_32(code, *other)
        elif better is not None:
            translated = self._through(code, better)
        elif not self._iterate(*self._args):
            translated = self._through(code, standin.equivalent(code, self.mode))
        else:
            translated = self._build(code)
            if translated.rex & 8 and translated.opcode in _SIZED and 0x66 in translated.raw[: translated.opcode_at]:
                translated = self._without_66(code, translated)
        if translated is None:
            if len(code) < MAX_LENGTH:
                return None
            translated = self.undefined(code)
        insn = translated
        if len(self._memo) > 200_000:  # bounds memory when a guest executes random bytes
            self.forget()
        length = insn.size if insn.flow is not Flow.INVALID else len(code)
        self._memo[code[:length]] = insn
        lengths = self._lengths.get(start, ())
        if length not in lengths:
            self._lengths[start] = (*lengths, length)
        return insn

    def forget(self) -> None:
        """Give back the memory of what is remembered, some two kilobytes an instruction."""
        self._memo.clear()
        self._lengths.clear()

    def undefined(self, code: bytes) -> Insn:
        """What stands for bytes that are no instruction."""
        insn = Insn()
        insn.raw, insn.size, insn.mode, insn.id, insn._text = code[:1], 1, self.mode, 0, b"(bad)"
        insn._detail, insn._operands = b"", ()
        insn.rep, insn.lock, insn.seg, insn.rex, insn.vex = 0, False, -1, 0, False
        insn.opsize = insn.adsize = self._SIZES[self.mode]
        insn.opcode, insn.opcode_at, insn.modrm, insn.modrm_at = -1, 0, -1, 0
        insn.disp_at = insn.disp_size = insn.imm_at = insn.imm_size = 0
        insn.flags_read, insn.flags_written, insn.flow = 0, 0, Flow.INVALID
        return insn

    def _without_66(self, code: bytes, wrong: Insn) -> Insn:
        """REX.W overrides an operand-size prefix (SDM vol. 2, 2.2.1.2), but capstone lets the prefix win."""
        at = code.index(0x66)
        found = self.decode((code[:at] + code[at + 1 :]).ljust(MAX_LENGTH, b"\x90"))
        if found is None or found.opcode != wrong.opcode:
            return wrong
        insn = _copied(found)
        insn.raw, insn.size = code[: found.size + 1], found.size + 1
        _shift(insn, 1)
        return insn

    def _through(self, code: bytes, same: bytes | None) -> Insn | None:
        """Decode by `same`, which is as long and means the same; None where that is no (whole) instruction either."""
        found = self.decode(same) if same is not None and same != code else None
        if found is None or found.flow is Flow.INVALID:
            return None
        insn = _copied(found)
        insn.raw = code[: found.size]
        self._prefixes(insn, insn.raw)
        self._opcode(insn, insn.raw)
        insn.modrm = insn.raw[insn.modrm_at] if insn.modrm_at else -1
        return insn

    def _through_32(self, code: bytes, same: bytes, longer: int) -> Insn | None:
        """Decode 16-bit code by `same`, which means it in 32-bit code and is `longer` by so many bytes."""
        if self._wide is None:
            self._wide = Decoder(32)
        found = self._wide.decode(same)
        if found is None or found.flow is Flow.INVALID:
            return None
        insn = _copied(found)
        insn.mode, insn.size = 16, found.size - longer
        insn.raw = code[: insn.size]
        _shift(insn, -longer)
        self._prefixes(insn, insn.raw)
        return insn

    def _build(self, code: bytes) -> Insn:
        record, detail = self._insn, self._detail
        insn = Insn()
        size = insn.size = record.size
        raw = insn.raw = code[:size]
        insn.mode, insn.id = self.mode, record.id
        insn._text, insn._detail, insn._operands = bytes(self._words), bytes(detail), None
        self._prefixes(insn, raw)
        modrm_at, insn.disp_at, insn.disp_size, insn.imm_at, insn.imm_size = detail[_ENCODING_AT : _ENCODING_AT + 5]
        self._opcode(insn, raw)
        if modrm_at:
            insn.modrm_at, insn.modrm = modrm_at, raw[modrm_at]
        else:
            insn.modrm_at, insn.modrm = 0, -1
        (eflags,) = struct.unpack_from("<Q", detail, _FLAGS_AT)
        groups = detail[_GROUPS_AT : _GROUPS_AT + detail[_GROUPS_COUNT_AT]]
        if _FPU_GROUP in bytes(groups):  # the same field then holds x87 condition codes; be conservative
            insn.flags_read, insn.flags_written = s.ARITH, 0
        else:
            insn.flags_read, insn.flags_written = _flags_of(eflags)
        if insn.opcode in _FLAGS:
            insn.flags_read, insn.flags_written = _FLAGS[insn.opcode]
        insn.flow = _flow(insn)
        if insn.flow in (Flow.JUMP, Flow.BRANCH, Flow.CALL) and not insn.imm_size:
            insn.imm_size = insn.size - insn.opcode_at - (1 if insn.opcode < 0x100 else 2)
            insn.imm_at = insn.size - insn.imm_size
        return insn

    def _prefixes(self, insn: Insn, raw: bytes) -> None:
        rep, lock, seg, o16, a16, at = 0, False, -1, False, False, 0
        rex = 0
        while raw[at] in _LEGACY or (self.mode == 64 and raw[at] & 0xF0 == 0x40):
            byte = raw[at]
            rex = byte if byte & 0xF0 == 0x40 else 0  # it counts directly in front of the opcode (SDM vol. 2, 2.2.1)
            if rex:
                pass
            elif byte in (0xF2, 0xF3):
                rep = byte
            elif byte == 0xF0:
                lock = True
            elif byte == 0x66:
                o16 = True
            elif byte == 0x67:
                a16 = True
            elif self.mode != 64 or byte in (0x64, 0x65):  # the other four are ignored in 64-bit mode
                seg = _SEG_PREFIX[byte]
            at += 1
        insn.rep, insn.lock, insn.seg, insn.rex, insn.opcode_at = rep, lock, seg, rex, at
        if self.mode == 64:
            insn.opsize = 8 if rex & 8 else 2 if o16 else 4
            insn.adsize = 4 if a16 else 8
        else:
            wide = self.mode == 32
            insn.opsize = 4 if wide != o16 else 2
            insn.adsize = 4 if wide != a16 else 2

    def _opcode(self, insn: Insn, raw: bytes) -> None:
        at = insn.opcode_at
        first = raw[at]
        insn.vex = False
        if first == 0x0F:
            second = raw[at + 1]
            insn.opcode = 0x0F0000 | second << 8 | raw[at + 2] if second in (0x38, 0x3A) else 0x0F00 | second
        elif first in (0xC4, 0xC5) and (self.mode == 64 or raw[at + 1] >= 0xC0):
            insn.vex = True
            if first == 0xC5:
                insn.opcode = 0x0F00 | raw[at + 2]
            else:
                space = raw[at + 1] & 0x1F
                prefix = {1: 0x0F00, 2: 0x0F3800, 3: 0x0F3A00}.get(space, 0)
                insn.opcode = prefix | raw[at + 3]
        else:
            insn.opcode = first


def _operand(insn: Insn, n: int) -> Operand:
    kind, first, base, index, scale, disp, size, access = _operand_struct.unpack_from(
        insn._detail, _OPERANDS_AT + n * _OPERAND_SIZE
    )
    read, written = bool(access & 1), bool(access & 2)
    if kind == cx.X86_OP_REG:
        if first in _GENERAL:
            number, width, high = _GENERAL[first]
            return Operand(REG, width, number, high, read=read, written=written)
        for table, what in ((_SEGS, SEG), (_CRS, CR), (_DRS, DR)):
            if first in table:
                return Operand(what, size, table[first], read=read, written=written)
        return Operand(VEC, size, read=read, written=written)
    if kind == cx.X86_OP_IMM:
        (imm,) = struct.unpack_from("<q", insn._detail, _OPERANDS_AT + n * _OPERAND_SIZE + 8)
        return Operand(IMM, size, imm=imm)
    if kind == cx.X86_OP_MEM:
        base_number = RIP_BASE if base in _RIPS else _GENERAL[base][0] if base in _GENERAL else -1
        index_number = _GENERAL[index][0] if index in _GENERAL else -1
        if first in _SEGS and (
            insn.mode != 64 or _SEGS[first] >= s.FS
        ):  # an override, or the ES of string destinations
            segment = _SEGS[first]
        elif insn.seg >= 0:
            segment = insn.seg
        else:
            segment = s.SS if base_number in (s.RSP, s.RBP) else s.DS
        return Operand(MEM, size, -1, False, segment, base_number, index_number, scale, disp, 0, read, written)
    return Operand(OTHER, size)


def _flow(insn: Insn) -> Flow:
    """Classify control flow by opcode (SDM vol. 2, opcode maps); system transfers are for `sensitive` to name."""
    opcode = insn.opcode
    if insn.vex:
        return Flow.NEXT
    if opcode in (0xE9, 0xEB):
        return Flow.JUMP
    if 0x70 <= opcode <= 0x7F or 0x0F80 <= opcode <= 0x0F8F or 0xE0 <= opcode <= 0xE3:
        return Flow.BRANCH
    if opcode == 0xE8:
        return Flow.CALL
    if opcode in (0xC2, 0xC3):
        return Flow.RETURN
    if opcode == 0xFF:
        field = insn.reg_field
        if field == 2:
            return Flow.INDIRECT_CALL
        if field == 4:
            return Flow.INDIRECT_JUMP
    return Flow.NEXT
