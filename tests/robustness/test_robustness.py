"""Seeded random guests, and every seed that once lost something."""

from __future__ import annotations

import pytest

from tests.robustness.runs import DEVICES, SPACES, check

# What went wrong, by seed.
ONCE_LOST = {
    113: "a REP OUTS of 4 KiB counted as one instruction: 3,000 of them took half a minute",
    119: "a REX prefix behind another one was taken for the opcode",
    1_000_361: "a REP with an enormous count on memory-mapped I/O could not be interrupted",
    1_001_369: "the same in 32-bit code with paging",
    1_000_456: "the exit in place of a block that 16-bit code fell into cut the instruction pointer to 16 bits",
    2_000_231: "a prefix behind a REX prefix was taken for the opcode, and so a branch for a plain instruction",
    2_029_157: "the same for a return",
    23_533: "an FBLD that wraps around at 4 GiB was tried again for ever, as Unicorn does not wrap",
    270: "LOOPNE in 16-bit code cut the instruction pointer to 16 bits",
}


@pytest.mark.parametrize("seed", sorted(ONCE_LOST))
def test_what_was_once_lost(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("block", range(20))
def test_nothing_is_lost(block: int) -> None:
    for seed in range(1_000_000 + 100 * block, 1_000_000 + 100 * (block + 1)):
        check(seed)


@pytest.mark.parametrize("block", range(4))
def test_nothing_is_lost_with_page_tables_that_change(block: int) -> None:
    for seed in range(SPACES + 50 * block, SPACES + 50 * (block + 1)):
        check(seed)


@pytest.mark.parametrize("block", range(4))
def test_nothing_is_lost_among_the_devices(block: int) -> None:
    for seed in range(DEVICES + 50 * block, DEVICES + 50 * (block + 1)):
        check(seed)
