"""Recognizes the situations in which an engine is known to disagree with the real CPU; `explain` gives the reasons.

Each function returns the names of the fields that its situation explains: `*` for all, `st*` for all that begin so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from emu.backends.unicorn import BASE32, WINDOW_SIZE
from isa.base import Flow
from isa.x86.decode import Insn
from isa.x86.state import AF, OF, SF
from isa.x86.vector import is_vector, memory_size
from tests.differential.compare import Differences
from tests.differential.harness import Case, Outcome

Fields = tuple[str, ...]
AC_FAULT, XM, PAGE_FAULT, GP, SS_FAULT, MF = 17, 19, 14, 13, 12, 16
_IE, _SF, _ES, _C1 = 1, 0x40, 0x80, 0x200
_DE, _ZE, _OE, _PE = 2, 4, 8, 0x20  # denormal operand, division by zero, overflow, precision; also in MXCSR
_X87_FLAGS: Final = 0x82FF  # exception flags, stack fault, summary, C1 and busy
_STRINGS: Final = frozenset((*range(0xA4, 0xA8), *range(0xAA, 0xB0)))
_USER_END: Final = 0x7FFF_FFFF_F000  # of Linux


@dataclass(frozen=True, slots=True)
class Situation:
    """A case, its instruction, and the two outcomes that differ."""

    case: Case
    insn: Insn
    real: Outcome
    found: Outcome
    differences: Differences

    def bits(self, field: str) -> int:
        """Which bits of a field differ."""
        right, mine = self.differences.get(field, (0, 0))
        return right ^ mine

    @property
    def real_faulted(self) -> bool:
        """The instruction itself faulted on the real CPU."""
        return self.real.rip == self.case.rip

    @property
    def x87(self) -> bool:
        return 0xD8 <= self.insn.opcode <= 0xDF

    @property
    def status(self) -> int:
        """The x87 status word of the real CPU."""
        return int.from_bytes(self.real.fx[2:4], "little")

    @property
    def started(self) -> int:
        """The x87 status word before."""
        return int.from_bytes(self.case.fx[2:4], "little")


def simd_exception(s: Situation) -> Fields:
    return ("*",) if s.real.vector == XM else ()


def denormal_exception(s: Situation) -> Fields:
    return ("*",) if s.real.vector == XM and s.real.fx[24] & _DE else ()


def simd_flags(s: Situation) -> Fields:
    return ("mxcsr",) if s.insn.opcode > 0xFF and not s.bits("mxcsr") & ~_DE else ()


def overflow_flags(s: Situation) -> Fields:
    overflowed = s.insn.opcode > 0xFF and s.real.vector == XM and s.real.fx[24] & _OE
    return ("mxcsr",) if overflowed and not s.bits("mxcsr") & ~(_DE | _PE) else ()


def division_flags(s: Situation) -> Fields:
    divides = s.insn.opcode in (0xD8, 0xDA, 0xDC, 0xDE) and s.insn.reg_field >= 6
    return ("fsw",) if divides and not s.bits("fsw") & ~(_DE | _C1 | _ZE) else ()


def rounding_flags(s: Situation) -> Fields:
    rounds = 0x0F3A08 <= s.insn.opcode <= 0x0F3A0B and s.insn.raw[-1] & 8
    return ("mxcsr",) if rounds and not s.bits("mxcsr") & ~(_DE | _PE) else ()


def approximation_flags(s: Situation) -> Fields:
    return ("mxcsr",) if s.insn.opcode in (0x0F52, 0x0F53) and not s.bits("mxcsr") & ~0x3F else ()


def store_flags(s: Situation) -> Fields:
    faulted = s.x87 and s.real_faulted and s.real.vector in (SS_FAULT, GP, PAGE_FAULT, AC_FAULT)
    return ("fsw",) if faulted and not s.bits("fsw") & ~0x3F else ()


def mmx_exception(s: Situation) -> Fields:
    converts = s.insn.opcode in (0x0F2A, 0x0F2C, 0x0F2D) and not s.insn.rep
    return ("fsw", "ftw", "st*") if converts and s.real.vector == XM else ()


def approximations(s: Situation) -> Fields:
    return ("xmm*",) if s.insn.opcode in (0x0F52, 0x0F53) else ()


def x87_flags(s: Situation) -> Fields:
    return ("fsw",) if s.x87 and not s.bits("fsw") & ~(_DE | _C1) else ()


def x87_stack(s: Situation) -> Fields:
    return ("fsw", "ftw", "st*", "flags", "data*") if s.x87 and s.status & _SF else ()


def x87_unmasked(s: Situation) -> Fields:
    return ("*",) if s.x87 and s.status & _ES else ()


def x87_invalid(s: Situation) -> Fields:
    return ("fsw", "st*", "flags", "data*", "ftw") if s.x87 and s.status & _IE else ()


# F2XM1 FYL2X FPTAN FPATAN FXTRACT FPREM1 FPREM FYL2XP1 FSQRT FSINCOS FRNDINT FSCALE FSIN FCOS
_INEXACT: Final = frozenset((0xF0, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF8, 0xF9, 0xFB, 0xFD, 0xFE, 0xFF))


def transcendental(s: Situation) -> Fields:
    return ("st*", "fsw", "ftw") if s.insn.opcode == 0xD9 and s.insn.modrm in _INEXACT else ()


def environment(s: Situation) -> Fields:
    op, field = s.insn.opcode, s.insn.reg_field
    stores = s.insn.modrm < 0xC0 and ((op == 0xD9 and field == 6) or (op == 0xDD and field == 6))
    masks = not s.bits("fsw") & ~0x8080  # and so is no exception pending any more
    return ("data*", "fcw", "fsw") if stores and masks else ()


def control_word(s: Situation) -> Fields:
    op, field = s.insn.opcode, s.insn.reg_field
    loads = s.insn.modrm < 0xC0 and ((op == 0xD9 and field in (4, 5)) or (op == 0xDD and field == 4))
    return ("fcw",) if loads and not s.bits("fcw") & ~0xE0C0 else ()


def summary(s: Situation) -> Fields:
    loads = s.insn.modrm < 0xC0 and s.insn.opcode in (0xD9, 0xDD) and s.insn.reg_field == 4
    return ("fsw",) if loads and not s.bits("fsw") & ~0x8080 else ()


def push_segment(s: Situation) -> Fields:
    op = s.insn.opcode
    pushes = op in (0x06, 0x0E, 0x16, 0x1E, 0x0FA0, 0x0FA8)
    if pushes and s.found.vector == AC_FAULT and s.insn.opsize == 4:
        return ("*",)  # two bytes need less alignment than four
    return ("data*",) if pushes else ()


def masked_store(s: Situation) -> Fields:
    return ("cr2", "error", "fsw", "ftw", "st*") if s.insn.opcode == 0x0FF7 and s.real_faulted else ()


def masked_nothing(s: Situation) -> Fields:
    return ("*",) if s.insn.opcode == 0x0FF7 and s.real_faulted and s.found.rip != s.case.rip else ()


def hidden_fault(s: Situation) -> Fields:
    linux = s.real.vector == s.found.vector == PAGE_FAULT and (s.real.cr2 or 0) >= _USER_END
    return ("error",) if linux and s.bits("error") == 1 else ()


def mmx_fault(s: Situation) -> Fields:
    return ("fsw", "ftw", "st*") if s.real_faulted and s.insn.opcode in (0x0F7E, 0x0F7F, 0x0FE7) else ()


def compare_predicate(s: Situation) -> Fields:
    return ("*",) if s.insn.opcode == 0x0FC2 and s.insn.raw[-1] > 7 and s.found.vector == 6 else ()


def scan_of_zero(s: Situation) -> Fields:
    return ("r*", "e*") if s.insn.opcode in (0x0FBC, 0x0FBD) and s.real.flags & 0x40 else ()


def image(s: Situation) -> Fields:
    return ("data*",) if s.insn.opcode == 0x0FAE and s.insn.reg_field == 0 else ()


def reserved_control(s: Situation) -> Fields:
    loads = s.insn.opcode == 0x0FAE and s.insn.reg_field in (1, 2) and s.insn.modrm < 0xC0
    return ("*",) if loads and s.real.vector == GP and s.real_faulted else ()


def byte_swap(s: Situation) -> Fields:
    return ("r*",) if 0x0FC8 <= s.insn.opcode <= 0x0FCF and s.insn.opsize == 2 else ()


def same_but_nans(right: int, mine: int, bits: int, flushes: bool = False) -> bool:
    """Every lane that differs is a NaN in both; or, if denormals are flushed, is zero there and a denormal here."""
    infinity, lane, sign = (0x7F80_0000 if bits == 32 else 0x7FF0 << 48), (1 << bits) - 1, 1 << bits - 1
    lanes = [(right >> at & lane, mine >> at & lane) for at in range(0, 128, bits)]
    return all(
        a == b or (a & ~sign > infinity and b & ~sign > infinity) or (flushes and _flushed(a, b, bits))
        for a, b in lanes
    )


def nan(s: Situation) -> Fields:
    flushes = bool(int.from_bytes(s.case.fx[24:28], "little") & 0x8040)
    arithmetic = 0x0F51 <= s.insn.opcode <= 0x0F5F or s.insn.opcode in (0x0F7C, 0x0F7D, 0x0FD0, 0x0F3A40, 0x0F3A41)
    if not arithmetic:
        return ()
    return tuple(
        name
        for name, (right, mine) in s.differences.items()
        if name.startswith("xmm") and any(same_but_nans(right, mine, bits, flushes) for bits in (32, 64))
    )


def _zero_for_denormal(right: int, mine: int, bits: int) -> bool:
    """Every lane that differs is a zero on the real CPU and a denormal number here."""
    lane = (1 << bits) - 1
    lanes = [(right >> at & lane, mine >> at & lane) for at in range(0, 128, bits)]
    return all(a == b or _flushed(a, b, bits) for a, b in lanes)


def _flushed(right: int, mine: int, bits: int) -> bool:
    """A zero there, a denormal number here."""
    lane, fraction = (1 << bits) - 1, 23 if bits == 32 else 52
    return not right << 1 & lane and not (mine << 1 & lane) >> fraction + 1


def flush_to_zero(s: Situation) -> Fields:
    mxcsr = int.from_bytes(s.case.fx[24:28], "little")
    if "mxcsr" in s.differences and mxcsr & 0x8000 and not s.bits("mxcsr") & ~0x32:
        return ("mxcsr",)
    if s.x87:
        return ("st*", "data*") if mxcsr & 0x8000 else ()
    if not is_vector(s.insn) or not mxcsr & 0x8040:
        return ()
    return tuple(
        name
        for name, (right, mine) in s.differences.items()
        if name.startswith("xmm") and any(_zero_for_denormal(right, mine, bits) for bits in (32, 64))
    )


def undocumented(s: Situation) -> Fields:
    fstpnce = s.insn.opcode == 0xD9 and 0xD8 <= s.insn.modrm <= 0xDF
    return ("ftw", "st*") if fstpnce else ()


def tags(s: Situation) -> Fields:
    moves = s.insn.opcode in (0xDD, 0xDF) and 0xD0 <= s.insn.modrm <= 0xDF
    return ("ftw",) if moves else ()


def mmx_upper(s: Situation) -> Fields:
    return tuple(
        name
        for name, (right, mine) in s.differences.items()
        if name.startswith("st") and not s.x87 and right >> 64 == 0xFFFF and not (right ^ mine) & (1 << 64) - 1
    )


def monitor(s: Situation) -> Fields:
    inside = BASE32 <= (s.real.cr2 or 0) < BASE32 + WINDOW_SIZE
    return ("*",) if s.real.vector == PAGE_FAULT and inside else ()


def wrap(s: Situation) -> Fields:
    last = s.case.mode.bits != 64 and s.real.vector == PAGE_FAULT and (s.real.cr2 or 0) >= 0xFFFF_FE00
    return ("vector", "error", "cr2") if last and s.found.vector in (GP, SS_FAULT) else ()


def examine(s: Situation) -> Fields:
    return (
        ("fsw",)
        if s.insn.opcode == 0xD9 and s.insn.modrm == 0xE5 and not s.bits("fsw") & ~(_X87_FLAGS | _CONDITION)
        else ()
    )


_CONDITION: Final = 0x4700


def condition_codes(s: Situation) -> Fields:
    undefined = s.insn.opcode == 0xD9 and s.insn.modrm in (0xF4, 0xF6, 0xF7, 0xFA, 0xFC, 0xFD, 0xE0, 0xE1)
    return ("fsw",) if undefined and not s.bits("fsw") & ~(_X87_FLAGS | _CONDITION) else ()


def constants(s: Situation) -> Fields:
    return ("st*",) if s.insn.opcode == 0xD9 and 0xE9 <= s.insn.modrm <= 0xED else ()


def decimal_zero(s: Situation) -> Fields:
    return ("data*",) if s.insn.opcode == 0xDF and s.insn.reg_field == 6 and s.insn.modrm < 0xC0 else ()


def precision(s: Situation) -> Fields:
    return ("st*", "fsw", "flags") if s.x87 and s.status & 0x12 else ()  # underflow or a denormal operand


def pending(s: Situation) -> Fields:
    return ("*",) if s.real.vector == MF and s.started & _ES else ()


def which_fault(s: Situation) -> Fields:
    both = s.real_faulted and s.found.rip == s.case.rip and s.real.vector != s.found.vector
    return ("vector", "error", "cr2") if both and AC_FAULT in (s.real.vector, s.found.vector) else ()


def empty_repeat(s: Situation) -> Fields:
    moves = s.insn.opcode in (0xA4, 0xA5, 0xAA, 0xAB) and s.insn.rep and s.insn.adsize == 4 and s.insn.mode == 64
    zero = not s.case.regs[1] & 0xFFFF_FFFF
    pointers = moves and not (s.bits("rsi") | s.bits("rdi")) & 0xFFFF_FFFF
    return ("rsi", "rdi") if (zero or s.real_faulted) and pointers else ()


def empty_count(s: Situation) -> Fields:
    string = s.insn.opcode in _STRINGS and s.insn.rep and s.insn.adsize == 4 and s.insn.mode == 64
    return ("rcx",) if string and not s.case.regs[1] & 0xFFFF_FFFF and s.real.regs[1] == 0 else ()


def which_byte(s: Situation) -> Fields:
    return ("cr2",) if is_vector(s.insn) and memory_size(s.insn) in (14, 28, 94, 108, 512) else ()


def which_operand(s: Situation) -> Fields:
    return ("cr2", "vector", "error") if s.insn.opcode in (0xA6, 0xA7) and s.real_faulted else ()


def frame(s: Situation) -> Fields:
    calls = s.insn.flow in (Flow.CALL, Flow.INDIRECT_CALL)
    if not s.real_faulted:
        return ()
    return ("r*",) if s.insn.opcode == 0x61 else ("data*",) if calls or s.insn.opcode in (0xC8, 0x60) else ()


def extended_store(s: Situation) -> Fields:
    store = s.insn.opcode == 0xDB and s.insn.reg_field == 7 and s.insn.modrm < 0xC0
    return ("data*",) if store and s.real_faulted else ()


def code_limit(s: Situation) -> Fields:
    limited = s.case.mode.bits == 16 and s.insn.flow is not Flow.NEXT and s.insn.opsize == 4
    return ("*",) if limited and s.real_faulted and s.real.vector == GP else ()


def flush(s: Situation) -> Fields:
    return ("*",) if s.insn.opcode == 0x0FAE and s.insn.reg_field == 7 and s.real_faulted else ()


def compare_flags(s: Situation) -> Fields:
    compares = s.insn.opcode in (0xDB, 0xDF) and 0xE8 <= s.insn.modrm <= 0xF7
    return ("flags",) if compares and not s.bits("flags") & ~(OF | SF | AF) else ()


def restore(s: Situation) -> Fields:
    op, field = s.insn.opcode, s.insn.reg_field
    loads = s.insn.modrm < 0xC0 and (op, field) in ((0xD9, 4), (0xDD, 4), (0x0FAE, 1))
    return ("*",) if loads and s.real_faulted else ()


def string_flags(s: Situation) -> Fields:
    return ("flags",) if s.insn.opcode in (0xA6, 0xA7, 0xAE, 0xAF) and s.insn.rep and s.real_faulted else ()


def halves(s: Situation) -> Fields:
    split = is_vector(s.insn) and 0 <= s.insn.modrm < 0xC0 and memory_size(s.insn) > 8
    return ("data*", "xmm*") if split and s.real_faulted and s.real.vector == PAGE_FAULT else ()


def mmx_load_fault(s: Situation) -> Fields:
    mmx = is_vector(s.insn) and not s.x87 and s.real_faulted
    return ("fsw", "ftw", "st*") if mmx else ()


def accumulator(s: Situation) -> Fields:
    if s.insn.opcode != 0x0FB1 or s.insn.opsize != 4 or s.insn.mode != 64:
        return ()
    return tuple(name for name in s.differences if name[0] == "r" and not s.bits(name) & 0xFFFF_FFFF)


def ordered(s: Situation) -> Fields:
    text = 0x0F3A60 <= s.insn.opcode <= 0x0F3A63 and s.insn.raw[-1] & 0x0C == 0x0C
    return ("xmm0", "rcx", "flags") if text else ()


def dot_product(s: Situation) -> Fields:
    return ("xmm*", "mxcsr") if s.insn.opcode in (0x0F3A40, 0x0F3A41) else ()
