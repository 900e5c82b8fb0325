"""What rewriting a basic block yields: a record without objects, from which exits and pieces are made when needed.

A run of blocks is rewritten for offset 0 of the code cache and moved when it is placed, so that the same record serves
every place and every process: it can be stored. Of the hundreds of thousands of instructions of a Linux boot only a few
thousand ever stop the machine; the `Piece` of such a one is made then.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, Final, NamedTuple

from isa.base import Flow
from isa.x86.decode import Decoder, Insn

if TYPE_CHECKING:
    from isa.x86.operands import Op

UNDEFINED: Final = "undefined"  # the reason of an instruction that is none
_SPILL_BITS: Final = 5  # of a register's number and one more, in a packed set of spilled registers
_MASK: Final = {16: 0xFFFFFFFF, 32: 0xFFFFFFFF, 64: 0xFFFFFFFFFFFFFFFF}


class SiteKind(enum.IntEnum):
    """What an exit from the cache asks for."""

    LINK = 0  # a direct branch whose target is not chained yet
    CALLOUT = 1  # emulate the instruction
    BUDGET = 2  # the instruction budget does not cover this block
    LOOKUP = 3  # as LINK, but never chained: the jump table has no entry for the target
    ALIGNMENT = 4  # an operand that must be aligned is about to be used for the first time
    EXCEPTIONS = 5  # exception flags of x87 status word or MXCSR are about to be seen
    CONTROL = 6  # x87 control word or MXCSR is about to be loaded
    READ = 7  # a callout that concerns the general registers only
    ROOT = 8  # MOV to CR3: a callout that changes no register, but where code lies


# One exit, offsets counted from the start of the run: the offset that identifies it, kind, number of the instruction,
# and target, place of the displacement and stub of a direct branch (see `Site`).
ExitRecord = tuple[int, int, int, int, int, int]


@dataclass(slots=True)
class Site:
    """One exit of a placed block: `index` is the instruction's number in it; LINK: `target` (guest pc) and the
    displacement's cache offset `patch_at`, which points to this exit's own `stub` until it is chained. A LOOKUP is
    identified by the offset of the instruction that faults where the jump table has no entry."""

    kind: SiteKind
    index: int
    target: int = 0
    patch_at: int = 0
    stub: int = 0


@dataclass(slots=True)
class Piece:
    """The code of one guest instruction: starts at cache offset `start`.

    `spilled` lists (start, end, {register: spill slot}): while the host pc is in [start, end) these registers' guest
    values are in the monitor's data. The instruction is decoded when it is asked for.
    """

    start: int
    guest_pc: int
    raw: bytes
    decoder: Decoder
    last: bool  # nothing of the block is behind it
    reason: str = ""  # why it is not a plain copy: a callout's or in-cache emulation's name, for listings
    spilled: list[tuple[int, int, dict[int, int]]] = field(default_factory=list)
    bound: tuple[Op, int] | None = None  # how the interpreter executes it, once that was needed
    quiet: bool = False  # `bound` neither reads nor writes arithmetic flags
    vector: bool = False  # `bound` hands it to the native unit
    ends: bool = False  # the block cannot go on behind it
    _insn: Insn | None = None

    @property
    def insn(self) -> Insn:
        if self._insn is None:
            self._insn = decoded(self.decoder, self.raw, self.reason)
        return self._insn


def decoded(decoder: Decoder, raw: bytes, reason: str) -> Insn:
    """Decode the bytes of one instruction again; those of none gave the `reason` UNDEFINED."""
    insn = None if reason == UNDEFINED else decoder.decode(raw)
    return insn if insn is not None and insn.flow is not Flow.INVALID else decoder.undefined(raw)


Spills = tuple[tuple[int, int], ...]  # pairs of a register and the spill slot that holds it


class Code(NamedTuple):
    """A rewritten block, offsets counted from the start of its run.

    `raw` are the guest's bytes, `sizes` the instructions' lengths, `starts` where their code begins (16 bits each); a
    loop that is unrolled has more code than instructions. The stubs of direct exits lie behind the whole run, so that
    blocks which follow each other stay adjacent.
    """

    pc: int
    raw: bytes
    start: int
    entry: int  # where chained and dispatched code enters
    indirect_entry: int  # where jumps through a table enter, or -1
    end: int
    counted_at: int  # the budget is charged when this instruction starts ...
    charge: int  # ... with so many: the block's instructions, as often as an unrolled loop repeats them
    falls_through: bool  # it can go on behind its last instruction
    sizes: bytes
    starts: bytes
    reasons: tuple[tuple[int, str], ...]  # of instructions, by their number
    spills: tuple[tuple[int, int, int, int], ...]  # an instruction's number, a range of its code, packed registers
    exits: tuple[ExitRecord, ...]

    def pcs(self, mode: int) -> Iterator[int]:
        """The guest pc of every instruction, of an unrolled loop's as often as it is repeated."""
        mask = _MASK[mode]
        ends = accumulate(self.sizes[:-1], initial=0)
        once = [self.pc + end & mask for end in ends]
        return chain.from_iterable(repeat(once, self.charge // len(once)))

    def insns(self, decoder: Decoder) -> list[Insn]:
        """The guest instructions."""
        reasons, out, at = dict(self.reasons), [], 0
        for number, size in enumerate(self.sizes):
            out.append(decoded(decoder, self.raw[at : at + size], reasons.get(number, "")))
            at += size
        return out

    def pieces(self, decoder: Decoder, at: int) -> list[Piece]:
        """The pieces of the block placed with its run's first byte at cache offset `at`."""
        starts = memoryview(self.starts).cast("H")
        raws, behind = [], 0
        for size in self.sizes:
            raws.append(self.raw[behind : behind + size])
            behind += size
        last, count = self.charge - 1, len(raws)
        out = [
            Piece(at + start, pc, raws[number % count], decoder, number == last)
            for number, (start, pc) in enumerate(zip(starts, self.pcs(decoder.mode), strict=True))
        ]
        for number, reason in self.reasons:
            out[number].reason = reason
        for number, start, end, packed in self.spills:
            out[number].spilled.append((at + start, at + end, unpack_spills(packed)))
        return out


def pack_spills(spills: Spills) -> int:
    """A number that stands for the registers in the spill slots."""
    packed = 0
    for reg, slot in spills:
        packed |= reg + 1 << slot * _SPILL_BITS
    return packed


def unpack_spills(packed: int) -> dict[int, int]:
    """The spill slot of every register that `packed` stands for."""
    out: dict[int, int] = {}
    slot = 0
    while packed:
        reg = packed & (1 << _SPILL_BITS) - 1
        if reg:
            out[reg - 1] = slot
        packed >>= _SPILL_BITS
        slot += 1
    return out
