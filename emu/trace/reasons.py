"""The names of exits: what vemu's counters call a reason, and what `perf kvm stat` calls an exit of the same meaning.

perf's names are those of the VMX basic exit reasons (SDM vol. 3, appendix C). An exit that hardware virtualization does
not have, or takes for another reason, has a name of its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from emu.trace.record import NO_OPERAND


class Cause(NamedTuple):
    """What a reason means: the exit's name in tables, and what a record's operand is ("" where it has none)."""

    exit: str
    space: str = ""


_CAUSES_OF: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    # (exit, space): reasons
    ("IO_INSTRUCTION", "port"): ("in", "out", "ins", "outs", "port read", "port write"),
    ("HLT", ""): ("hlt",),
    ("CPUID", ""): ("cpuid",),
    ("MSR_READ", "msr"): ("rdmsr",),
    ("MSR_WRITE", "msr"): ("wrmsr",),
    ("CR_ACCESS", "cr"): ("mov_from_cr", "mov_to_cr", "lmsw", "clts"),
    ("DR_ACCESS", "dr"): ("mov_from_dr", "mov_to_dr"),
    ("GDTR_IDTR", ""): ("lgdt", "lidt", "sgdt", "sidt"),
    ("LDTR_TR", ""): ("lldt", "ltr", "sldt", "str"),
    ("RDTSC", ""): ("rdtsc",),
    ("RDTSCP", ""): ("rdtscp",),
    ("RDPMC", ""): ("rdpmc",),
    ("RDRAND", ""): ("rdrand",),
    ("RDSEED", ""): ("rdseed",),
    ("INVLPG", "linear"): ("invlpg",),
    ("INVPCID", ""): ("invpcid",),
    ("SERIALIZE", ""): ("serialize",),
    ("INVD", ""): ("invd",),
    ("WBINVD", ""): ("wbinvd",),
    ("XSETBV", ""): ("xsetbv",),
    ("MONITOR_INSTRUCTION", "linear"): ("monitor",),
    ("MWAIT_INSTRUCTION", ""): ("mwait",),
    ("EXTERNAL_INTERRUPT", "vector"): ("interrupt",),
    ("PREEMPTION_TIMER", ""): ("budget",),
    # from here on: no such exit, or another meaning, under VMX
    ("SMSW", ""): ("smsw",),
    ("INTERRUPT_FLAG", ""): ("cli", "sti", "pushf", "popf"),
    ("SOFTWARE_INTERRUPT", "vector"): ("int", "int3", "into", "int1"),
    ("IRET", ""): ("iret",),
    ("FAR_TRANSFER", ""): ("far_call", "far_jmp", "far_ret"),
    ("SYSTEM_CALL", ""): ("syscall", "sysenter"),
    ("SYSTEM_RETURN", ""): ("sysret", "sysexit"),
    ("SEGMENT_LOAD", ""): ("mov_to_seg", "pop_seg", "load_far_pointer"),
    ("SEGMENT_STORE", ""): ("mov_from_seg", "push_seg"),
    ("SEGMENT_QUERY", ""): ("lar", "lsl", "verr", "verw", "arpl"),
    ("SEGMENT_BASE", ""): ("rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase", "swapgs"),
    ("SEGMENT_CHECK", ""): ("segment check", "cs override", "gs override"),
    ("SMAP_FLAG", ""): ("stac", "clac"),
    ("XGETBV", ""): ("xgetbv",),
    ("XSAVE", ""): ("xsave",),
    ("PROTECTION_KEY", ""): ("rdpkru", "wrpkru"),
    ("UNDEFINED_INSTRUCTION", ""): ("ud", "undefined", "undefined_feature", "illegal lock", "rsm", "vmx"),
    ("FPU_UNAVAILABLE", ""): ("fpu trap",),
    ("FPU_STATUS", ""): ("fpu status", "fpu exception"),
    ("ALIGNMENT_CHECK", ""): ("alignment",),
    ("UNTRANSLATABLE", ""): ("misexecuted", "rip-relative"),
    ("MEMORY_ACCESS", "memory"): ("memory",),
    ("SHADOW_PAGE_FAULT", "linear"): ("hidden page fault",),
    ("CODE_WRITE", "memory"): ("code write",),
    ("BLOCK_LINK", ""): ("link",),
    ("INDIRECT_BRANCH", ""): ("indirect",),
}

CAUSES: Final[dict[str, Cause]] = {
    reason: Cause(exit_name, space) for (exit_name, space), reasons in _CAUSES_OF.items() for reason in reasons
}
# Reasons that name a vector: an exception raised by translated code, and one delivered to the guest.
PREFIXES: Final[dict[str, Cause]] = {
    "trap ": Cause("EXCEPTION_NMI", "vector"),
    "exception ": Cause("EXCEPTION_DELIVERY", "vector"),
}
EXITS: Final = tuple(dict.fromkeys([cause.exit for cause in (*CAUSES.values(), *PREFIXES.values())]))


@lru_cache(maxsize=1024)
def cause_of(reason: str) -> Cause:
    """What `reason` means; one that nobody listed is named by itself, in capitals."""
    known = CAUSES.get(reason)
    if known is not None:
        return known
    for prefix, cause in PREFIXES.items():
        if reason.startswith(prefix):
            return cause
    return Cause("".join(letter if letter.isalnum() else "_" for letter in reason).upper())


def reasons_of(exit_name: str) -> tuple[str, ...]:
    """The reasons counted under `exit_name`; those that name a vector end in a blank."""
    found = [reason for reason, cause in (*CAUSES.items(), *PREFIXES.items()) if cause.exit == exit_name]
    return tuple(found)


def place_text(space: str, operand: int, access: str) -> str:
    """Where an access went, as perf writes it: `0x3f8:POUT`, `0xfee000b0:W`, `0x1b:R`; or `CR3:W`, `vector 0x20`."""
    if operand == NO_OPERAND or not space:
        return ""
    if space == "port":
        return f"{operand:#x}:{'POUT' if access == 'w' else 'PIN'}"
    if space == "vector":
        return f"vector {operand:#x}"
    where = f"{space.upper()}{operand}" if space in ("cr", "dr") else f"{operand:#x}"
    return f"{where}:{access.upper()}" if access else where
