"""Symbols from ELF files and maps, merged, and files that have none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu.errors import GuestFileError
from emu.loader.symbols import Extent, SymbolTable
from emu.trace.symbols import MergedSymbols, SymbolFile, read_symbols


def elf(symbols: list[tuple[str, int, int, int, int]]) -> bytes:
    """An ELF64 file of nothing but a symbol table: name, value, size, section index, type."""
    strings = b"\0"
    table = bytes(24)
    for name, value, size, section, kind in symbols:
        table += struct.pack("<IBBHQQ", len(strings), 1 << 4 | kind, 0, section, value, size)
        strings += name.encode() + b"\0"
    names = b"\0.symtab\0.strtab\0.shstrtab\0"
    at = 64
    sections = [(0, 0, 0, 0, 0, 0, 0)]
    body = b""
    for name_at, kind, data, link, entry in (
        (1, 2, table, 2, 24), (9, 3, strings, 0, 0), (17, 3, names, 0, 0),
    ):  # fmt: skip
        sections.append((name_at, kind, at + len(body), len(data), link, 1 if kind == 2 else 0, entry))
        body += data
    headers = b"".join(
        struct.pack("<IIQQQQIIQQ", name_at, kind, 0, 0, offset, size, link, info, 1, entry)
        for name_at, kind, offset, size, link, info, entry in sections
    )
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, at + len(body), 0, 64, 56, 0, 64, len(sections), 3)
    )
    return header + body + headers


def read(tmp_path: Path, data: bytes) -> SymbolFile:
    file = tmp_path / "symbols"
    file.write_bytes(data)
    return read_symbols(file)


def test_elf(tmp_path: Path) -> None:
    func, undefined, absolute = 2, 0, 0xFFF1
    symbols = read(
        tmp_path,
        elf([
            ("start", 0xFFFF_FFFF_8100_0000, 0x10, 1, func), ("gone", 0, 0, undefined, func),
            ("fixed", 0x30, 0, absolute, 0), ("label", 0xFFFF_FFFF_8100_0100, 0, 1, 0), ("file.c", 1, 0, 1, 4),
        ]),
    )  # fmt: skip
    assert len(symbols) == 2
    assert symbols.lookup(0xFFFF_FFFF_8100_000F) == ("start", 15)
    assert symbols.lookup(0xFFFF_FFFF_8100_0010) is None  # behind its size
    assert symbols.lookup(0xFFFF_FFFF_8100_0180) == ("label", 0x80)
    assert symbols.lookup(0x30) is None


def test_system_map(tmp_path: Path) -> None:
    symbols = read(
        tmp_path,
        b"0000000000000000 A per_cpu\nffffffff81000000 T _text\nffffffff81000040 t helper.isra.0\n"
        b"                 U nothing\nffffffff81000100 D data\n\n",
    )
    assert symbols.lookup(0xFFFF_FFFF_8100_0044) == ("helper.isra.0", 4)
    assert symbols.lookup(0xFFFF_FFFF_8100_0000) == ("_text", 0)
    assert symbols.lookup(0x10) is None
    assert symbols.lookup(0xFFFF_FFFF_C000_0000) is None  # far behind the last one


def test_kallsyms(tmp_path: Path) -> None:
    symbols = read(tmp_path, b"ffffffffc0000000 t module_init\t[virtio_blk]\nffffffff81000000 T _text\n")
    assert symbols.lookup(0xFFFF_FFFF_C000_0001) == ("module_init", 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no symbols"),
        (b"0000000000000000 A only_absolute\n", "it has no symbols"),
        (b"ffffffff81000000 T _text\nand prose\n", "line 2 is not 'address type name'"),
        (bytes(100), "line 1 is not"),
        (b"0000000000000000 T _text\n0000000000000000 t x\n", "kptr_restrict"),
        (b"\x7fELF\x02\x01\x01", "its ELF symbol table is damaged"),
        (elf([])[:-70], "its ELF symbol table is damaged"),
        (elf([]), "it has no symbols"),
    ],
)
def test_files_without_symbols(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(GuestFileError, match=f"--symbols .*symbols: .*{message}"):
        read(tmp_path, data)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(GuestFileError, match=r"--symbols .*nowhere: cannot read it: No such file"):
        read_symbols(tmp_path / "nowhere")


def test_the_first_source_that_knows_names_it() -> None:
    more = SymbolFile([(0x1000, 0x10, "more")])
    own = SymbolTable(elf([("own", 0x1000, 0x40, 1, 2)]), [Extent(0x1000, 0x1000, 0x1000)])
    merged = MergedSymbols([more, own])
    assert merged.lookup(0x1004) == ("more", 4)
    assert merged.lookup(0x1014) == ("own", 0x14)
    assert merged.lookup(0x5000) is None
