"""Every encoding the translator writes is what keystone assembles from the same text."""

from collections.abc import Callable

import pytest

from emu.backends.base import Layout
from guests.encode import raw
from isa.x86.decode import Decoder
from isa.x86.emit import BUDGET, SELECTORS, SPILL, TABLES, Emitter, Target

LAYOUT = Layout(
    code_base={16: 0xD0000000, 32: 0xD0000000, 64: 0xFFFF840000000000},
    data_base={16: 0xD1000000, 32: 0xD1000000, 64: 0xFFFF840001000000},
    user_data=0x800000,
    code_start=0x100,
    code_size=1 << 24,
    data_size=1 << 24,
    leave=b"\xcd\xf0",
    void={16: 0xD2000000, 32: 0xD2000000, 64: 0xFFFF840002000000},
)
START = 0x5000
REGS = {
    64: ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    32: ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"),
}


def assemble(mode: int, text: str) -> bytes:
    return raw(text, mode, LAYOUT.code_base[mode] + START)


def data(mode: int, offset: int, behind: int, width: str, gs: bool = False) -> str:
    """The operand text for monitor data; `behind` is the length of the instruction (for RIP-relative)."""
    if mode == 64:
        return f"{width} ptr [rip + {0x1000000 - START - behind + offset:#x}]"
    return f"{width} ptr {'gs:' if gs else ''}[{LAYOUT.data_base[mode] + offset:#x}]"


Case = tuple[str, Callable[[Emitter], object], Callable[[int], str]]
NATURAL = {16: "dword", 32: "dword", 64: "qword"}


def wide(mode: int, reg: int) -> str:
    return REGS[64 if mode == 64 else 32][reg]


CASES: list[Case] = [
    ("spill", lambda e: e.spill(1, 0), lambda m: f"mov {data(m, SPILL[0], 7, NATURAL[m])}, {wide(m, 1)}"),
    ("reload", lambda e: e.reload(6, 2), lambda m: f"mov {wide(m, 6)}, {data(m, SPILL[2], 7, NATURAL[m])}"),
    ("load32", lambda e: e.load32(1, BUDGET), lambda m: f"mov ecx, {data(m, BUDGET, 6, 'dword')}"),
    ("store32", lambda e: e.store32(1, BUDGET), lambda m: f"mov {data(m, BUDGET, 6, 'dword')}, ecx"),
    ("load_byte", lambda e: e.load_byte(1, BUDGET + 3), lambda m: f"movzx ecx, {data(m, BUDGET + 3, 7, 'byte')}"),
    ("set32", lambda e: e.set32(BUDGET, 0x200), lambda m: f"mov {data(m, BUDGET, 10, 'dword')}, 0x200"),
    ("sub imm8", lambda e: e.subtract32_clobbering_flags(BUDGET, 5), lambda m: f"sub {data(m, BUDGET, 7, 'dword')}, 5"),
    (
        "sub imm32",
        lambda e: e.subtract32_clobbering_flags(BUDGET, 500),
        lambda m: f"sub {data(m, BUDGET, 10, 'dword')}, 0x1f4",
    ),
    ("cmp", lambda e: e.compare32_clobbering_flags(BUDGET, 0), lambda m: f"cmp {data(m, BUDGET, 7, 'dword')}, 0"),
    (
        "void address",
        lambda e: e.void_address(6),
        lambda m: "lea rsi, [rip + 0x1ffaff9]" if m == 64 else "mov esi, 0xd2000000",
    ),
    (
        "fault unless zero",
        lambda e: e.fault_unless_zero_rcx(),
        lambda m: "rep lodsb al, byte ptr [esi]" if m == 16 else "rep lodsb",
    ),
    ("table", lambda e: e.table_address(2), lambda m: f"lea {wide(m, 2)}, {data(m, TABLES, 7, NATURAL[m])}"),
]


