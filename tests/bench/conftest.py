"""QEMU as a rival, and little guests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guests import qemu
from tests.conftest import LITTLE_GUESTS


@pytest.fixture
def judge() -> None:
    if not qemu.available():
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(f"{qemu.PROGRAM} is not installed, and VEMU_CI=1 asks for it")
        pytest.skip(f"{qemu.PROGRAM} is not installed")


@pytest.fixture
def little_guest(tmp_path: Path) -> Path:
    """A folder of the little guests."""
    for name, code in LITTLE_GUESTS.items():
        (tmp_path / name).write_bytes(bytes.fromhex(code))
    return tmp_path
