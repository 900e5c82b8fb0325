"""CPUID leaves, and that every feature is shown where software looks for it."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86 import cpuid
from isa.x86.state import CR4_OSXSAVE, RAX, RBX, RCX, RDX


def leaf(machine: Any, number: int, sub: int = 0) -> tuple[int, int, int, int]:
    cpu = machine.cpu
    cpu.regs[RAX], cpu.regs[RCX] = 0xFFFF_FFFF_0000_0000 | number, sub
    machine.step("0f a2")
    return cpu.regs[RAX], cpu.regs[RBX], cpu.regs[RCX], cpu.regs[RDX]


def text(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def test_names(long: Any) -> None:
    limit, b, c, d = leaf(long, 0)
    assert (limit, text(b, d, c)) == (0x16, b"GenuineIntel")
    limit, b, c, d = leaf(long, 0x4000_0000)
    assert (limit, text(b, c, d)) == (0x4000_0000, b"vemuvemuvemu")
    brand = b"".join(text(*leaf(long, 0x8000_0002 + n)) for n in range(3))
    assert brand.rstrip(b"\0") == b"vemu x86-64 virtual CPU"
    assert len(brand) == 48


# Bits by leaf and register that must be set, and some that must not (SDM vol. 2, CPUID).
BITS = [
    (1, 3, (0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 19, 23, 24, 25, 26), (1, 17, 18, 21, 22, 28)),
    (1, 2, (0, 9, 13, 17, 19, 20, 22, 23, 24, 31), (1, 3, 5, 12, 21, 25, 26, 27, 28, 30)),
    (6, 0, (2,), (0, 1)),
    (7, 1, (0, 1, 3, 7, 8, 10, 19, 20), (2, 4, 5, 11, 14, 16, 18, 29)),
    (7, 2, (2,), (3, 4)),
    (7, 3, (14, 29), (26, 27)),
    (0x8000_0001, 3, (11, 20, 26, 27, 29), ()),
    (0x8000_0001, 2, (0, 5), (2, 6)),
    (0x8000_0007, 3, (8,), ()),
]


@pytest.mark.parametrize(("number", "register", "present", "absent"), BITS)
def test_features(long: Any, number: int, register: int, present: tuple[int, ...], absent: tuple[int, ...]) -> None:
    value = leaf(long, number)[register]
    assert value == sum(1 << bit for bit in present)
    assert not any(value >> bit & 1 for bit in absent)


def test_every_feature_has_a_bit(long: Any) -> None:
    shown = sum(leaf(long, number)[register].bit_count() for number, register, _, _ in BITS)
    assert shown == len(cpuid.FEATURES) + 1  # and the local APIC, which is not static


def test_bits_that_follow_the_state(long: Any) -> None:
    long.cpu.apic_base = 0
    assert not leaf(long, 1)[3] & 1 << 9
    long.cpu.cr4 |= CR4_OSXSAVE
    assert leaf(long, 1)[2] & 1 << 27


def test_sizes_and_frequencies(long: Any) -> None:
    assert leaf(long, 0x8000_0008)[0] == 0x3028
    denominator, numerator, crystal, _ = leaf(long, 0x15)
    assert crystal * numerator // denominator == 1_000_000_000
    assert leaf(long, 0x16)[:2] == (1000, 1000)
    assert leaf(long, 1)[1] >> 8 & 0xFF == 8


def test_caches(long: Any) -> None:
    sizes = []
    sub = 0
    while (row := leaf(long, 4, sub))[0] & 31:
        ways, partitions, line, sets = (row[1] >> 22) + 1, (row[1] >> 12 & 1023) + 1, (row[1] & 4095) + 1, row[2] + 1
        sizes.append((row[0] & 31, row[0] >> 5 & 7, ways * partitions * line * sets))
        sub += 1
    assert sizes == [(1, 1, 32768), (2, 1, 32768), (3, 2, 1 << 20)]
    low, *rest = leaf(long, 2)
    assert low & 0x8000_00FF == 1
    assert 0xFF in low.to_bytes(4, "little")
    assert rest == [0, 0, 0]


def test_leaves_out_of_range(long: Any) -> None:
    for number in (0x17, 0x3FFF_FFFF, 0x4000_0100, 0x8000_0009, 0xFFFF_FFFF):
        assert leaf(long, number) == leaf(long, 0x16)
    assert leaf(long, 7, 1) == leaf(long, 0xD) == leaf(long, 0x4000_0001) == (0, 0, 0, 0)
