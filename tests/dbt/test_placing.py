"""What is listed for placing a translation agrees with the records that are unpacked when a block is left."""

from __future__ import annotations

import struct

import pytest

from emu import Machine, MachineConfig
from emu.dbt.store import Translation
from guests import catalogue
from isa.x86.code import Code, SiteKind

GUESTS = ("kernel32", "kernel64", "smc", "bootbios", "strings")


@pytest.mark.parametrize("name", GUESTS)
def test_outlines_and_direct_exits_agree_with_the_records(name: str) -> None:
    guest = catalogue()[name]
    image: bytes | str = name if guest.small_scale is None else guest.image(guest.small_scale)
    fields = {} if guest.small_scale is None else {"format": "flat", "mode": guest.mode, "org": guest.org}
    with Machine(MachineConfig(image, timeout=60, **fields)) as machine:  # type: ignore[arg-type]
        machine.run()
        links = 0
        for block in machine.blocks():
            code, placement = block.code, block.placement
            at = placement.at
            assert (block.start, block.entry, block.end) == (at + code.start, at + code.entry, at + code.end)
            assert (block.pc, block.size, block.count) == (code.pc, len(code.raw), len(code.sizes))
            assert block.linear - placement.linear == block.physical - placement.physical
            for below in placement.blocks[block.number + 1 : block.number + 2]:
                assert (below.above is block) == code.falls_through
            block._sites = None  # with what was added when a block below was dropped
            direct = {behind: site for behind, site in block.sites.items() if site.kind is SiteKind.LINK}
            listed = {behind: placement.link(behind) for behind in direct}
            assert listed == {behind: (block, site) for behind, site in direct.items()}
            assert all(placement.link(behind) is None for behind in block.sites.keys() - direct.keys())
            assert sorted(block.links()) == sorted(direct)
            block._sites = None
            assert sorted(block.links()) == sorted(direct), "also where no exit was asked for"
            links += len(direct)
        assert links


def test_all_displacements_are_moved_and_nothing_else() -> None:
    places, values = (0, 5, 9, 20), (0x10B2CC9, 0x7FFFFFFF, 0x4000, -0x1000000)
    host = bytearray(range(1, 25))
    for place, value in zip(places, values, strict=True):
        struct.pack_into("<i", host, place, value)
    code = Code(0, b"\x90", 0, 0, -1, len(host), 0, 1, False, b"\1", b"\0\0", (), (), ())
    made = Translation.of((64,), bytes(host), places, (code,))
    for at in (0, 1, 0x3FFF):
        expected = bytearray(host)
        for place, value in zip(places, values, strict=True):
            struct.pack_into("<i", expected, place, value - at)
        assert made.moved(at) == expected
