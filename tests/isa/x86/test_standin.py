"""Instructions that capstone refuses or reads wrongly, decoded by an equivalent encoding."""

from __future__ import annotations

import pytest

from isa.base import Flow
from isa.x86.decode import Decoder
from isa.x86.standin import as_32, equivalent, preferred
from isa.x86.state import AF, ARITH, CF, OF


@pytest.mark.parametrize(
    ("mode", "code", "size", "text"),
    [
        (64, "67637526", 4, "mov esi, dword ptr [ebp + 0x26]"),
        (64, "637526", 3, "mov esi, dword ptr [rbp + 0x26]"),
        (64, "48637526", 4, "movsxd rsi, dword ptr [rbp + 0x26]"),
        (64, "660f8034ff1122", 7, "jo 0x2211ff3b"),
        (64, "f34190", 3, "pause"),
        (64, "66f390", 3, "pause"),
        (32, "67f390", 3, "pause"),
        (64, "4190", 2, "xchg r8d, eax"),
        (64, "dcd1", 2, "fcom st(1)"),
        (64, "ddca", 2, "fxch st(2)"),
        (32, "0f01e8", 3, "nop eax"),
        (64, "4c367b6b", 4, "jnp 0x6f"),
        (64, "4367c3", 3, "ret"),
        (32, "dfdb", 2, "fstp st(3)"),
        (64, "660f1ed7", 4, "nop di"),
        (32, "0f1c78ff", 4, "nop dword ptr [eax - 1]"),
        (16, "660f3808b36bfc", 7, "psignb xmm6, xmmword ptr [bp + di - 0x395]"),
        (16, "660f3821e2", 5, "pmovsxbd xmm4, xmm2"),
        (16, "67660f6f08", 5, "movdqa xmm1, xmmword ptr [eax]"),
    ],
)
def test_decodes(mode: int, code: str, size: int, text: str) -> None:
    raw = bytes.fromhex(code)
    insn = Decoder(mode).decode(raw.ljust(15, b"\x90"))
    assert insn is not None
    assert (insn.size, insn.text(), insn.raw) == (size, text, raw)
    assert insn.flow is not Flow.INVALID


def test_offsets_point_into_the_bytes_themselves() -> None:
    insn = Decoder(16).decode(bytes.fromhex("26660f3a0f87341207").ljust(15, b"\x90"))  # palignr xmm0, es:[bx+1234h], 7
    assert insn is not None
    assert (insn.raw[insn.opcode_at], insn.raw[insn.modrm_at], insn.raw[insn.imm_at]) == (0x0F, 0x87, 7)
    assert insn.raw[insn.disp_at : insn.disp_at + 2] == b"\x34\x12"
    assert insn.mem is not None
    assert (insn.mem.seg, insn.mem.size, insn.adsize) == (0, 16, 2)


def test_jcc_with_66_goes_where_the_wide_one_goes() -> None:
    insn = Decoder(64).decode(bytes.fromhex("660f8410000000").ljust(15, b"\x90"))
    assert insn is not None
    assert (insn.flow, insn.target(0x1000)) == (Flow.BRANCH, 0x1017)


@pytest.mark.parametrize("code", ["d9d1", "dfe2", "0f0b", "90", "", "66", "0f", "c3"])
def test_what_has_no_equivalent(code: str) -> None:
    assert equivalent(bytes.fromhex(code), 64) is None


def test_nothing_is_preferred_to_what_capstone_reads_well() -> None:
    for code in ("4863c1", "0f8410000000", "f390", "4190", "", "66", "6689c8"):
        assert preferred(bytes.fromhex(code)) is None


def test_only_vector_instructions_with_66_take_the_way_through_32_bit_code() -> None:
    assert as_32(bytes.fromhex("0f6f00")) is None
    assert as_32(bytes.fromhex("660fb8c0")) is None
    assert as_32(bytes.fromhex("660f6f00")) == (bytes.fromhex("67660f6f00"), 1)
    assert as_32(bytes.fromhex("66670f6f00")) == (bytes.fromhex("660f6f00"), -1)


@pytest.mark.parametrize("code", ["36660fef01", "3e8b0424", "268b01", "2e8b4500"])
def test_64_bit_mode_ignores_the_overrides_of_flat_segments(code: str) -> None:
    insn = Decoder(64).decode(bytes.fromhex(code).ljust(15, b"\x90"))
    assert insn is not None
    assert insn.mem is not None
    assert insn.mem.seg == (2 if insn.mem.base in (4, 5) else 3)  # SS or DS, by the base register


@pytest.mark.parametrize(
    ("mode", "code", "read", "written"),
    [
        (64, "0fc2c401", 0, 0),  # cmpltps
        (64, "f20fc2c401", 0, 0),
        (32, "27", AF | CF, ARITH),
        (32, "3f", AF, ARITH),
        (64, "9f", ARITH & ~OF, 0),
        (64, "9e", 0, ARITH & ~OF),
        (64, "01c8", 0, ARITH),
    ],
)
def test_flags(mode: int, code: str, read: int, written: int) -> None:
    insn = Decoder(mode).decode(bytes.fromhex(code).ljust(15, b"\x90"))
    assert insn is not None
    assert (insn.flags_read, insn.flags_written) == (read, written)
