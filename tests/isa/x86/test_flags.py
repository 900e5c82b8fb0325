"""The lazy arithmetic flags against the definitions of the manual."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import cast

import pytest

from isa.x86 import flags
from isa.x86.cpu import Cpu
from isa.x86.state import AC, AF, ARITH, CF, DF, IF, OF, PF, SF, ZF

ALL = [sum(bits) for n in range(7) for bits in itertools.combinations((CF, PF, AF, ZF, SF, OF), n)]


def make() -> Cpu:
    return Cpu(cast("object", SimpleNamespace(ram=memoryview(bytearray(16)))), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ALL)
def test_every_combination_survives(value: int) -> None:
    cpu = make()
    cpu.rflags = value | IF | DF | AC
    assert cpu.rflags == value | IF | DF | AC | 2
    flags.set_arith(cpu, ARITH)
    flags.set_arith(cpu, value)
    assert cpu.rflags == value | IF | DF | AC | 2
    assert flags.get_arith(cpu) == value
    assert flags.get_cf(cpu) == (value & CF)


@pytest.mark.parametrize("value", ALL)
def test_conditions(value: int) -> None:
    cpu = make()
    cpu.rflags = value
    of, cf, zf, sf, pf = (bool(value & bit) for bit in (OF, CF, ZF, SF, PF))
    expected = [of, cf, zf, cf or zf, sf, pf, sf != of, zf or sf != of]
    for code in range(16):
        assert flags.condition(code)(cpu) == (expected[code >> 1] != bool(code & 1)), code


@pytest.mark.parametrize("value", ALL)
def test_masked_setting_and_carry(value: int) -> None:
    cpu = make()
    for mask in (CF, OF, ZF | SF, CF | OF, AF | PF):
        cpu.rflags = value
        flags.set_arith(cpu, ~value & ARITH, mask)
        assert flags.get_arith(cpu) == value ^ mask
    for carry in (0, 1):
        cpu.rflags = value
        flags.set_cf(cpu, carry)
        assert flags.get_arith(cpu) == value & ~CF | carry


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_szp(size: int) -> None:
    top = 1 << size * 8 - 1
    assert flags.szp(0, size) == ZF | PF
    assert flags.szp(top, size) == SF | (PF if size > 1 else 0)
    assert flags.szp(3, size) == PF
    assert flags.szp(top - 1 | 1, size) == (0 if size == 1 else PF)
