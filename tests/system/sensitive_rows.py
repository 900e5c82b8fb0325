"""What each sensitive instruction does in every mode and at every privilege: the manual's rules, and QEMU's errors.

A row holds one instruction and the rules of its description, in the order in which the CPU looks: the first rule that
holds for a cell gives the outcome, and where none does the instruction executes. Faults that follow from the opcode
come before all others (SDM vol. 3, table 6-2), so rules of #UD stand first. SDM vol. 2 means the instruction's own page
there unless something else is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

REAL, VM86, P16, P32, COMPAT, LONG = "real", "vm86", "p16", "p32", "compat", "long"
MODES: Final = (REAL, VM86, P16, P32, COMPAT, LONG)
PROTECTED: Final = (P16, P32, COMPAT, LONG)
NOT_VM86: Final = (REAL, *PROTECTED)
NOT_LONG: Final = (REAL, VM86, P16, P32, COMPAT)

OK, UD, GP0 = "executes", "#UD", "#GP(0)"  # other outcomes: "#GP(18a)", "vector 30"
ALLOWED_PORT, DENIED_PORT = 0x80, 0x84  # by the I/O permission map of the guests


@dataclass(frozen=True, slots=True)
class Cell:
    """Where an instruction is tried; `on` tells that CR4's TSD, DE, PCE, UMIP and FSGSBASE are set, else clear."""

    mode: str
    cpl: int
    iopl: int
    on: bool

    def __str__(self) -> str:
        return f"{self.mode}, CPL {self.cpl}, IOPL {self.iopl}, CR4 bits {'on' if self.on else 'off'}"


@dataclass(frozen=True, slots=True)
class Where:
    """A set of cells."""

    modes: tuple[str, ...] = MODES
    cpls: tuple[int, ...] = (0, 3)
    iopls: tuple[int, ...] = (0, 3)
    on: tuple[bool, ...] = (False, True)

    def holds(self, cell: Cell) -> bool:
        return cell.mode in self.modes and cell.cpl in self.cpls and cell.iopl in self.iopls and cell.on in self.on


