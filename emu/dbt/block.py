"""The record of one translated block."""

from __future__ import annotations

from bisect import bisect_right

from emu.dbt.store import Translation
from isa.x86.code import Code, Piece, Site
from isa.x86.decode import Decoder, Insn
from isa.x86.rewrite import BlockMode


class Block:
    """A translated basic block: where it came from, where it lies in the cache, and who is chained to it.

    It is block `number` of `translation`, whose code was placed at cache offset `at`. `linear` is the guest-linear
    address of its first byte, `pc` the same as an offset in CS; `spans` are the guest-physical byte ranges (start, end)
    its instructions were read from, one a page. `start`, `end`, `entry` (for chained and dispatched code) and
    `indirect_entry` (for jumps through a table, or -1) are cache offsets. `sites` are its exits by the offset that
    identifies them, `incoming` the exits of other blocks that are chained to it, so that unlinking is exact; the block
    `above` falls into it.
    """

    __slots__ = (
        "_decoder", "_pieces", "above", "at", "code", "end", "entry", "incoming", "indirect_entry", "linear", "mode",
        "number", "pc", "sites", "spans", "start", "translation", "valid",
    )  # fmt: skip

    def __init__(
        self,
        translation: Translation,
        number: int,
        code: Code,
        at: int,
        mode: BlockMode,
        linear: int,
        spans: tuple[tuple[int, int], ...],
        decoder: Decoder,
        above: Block | None,
    ) -> None:
        self.translation, self.number, self.code, self.at = translation, number, code, at
        self.mode, self.linear, self.pc, self.spans, self.above = mode, linear, code.pc, spans, above
        self.start, self.end, self.entry = at + code.start, at + code.end, at + code.entry
        self.indirect_entry = at + code.indirect_entry if code.indirect_entry >= 0 else -1
        self.valid = True
        self.sites: dict[int, Site] = {}
        self.incoming: set[int] = set()  # offsets that identify the chained exits
        self._decoder = decoder
        self._pieces: list[Piece] | None = None

    @property
    def count(self) -> int:
        """Guest instructions."""
        return len(self.code.sizes)

    @property
    def size(self) -> int:
        """Guest bytes."""
        return len(self.code.raw)

    @property
    def insns(self) -> list[Insn]:
        """The guest instructions, decoded again."""
        return self.code.insns(self._decoder)

    @property
    def pieces(self) -> list[Piece]:
        """The code of each guest instruction, made at first use."""
        if self._pieces is None:
            self._pieces = self.code.pieces(self._decoder, self.at)
        return self._pieces

    def piece_at(self, offset: int) -> int:
        """Number of the instruction whose code holds cache offset `offset`."""
        return bisect_right(memoryview(self.code.starts).cast("H"), offset - self.at) - 1
