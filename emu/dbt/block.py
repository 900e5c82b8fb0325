"""Translated blocks in the code cache, and the translations placed there that they are parts of.

What only an exit needs (records of the instructions, exits, pieces) is made when it is asked for: of the blocks that
are placed few are ever left but by a chained branch.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from emu.dbt.store import NONE, Translation
from isa.x86.code import Code, Piece, Site, SiteKind
from isa.x86.decode import MAX_LENGTH, Decoder, Insn
from isa.x86.rewrite import BlockMode

_INT = struct.Struct("<i")
_KINDS = tuple(SiteKind)


class Placement:
    """A translation whose code was placed at cache offset `at`, for the guest's code at `linear` and `physical`.

    `second` is the physical address of the page that its only instruction reaches into, or -1. `chained` has the
    blocks that its direct exits lead to, by the offsets that identify these. `count` are guest instructions.
    """

    __slots__ = (
        "at", "blocks", "chained", "count", "decoder", "linear", "mode", "opened", "physical", "second", "translation",
    )  # fmt: skip

    def __init__(
        self,
        translation: Translation,
        at: int,
        mode: BlockMode,
        linear: int,
        physical: int,
        second: int,
        decoder: Decoder,
    ) -> None:
        self.translation, self.at, self.mode, self.second, self.decoder = translation, at, mode, second, decoder
        self.linear, self.physical = linear, physical
        self.chained: dict[int, Block] = {}
        self.opened = False  # the cache knows its exits
        self.blocks: list[Block] = []
        self.count = 0
        append = self.blocks.append
        for number, (size, count, start, entry, indirect, end, _) in enumerate(translation.outlines()):
            self.count += count
            stop = physical + size
            table_entry = -1 if indirect == NONE else at + indirect
            append(Block(self, number, mode, linear, physical, stop, at + start, at + end, at + entry, table_entry))
            linear += size
            physical = stop
        if second >= 0 or translation.ends_in_nothing:
            self.blocks[-1].stop = self.spans[0][1]

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The guest-physical byte ranges (start, end) that it was made from, one a page."""
        start, end = self.physical, self.physical + len(self.translation.raw)
        if self.second >= 0:
            edge = (start | 0xFFF) + 1
            return (start, edge), (self.second, self.second + end - edge)
        if self.translation.ends_in_nothing:  # what makes it no instruction may be behind its first byte
            end = min(end + MAX_LENGTH - 1, (start | 0xFFF) + 1)
        return ((start, end),)

    def link(self, behind: int) -> tuple[Block, Site] | None:
        """The direct exit that cache offset `behind` identifies, with its block; None for other exits."""
        at, host = self.at, self.translation.host
        for parts, target in self.translation.direct_exits():
            if parts & 0xFFFF == behind - at:
                patch_at, index, number = parts >> 16 & 0xFFFF, parts >> 32 & 0xFFFF, parts >> 48
                stub = patch_at + 4 + _INT.unpack_from(host, patch_at)[0]
                return self.blocks[number], Site(SiteKind.LINK, index, target, at + patch_at, at + stub)
        return None

    def clear(self) -> None:
        """The cache was flushed: no cycles stay, which would keep the blocks in memory."""
        for block in self.blocks:
            block.valid = False
        self.blocks.clear()
        self.chained.clear()


class Block:
    """A translated basic block: where it came from, where it lies in the cache, and who is chained to it.

    It is block `number` of its `placement`. `linear` and `physical` are the addresses of its first guest byte, `stop`
    is the physical address up to which it depends on what its first page holds. `start` and `end` (of its code,
    without the stubs of direct exits), `entry` (for chained and dispatched code) and `indirect_entry` (for jumps
    through a table, or -1) are cache offsets. `incoming` are the exits of other blocks that are chained to it, by the
    offsets that identify them, so that unlinking is exact; None stands for none.
    """

    __slots__ = (
        "_code", "_pieces", "_sites", "end", "entry", "incoming", "indirect_entry", "linear", "mode", "number",
        "physical", "placement", "start", "stop", "valid",
    )  # fmt: skip

    def __init__(
        self,
        placement: Placement,
        number: int,
        mode: BlockMode,
        linear: int,
        physical: int,
        stop: int,
        start: int,
        end: int,
        entry: int,
        indirect_entry: int,
    ) -> None:
        self.placement = placement
        self.number = number
        self.mode = mode
        self.linear = linear
        self.physical = physical
        self.stop = stop
        self.start = start
        self.end = end
        self.entry = entry
        self.indirect_entry = indirect_entry
        self.valid = True
        self.incoming: set[int] | None = None
        self._code: Code | None = None
        self._sites: dict[int, Site] | None = None
        self._pieces: list[Piece] | None = None

    # -- in the guest ------------------------------------------------------------------------------------------

    @property
    def code(self) -> Code:
        """The record of its instructions."""
        if self._code is None:
            self._code = self.placement.translation.codes[self.number]
        return self._code

    @property
    def pc(self) -> int:
        """The offset in CS of its first byte."""
        if self.mode.mode == 64:
            return self.linear
        placement = self.placement
        return placement.translation.pc + self.linear - placement.linear & 0xFFFFFFFF

    @property
    def size(self) -> int:
        """Guest bytes."""
        return self.placement.translation.outline_of(self.number).size

    @property
    def count(self) -> int:
        """Guest instructions."""
        return self.placement.translation.outline_of(self.number).instructions

    @property
    def insns(self) -> list[Insn]:
        """The guest instructions, decoded again."""
        return self.code.insns(self.placement.decoder)

    @property
    def split(self) -> bool:
        """True where it is one instruction that goes on in another page, which can be mapped elsewhere alone."""
        return self.placement.second >= 0

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The guest-physical byte ranges (start, end) that its instructions were read from, one a page."""
        span = (self.physical, self.stop)
        return (span, self.placement.spans[1]) if self.split else (span,)

    @property
    def above(self) -> Block | None:
        """The block that falls into it."""
        before = self.number - 1
        if before < 0 or not self.placement.translation.outline_of(before).falls_through:
            return None
        return self.placement.blocks[before]

    # -- in the cache ------------------------------------------------------------------------------------------

    def links(self) -> list[int]:
        """The offsets that identify its direct exits."""
        if self._sites is not None:
            return [behind for behind, site in self._sites.items() if site.kind is SiteKind.LINK]
        at, exits = self.placement.at, self.placement.translation.direct_exits()
        return [at + (parts & 0xFFFF) for parts, _ in exits if parts >> 48 == self.number]

    @property
    def sites(self) -> dict[int, Site]:
        """Its exits by the offsets that identify them."""
        if self._sites is None:
            at = self.placement.at
            self._sites = {
                at + behind: Site(_KINDS[kind], index, target, at + patch_at, at + stub)
                for behind, kind, index, target, patch_at, stub in self.code.exits
            }
        return self._sites

    @property
    def pieces(self) -> list[Piece]:
        """The code of each guest instruction."""
        if self._pieces is None:
            self._pieces = self.code.pieces(self.placement.decoder, self.placement.at)
        return self._pieces

    def piece_at(self, offset: int) -> int:
        """Number of the instruction whose code holds cache offset `offset`."""
        return bisect_right(memoryview(self.code.starts).cast("H"), offset - self.placement.at) - 1

    def reached_from(self, behind: int) -> None:
        """Note that the exit identified by `behind` is chained to it."""
        if self.incoming is None:
            self.incoming = {behind}
        else:
            self.incoming.add(behind)