@dataclass(frozen=True, slots=True)
class Rule:
    """In the cells of `where`, the outcome is `outcome`."""

    outcome: str
    where: Where
    source: str


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction: its bytes, its rules, and what it finds in the registers.

    `code` is hexadecimal; `/mN` stands for the ModRM byte of the memory operand [BX], [EBX] or [RBX] with N in the reg
    field, `far` for a far pointer to code of this mode and privilege. A string in `regs` names a value that depends on
    the cell (see `tests.system.sensitive_guest`). `stack` names what lies on the stack, `flags` more flags. `timer`
    wants interrupts.
    """

    name: str
    code: str
    rules: tuple[Rule, ...] = ()
    modes: tuple[str, ...] = MODES
    regs: tuple[tuple[str, int | str], ...] = ()
    stack: str = "plain"
    flags: int = 0
    timer: bool = False

    def expected(self, cell: Cell) -> str:
        return next((rule.outcome for rule in self.rules if rule.where.holds(cell)), OK)


def cells(mode: str) -> list[Cell]:
    """The cells of a mode: real mode is CPL 0 and virtual-8086 mode CPL 3 by definition."""
    cpls = {REAL: (0,), VM86: (3,)}.get(mode, (0, 3))
    return [Cell(mode, cpl, iopl, on) for on, cpl, iopl in product((False, True), cpls, (0, 3))]


_USER = Where(cpls=(3,))
PRIVILEGED = Rule(GP0, _USER, "SDM vol. 3, 5.9: privileged; never in virtual-8086 mode")
IOPL = Rule(GP0, Where(cpls=(3,), iopls=(0,)), "SDM vol. 2: CPL above IOPL, with CR4.PVI and CR4.VME clear")
VM86_IOPL = Rule(GP0, Where((VM86,), iopls=(0,)), "SDM vol. 3, 20.2.7: IOPL-sensitive in virtual-8086 mode")
PORT = Rule(GP0, Where(PROTECTED, cpls=(3,), iopls=(0,)), "SDM vol. 1, 19.5.1 and 19.5.2: the map forbids the port")
VM86_PORT = Rule(GP0, Where((VM86,)), "SDM vol. 1, 19.5.2: in virtual-8086 mode the map alone decides")
UMIP = Rule(GP0, Where(cpls=(3,), on=(True,)), "SDM vol. 3, 2.5: CR4.UMIP")
TSD = Rule(GP0, Where(cpls=(3,), on=(True,)), "SDM vol. 3, 2.5: CR4.TSD")
NEEDS_PROTECTION = Rule(UD, Where((REAL, VM86)), "SDM vol. 2: not recognized in real and virtual-8086 mode")
NOT_IN_64 = Rule(UD, Where((LONG,)), "SDM vol. 2: invalid in 64-bit mode")
ONLY_IN_64 = Rule(UD, Where(NOT_LONG), "SDM vol. 2: recognized in 64-bit mode only")
NOT_IN_REAL = Rule(GP0, Where((REAL,)), "SDM vol. 2: not recognized in real-address mode")
NO_SUCH = Rule(UD, Where(), "SDM vol. 2: undefined, or a feature that CPUID does not show")
ONLY_AT_0 = Rule(UD, _USER, "SDM vol. 2, STAC: CPL above 0")
NO_DR4 = Rule(UD, Where(on=(True,)), "SDM vol. 3, 17.2.2: with CR4.DE, DR4 and DR5 do not exist")
NO_FSGSBASE = Rule(UD, Where(on=(False,)), "SDM vol. 2: CR4.FSGSBASE is clear")
NO_COUNTER = Rule(GP0, Where(), "SDM vol. 2, RDPMC: CPL, or an index of which there is no counter")
GATE_DPL = Rule("#GP(18a)", _USER, "SDM vol. 3, 6.12.1.2 and 6.13: gate 31h of DPL 0; its index, and the IDT bit")


def vector(number: int) -> Rule:
    return Rule(f"vector {number:x}", Where(), "SDM vol. 2, INT n: delivered")


_DATA: Final = (("eax", "data"),)


def _port(name: str, code: str, rules: tuple[Rule, ...], port: int) -> Row:
    return Row(name, code, rules, regs=(("edx", port), ("ebx", "scratch"), ("esi", "scratch"), ("edi", "scratch")))


def _segment(name: str, code: str, modes: tuple[str, ...] = MODES) -> Row:
    return Row(name, code, () if modes == MODES else (NOT_IN_64,), regs=_DATA, stack="data")


def _table(name: str, code: str, rules: tuple[Rule, ...], operand: str) -> Row:
    return Row(name, code, rules, regs=(("ebx", operand),))


def _control(number: int) -> tuple[Row, Row]:
    """MOV from and to a control register; the value written is the one that it holds."""
    modrm = f"{0xC0 | number << 3:02x}"
    value = (("eax", f"cr{number}"),)
    return (
        Row(f"mov eax, cr{number}", f"0f20{modrm}", (PRIVILEGED,)),
        Row(f"mov cr{number}, eax", f"0f22{modrm}", (PRIVILEGED,), regs=value),
    )


ROWS: Final[tuple[Row, ...]] = (
    Row("cli", "fa", (IOPL,)),
    Row("sti", "fb", (IOPL,)),
    Row("pushf", "9c", (VM86_IOPL,)),
    Row("popf", "9d", (VM86_IOPL,), stack="flags"),
    Row("iret", "cf", (VM86_IOPL,), modes=(REAL, VM86, P16, P32, COMPAT), stack="iret"),
    Row("iretq", "48cf", modes=(LONG,), stack="iret"),
    Row("int 30h", "cd30", (VM86_IOPL, vector(0x30))),
    Row("int 31h (gate of DPL 0)", "cd31", (VM86_IOPL, GATE_DPL, vector(0x31))),
    Row("int3", "cc", (vector(3),)),
    Row("int 3 (two bytes)", "cd03", (VM86_IOPL, vector(3))),
    Row("int1", "f1", (vector(1),)),
    Row("into", "ce", (NOT_IN_64, vector(4)), flags=0x800),
    Row("into, OF clear", "ce", (NOT_IN_64,)),
    _port("in al, dx", "ec", (PORT, VM86_PORT), DENIED_PORT),
    _port("in al, dx (permitted)", "ec", (), ALLOWED_PORT),
    _port("in al, 84h", "e484", (PORT, VM86_PORT), 0),
    _port("in eax, dx", "ed", (PORT, VM86_PORT), DENIED_PORT),
    _port("out dx, al", "ee", (PORT, VM86_PORT), DENIED_PORT),
    _port("out dx, al (permitted)", "ee", (), ALLOWED_PORT),
    _port("out 84h, al", "e684", (PORT, VM86_PORT), 0),
    _port("insb", "6c", (PORT, VM86_PORT), DENIED_PORT),
    _port("insb (permitted)", "6c", (), ALLOWED_PORT),
    _port("outsb", "6e", (PORT, VM86_PORT), DENIED_PORT),
    _port("outsb (permitted)", "6e", (), ALLOWED_PORT),
    Row("hlt", "f4", (PRIVILEGED,), flags=0x200, timer=True),
    _table("lgdt", "0f01/m2", (PRIVILEGED,), "gdtr"),
    _table("lidt", "0f01/m3", (PRIVILEGED,), "idtr"),
    _table("sgdt", "0f01/m0", (UMIP,), "scratch"),
    _table("sidt", "0f01/m1", (UMIP,), "scratch"),
    Row("lldt", "0f00d0", (NEEDS_PROTECTION, PRIVILEGED), regs=(("eax", "ldt"),)),
    Row("ltr", "0f00d8", (NEEDS_PROTECTION, PRIVILEGED), regs=(("eax", "tss"),)),
    Row("sldt", "0f00c0", (NEEDS_PROTECTION, UMIP)),
    Row("str", "0f00c8", (NEEDS_PROTECTION, UMIP)),
    Row("lmsw", "0f01f0", (PRIVILEGED,), regs=(("eax", "cr0"),)),
    Row("smsw", "0f01e0", (UMIP,)),
    _table("smsw word", "0f01/m4", (UMIP,), "scratch"),
    Row("clts", "0f06", (PRIVILEGED,)),
    *_control(0), *_control(2), *_control(3), *_control(4),
    Row("mov rax, cr8", "440f20c0", (PRIVILEGED,), modes=(LONG,)),
    Row("mov cr8, rax", "440f22c0", (PRIVILEGED,), modes=(LONG,)),
    # in virtual-8086 mode the manual names #GP(0) for the instruction and #UD for the register, without an order
    Row("mov eax, cr1", "0f20c8", (NO_SUCH,), modes=NOT_VM86),
    Row("mov cr5, eax", "0f22e8", (NO_SUCH,), modes=NOT_VM86),
    Row("mov eax, dr0", "0f21c0", (PRIVILEGED,)),
    Row("mov dr0, eax", "0f23c0", (PRIVILEGED,)),
    Row("mov eax, dr7", "0f21f8", (PRIVILEGED,)),
    Row("mov dr7, eax", "0f23f8", (PRIVILEGED,), regs=(("eax", 0x400),)),
    Row("mov eax, dr4", "0f21e0", (NO_DR4, PRIVILEGED), modes=NOT_VM86),
    Row("mov dr5, eax", "0f23e8", (NO_DR4, PRIVILEGED), modes=NOT_VM86, regs=(("eax", 0x400),)),
    _table("invlpg", "0f01/m7", (PRIVILEGED,), "scratch"),
    Row("invpcid", "660f3882/m0", (PRIVILEGED,), regs=(("eax", 2), ("ebx", "zeros"))),
    Row("invpcid, type 4", "660f3882/m0", (Rule(GP0, Where(), "SDM vol. 2, INVPCID: type above 3"),),
        regs=(("eax", 4), ("ebx", "zeros"))),
    Row("invd", "0f08", (PRIVILEGED,)),
    Row("wbinvd", "0f09", (PRIVILEGED,)),
    Row("rdmsr", "0f32", (PRIVILEGED,), regs=(("ecx", 0x277),)),
    Row("wrmsr", "0f30", (PRIVILEGED,), regs=(("ecx", 0x277), ("edx", 0x00070406), ("eax", 0x00070406))),
    Row("rdmsr of none", "0f32", (Rule(GP0, Where(), "SDM vol. 2, RDMSR: reserved address"),), regs=(("ecx", 0xDEAD),)),
    Row("wrmsr of none", "0f30", (Rule(GP0, Where(), "SDM vol. 2, WRMSR: reserved address"),), regs=(("ecx", 0xDEAD),)),
    Row("rdtsc", "0f31", (TSD,)),
    Row("rdtscp", "0f01f9", (TSD,)),
    Row("rdpmc", "0f33", (NO_COUNTER,)),
    Row("cpuid", "0fa2"),
    Row("sysenter", "0f34", (NOT_IN_REAL,)),
    Row("sysexit", "0f35", (NOT_IN_REAL, PRIVILEGED), regs=(("edx", "flat_target"), ("ecx", "flat_stack"))),
    Row("syscall", "0f05", (ONLY_IN_64,)),
    Row("sysret", "0f07", (ONLY_IN_64, PRIVILEGED), regs=(("ecx", "flat_target"),)),
    Row("sysretq", "480f07", (PRIVILEGED,), modes=(LONG,), regs=(("ecx", "flat_target"),)),
    Row("swapgs", "0f01f8", (ONLY_IN_64, PRIVILEGED)),
    Row("lar", "0f02c3", (NEEDS_PROTECTION,), regs=(("ebx", "data"),)),
    Row("lsl", "0f03c3", (NEEDS_PROTECTION,), regs=(("ebx", "data"),)),
    Row("verr", "0f00e0", (NEEDS_PROTECTION,), regs=_DATA),
    Row("verw", "0f00e8", (NEEDS_PROTECTION,), regs=_DATA),
    Row("arpl", "63d8", (NEEDS_PROTECTION,), modes=NOT_LONG, regs=_DATA),
    _segment("mov eax, ds", "8cd8"),
    _segment("mov ds, eax", "8ed8"),
    _segment("mov es, eax", "8ec0"),
    _segment("mov ss, eax", "8ed0"),
    _segment("mov fs, eax", "8ee0"),
    Row("mov cs, eax", "8ec8", (NO_SUCH,), regs=_DATA),
    Row("mov (segment 6), eax", "8ef0", (NO_SUCH,), regs=_DATA),
    _segment("push es", "06", NOT_LONG),
    _segment("push cs", "0e", NOT_LONG),
    _segment("push ss", "16", NOT_LONG),
    _segment("push ds", "1e", NOT_LONG),
    _segment("push fs", "0fa0"),
    _segment("push gs", "0fa8"),
    _segment("pop es", "07", NOT_LONG),
    _segment("pop ss", "17", NOT_LONG),
    _segment("pop ds", "1f", NOT_LONG),
    _segment("pop fs", "0fa1"),
    _segment("pop gs", "0fa9"),
    # C4 and C5 with a memory operand are VEX prefixes in 64-bit mode
    Row("les", "c4/m0", modes=NOT_LONG, regs=(("ebx", "data_pointer"),)),
    Row("lds", "c5/m0", modes=NOT_LONG, regs=(("ebx", "data_pointer"),)),
    Row("lss", "0fb2/m0", regs=(("ebx", "data_pointer"),)),
    Row("lfs", "0fb4/m0", regs=(("ebx", "data_pointer"),)),
    Row("lgs", "0fb5/m0", regs=(("ebx", "data_pointer"),)),
    Row("lss (register)", "0fb2c0", (NO_SUCH,)),
    Row("call far, direct", "9afar", (NOT_IN_64,)),
    Row("jmp far, direct", "eafar", (NOT_IN_64,)),
    Row("call far", "ff/m3", regs=(("ebx", "code_pointer"),)),
    Row("jmp far", "ff/m5", regs=(("ebx", "code_pointer"),)),
    Row("call far (register)", "ffd8", (NO_SUCH,)),
    Row("ret far", "cb", modes=NOT_LONG, stack="far"),
    Row("ret far, 64-bit operand", "48cb", modes=(LONG,), stack="far"),
    Row("rdfsbase", "f30faec0", (ONLY_IN_64, NO_FSGSBASE)),
    Row("rdgsbase", "f30faec8", (ONLY_IN_64, NO_FSGSBASE)),
    Row("wrfsbase", "f30faed0", (ONLY_IN_64, NO_FSGSBASE), regs=(("eax", 0x1000),)),
    Row("wrgsbase", "f30faed8", (ONLY_IN_64, NO_FSGSBASE), regs=(("eax", 0x1000),)),
    Row("xgetbv", "0f01d0", (NO_SUCH,)),
    Row("xsetbv", "0f01d1", (NO_SUCH,)),
    _table("xsave", "0fae/m4", (NO_SUCH,), "scratch"),
    Row("stac", "0f01cb", (ONLY_AT_0,)),
    Row("clac", "0f01ca", (ONLY_AT_0,)),
    Row("rdpkru", "0f01ee", (NO_SUCH,)),
    Row("wrpkru", "0f01ef", (NO_SUCH,)),
    Row("monitor", "0f01c8", (NO_SUCH,)),
    Row("mwait", "0f01c9", (NO_SUCH,)),
    Row("rdrand", "0fc7f0", (NO_SUCH,)),
    Row("rdseed", "0fc7f8", (NO_SUCH,)),
    Row("vmcall", "0f01c1", (NO_SUCH,)),
    Row("vmmcall", "0f01d9", (NO_SUCH,)),
    _table("vmptrld", "0fc7/m6", (NO_SUCH,), "scratch"),
    Row("getsec", "0f37", (NO_SUCH,)),
    Row("rsm", "0faa", (NO_SUCH,)),
    Row("rdpid", "f30fc7f8", (NO_SUCH,)),
    Row("enclu", "0f01d7", (NO_SUCH,)),
    Row("aesenc", "660f38dcc1", (NO_SUCH,)),
    Row("pfadd", "0f0fc19e", (NO_SUCH,)),
    Row("ud2", "0f0b", (NO_SUCH,)),
    Row("ud1", "0fb9c0", (NO_SUCH,)),
    Row("serialize", "0f01e8"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Disagreement:
    """TCG of QEMU 7.2 does `outcome` in these cells of these rows, and the manual says what the row's rules say."""

    rows: tuple[str, ...]
    where: Where
    outcome: str
    why: str

    def covers(self, row: str, cell: Cell) -> bool:
        return row in self.rows and self.where.holds(cell)


