"""Shells complete commands, options and the names of guests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = Path(sys.executable)


def completed(words: str, position: int) -> list[str]:
    """What bash is offered for word number `position` of a command line."""
    env = os.environ | {"COMP_WORDS": words, "COMP_CWORD": str(position), "_VEMU_COMPLETE": "bash_complete"}
    done = subprocess.run([PYTHON, "-m", "emu"], env=env, capture_output=True, text=True, timeout=60, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_guests() -> None:
    assert completed("vemu tr", 1) == ["trace"]
    assert set(completed("vemu run --deb", 2)) == {"--debug"}
    assert {"hello16", "hello32", "hello64"} < set(completed("vemu run hello", 2))
    assert completed("vemu trace --sort ", 3) == ["samples", "total", "mean"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_the_shells_own(shell: str) -> None:
    done = subprocess.run(
        [PYTHON, "-m", "emu", "completion", shell], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"_VEMU_COMPLETE={shell}_complete" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, timeout=60, check=True)
