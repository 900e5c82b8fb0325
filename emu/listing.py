"""Turns translated blocks into rows that show guest code beside the host code made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from emu.dbt.block import Block
from isa.base import Flow
from isa.x86.code import Piece, Site, SiteKind
from isa.x86.decode import Decoder, Insn
from isa.x86.rewrite import callout_reason
from isa.x86.sensitive import IN_CACHE

_DIRECT: Final = (Flow.JUMP, Flow.BRANCH, Flow.CALL)


@dataclass(frozen=True, slots=True)
class ListingRow:
    """One line: a guest instruction (empty on the lines below it) and a host instruction."""

    guest_address: str
    guest: str
    host_address: str
    host: str
    callout: bool = False


@dataclass(slots=True)
class BlockListing:
    """One block: a title with its sizes, and its lines."""

    title: str
    rows: list[ListingRow] = field(default_factory=list)


class Lister:
    """Lists blocks of one machine; `code` gives a block's host bytes, `name_of` an address with its symbol."""

    def __init__(self, code: Callable[[Block], bytes], name_of: Callable[[int], str]) -> None:
        self._code, self._name_of = code, name_of
        self._decoders = {mode: Decoder(mode) for mode in (16, 32, 64)}

    def listing(self, block: Block) -> BlockListing:
        """The listing of one valid block."""
        code = self._code(block)
        mode = block.mode
        out = BlockListing(
            f"{self._name_of(block.linear)}: {mode.mode}-bit {'user' if mode.user else 'kernel'} code, "
            f"{block.count} instructions, {block.size} bytes to {len(code)}"
        )
        ends = [piece.start for piece in block.pieces[1:]] + [block.end]
        for number, (piece, end) in enumerate(zip(block.pieces, ends, strict=True)):
            sites = {behind: site for behind, site in block.sites.items() if site.index == number}
            start = block.start
            host = list(self._host(block, code[piece.start - start : end - start], piece.start, sites))
            mark, callout = _mark(piece, block)
            guest = guest_text(piece.insn, piece.guest_pc)
            left = f"{guest:<24} {mark}".rstrip() if mark else guest
            for line, (address, text) in enumerate(host or [("", "")]):
                first = line == 0
                out.rows.append(
                    ListingRow(f"{piece.guest_pc:x}" if first else "", left if first else "", address, text, callout)
                )
        return out

    def _host(self, block: Block, code: bytes, offset: int, sites: dict[int, Site]) -> Iterator[tuple[str, str]]:
        """Cache offset and text of each host instruction in `code`, with what its exits lead to."""
        decoder = self._decoders[block.mode.mode]
        at = 0
        while at < len(code):
            insn = decoder.decode(code[at:])
            if insn is None:  # the piece ends within an instruction
                yield f"{offset + at:x}", f".byte {code[at:].hex(' ')}"
                return
            text = insn.text()
            end = offset + at + insn.size
            if insn.flow in _DIRECT:
                text = f"{insn.name} {insn.target(offset + at):#x}"
                text += "".join(f"   ; {_link(block, *exit_)}" for exit_ in _leads_to(block, sites, offset + at, end))
            if end in sites:
                text += f"   ; leave: {sites[end].kind.name.lower()}"
            yield f"{offset + at:x}", text
            at += insn.size


def _leads_to(block: Block, sites: dict[int, Site], start: int, end: int) -> list[tuple[int, Site]]:
    """The exit that a direct branch at cache offsets [start, end) takes.

    It is the one whose displacement lies there; or, within an unrolled loop, one that first passes a piece of code
    behind the block, which gives back what was charged for the rounds not run.
    """
    links = [(behind, site) for behind, site in sites.items() if site.kind is SiteKind.LINK]
    here = [(behind, site) for behind, site in links if start < site.patch_at < end]
    return here or [(behind, site) for behind, site in links if site.patch_at >= block.end][:1]


def _link(block: Block, behind: int, site: Site) -> str:
    """Where a direct exit leads: to the block it is chained to, or out of the cache."""
    return f"{'chained' if behind in block.placement.chained else 'not chained'}: {site.target:#x}"


def guest_text(insn: Insn, pc: int) -> str:
    return f"{insn.name} {insn.target(pc):#x}" if insn.flow in _DIRECT else insn.text()


def _mark(piece: Piece, block: Block) -> tuple[str, bool]:
    """What became of an instruction that is no copy, and whether that is a callout."""
    if not piece.reason:
        return "", False
    if piece.reason in IN_CACHE and not callout_reason(piece.insn, block.mode):
        return f"<in cache: {piece.reason}>", False
    return f"<callout: {piece.reason}>", True


def covers(block: Block, address: int) -> bool:
    """True where guest `address`, linear or an offset in CS, lies in the block."""
    return any(start <= address < start + block.size for start in (block.linear, block.pc))
