"""The record of one translated block."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from isa.x86.decode import Insn
from isa.x86.rewrite import BlockMode, Code


@dataclass(slots=True, eq=False)
class Block:
    """A translated basic block: where it came from, where it lies in the cache, and who is chained to it.

    `linear` is the guest-linear address of its first byte, `pc` the same as an offset in CS; `spans` are the
    guest-physical byte ranges (start, end) its instructions were read from, one a page. `incoming` holds the exits of
    other blocks that are chained to it, so that unlinking is exact; the one `above` falls into it.
    """

    mode: BlockMode
    linear: int
    pc: int
    spans: tuple[tuple[int, int], ...]
    insns: list[Insn]
    code: Code
    valid: bool = True
    above: Block | None = None  # the block that runs into this one without an exit
    incoming: set[int] = field(default_factory=set)  # offsets that identify the chained exits

    @property
    def size(self) -> int:
        """Guest bytes."""
        return sum(insn.size for insn in self.insns)

    def piece_at(self, offset: int) -> int:
        """Number of the instruction whose code holds cache offset `offset`."""
        starts = [piece.start for piece in self.code.pieces]
        return bisect_right(starts, offset) - 1
