"""`python -m benchmarks.costs [OPTIONS]`: runs `vemu bench --nano` and puts its tables into docs/COSTS.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "COSTS.md"
_TABLES: Final = re.compile(r"(<!-- tables: [^\n]* -->\n).*?(<!-- end of tables -->)", re.DOTALL)


def with_tables(document: str, tables: str) -> str:
    """`document` with `tables` between its two marks. Raises ValueError where they are missing."""
    found, count = _TABLES.subn(lambda match: f"{match[1]}{tables}{match[2]}", document)
    if count != 1:
        raise ValueError(f"{DOCUMENT.name} has no place for the tables")
    return found


def main(options: list[str]) -> int:
    """Measure, with these options of `vemu bench`, and write; returns the command's exit code."""
    line = [sys.executable, "-m", "emu", "bench", "--nano", "--format", "markdown", *options]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8"), done.stdout), encoding="utf-8")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
