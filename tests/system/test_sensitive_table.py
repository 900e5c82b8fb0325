"""Every sensitive instruction in every mode, at every privilege: the manual, both engines and QEMU's TCG compared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from isa.x86 import sensitive
from isa.x86.decode import Decoder
from tests.system import test_system_behaviour as machines
from tests.system.sensitive_guest import Case, build, cases, encode, outcomes
from tests.system.sensitive_rows import MODES, QEMU_CANNOT, QEMU_DISAGREES, ROWS, Cell, Row


def differences(tried: list[Case], seen: list[str]) -> Iterator[str]:
    """One line for each case that did not do what the manual says."""
    for (row, cell), outcome in zip(tried, seen, strict=True):
        if outcome != row.expected(cell):
            yield f"{row.name} in {cell}: {outcome}, not {row.expected(cell)}"


def qemu_outcome(row: Row, cell: Cell) -> str:
    """What QEMU is known to do."""
    found = [entry.outcome for entry in QEMU_DISAGREES if entry.covers(row.name, cell)]
    assert len(found) <= 1, f"two entries explain {row.name} in {cell}"
    return found[0] if found else row.expected(cell)


@pytest.mark.parametrize("engine", ["interpret", "translate"])
@pytest.mark.parametrize("mode", MODES)
def test_the_engines_follow_the_manual(mode: str, engine: str) -> None:
    tried = cases(mode)
    status, console = machines.under_vemu(build(mode, tried), engine)
    seen = outcomes(console)
    assert (status, len(seen)) == (machines.STATUS, len(tried)), console[-200:]
    assert list(differences(tried, seen)) == []


@pytest.mark.parametrize("mode", MODES)
def test_qemu_follows_the_manual_but_where_explained(mode: str, tmp_path: Path) -> None:
    if shutil.which(machines.QEMU) is None:
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(f"{machines.QEMU} is missing: install the package qemu-system-x86")
        pytest.skip(f"{machines.QEMU} is not installed")
    tried = cases(mode, under_qemu=True)
    status, console = machines.under_qemu(build(mode, tried), tmp_path)
    seen = outcomes(console)
    assert (status, len(seen)) == (machines.STATUS, len(tried)), console[-200:]
    wrong = [
        f"{row.name} in {cell}: {outcome}, not {qemu_outcome(row, cell)}"
        for (row, cell), outcome in zip(tried, seen, strict=True)
        if outcome != qemu_outcome(row, cell)
    ]
    assert wrong == []


def test_every_entry_explains_something_that_differs() -> None:
    tried = [case for mode in MODES for case in cases(mode, under_qemu=True)]
    for entry in QEMU_DISAGREES:
        covered = [(row, cell) for row, cell in tried if entry.covers(row.name, cell)]
        assert {row.name for row, _ in covered} == set(entry.rows), entry
        assert all(row.expected(cell) != entry.outcome for row, cell in covered), entry
        assert entry.why
    assert set(QEMU_CANNOT) <= {(row.name, mode) for row in ROWS for mode in row.modes}


def test_every_row_of_the_sensitive_table_is_tried() -> None:
    decoders = {mode: Decoder(mode) for mode in (16, 32, 64)}
    tried = set()
    for mode, bits in zip(MODES, (16, 16, 16, 32, 32, 64), strict=True):
        rm = 7 if bits == 16 else 3
        for row in ROWS:
            if mode in row.modes:
                code = encode(row, rm, bytes(4 if bits == 16 else 6))
                insn = decoders[bits].decode(code.ljust(15, b"\x90"))
                assert insn is not None
                found = sensitive.row_of(insn)
                if found is not None:
                    tried.add(found.name)
    assert tried == set(sensitive.ROWS)
