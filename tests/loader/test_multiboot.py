"""Multiboot 1: header search and flags, address fields, boot information, modules."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from emu.errors import GuestFileError
from emu.loader.multiboot import find_header
from isa.x86.state import RAX, RBX

Loading = Callable[..., Any]


def words(one: Any, at: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}I", one.memory.read_bytes(at, 4 * count))


def text(one: Any, at: int) -> bytes:
    raw: bytes = one.memory.read_bytes(at, 256)
    return raw.split(b"\0")[0]


def test_the_header_is_found_aligned_with_a_right_checksum(samples: Any) -> None:
    header = samples.multiboot_header(3)
    found = find_header(bytes(8192 - 12) + header)
    assert found is not None
    assert (found.offset, found.flags) == (8180, 3)
    assert find_header(bytes(8192) + header) is None
    assert find_header(bytes(2) + header) is None
    assert find_header(header[:8] + bytes(4)) is None
    assert find_header(header[:11]) is None
    assert find_header(bytes(2) + header + bytes(6) + header) is not None  # the misaligned one is passed over


def test_a_kernel_by_address_fields(loading: Loading, samples: Any) -> None:
    one = loading(samples.multiboot())
    state = one.state
    assert one.guest.format == "multiboot"
    assert (state.regs[RAX], state.rip, state.mode, state.cr0 >> 31) == (0x2BADB002, 0x100030, 32, 0)
    assert one.memory.read(0x100000, 4) == 0x1BADB002
    assert one.memory.read_bytes(0x100030, 4) == b"\xf4\xeb\xfd\0"


def test_load_end_cuts_the_file(loading: Loading, samples: Any) -> None:
    one = loading(samples.multiboot(load_end=0x100031))
    assert one.memory.read_bytes(0x100030, 2) == b"\xf4\0"


def test_an_elf_kernel(loading: Loading, samples: Any) -> None:
    data = samples.elf(32, virtual=0xC0100000, physical=0x100000, code=samples.multiboot_header(3) + b"\xf4")
    one = loading(data)
    assert one.guest.format == "multiboot"
    assert one.state.rip == 0x100000
    assert one.guest.symbols.lookup(0xC0100000) == ("start", 0)


def test_boot_information(loading: Loading, samples: Any) -> None:
    one = loading(samples.multiboot(), append="root=ram", initrd=b"module bytes")
    info = one.state.regs[RBX]
    flags, lower, upper, device, command_line, count, modules = words(one, info, 7)
    assert flags == 0x124F
    assert (lower, upper, device) == (639, 7 * 1024, 0x80FFFFFF)
    assert text(one, command_line) == b"guest.img root=ram"
    assert text(one, words(one, info + 64, 1)[0]) == b"vemu"
    start, end, name, _ = words(one, modules, 4)
    assert count == 1
    assert start == 0x101000  # the first page behind the kernel's bss
    assert one.memory.read_bytes(start, end - start) == b"module bytes"
    assert text(one, name) == b""
    length, at = words(one, info + 44, 2)
    rows = [struct.unpack("<IQQI", one.memory.read_bytes(at + i, 24)) for i in range(0, length, 24)]
    assert rows == [(20, *row) for row in one.memory.e820()]
    assert struct.unpack("<Q3IBB", one.memory.read_bytes(info + 88, 22)) == (0xB8000, 160, 80, 25, 16, 2)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"flags": 1 << 16 | 1 << 5}, "features 0x20"),
        ({"flags": 0}, "no address fields"),
        ({"load_end": 0x100001, "load": 0x200000}, "contradict"),
        ({"load_end": 0x100200}, "truncated: what the Multiboot address fields load needs 512"),
        ({"bss_end": 0x100010}, "contradict"),
        ({"bss_end": 0x900000}, "8388608 bytes at guest-physical 0x100000"),
        ({"load": 0x9800, "bss_end": 0}, "overlaps the Multiboot information"),
        ({"load": 0x500, "bss_end": 0}, "descriptor table"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(
    loading: Loading, samples: Any, knobs: dict[str, int], told: str
) -> None:
    with pytest.raises(GuestFileError, match=f"guest.img: .*{told}"):
        loading(samples.multiboot(**knobs))


def test_text_mode_may_be_required_but_graphics_not(loading: Loading, samples: Any) -> None:
    data = bytearray(samples.multiboot(flags=1 << 16 | 1 << 2))
    assert loading(bytes(data)).guest.format == "multiboot"
    struct.pack_into("<I", data, 16 + 32, 0)
    with pytest.raises(GuestFileError, match="graphics"):
        loading(bytes(data))


def test_sizes_that_do_not_fit(loading: Loading, samples: Any) -> None:
    with pytest.raises(GuestFileError, match="initrd of 8388608 bytes"):
        loading(samples.multiboot(), initrd=bytes(8 << 20))
    with pytest.raises(GuestFileError, match="command line of 5010 bytes"):
        loading(samples.multiboot(), append="x" * 5000)
    with pytest.raises(GuestFileError, match="no Multiboot header"):
        loading(bytes(100), format="multiboot")
