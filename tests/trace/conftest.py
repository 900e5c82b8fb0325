"""A small stream of exits whose sums can be checked by hand, its names, and where the expected texts lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.trace.names import Names
from emu.trace.record import Batch, ExitRecord

GOLDEN = Path(__file__).parent / "golden"
_SYMBOLS = ((0x1000, "main"), (0x2000, "probe"))
_DEVICES = {("port", 0x3F8): "serial", ("port", 0x3FD): "serial", ("memory", 0xFEE000B0): "local APIC"}


def _lookup(address: int) -> tuple[str, int] | None:
    for start, name in _SYMBOLS:
        if start <= address < start + 0x1000:
            return name, address - start
    return None


@pytest.fixture
def names() -> Names:
    return Names(_lookup, lambda space, operand: _DEVICES.get((space, operand), ""))


@pytest.fixture
def records() -> Batch:
    """Costs in microseconds: 10, 14 and 4 of ports, 3, 2, 4 and 3; 40 in all."""
    long64 = {"mode": "long64"}
    return [
        ExitRecord(0, 100, 1_000, 1000, 2000, 3000, 4000, "out", 0x1000, 0x3F8, "w", 1, 0x1000, **long64),
        ExitRecord(1, 200, 21_000, 1000, 2000, 7000, 4000, "out", 0x1000, 0x3F8, "w", 1, 0x1000, **long64),
        ExitRecord(2, 300, 41_000, 500, 1500, 500, 1500, "in", 0x1010, 0x3FD, "r", 1, 0x1008, **long64),
        ExitRecord(3, 400, 51_000, 1000, 1000, 0, 1000, "cpuid", 0x2000, block=0x2000, **long64),
        ExitRecord(
            4, 500, 61_000, 0, 2000, 0, 0, "hidden page fault", 0x2010, 0xFFFF_8000_0000_1000, "w", 8, 0x2010, **long64
        ),
        ExitRecord(5, 600, 71_000, 1000, 1000, 1000, 1000, "memory", 0x3000, 0xFEE0_00B0, "w", 4, **long64),
        ExitRecord(6, 700, 81_000, 2000, 1000, 0, 0, "trap 0", 0x2020, 0, block=0x2020, mode="prot32", cpl=3),
    ]


@pytest.fixture
def golden() -> Golden:
    return Golden()


class Golden:
    """Compares with a file of expected text."""

    def __call__(self, name: str, found: str) -> None:
        assert found == (GOLDEN / name).read_text(encoding="utf-8")