@pytest.mark.parametrize("mode", [16, 32, 64])
@pytest.mark.parametrize(("emit", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_data_access(mode: int, emit: Callable[[Emitter], object], text: Callable[[int], str]) -> None:
    emitter = Emitter(Target(mode, LAYOUT, TABLES), START)
    emit(emitter)
    expected = assemble(mode, text(mode))
    # keystone may order the two size prefixes, and choose moffs forms for the accumulator only
    assert sorted(emitter.code[:2]) + list(emitter.code[2:]) == sorted(expected[:2]) + list(expected[2:])


@pytest.mark.parametrize("mode", [16, 32, 64])
@pytest.mark.parametrize("size", [2, 4])
def test_load_selector(mode: int, size: int) -> None:
    """keystone has no such form for 16-bit code, so capstone is the judge."""
    emitter = Emitter(Target(mode, LAYOUT, TABLES), START)
    emitter.load_selector(3, 2, size)
    insn = Decoder(mode).decode(bytes(emitter.code).ljust(15, b"\x90"))
    assert insn is not None
    assert insn.size == len(emitter.code)
    assert insn.name == ("mov" if size == 2 else "movzx")
    assert insn.operands[0].size == size
    assert insn.operands[1].size == 2
    assert insn.mem is not None
    behind = LAYOUT.code_base[mode] + START + insn.size if mode == 64 else 0
    wrap = (1 << 64) - 1 if mode == 64 else (1 << 32) - 1
    assert behind + insn.mem.disp & wrap == LAYOUT.data_base[mode] + SELECTORS + 4


@pytest.mark.parametrize(
    ("mode", "value", "text"),
    [
        (64, 0x401000, "mov rsi, 0x401000"),
        (64, 0xFFFFFFFF81000000, "mov rsi, -0x7f000000"),
        (64, 0x7F0012345678, "movabs rsi, 0x7f0012345678"),
        (32, 0xC0101234, "mov esi, 0xc0101234"),
    ],
)
def test_load_constant(mode: int, value: int, text: str) -> None:
    emitter = Emitter(Target(mode, LAYOUT, TABLES), START)
    emitter.load_constant(6, value)
    assert bytes(emitter.code) == assemble(mode, text)


@pytest.mark.parametrize("mode", [32, 64])
def test_lea(mode: int) -> None:
    emitter = Emitter(Target(mode, LAYOUT, TABLES), START)
    emitter.lea32(1, 1, -400)
    base = "rcx" if mode == 64 else "ecx"
    assert bytes(emitter.code) == assemble(mode, f"lea ecx, [{base} - 0x190]")
    emitter = Emitter(Target(mode, LAYOUT, TABLES), START)
    emitter.lea32_sum(1, 1, 2, -0x200)
    index = "rdx" if mode == 64 else "edx"
    assert bytes(emitter.code) == assemble(mode, f"lea ecx, [{base} + {index} - 0x200]")


def test_gs_override_reaches_data_where_ds_is_not_flat() -> None:
    emitter = Emitter(Target(32, LAYOUT, TABLES, through_gs=True), START)
    emitter.spill(1, 0)
    assert bytes(emitter.code) == assemble(32, f"mov {data(32, SPILL[0], 0, 'dword', gs=True)}, ecx")


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_user_code_finds_the_data_elsewhere(mode: int) -> None:
    emitter = Emitter(Target(mode, LAYOUT, TABLES, user=True), START)
    emitter.spill(1, 0)
    reference = Emitter(Target(mode, LAYOUT, TABLES), START)
    reference._data_operand(b"\x89", 1, SPILL[0] + LAYOUT.user_data)
    assert emitter.code == reference.code


@pytest.mark.parametrize(
    ("mode", "value", "size", "text"),
    [
        (64, 0x401000, 8, "push 0x401000"),
        (64, 0xFFFFFFFF81000000, 8, "push -0x7f000000"),
        (32, 0xC0101234, 4, "push 0xc0101234"),
    ],
)
def test_push_constant(mode: int, value: int, size: int, text: str) -> None:
    emitter = Emitter(Target(mode, LAYOUT, TABLES), START)
    emitter.push_constant(value, size)
    assert bytes(emitter.code) == assemble(mode, text)


def test_push_constant_in_16_bit_code() -> None:
    emitter = Emitter(Target(16, LAYOUT, TABLES), START)
    emitter.push_constant(0x7C12, 2)  # keystone writes a 32-bit push here, so capstone is the judge
    insn = Decoder(16).decode(bytes(emitter.code).ljust(15, b"\x90"))
    assert insn is not None
    assert (insn.text(), insn.size, insn.opsize) == ("push 0x7c12", len(emitter.code), 2)


def test_push_of_a_64_bit_constant_writes_the_upper_half_after() -> None:
    emitter = Emitter(Target(64, LAYOUT, TABLES), START)
    emitter.push_constant(0x00007F1234567890, 8)
    assert bytes(emitter.code) == assemble(64, "push 0x34567890; mov dword ptr [rsp + 4], 0x7f12")


@pytest.mark.parametrize(("mode", "jump", "branch"), [(16, 6, 7), (32, 5, 6), (64, 5, 6)])
def test_branches_have_displacements_that_can_be_patched(mode: int, jump: int, branch: int) -> None:
    emitter = Emitter(Target(mode, LAYOUT, TABLES), START)
    at = emitter.jump()
    assert (at, emitter.at) == (START + jump - 4, START + jump)
    emitter.fill_displacement(at, START + 0x100)
    assert bytes(emitter.code)[-4:] == (0x100 - jump).to_bytes(4, "little")
    emitter = Emitter(Target(mode, LAYOUT, TABLES), START)
    assert emitter.branch(4) == START + branch - 4
    assert emitter.code[-5] == 0x84
