"""Counts stacks in bounded memory, and writes them: folded, or as a flame graph where the file is called .svg."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from emu.outfile import save
from emu.trace.flame import folded, svg
from emu.trace.names import Names

_MOST: Final = 1 << 16  # different stacks; beyond these, new ones count as one
_ELSEWHERE: Final = ("[elsewhere]",)


class StackCounts:
    """Addresses in, named frames out; names are looked up at the end only."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, ...]] = Counter()
        self._elsewhere = 0

    def add(self, stack: Sequence[int], count: int = 1) -> None:
        """`count` samples of the stack, whose outermost address comes first."""
        key = tuple(stack)
        if len(self._counts) < _MOST or key in self._counts:
            self._counts[key] += count
        else:
            self._elsewhere += count

    @property
    def total(self) -> int:
        """All samples."""
        return self._counts.total() + self._elsewhere

    def calls(self, names: Names) -> Counter[tuple[str, ...]]:
        """Stacks of functions: a symbol a frame, or the address where there is none."""
        named: Counter[tuple[str, ...]] = Counter()
        for stack, count in self._counts.items():
            frames = tuple(f"{pc:#x}" if (found := names.find(pc)) is None else found[0] for pc in stack)
            named[frames] += count
        return self._with_rest(named)

    def blocks(self, names: Names) -> Counter[tuple[str, ...]]:
        """Stacks of a function, where it is known, and the block's place within it."""
        named: Counter[tuple[str, ...]] = Counter()
        for stack, count in self._counts.items():
            pc = stack[-1]
            found = names.find(pc)
            named[(f"{pc:#x}",) if found is None else (found[0], names.location(pc))] += count
        return self._with_rest(named)

    def _with_rest(self, named: Counter[tuple[str, ...]]) -> Counter[tuple[str, ...]]:
        if self._elsewhere:
            named[_ELSEWHERE] += self._elsewhere
        return named


def write(stacks: Counter[tuple[str, ...]], output: Path | None, title: str, unit: str) -> None:
    """Print folded stacks, or write them to a file: a flame graph where its name ends in .svg (GuestFileError)."""
    if output is None:
        sys.stdout.write(folded(stacks))
        sys.stdout.flush()
    else:
        text = svg(stacks, title, unit) if output.suffix.lower() == ".svg" else folded(stacks)
        save(output, "report", text.encode())
