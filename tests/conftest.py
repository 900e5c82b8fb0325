"""Shared by all tests: the command line in this process, and little guests as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

# Flat programs for 64-bit mode where nothing else is said.
LITTLE_GUESTS = {
    "spin": "eb fe",
    "halt": "f4",  # with interrupts off
    "triple": "0f 0b",  # ud2, and no interrupt table
    "reset": "66 ba f9 0c b0 06 ee eb fe",  # out 0xcf9, 6
    "exit5": "b0 02 e6 f4 f4",  # status 5
    "say": "b0 68 e6 e9 b0 69 e6 e9 b0 02 e6 f4",  # "hi" on the debug console, no newline; status 5
    "say-reset": "b0 68 e6 e9 b0 69 e6 e9 66 ba f9 0c b0 06 ee eb fe",
    "say-spin": "b0 68 e6 e9 b0 69 e6 e9 eb fe",
    "say-wait": "b0 68 e6 e9 b0 69 e6 e9 b0 ff e6 21 fb f4 eb fd",  # halted with interrupts on, all masked
    "chatter": "b0 2e e6 e9 eb fc",  # dots for ever
    # echoes COM1 until 'q', then leaves with status 3
    "echo": "66 ba fd 03 ec a8 01 74 fb b2 f8 ec ee 3c 71 75 ef b0 01 e6 f4 f4",
    # "VGA" in white on blue at the top of the text screen, then status 5
    "screen": "c7 04 25 00 80 0b 00 56 1f 47 1f 66 c7 04 25 04 80 0b 00 41 1f b0 02 e6 f4",
}


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard error; fails if there is another number of them."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("vemu: ")
        return lines[0].removeprefix("vemu: ")


class Command(Protocol):
    """Runs vemu in this process."""

    def __call__(self, *arguments: object) -> Done: ...


@pytest.fixture
def vemu(capfd: pytest.CaptureFixture[str]) -> Command:
    from emu.__main__ import main

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def little(tmp_path: Path) -> Callable[[str], str]:
    """The path of a little guest's file."""

    def write(name: str) -> str:
        path = tmp_path / f"{name}.bin"
        path.write_bytes(bytes.fromhex(LITTLE_GUESTS[name]))
        return str(path)

    return write
