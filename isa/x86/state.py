"""The architectural state of one x86 logical processor as a plain record, and the names of its bits."""

from __future__ import annotations

from dataclasses import dataclass

# General registers in encoding order.
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
REG_NAMES = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
)
# Segment registers in encoding order.
ES, CS, SS, DS, FS, GS = range(6)
SEG_NAMES = ("es", "cs", "ss", "ds", "fs", "gs")

CF, PF, AF, ZF, SF, TF, IF, DF, OF = 1 << 0, 1 << 2, 1 << 4, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11
IOPL, NT, RF, VM, AC, VIF, VIP, ID = 3 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21
ARITH = CF | PF | AF | ZF | SF | OF

CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31
CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_PAE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
CR4_MCE, CR4_PGE, CR4_PCE, CR4_OSFXSR, CR4_OSXMMEXCPT = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10
CR4_UMIP, CR4_FSGSBASE, CR4_PCIDE, CR4_OSXSAVE, CR4_SMEP, CR4_SMAP = (
    1 << 11,
    1 << 16,
    1 << 17,
    1 << 18,
    1 << 20,
    1 << 21,
)
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = 1 << 0, 1 << 8, 1 << 10, 1 << 11

# Exception vectors (SDM vol. 3, 6.15).
DE, DB, NMI, BP, OF_TRAP, BR, UD, NM, DF_FAULT, TS, NP, SS_FAULT, GP, PAGE_FAULT = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    10,
    11,
    12,
    13,
    14,
)
MF, AC_FAULT, MC, XM = 16, 17, 18, 19
VECTORS_WITH_ERROR = frozenset((8, 10, 11, 12, 13, 14, 17))

# Segment attribute bits: descriptor bits 40-55 shifted down to 0, limit bits 48-51 cleared (SDM vol. 3, 3.4.5).
ATTR_TYPE, ATTR_S, ATTR_DPL, ATTR_P = 0xF, 1 << 4, 3 << 5, 1 << 7
ATTR_AVL, ATTR_L, ATTR_DB, ATTR_G = 1 << 12, 1 << 13, 1 << 14, 1 << 15


@dataclass(slots=True)
class Segment:
    """A segment register with its hidden part; `limit` is in bytes (granularity applied), `attr` as ATTR_*.

    An unusable segment (loaded with a null selector) has `attr` 0: its P bit is clear.
    """

    selector: int = 0
    base: int = 0
    limit: int = 0xFFFF
    attr: int = 0x93  # present, data, read/write, accessed


@dataclass(slots=True)
class Table:
    """A descriptor-table register (GDTR, IDTR)."""

    base: int = 0
    limit: int = 0xFFFF


class X86State:
    """Registers of one vCPU; integers are unsigned and zero-extended to 64 bits.

    Reset values follow SDM vol. 3, 9.1.1 (with CS:IP left to the loader). `rflags` holds every flag; the interpreter
    may keep arithmetic flags elsewhere while it runs, but writes them back before anyone else looks.
    """

    __slots__ = (
        "regs", "rip", "rflags", "segs", "ldtr", "tr", "gdtr", "idtr", "cr0", "cr2", "cr3", "cr4", "efer", "dr",
        "star", "lstar", "cstar", "sfmask", "kernel_gs_base", "sysenter_cs", "sysenter_esp", "sysenter_eip",
        "apic_base", "pat", "tsc_aux", "tsc_offset", "misc_msrs", "cpl", "mode", "shadow", "halted", "xcr0",
        "lidt_executed", "address_mask",
    )  # fmt: skip

    def __init__(self) -> None:
        self.regs = [0] * 16
        self.rip = 0xFFF0
        self.rflags = 2
        self.segs = [Segment() for _ in range(6)]
        self.segs[CS] = Segment(0xF000, 0xFFFF0000, 0xFFFF, 0x9B)
        self.ldtr = Segment(0, 0, 0xFFFF, 0x82)
        self.tr = Segment(0, 0, 0xFFFF, 0x8B)
        self.gdtr = Table()
        self.idtr = Table(0, 0x3FF)
        self.cr0 = CR0_ET  # CD and NW are left clear: vemu models no caches
        self.cr2 = self.cr3 = self.cr4 = self.efer = 0
        self.dr = [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400]
        self.star = self.lstar = self.cstar = self.sfmask = self.kernel_gs_base = 0
        self.sysenter_cs = self.sysenter_esp = self.sysenter_eip = 0
        self.apic_base = 0xFEE00900
        self.pat = 0x0007040600070406
        self.tsc_aux = self.tsc_offset = 0
        self.misc_msrs: dict[int, int] = {}
        self.cpl = 0
        self.mode = 16  # 16, 32 or 64: the default operand size of CS (16 in real mode)
        self.shadow = False  # an STI, MOV SS or POP SS just retired: no interrupt before the next instruction
        self.halted = False
        self.xcr0 = 1
        self.lidt_executed = False
        self.address_mask = -1  # of physical addresses: the A20 gate clears bit 20

    @property
    def protected(self) -> bool:
        return bool(self.cr0 & CR0_PE)

    @property
    def long_mode(self) -> bool:
        return bool(self.efer & EFER_LMA)

    @property
    def paging(self) -> bool:
        return bool(self.cr0 & CR0_PG)
