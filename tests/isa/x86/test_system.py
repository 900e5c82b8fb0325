"""The dispatch table: one function for every row of the sensitive table, and #UD for what the CPU lacks."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86 import sensitive
from isa.x86.system import SYSTEM

UD = 6


def test_rows_and_functions_match() -> None:
    assert SYSTEM.keys() == sensitive.ROWS.keys()


ABSENT = {
    "xgetbv": "0f 01 d0", "xsetbv": "0f 01 d1", "xsave": "0f ae 23", "xrstor": "0f ae 2b",
    "xsavec": "0f c7 23", "rdpkru": "0f 01 ee", "wrpkru": "0f 01 ef", "monitor": "0f 01 c8", "mwait": "0f 01 c9",
    "rdrand": "0f c7 f0", "rdseed": "0f c7 f8", "ud2": "0f 0b", "ud1": "0f b9 c0", "rsm": "0f aa",
    "vmcall": "0f 01 c1", "vmxon": "f3 0f c7 33", "aesenc": "66 0f 38 dc c1", "vaddps": "c5 f0 58 c2",
    "vprotq (XOP)": "8f e9 78 93 c0",
}  # fmt: skip


@pytest.mark.parametrize("text", ABSENT.values(), ids=ABSENT.keys())
def test_absent_instructions(long: Any, text: str) -> None:
    assert long.fault(text) == (UD, None)
    long.user(0x28)
    assert long.fault(text) == (UD, None)
