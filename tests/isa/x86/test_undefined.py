"""Which flags shifts leave undefined where the count is known."""

from __future__ import annotations

import pytest

from isa.x86.decode import Decoder
from isa.x86.state import AF, ARITH, CF, OF, PF, SF
from isa.x86.undefined import undefined_flags


@pytest.mark.parametrize(
    ("code", "rcx", "flags"),
    [
        ("c1e000", 0, 0),  # shl eax, 0
        ("c1e001", 0, AF),
        ("c1e005", 0, OF | AF),
        ("c0e008", 0, OF | AF | CF),  # shl al, 8
        ("c0f808", 0, OF | AF),  # sar al, 8
        ("d3e0", 32, 0),  # shl eax, cl
        ("48d3e0", 32, OF | AF),  # shl rax, cl
        ("48d3e0", 64, 0),
        ("d3c8", 1, 0),  # ror eax, cl
        ("d3c8", 9, OF),
        ("d2d0", 33, 0),  # rcl al, cl
        ("0fa5c8", 1, AF),  # shld eax, ecx, cl
        ("0fa5c8", 31, OF | AF),
        ("660fa5c8", 20, ARITH),  # shld ax, cx, cl: more than the width
        ("0facc800", 7, 0),  # shrd eax, ecx, 0
        ("c4e27af5c1", 0, 0),  # pext
        ("c4e278f5c1", 0, AF | PF),  # bzhi
        ("c4e278f7c1", 0, SF | AF | PF),  # bextr
        ("c4e279f7c1", 0, 0),  # shlx
    ],
)
def test_with_a_count(code: str, rcx: int, flags: int) -> None:
    insn = Decoder(64).decode(bytes.fromhex(code).ljust(15, b"\x90"))
    assert insn is not None
    assert undefined_flags(insn, rcx) == flags
