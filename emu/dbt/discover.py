"""Finds the guest instructions to translate: a straight run from one address, cut into basic blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isa.base import Flow
from isa.x86.decode import Decoder, Insn
from isa.x86.rewrite import traits

MAX_RUN = 96  # instructions of one run
MAX_BLOCK = 48  # instructions of one block: the budget charges whole blocks
PAGE = 0x1000


@dataclass(slots=True)
class Run:
    """Instructions from `pc` on, cut at `starts` (indexes of the instructions that begin blocks, ascending).

    `raws` are their bytes; an element of `insns` may be but a template (`Decoder.template`). `returns` are the starts
    that a call in front of them returns to.
    """

    insns: list[Insn]
    raws: list[bytes]
    pcs: list[int]
    starts: list[int]
    returns: set[int]


def discover(decoder: Decoder, page: bytes, offset: int, pc: int, first: Callable[[], bytes]) -> Run:
    """Decode a run that begins at `offset` in the code page `page`, whose offset in CS is `pc`.

    The run goes on behind conditional branches and calls, because both ways are likely to be needed, and ends at any
    other transfer or at the end of the page. An instruction that reaches into the next page is only taken as the first
    one, a block of its own; `first` then fetches its bytes and may raise the guest's page fault.
    """
    insns: list[Insn] = []
    raws: list[bytes] = []
    pcs: list[int] = []
    cuts = {0}
    returns: set[int] = set()
    targets: list[int] = []
    length = 0
    mask = 0xFFFFFFFFFFFFFFFF if decoder.mode == 64 else 0xFFFFFFFF
    template = decoder.template
    while len(insns) < MAX_RUN and offset < PAGE:
        insn = template(page, offset)
        if insn is None or offset + insn.size > PAGE:
            insn = decoder.decode(page[offset : offset + 15])
            if insn is None or (insn.flow is Flow.INVALID and offset > PAGE - 15):
                if insns:
                    break
                whole = first()
                insn = decoder.decode(whole.ljust(15, b"\0"))
                assert insn is not None
                insns.append(insn)
                raws.append(insn.raw)
                pcs.append(pc)
                break
        size = insn.size
        raw = page[offset : offset + size]
        insns.append(insn)
        raws.append(raw)
        pcs.append(pc)
        offset += size
        length += 1
        flow = insn.flow
        if flow is Flow.BRANCH:
            targets.append(insn.target(pc, raw))
            cuts.add(len(insns))
            length = 0
        else:
            if flow is Flow.JUMP:
                targets.append(insn.target(pc, raw))
            if flow is Flow.CALL or flow is Flow.INDIRECT_CALL:
                returns.add(len(insns))
                cuts.add(len(insns))
                length = 0
            elif traits(insn).ends:
                break
            elif length >= MAX_BLOCK:
                cuts.add(len(insns))
                length = 0
        pc = pc + size & mask
    index_of = {at: n for n, at in enumerate(pcs)}
    cuts.update(index_of[target] for target in targets if target in index_of)
    return Run(insns, raws, pcs, sorted(cut for cut in cuts if cut < len(insns)), returns)
