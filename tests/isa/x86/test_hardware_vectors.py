"""The integer families against outcomes recorded on a real processor, with the flags the manual leaves undefined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from isa.x86.decode import Decoder
from isa.x86.interp import bind
from isa.x86.state import ARITH

VECTORS = Path(__file__).with_name("hardware_vectors.txt")


def _rows() -> Iterator[tuple[int, bytes, list[int], list[int]]]:
    for line in VECTORS.read_text().splitlines():
        if not line.startswith("#"):
            mode, code, *numbers = line.split()
            values = [int(number, 16) for number in numbers]
            yield int(mode), bytes.fromhex(code), values[:4], values[4:]


@pytest.mark.parametrize("mode", [32, 64])
def test_agrees_with_a_processor(mode: int, protected, long) -> None:  # type: ignore[no-untyped-def]  # fixtures
    cpu, decoder, count = (long if mode == 64 else protected).cpu, Decoder(mode), 0
    for row_mode, code, before, after in _rows():
        if row_mode != mode:
            continue
        insn = decoder.decode(code.ljust(15, b"\x90"))
        assert insn is not None
        assert insn.size == len(code)
        cpu.regs[:3], cpu.rflags = before[:3], before[3] | 2
        bind(insn, 0x1000)(cpu)
        found = [*cpu.regs[:3], cpu.rflags & ARITH]
        assert [hex(n) for n in found] == [hex(n) for n in after], f"{insn!r} from {[hex(n) for n in before]}"
        count += 1
    assert count >= 64
