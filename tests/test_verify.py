"""Lockstep verification: agreement on real guests, and a report where the translator is made to err."""

from __future__ import annotations

import pytest

from emu.config import MachineConfig
from emu.exits import EndReason
from emu.verify import Lockstep
from guests import catalogue
from isa.x86.decode import Decoder, Insn
from isa.x86.rewrite import Rewriter
from isa.x86.state import AF, ARITH, CF, OF, PF, SF, ZF
from isa.x86.undefined import undefined_after, undefined_flags

GUESTS = catalogue()


def config(name: str) -> MachineConfig:
    guest = GUESTS[name]
    if guest.scale is None:
        return MachineConfig(name)
    return MachineConfig(guest.image(guest.scale.small), format="flat", mode=guest.mode, org=guest.org)


@pytest.mark.parametrize("name", sorted(set(GUESTS) - {"kernel64"}))
def test_guests_agree_in_steps(name: str) -> None:
    verdict = Lockstep(config(name)).by_steps(1000, None)
    assert verdict.divergence is None
    assert verdict.ending is not None
    assert verdict.ending.reason is EndReason.DEBUG_EXIT
    assert verdict.comparisons >= verdict.instructions // 1000


@pytest.mark.parametrize("name", ["bootbios", "bytecode", "hello16", "kernel32", "matmul", "smc"])
def test_guests_agree_in_front_of_every_block(name: str) -> None:
    verdict = Lockstep(config(name)).by_block(None)
    assert verdict.divergence is None
    assert verdict.ending is not None
    assert verdict.ending.reason is EndReason.DEBUG_EXIT
    assert verdict.comparisons > verdict.instructions // 40


def test_a_limit_ends_the_comparison() -> None:
    verdict = Lockstep(config("kernel64")).by_block(20_000)
    assert (verdict.divergence, verdict.ending, verdict.instructions) == (None, None, 20_000)


@pytest.fixture
def wrong_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every LEA of a RIP-relative address in translated code gives an address that is too high by two."""
    right = Rewriter._constant
    monkeypatch.setattr(Rewriter, "_constant", lambda self, insn, value: right(self, insn, value + 2))


def test_the_first_wrong_block_is_reported(wrong_constants: None) -> None:
    divergence = Lockstep(config("hello64")).by_block(None).divergence
    assert divergence is not None
    assert divergence.retired == 2
    assert divergence.differences == ["rsi: interpreted 0x100011, translated 0x100013 (bits 0x2)"]
    assert divergence.block == ["0x100000  lea rsi, [rip + 0xa]", "0x100007  call 0x3a"]


def test_a_difference_between_steps_is_narrowed_down(wrong_constants: None) -> None:
    divergence = Lockstep(config("hello64")).by_steps(100, None).divergence
    assert divergence is not None
    assert divergence.retired == 2  # a block's budget is not split: its first two instructions come together
    assert divergence.differences == ["rsi: interpreted 0x100011, translated 0x100013 (bits 0x2)"]


def insn(code: str) -> Insn:
    decoded = Decoder(64).decode(bytes.fromhex(code).ljust(15, b"\x90"))
    assert decoded is not None
    return decoded


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        ("01c8", 0),  # add eax, ecx
        ("31c8", AF),  # xor eax, ecx
        ("83e001", AF),  # and eax, 1
        ("83c001", 0),  # add eax, 1
        ("0fafc1", SF | ZF | AF | PF),  # imul eax, ecx
        ("f7f1", ARITH),  # div ecx
        ("d1e0", AF),  # shl eax, 1
        ("d3e0", OF | AF | CF),  # shl eax, cl: a count beyond the width leaves CF undefined
        ("c1c003", OF),  # rol eax, 3
        ("0fbcc1", ARITH & ~ZF),  # bsf eax, ecx
        ("f30fbcc1", OF | SF | AF | PF),  # tzcnt eax, ecx
        ("0fa3c8", OF | SF | AF | PF),  # bt eax, ecx
    ],
)
def test_undefined_flags(code: str, flags: int) -> None:
    assert undefined_flags(insn(code)) == flags


def test_what_is_written_again_is_defined_again() -> None:
    assert undefined_after([insn("f7f1"), insn("01c8")]) == 0
    assert undefined_after([insn("31c8"), insn("90")]) == AF
    assert undefined_after([], CF) == CF
