"""The table of sensitive x86 instructions: those that must never reach a backend as the guest wrote them.

A row holds for every mode in which its encoding exists. The list is that of Robin and Irvine ("Analysis of the Intel
Pentium's Ability to Support a Secure Virtual Machine Monitor", 2000), everything privileged (SDM vol. 3, 5.9), the
64-bit additions, and every instruction whose CPUID feature the guest is not shown, because a host might have it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isa.base import Flow
from isa.x86.decode import Insn


class Treatment(enum.Enum):
    """What the translator makes of a row."""

    CALLOUT = "callout"  # leaves the cache; the interpreter executes the one instruction
    IN_CACHE = "in-cache"  # emulated by a short sequence in the cache where the mode allows, else a callout


@dataclass(frozen=True, slots=True)
class Row:
    """One sensitive instruction: its name in `system.SYSTEM`, its treatment, and whether it ends a basic block.

    A row ends the block when it may change mode, privilege, address translation, segments or the program counter.
    """

    name: str
    treatment: Treatment = Treatment.CALLOUT
    ends_block: bool = False
    privileged: bool = False


_NAMES: Final = {
    # name: (ends block, privileged)
    "cli": (False, False), "sti": (False, False), "pushf": (False, False), "popf": (False, False),
    "hlt": (True, True), "in": (False, False), "out": (False, False), "ins": (False, False), "outs": (False, False),
    "int": (True, False), "int3": (True, False), "into": (True, False), "int1": (True, False), "iret": (True, False),
    "far_call": (True, False), "far_jmp": (True, False), "far_ret": (True, False),
    "mov_from_cr": (False, True), "mov_to_cr": (True, True), "mov_from_dr": (False, True), "mov_to_dr": (True, True),
    "lmsw": (True, True), "smsw": (False, False), "clts": (True, True),
    "lgdt": (False, True), "lidt": (False, True), "sgdt": (False, False), "sidt": (False, False),
    "lldt": (False, True), "ltr": (False, True), "sldt": (False, False), "str": (False, False),
    "lar": (False, False), "lsl": (False, False), "verr": (False, False), "verw": (False, False),
    "arpl": (False, False),
    "push_seg": (False, False), "pop_seg": (True, False), "mov_from_seg": (False, False), "mov_to_seg": (True, False),
    "load_far_pointer": (True, False),
    "cpuid": (False, False), "rdtsc": (False, False), "rdtscp": (False, False), "rdpmc": (False, False),
    "rdmsr": (False, True), "wrmsr": (True, True), "swapgs": (False, True),
    "syscall": (True, False), "sysret": (True, True), "sysenter": (True, False), "sysexit": (True, True),
    "invlpg": (True, True), "invpcid": (True, True), "invd": (False, True), "wbinvd": (False, True),
    "serialize": (False, False), "stac": (False, True), "clac": (False, True),
    "rdfsbase": (False, False), "rdgsbase": (False, False), "wrfsbase": (False, False), "wrgsbase": (False, False),
    "xgetbv": (False, False), "xsetbv": (True, True), "xsave": (True, False),
    "rdpkru": (False, False), "wrpkru": (True, False), "monitor": (False, True), "mwait": (True, True),
    "rdrand": (False, False), "rdseed": (False, False), "ud": (True, False), "rsm": (True, True), "vmx": (True, True),
    "undefined_feature": (True, False),
}  # fmt: skip
READS: Final = frozenset(("rdtsc", "rdtscp", "mov_from_cr", "mov_from_dr", "cpuid"))  # into general registers only
READS_OF_BASES: Final = frozenset(("rdfsbase", "rdgsbase"))
CHANGES_OF_BASES: Final = frozenset(("wrfsbase", "wrgsbase", "swapgs"))
IN_CACHE: Final = READS_OF_BASES | CHANGES_OF_BASES | {
    "cli", "sti", "pushf", "popf", "mov_from_seg", "serialize", "stac", "clac",
}  # fmt: skip

ROWS: Final[dict[str, Row]] = {
    name: Row(name, Treatment.IN_CACHE if name in IN_CACHE else Treatment.CALLOUT, ends, privileged)
    for name, (ends, privileged) in _NAMES.items()
}

Rule = str | Callable[[Insn], str | None]  # a row's name, or a choice among rows (None: innocuous)


def _is_memory(insn: Insn) -> bool:
    return insn.modrm >= 0 and insn.modrm < 0xC0


def _group(*names: str | None) -> Rule:
    return lambda insn: names[insn.reg_field]


def _group7(insn: Insn) -> str | None:
    """0F 01 (SDM vol. 2, A.4, group 7)."""
    if _is_memory(insn):
        return ("sgdt", "sidt", "lgdt", "lidt", "smsw", "undefined_feature", "lmsw", "invlpg")[insn.reg_field]
    named = {
        0xC8: "monitor", 0xC9: "mwait", 0xCA: "clac", 0xCB: "stac", 0xD0: "xgetbv", 0xD1: "xsetbv",
        0xE8: "serialize", 0xEE: "rdpkru", 0xEF: "wrpkru", 0xF8: "swapgs", 0xF9: "rdtscp", 0xD5: "undefined_feature",
        0xD6: "undefined_feature",
    }  # fmt: skip
    if insn.modrm in named:
        return named[insn.modrm]
    return {4: "smsw", 6: "lmsw"}.get(insn.reg_field, "vmx")


def _group9(insn: Insn) -> str | None:
    """0F C7 (group 9): CMPXCHG8B/16B are innocuous, the rest is not ours."""
    if _is_memory(insn):
        return {1: None, 3: "xsave", 4: "xsave", 5: "xsave"}.get(insn.reg_field, "vmx")
    return {6: "rdrand", 7: "rdseed"}.get(insn.reg_field, "ud")


def _group15(insn: Insn) -> str | None:
    """0F AE (group 15): FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, fences and CLFLUSH are innocuous."""
    if _is_memory(insn):
        if insn.reg_field in (4, 5, 6):
            return "xsave"
        return "undefined_feature" if insn.reg_field == 7 and b"\x66" in insn.raw[: insn.opcode_at] else None
    if insn.rep == 0xF3:
        return {0: "rdfsbase", 1: "rdgsbase", 2: "wrfsbase", 3: "wrgsbase"}.get(insn.reg_field, "undefined_feature")
    return None if insn.reg_field in (5, 6, 7) else "undefined_feature"


def _group5(insn: Insn) -> str | None:
    return {3: "far_call", 5: "far_jmp"}.get(insn.reg_field)


def _pop_or_xop(insn: Insn) -> str | None:
    """8F is POP with 0 in the reg field; with anything else it begins an XOP prefix (AMD APM vol. 3, 1.2.5)."""
    return "undefined_feature" if insn.raw[insn.opcode_at + 1] >> 3 & 7 else None


def _far_pointer(name: str) -> Rule:
    return lambda insn: None if insn.vex else name


def _not_in_64(name: str) -> Rule:
    return lambda insn: None if insn.mode == 64 else name


_RULES: Final[dict[int, Rule]] = {
    0x9C: "pushf", 0x9D: "popf", 0xFA: "cli", 0xFB: "sti", 0xF4: "hlt",
    0xE4: "in", 0xE5: "in", 0xEC: "in", 0xED: "in", 0xE6: "out", 0xE7: "out", 0xEE: "out", 0xEF: "out",
    0x6C: "ins", 0x6D: "ins", 0x6E: "outs", 0x6F: "outs",
    0xCD: "int", 0xCC: "int3", 0xCE: "into", 0xF1: "int1", 0xCF: "iret",
    0x9A: "far_call", 0xEA: "far_jmp", 0xCA: "far_ret", 0xCB: "far_ret", 0xFF: _group5,
    0x06: "push_seg", 0x0E: "push_seg", 0x16: "push_seg", 0x1E: "push_seg", 0x0FA0: "push_seg", 0x0FA8: "push_seg",
    0x07: "pop_seg", 0x17: "pop_seg", 0x1F: "pop_seg", 0x0FA1: "pop_seg", 0x0FA9: "pop_seg",
    0x8C: "mov_from_seg", 0x8E: "mov_to_seg", 0x8F: _pop_or_xop, 0x63: _not_in_64("arpl"),
    0xC4: _far_pointer("load_far_pointer"), 0xC5: _far_pointer("load_far_pointer"),
    0x0FB2: "load_far_pointer", 0x0FB4: "load_far_pointer", 0x0FB5: "load_far_pointer",
    0x0F00: _group("sldt", "str", "lldt", "ltr", "verr", "verw", "undefined_feature", "undefined_feature"),
    0x0F01: _group7, 0x0F02: "lar", 0x0F03: "lsl", 0x0F05: "syscall", 0x0F06: "clts", 0x0F07: "sysret",
    0x0F08: "invd", 0x0F09: "wbinvd", 0x0F0B: "ud", 0x0FB9: "ud", 0x0FFF: "ud",
    0x0F20: "mov_from_cr", 0x0F22: "mov_to_cr", 0x0F21: "mov_from_dr", 0x0F23: "mov_to_dr",
    0x0F30: "wrmsr", 0x0F31: "rdtsc", 0x0F32: "rdmsr", 0x0F33: "rdpmc", 0x0F34: "sysenter", 0x0F35: "sysexit",
    0x0F37: "vmx", 0x0F78: "vmx", 0x0F79: "vmx", 0x0FA2: "cpuid", 0x0FAA: "rsm", 0x0FAE: _group15, 0x0FC7: _group9,
    0x0F3880: "vmx", 0x0F3881: "vmx", 0x0F3882: "invpcid",
    # Features the guest's CPUID lacks: AES, PCLMULQDQ, SHA, GFNI, 3DNow!, TSX.
    **{0x0F3800 | op: "undefined_feature" for op in (*range(0xC8, 0xCE), 0xCF, *range(0xDB, 0xE0))},
    0x0F3A44: "undefined_feature", 0x0F3ACC: "undefined_feature", 0x0F3ACE: "undefined_feature",
    0x0F3ACF: "undefined_feature", 0x0F3ADF: "undefined_feature",
    0x0F0E: "undefined_feature", 0x0F0F: "undefined_feature",
    0xC6: lambda insn: "undefined_feature" if insn.modrm == 0xF8 else None,
    0xC7: lambda insn: "undefined_feature" if insn.modrm == 0xF8 else None,
}  # fmt: skip

# The VEX-encoded instructions the guest may use: BMI1 and BMI2 (SDM vol. 1, 5.1.16).
_VEX_ALLOWED: Final = {0x0F38F2, 0x0F38F3, 0x0F38F5, 0x0F38F6, 0x0F38F7, 0x0F3AF0}


def row_of(insn: Insn) -> Row | None:
    """The row of a sensitive instruction, or None for an innocuous (or undefined) one."""
    if insn.vex:
        return None if insn.opcode in _VEX_ALLOWED else ROWS["undefined_feature"]
    rule = _RULES.get(insn.opcode)
    if rule is None or insn.flow is Flow.INVALID:
        return None
    name = rule if isinstance(rule, str) else rule(insn)
    return None if name is None else ROWS[name]


# LOCK is legal on these with a memory destination only (SDM vol. 2, LOCK); None: any ModRM.reg.
_LOCKABLE: Final[dict[int, frozenset[int] | None]] = {
    **{base + form: None for base in (0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30) for form in (0, 1)},
    **dict.fromkeys((0x80, 0x81, 0x82, 0x83), frozenset(range(7))),
    0x86: None, 0x87: None, 0xFE: frozenset((0, 1)), 0xFF: frozenset((0, 1)),
    0xF6: frozenset((2, 3)), 0xF7: frozenset((2, 3)),
    0x0FAB: None, 0x0FB3: None, 0x0FBB: None, 0x0FBA: frozenset((5, 6, 7)),
    0x0FB0: None, 0x0FB1: None, 0x0FC0: None, 0x0FC1: None, 0x0FC7: frozenset((1,)),
}  # fmt: skip


def lock_is_legal(insn: Insn) -> bool:
    """True where the instruction has no LOCK prefix, or may have one; else it raises #UD."""
    if not insn.lock:
        return True
    allowed = _LOCKABLE.get(insn.opcode, frozenset())
    return not insn.vex and _is_memory(insn) and (allowed is None or insn.reg_field in allowed)
