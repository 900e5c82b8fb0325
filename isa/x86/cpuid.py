"""CPUID: what the guest is told about its processor, and the one list of features that everything else follows.

The processor is a small 64-bit CPU of vendor GenuineIntel. A feature is named in FEATURES only if the interpreter has
it; CR4, EFER and the #UD of absent instructions ask `has`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isa.x86.paging import PHYSICAL_BITS
from isa.x86.state import CR4_OSXSAVE

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

VENDOR: Final = b"GenuineIntel"
BRAND: Final = b"vemu x86-64 virtual CPU"
HYPERVISOR: Final = b"vemuvemuvemu"
TSC_HZ: Final = 1_000_000_000

FEATURES: Final = frozenset((
    "fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "sep", "mtrr", "pge", "mca", "cmov", "pat", "clflush", "mmx",
    "fxsr", "sse", "sse2", "sse3", "ssse3", "cx16", "sse4_1", "sse4_2", "movbe", "popcnt", "tsc_deadline", "hypervisor",
    "arat", "pcid", "fsgsbase", "tsc_adjust", "bmi1", "smep", "bmi2", "invpcid", "adx", "smap", "umip",
    "serialize", "arch_capabilities",
    "lahf", "lzcnt", "syscall", "nx", "pdpe1gb", "rdtscp", "lm", "invariant_tsc",
))  # fmt: skip

# Bit numbers by register (SDM vol. 2, CPUID, tables 3-10, 3-11 and 3-8); "apic" and "osxsave" depend on the state.
_1_ECX: Final = {
    "sse3": 0, "ssse3": 9, "cx16": 13, "pcid": 17, "sse4_1": 19, "sse4_2": 20, "movbe": 22, "popcnt": 23,
    "tsc_deadline": 24, "hypervisor": 31,
}  # fmt: skip
_1_EDX: Final = {
    "fpu": 0, "vme": 1, "de": 2, "pse": 3, "tsc": 4, "msr": 5, "pae": 6, "mce": 7, "cx8": 8, "sep": 11, "mtrr": 12,
    "pge": 13, "mca": 14, "cmov": 15, "pat": 16, "clflush": 19, "mmx": 23, "fxsr": 24, "sse": 25, "sse2": 26,
}  # fmt: skip
_7_EBX: Final = {"fsgsbase": 0, "tsc_adjust": 1, "bmi1": 3, "smep": 7, "bmi2": 8, "invpcid": 10, "adx": 19, "smap": 20}
_6_EAX: Final = {"arat": 2}
_7_ECX: Final = {"umip": 2}
_7_EDX: Final = {"serialize": 14, "arch_capabilities": 29}
_81_ECX: Final = {"lahf": 0, "lzcnt": 5}
_81_EDX: Final = {"syscall": 11, "nx": 20, "pdpe1gb": 26, "rdtscp": 27, "lm": 29}
_87_EDX: Final = {"invariant_tsc": 8}

_SIGNATURE: Final = 0x0006FB  # family 6, model 15, stepping 11: no errata that software works around by MSR
_APIC_BIT, _OSXSAVE_BIT, _APIC_ENABLED = 1 << 9, 1 << 27, 1 << 11
_LINEAR_BITS: Final = 48
_MAX_BASIC, _MAX_EXTENDED, _MAX_HYPERVISOR = 0x16, 0x8000_0008, 0x4000_0000

Registers = tuple[int, int, int, int]  # EAX, EBX, ECX, EDX
_ZERO: Final[Registers] = (0, 0, 0, 0)


def has(feature: str) -> bool:
    """True where the guest's CPUID shows `feature`."""
    return feature in FEATURES


def _bits(table: dict[str, int]) -> int:
    return sum(1 << bit for name, bit in table.items() if name in FEATURES)


def _words(text: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text), 4))


def _cache(kind: int, level: int, ways: int, sets: int) -> Registers:
    """A row of leaf 4: kind 1 data, 2 instructions, 3 both; 64-byte lines, self-initializing, one thread."""
    return kind | level << 5 | 1 << 8, (ways - 1) << 22 | 63, sets - 1, 0


_CACHES: Final = (_cache(1, 1, 8, 64), _cache(2, 1, 8, 64), _cache(3, 2, 16, 1024))  # 32 KiB, 32 KiB, 1 MiB
_vendor = _words(VENDOR)
_signature = _words(HYPERVISOR)
_brand = _words(BRAND.ljust(48, b"\0"))

# Leaves that are the same for every subleaf and state; what is absent here and in `cpuid` reads as zero.
_FIXED: Final[dict[int, Registers]] = {
    0x0: (_MAX_BASIC, _vendor[0], _vendor[2], _vendor[1]),
    # One iteration; FF: caches are in leaf 4; 50 and 5B: 64-entry code and data TLBs (SDM vol. 2, table 3-12).
    0x2: (0x5BFF_5001, 0, 0, 0),
    0x6: (_bits(_6_EAX), 0, 0, 0),
    0x15: (1, 1, TSC_HZ, 0),  # the TSC runs at 1/1 of a crystal of that many hertz
    0x16: (TSC_HZ // 1_000_000, TSC_HZ // 1_000_000, 100, 0),
    0x4000_0000: (_MAX_HYPERVISOR, _signature[0], _signature[1], _signature[2]),
    0x8000_0000: (_MAX_EXTENDED, 0, 0, 0),
    0x8000_0001: (0, 0, _bits(_81_ECX), _bits(_81_EDX)),
    0x8000_0002: (_brand[0], _brand[1], _brand[2], _brand[3]),
    0x8000_0003: (_brand[4], _brand[5], _brand[6], _brand[7]),
    0x8000_0004: (_brand[8], _brand[9], _brand[10], _brand[11]),
    0x8000_0006: (0, 0, 1024 << 16 | 8 << 12 | 64, 0),  # L2: 1024 KiB, 16 ways (code 8), 64-byte lines
    0x8000_0007: (0, 0, 0, _bits(_87_EDX)),
    0x8000_0008: (_LINEAR_BITS << 8 | PHYSICAL_BITS, 0, 0, 0),
}


def identity() -> tuple[int, int]:
    """Signature and features of the processor after a reset, as leaf 1 has them in EAX and EDX."""
    return _SIGNATURE, _bits(_1_EDX) | _APIC_BIT


def cpuid(cpu: Cpu, leaf: int, subleaf: int) -> Registers:
    """EAX, EBX, ECX and EDX of one leaf. A basic or extended leaf that is too high reads as the highest basic one."""
    if _MAX_BASIC < leaf < 0x4000_0000 or 0x4000_00FF < leaf < 0x8000_0000 or leaf > _MAX_EXTENDED:
        leaf = _MAX_BASIC
    if leaf == 1:
        # An APIC base of 0 means that the board has none; disabling it by its enable bit hides it as well.
        edx = _bits(_1_EDX) | (_APIC_BIT if cpu.apic_base & _APIC_ENABLED else 0)
        ecx = _bits(_1_ECX) | (_OSXSAVE_BIT if cpu.cr4 & CR4_OSXSAVE else 0)
        return _SIGNATURE, 1 << 16 | 64 // 8 << 8, ecx, edx  # one logical processor, CLFLUSH lines of 64 bytes
    if leaf == 4:
        return _CACHES[subleaf] if subleaf < len(_CACHES) else _ZERO
    if leaf == 7:
        return (0, _bits(_7_EBX), _bits(_7_ECX), _bits(_7_EDX)) if subleaf == 0 else _ZERO
    if leaf == 0xB:
        return 0, 0, subleaf & 0xFF, 0
    return _FIXED.get(leaf, _ZERO)
