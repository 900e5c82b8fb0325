"""Multiboot 2: header search and tags, address and entry tags, what is refused, boot information."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from emu.errors import GuestFileError
from emu.loader.multiboot2 import find_header
from isa.x86.state import RAX, RBX

Loading = Callable[..., Any]


def information(one: Any) -> dict[int, bytes]:
    """The information tags by type, after a check of the total size and the alignment."""
    start = one.state.regs[RBX]
    total = one.memory.read(start, 4)
    found, at = {}, 8
    while True:
        kind, size = struct.unpack("<II", one.memory.read_bytes(start + at, 8))
        found[kind] = one.memory.read_bytes(start + at + 8, size - 8)
        at += (size + 7) & -8
        if kind == 0:
            assert at == total
            return found


def tag(kind: int, body: bytes, flags: int = 0) -> bytes:
    size = len(body) + 8
    return struct.pack("<HHI", kind, flags, size) + body + bytes(-size % 8)


def header(*tags: bytes, architecture: int = 0) -> bytes:
    body = b"".join((*tags, tag(0, b"")))
    length = 16 + len(body)
    checksum = -(0xE85250D6 + architecture + length) & 0xFFFFFFFF
    return struct.pack("<4I", 0xE85250D6, architecture, length, checksum) + body


def kernel(*tags: bytes) -> bytes:
    """Sixteen filler bytes, a header with addresses of 100000h and an entry behind it, HLT."""
    entry = 0x100000 + len(header(tag(2, bytes(16)), tag(3, bytes(4)), *tags))
    addresses = struct.pack("<4I", 0x100000, 0x100000, 0, 0x104000)
    return bytes(16) + header(tag(2, addresses), tag(3, struct.pack("<I", entry)), *tags) + b"\xf4"


def test_the_header_is_found_aligned_with_a_right_checksum() -> None:
    one = header()
    found = find_header(bytes(32768 - len(one)) + one)
    assert found is not None
    assert (found.offset, found.length) == (32768 - len(one), len(one))
    assert find_header(bytes(4) + one) is None
    assert find_header(bytes(32768) + one) is None
    assert find_header(one[:12] + bytes(4)) is None


def test_a_kernel_by_address_tag(loading: Loading) -> None:
    one = loading(kernel(), append="a b")
    assert one.guest.format == "multiboot2"
    assert (one.state.regs[RAX], one.state.mode, one.state.cr0 >> 31) == (0x36D76289, 32, 0)
    assert one.memory.read_bytes(one.state.rip, 1) == b"\xf4"
    tags = information(one)
    assert tags[1] == b"a b\0"
    assert tags[2] == b"vemu\0"
    assert struct.unpack("<II", tags[4])[1] == (one.memory.low_top >> 10) - 1024
    assert struct.unpack_from("<II", tags[6]) == (24, 0)
    assert [row[:3] for row in struct.iter_unpack("<QQII", tags[6][8:])] == [tuple(r) for r in one.memory.e820()]
    assert struct.unpack("<I", tags[21]) == (0x100000,)


def test_an_elf_kernel_and_its_entry_tag(loading: Loading, samples: Any) -> None:
    assert loading(samples.elf(32, code=bytes(4) + header() + b"\xf4")).guest.format == "multiboot2"
    one = loading(samples.elf(32, code=bytes(4) + header(tag(3, struct.pack("<I", 0x100123))) + b"\xf4"))
    assert one.state.rip == 0x100123


def test_the_whole_file_may_be_loaded(loading: Loading) -> None:
    addresses = struct.pack("<4I", 0x100010, 0xFFFFFFFF, 0, 0)
    one = loading(bytes(16) + header(tag(2, addresses), tag(3, struct.pack("<I", 0x100000))))
    assert one.memory.read(0x100010, 4) == 0xE85250D6


def test_an_initrd_is_a_module(loading: Loading) -> None:
    one = loading(kernel(), initrd=b"module")
    start, end = struct.unpack_from("<II", information(one)[3])
    assert start % 0x1000 == 0
    assert one.memory.read_bytes(start, end - start) == b"module"


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ((tag(1, struct.pack("<I", 9)),), "requires information \\[9\\]"),
        ((tag(5, struct.pack("<3I", 1024, 768, 32)),), "requires graphics"),
        ((tag(7, b""),), "requires what vemu lacks"),
        ((tag(77, b""),), "requires what vemu lacks"),
        ((struct.pack("<HHI", 4, 0, 4),), "has 4 bytes"),
        ((tag(3, b""),), "needs 12"),
    ],
)
def test_what_is_required_and_not_there_is_refused(loading: Loading, tags: tuple[bytes, ...], words: str) -> None:
    with pytest.raises(GuestFileError, match=words):
        loading(kernel(*tags))


def test_what_is_optional_is_passed_over(loading: Loading) -> None:
    optional = (tag(1, struct.pack("<I", 9), 1), tag(5, struct.pack("<3I", 1024, 768, 32), 1), tag(77, b"", 1))
    assert loading(kernel(*optional, tag(10, bytes(16)), tag(4, bytes(4)), tag(6, b""))).guest.format == "multiboot2"


def test_damaged_headers_are_refused(loading: Loading, samples: Any) -> None:
    with pytest.raises(GuestFileError, match="architecture 4"):
        loading(header(architecture=4), format="multiboot2")
    with pytest.raises(GuestFileError, match="no Multiboot 2 header"):
        loading(samples.boot(1), format="multiboot2")
    with pytest.raises(GuestFileError, match="no address tag, and the file is no ELF"):
        loading(header())
    with pytest.raises(GuestFileError, match="no entry tag"):
        loading(header(tag(2, bytes(16))))
    short = struct.pack("<4I", 0xE85250D6, 0, 24, -(0xE85250D6 + 24) & 0xFFFFFFFF) + tag(4, b"")
    with pytest.raises(GuestFileError, match="no end tag"):
        loading(short)
