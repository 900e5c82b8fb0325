"""Listings of translated blocks say what the guest's code is and what became of it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from emu import Machine, MachineConfig
from emu.listing import BlockListing, Lister, covers
from emu.report import print_blocks
from guests import catalogue


@pytest.fixture(scope="module", params=["kernel32", "kernel64", "bootbios", "sieve", "smc"])
def listed(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, list[BlockListing]]]:
    """A machine that has run, and the listings of its blocks, in order."""
    guest = catalogue()[request.param]
    config = MachineConfig(
        guest.image(guest.small_scale),
        format=guest.format,
        mode=guest.mode if guest.format == "flat" else None,
        org=guest.org if guest.format == "flat" else None,
        timeout=20,
    )
    with Machine(config) as machine:
        assert machine.run().ending.code == guest.exit_code
        lister = Lister(machine.code, machine.name_of)
        yield machine, [lister.listing(block) for block in machine.blocks()]


def test_every_guest_instruction_is_shown_once_a_round(listed: tuple[Machine, list[BlockListing]]) -> None:
    machine, listings = listed
    for block, listing in zip(machine.blocks(), listings, strict=True):
        shown = [int(row.guest_address, 16) for row in listing.rows if row.guest_address]
        once = []
        at = block.pc
        for insn in block.insns:
            once.append(at)
            at += insn.size
        assert shown == once * (len(shown) // len(once))


def test_all_host_code_is_shown(listed: tuple[Machine, list[BlockListing]]) -> None:
    machine, listings = listed
    for block, listing in zip(machine.blocks(), listings, strict=True):
        addresses = [int(row.host_address, 16) for row in listing.rows if row.host_address]
        assert addresses == sorted(set(addresses))
        assert addresses[0] == block.start
        assert not any(row.host.startswith(".byte") for row in listing.rows)


def test_what_leaves_for_the_interpreter_is_marked(listed: tuple[Machine, list[BlockListing]]) -> None:
    _, listings = listed
    left = 0
    for listing in listings:
        guest = ""
        for row in listing.rows:
            guest = row.guest or guest
            assert row.callout == ("<callout: " in guest)
            if "leave: callout" in row.host:
                assert "<callout: " in guest or "<in cache: " in guest, row
                left += 1
    assert left


def test_branches_name_what_they_lead_to(listed: tuple[Machine, list[BlockListing]]) -> None:
    _, listings = listed
    for listing in listings:
        for row in listing.rows:
            if row.host.startswith(("jmp 0x", "je 0x", "jne 0x", "jb 0x", "jae 0x")):
                assert "chained: 0x" in row.host, row


def test_printing_lines_up(listed: tuple[Machine, list[BlockListing]]) -> None:
    _, listings = listed
    out = io.StringIO()
    assert print_blocks(listings, out) == len(listings)
    blocks = out.getvalue().split("\n\n")[:-1]
    assert len(blocks) == len(listings)
    for block in blocks:
        title, *rows = block.splitlines()
        assert title[0] not in " 0123456789abcdef" or title.startswith("0x")
        assert len({row.index("|") for row in rows}) == 1


def test_covers() -> None:
    with Machine(MachineConfig(bytes.fromhex("90 eb fd"), format="flat", mode=16, timeout=0.05)) as machine:
        machine.run()
        (block,) = machine.blocks()
        found = [address for address in range(0x7BF0, 0x7C10) if covers(block, address)]
    assert found == [0x7C00, 0x7C01, 0x7C02]
