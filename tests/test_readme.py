"""The README's example does what its comment says, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs() -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    done = subprocess.run([sys.executable, "-W", "error", "-c", found[1]], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "guest wrote 0x5\n11\n", "")


def test_the_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"\bmake ([a-z]+)", README)
    assert {"run", "test"} <= set(named) <= set(targets)


def test_the_exit_codes_are_those_of_the_program() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "emu").rglob("*.py"))
    assert documented == {0, 2, 4, 6, 8, 10, 12, 14, 70, 124, 130}
    for code in documented - {0}:
        assert re.search(rf"\b{code}\b", sources), f"{code} is documented, but nothing uses it"
