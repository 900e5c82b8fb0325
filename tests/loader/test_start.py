"""Flat binaries and boot sectors: where they go, and the state each start mode gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from emu.errors import GuestFileError, UsageError
from isa.x86.state import CS, DS, RDI, RDX, RSI, RSP, SS

Loading = Callable[..., Any]


def test_a_flat_binary_is_64_bit_at_1_mib_unless_told_otherwise(loading: Loading) -> None:
    one = loading(b"\xf4")
    state = one.state
    assert (one.guest.format, one.guest.entry, one.guest.bios) == ("flat", 0x100000, False)
    assert (state.mode, state.cpl, state.rip, state.rflags) == (64, 0, 0x100000, 2)
    assert (state.regs[RSP], state.regs[RSI], state.regs[RDI]) == (0x9F000, 0, 0)
    assert state.cr0 == 0x80010033
    assert state.cr4 == 0x6A0
    assert state.efer == 0xD01
    assert (state.segs[CS].selector, state.segs[CS].attr) == (8, 0xA09B)
    assert (state.segs[SS].selector, state.segs[SS].attr) == (0x10, 0xC093)
    assert one.memory.read(0x100000, 1) == 0xF4


@pytest.mark.parametrize("address", [0, 0x1234, 0x00200000, 0x3FFFFFFF, 0x40000000, 0xFFFFFFFF])
def test_the_long_mode_tables_map_4_gib_to_itself(loading: Loading, address: int) -> None:
    one = loading(b"\xf4")
    table = one.state.cr3
    for shift in (39, 30, 21):
        entry = one.memory.read(table + 8 * (address >> shift & 511), 8)
        assert entry & 3 == 3
        table = entry & ~0xFFF
    assert entry & 0x80  # a 2 MiB page
    assert table | address & 0x1FFFFF == address
    assert one.memory.read(0x1008, 8) == one.memory.read(0x2020, 8) == 0


def test_descriptors_in_memory_say_what_the_segment_registers_hold(loading: Loading) -> None:
    for mode in (32, 64):
        one = loading(b"\xf4", mode=mode)
        for segment in one.state.segs:
            raw = one.memory.read(one.state.gdtr.base + segment.selector, 8)
            assert segment.selector <= one.state.gdtr.limit
            assert raw >> 40 & 0xF0FF == segment.attr
            assert raw & 0xFFFF | raw >> 32 & 0xF0000 == 0xFFFFF
            assert (segment.base, segment.limit) == (0, 0xFFFFFFFF)


def test_32_bit_start(loading: Loading) -> None:
    one = loading(b"\xf4", mode=32, org=0x200000)
    state = one.state
    assert (state.mode, state.rip, state.cr0 & 0x80000001, state.rflags) == (32, 0x200000, 1, 2)
    assert (state.segs[CS].selector, state.segs[CS].attr, state.segs[DS].selector) == (8, 0xC09B, 0x10)
    assert (state.idtr.limit, state.efer, state.regs[RSP]) == (0, 0, 0x9F000)
    assert one.memory.read(0x518, 8) == 0x00AF9B000000FFFF  # a 64-bit code segment, to enter long mode by


@pytest.mark.parametrize(
    ("org", "cs", "ip", "sp"),
    [(None, 0, 0x7C00, 0x7C00), (0x600, 0, 0x600, 0x7C00), (0x8000, 0, 0x8000, 0x8000), (0x12345, 0x1234, 5, 0x7C00)],
)
def test_16_bit_start(loading: Loading, org: int | None, cs: int, ip: int, sp: int) -> None:
    one = loading(b"\xf4", mode=16, org=org)
    state = one.state
    assert one.guest.bios
    assert (state.mode, state.cr0 & 1, state.rip, state.regs[RSP]) == (16, 0, ip, sp)
    assert (state.segs[CS].selector, state.segs[CS].base) == (cs, cs << 4)
    assert (state.segs[DS].base, state.segs[SS].base, state.idtr.limit) == (cs << 4, 0, 0x3FF)
    assert one.memory.read((cs << 4) + ip, 1) == 0xF4


@pytest.mark.parametrize(
    ("data", "options", "told"),
    [
        (b"", {}, "empty"),
        (bytes(0x1000), {"org": 0x7FFFF8}, "4096 bytes at guest-physical 0x7ffff8 .* 8388608"),
        (bytes(0x1000), {"org": 0x9F800, "mode": 32}, "does not fit"),
        (b"x", {"org": 0x3000}, "page tables"),
        (b"x" * 8, {"org": 0x4FC, "mode": 32}, "descriptor table"),
        (b"x", {"org": 0x100, "mode": 16}, "interrupt vectors"),
        (b"x" * 2, {"org": 0x9FFFF, "mode": 16}, "conventional memory"),
    ],
)
def test_a_flat_binary_that_cannot_lie_there_says_so(
    loading: Loading, data: bytes, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(GuestFileError, match=f"guest.img: .*{told}"):
        loading(data, **options)


def test_an_absurd_address_is_a_usage_error(loading: Loading) -> None:
    with pytest.raises(UsageError, match="--org"):
        loading(b"x", org=1 << 40)


def test_boot_sector(loading: Loading, samples: Any) -> None:
    one = loading(samples.boot(3))
    assert (one.guest.format, one.guest.entry, one.guest.bios) == ("boot", 0x7C00, True)
    assert one.guest.description == "boot sector, disk image of 3 sectors"
    assert (one.state.rip, one.state.regs[RDX], one.state.mode) == (0x7C00, 0x80, 16)
    assert one.memory.read_bytes(0x7C00, 512) == samples.boot(1)
    assert one.memory.read(0x7E00, 1) == 0


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (bytes(511), "truncated: a boot sector needs 512 bytes at file offset 0x0, but the file has 511"),
        (bytes(512), "00 00 at file offset 0x1fe"),
        (bytes(510) + b"\x55\xaa" + bytes(5), "517 bytes are no whole number of 512"),
    ],
)
def test_forced_boot_format_checks_the_content(loading: Loading, data: bytes, told: str) -> None:
    with pytest.raises(GuestFileError, match=told):
        loading(data, format="boot")
