"""What the translator leaves to the interpreter because Unicorn executes it wrongly."""

from __future__ import annotations

import pytest

from isa.x86.decode import Decoder
from isa.x86.misexecuted import may_divide_out_of_range, misexecuted


@pytest.mark.parametrize(
    ("mode", "code", "left"),
    [
        (64, "660f3a60c000", True),  # pcmpestrm
        (64, "660f3a62c000", False),  # pcmpistrm
        (64, "9f", False),
        (64, "459f", True),  # lahf with REX
        (64, "f34190", True),
        (64, "f390", False),
        (64, "4190", False),
        (64, "c8100000", True),  # enter
        (64, "d110", True),  # rcl dword ptr [rax], 1
        (64, "d1d0", False),
        (64, "d100", False),  # rol dword ptr [rax], 1
        (64, "f0f618", True),  # lock neg byte ptr [rax]
        (64, "f618", False),
        (64, "f0f610", False),  # lock not
        (64, "c4e278f3d8", True),  # blsi
        (64, "c4e27bf5c1", True),  # pdep
        (64, "c4e278f2c1", False),  # andn
        (16, "f30fb8c0", True),
        (64, "f30fb8c0", False),
        (64, "66f3480fb8c0", True),
        (64, "0f2a00", True),  # cvtpi2ps xmm0, [rax]
        (64, "0f2ac0", False),
        (64, "f30f2a00", False),
        (64, "0f3801c1", True),  # phaddw mm0, mm1
        (64, "660f3801c1", False),
        (64, "660f3801c0", True),  # phaddw xmm0, xmm0
        (64, "66410f3801c0", False),  # phaddw xmm0, xmm8
        (64, "48d930", True),  # fnstenv with REX.W
        (64, "d930", False),
    ],
)
def test_left_to_the_interpreter(mode: int, code: str, left: bool) -> None:
    insn = Decoder(mode).decode(bytes.fromhex(code).ljust(15, b"\x90"))
    assert insn is not None
    assert insn.size == len(code) // 2
    assert misexecuted(insn) is left


@pytest.mark.parametrize(
    ("mode", "code", "before", "left"),
    [
        (32, "f7f9", "", True),
        (32, "f7f9", "99", False),  # behind cdq
        (32, "f7f9", "6699", True),  # behind cwd, which leaves bits 31 to 16 of EDX
        (32, "66f7f9", "6699", False),
        (32, "66f7f9", "89d0", True),
        (64, "f7f9", "4899", False),  # behind cqo
        (64, "48f7f9", "", False),
        (32, "f6f9", "", False),
        (32, "f7f1", "", False),  # div
    ],
)
def test_division_that_would_end_this_process(mode: int, code: str, before: str, left: bool) -> None:
    decoder = Decoder(mode)
    insn, front = (decoder.decode(bytes.fromhex(text).ljust(15, b"\x90")) for text in (code, before))
    assert insn is not None
    assert may_divide_out_of_range(insn, front if before else None) is left
