"""`make verify`: every bundled guest, memtest86+ and Debian's kernel under interpreter and translator in lockstep.

Each runs twice: its first two million instructions compared in front of every block, then all of it (of memtest86+ the
first fifty million instructions, of the kernel twenty) compared after every thousand, with blocks chained. The first
two million instructions of a guest are compared with plain Unicorn besides, as far as it comes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from guests import catalogue
from guests.debian import KERNELS

_FIRST = ("--max-instructions", "2000000")
_MEMTEST = ("--append", "console=ttyS0,115200", "--memory", "32M")


def main() -> int:
    """Run all comparisons; returns 1 if one of them found a difference or could not be made."""
    runs: list[tuple[str, ...]] = []
    for name in catalogue():
        runs += [(name, *_FIRST), (name, "--every", "1000"), (name, "--against", "unicorn", *_FIRST)]
    for image in ("memtest86+x64.bin", "memtest86+ia32.bin"):
        path = f"/boot/{image}"
        if Path(path).exists():
            runs += [
                (path, *_MEMTEST, *_FIRST),
                (path, *_MEMTEST, "--every", "1000", "--max-instructions", "50000000"),
                (path, *_MEMTEST, "--against", "unicorn", *_FIRST),
            ]
        else:
            print(f"{path} is missing: install the package memtest86+")
    linux = KERNELS["cloud"].image
    if linux.exists():
        boot = (str(linux), "--append", "console=ttyS0 quiet", "--memory", "256M")
        runs += [(*boot, *_FIRST), (*boot, "--every", "1000", "--max-instructions", "20000000")]
    else:
        print(f"{linux} is missing: 'make linux' fetches it")
    failed = 0
    for arguments in runs:
        print(f"vemu verify {' '.join(arguments)}: ", end="", flush=True)
        failed += subprocess.run([sys.executable, "-m", "emu", "verify", *arguments], check=False).returncode != 0
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
