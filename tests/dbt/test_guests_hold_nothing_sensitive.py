"""No instruction of the sensitive table stands as written in any block translated from any bundled guest."""

from __future__ import annotations

import pytest

from emu import Machine, MachineConfig
from emu.dbt.block import Block, Placement
from emu.dbt.cache import CodeCache, Follow
from guests import catalogue
from isa.x86.decode import Decoder
from isa.x86.sensitive import CHANGES_OF_BASES, READS_OF_BASES, ROWS, row_of

LEAVE = b"\xcd\xf0"
GUESTS = catalogue()


@pytest.mark.parametrize("name", sorted(GUESTS))
def test_every_sensitive_instruction_was_replaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Block, bytes]] = []
    install = CodeCache.install

    def noting(self: CodeCache, placements: list[Placement], follow: Follow | None) -> None:
        install(self, placements, follow)
        code = self._backend.code
        made.extend((block, bytes(code[block.start : block.end])) for each in placements for block in each.blocks)

    monkeypatch.setattr(CodeCache, "install", noting)
    guest = GUESTS[name]
    image: bytes | str = name if guest.small_scale is None else guest.image(guest.small_scale)
    fields = {} if guest.small_scale is None else {"format": "flat", "mode": guest.mode, "org": guest.org}
    console = bytearray()
    with Machine(MachineConfig(image, timeout=60, **fields), console=console.extend) as machine:  # type: ignore[arg-type]
        machine.run()
    assert console.decode("latin-1") == (guest.expect if guest.small_scale is None else guest.expect_small)
    assert made
    sensitive = 0
    for block, host in made:
        ends = [piece.start for piece in block.pieces[1:]] + [block.end]
        for piece, end in zip(block.pieces, ends, strict=True):
            row = row_of(piece.insn)
            if row is None:
                continue
            sensitive += 1
            assert piece.reason == row.name, f"{piece.insn.text()} at {piece.guest_pc:#x}"
            code = host[piece.start - block.start : end - block.start]
            decoder, at = Decoder(block.mode.mode), 0
            while at < len(code):
                insn = decoder.decode(code[at : at + 15].ljust(15, b"\x90"))
                assert insn is not None
                left = row_of(insn)
                # these emulations use the machine's own PUSHF and POPF, whose IF and IOPL are the monitor's
                emulated = row.name in ("pushf", "popf", "stac", "clac") and left in (ROWS["pushf"], ROWS["popf"])
                # and these, in 64-bit code, its bases of FS and GS, which are the guest's
                if block.mode.mode == 64 and row.name in READS_OF_BASES | CHANGES_OF_BASES and left is not None:
                    emulated = left.name in READS_OF_BASES | CHANGES_OF_BASES
                allowed = insn.raw == LEAVE or left is None or emulated
                assert allowed, f"{insn.text()} in the code of {piece.insn.text()} at {piece.guest_pc:#x}"
                at += insn.size
    assert sensitive