_LEGACY: Final = (P16, P32)
_NO_CR = "mov eax, cr1", "mov cr5, eax"
_NO_DR = "mov eax, dr4", "mov dr5, eax"
_INVPCID = "invpcid", "invpcid, type 4"

QEMU_DISAGREES: Final[tuple[Disagreement, ...]] = (
    Disagreement(("int 31h (gate of DPL 0)",), Where((COMPAT, LONG), cpls=(3,)), "#GP(312)",
        "TCG scales the vector by the 16 bytes of a gate; SDM vol. 3, 6.13: the error code holds the index itself"),
    Disagreement(_NO_CR, Where(PROTECTED, cpls=(3,)), GP0,
        "TCG looks at CPL first; SDM vol. 3, table 6-2: #UD, found while decoding, comes before #GP"),
    Disagreement(_NO_DR, Where(PROTECTED, cpls=(3,), on=(True,)), GP0,
        "TCG looks at CPL first; SDM vol. 3, table 6-2: #UD, found while decoding, comes before #GP"),
    Disagreement(_INVPCID, Where(), UD, "TCG has neither PCID nor INVPCID; SDM vol. 2, INVPCID"),
    Disagreement(("serialize",), Where(), UD, "TCG has no SERIALIZE; SDM vol. 2, SERIALIZE"),
    Disagreement(("rdmsr of none", "wrmsr of none"), Where((REAL, *PROTECTED), cpls=(0,)), OK,
        "TCG reads 0 from a reserved MSR address and ignores writes; SDM vol. 2, RDMSR, WRMSR: #GP(0)"),
    Disagreement(("rdpmc",), Where(NOT_VM86, cpls=(0,)), UD,
        "TCG implements no RDPMC; SDM vol. 2, RDPMC: #GP(0) for an index without counter"),
    Disagreement(("rdpmc",), Where((VM86, *PROTECTED), cpls=(3,), on=(True,)), UD,
        "TCG implements no RDPMC; SDM vol. 2, RDPMC: #GP(0) for an index without counter"),
    Disagreement(("syscall",), Where((VM86, *_LEGACY, COMPAT)), OK,
        "TCG has AMD's SYSCALL whatever the vendor (AMD APM vol. 3, SYSCALL); SDM vol. 2: 64-bit mode only"),
    Disagreement(("sysret",), Where((*_LEGACY, COMPAT), cpls=(0,)), OK,
        "TCG has AMD's SYSRET whatever the vendor (AMD APM vol. 3, SYSRET); SDM vol. 2: 64-bit mode only"),
    Disagreement(("sysret",), Where((VM86, *_LEGACY, COMPAT), cpls=(3,)), GP0,
        "TCG has AMD's SYSRET whatever the vendor (AMD APM vol. 3, SYSRET); SDM vol. 2: 64-bit mode only"),
    Disagreement(("sysret",), Where((REAL,)), GP0,
        "TCG raises #GP(0) without CR0.PE; SDM vol. 2, SYSRET: #UD in real-address mode, as on AMD (APM vol. 3)"),
)  # fmt: skip

# What a run under QEMU cannot try, with the reason; vemu's outcome is compared all the same.
QEMU_CANNOT: Final[dict[tuple[str, str], str]] = {
    **{("int1", mode): "TCG takes F1 for a breakpoint of its debugger and stops the machine; SDM vol. 2, INT n: #DB"
       for mode in MODES},
    ("syscall", REAL): "TCG loads flat protected-mode segments without entering protected mode; SDM vol. 2: #UD",
}  # fmt: skip
