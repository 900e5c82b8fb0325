"""Disk images: their sectors, the file left alone, and the geometries they are told in."""

from __future__ import annotations

import struct

import pytest

from emu.disk_image import FLOPPIES, BlockImage, Geometry


def partitioned(sectors: int, *rows: bytes) -> BlockImage:
    return BlockImage(bytes(446) + b"".join(rows).ljust(64, b"\0") + b"\x55\xaa" + bytes((sectors - 1) * 512))


def row(flag: int, kind: int, end: tuple[int, int], start: int, length: int) -> bytes:
    head, sector = end
    return struct.pack("<BBBBBBBBII", flag, 1, 1, 0, kind, head, sector, 0, start, length)


def test_the_last_sector_is_padded_and_the_rest_refused() -> None:
    disk = BlockImage(b"abc" * 200)
    assert (disk.sectors, disk.read(1, 1)) == (2, (b"abc" * 200)[512:].ljust(512, b"\0"))
    disk.write(0, b"z" * 512)
    assert disk.read(0, 2)[510:515] == b"zz" + (b"abc" * 200)[512:515]
    for lba, count in ((2, 1), (0, 3), (-1, 1)):
        with pytest.raises(ValueError, match="of a disk of 2"):
            disk.read(lba, count)


def test_writes_stay_in_the_image() -> None:
    data = bytes(1024)
    BlockImage(data).write(1, b"x" * 512)
    assert data == bytes(1024)


@pytest.mark.parametrize(
    ("sectors", "geometry"),
    [
        (1, (1, 16, 63)),
        (1009, (2, 16, 63)),
        (1024 * 1008, (1024, 16, 63)),
        (1024 * 1008 + 1, (513, 32, 63)),
        (1 << 22, (521, 128, 63)),
        (1 << 24, (1024, 255, 63)),
        (1 << 30, (1024, 255, 63)),
    ],
)
def test_a_hard_disk_has_the_heads_that_make_its_cylinders_fit(sectors: int, geometry: tuple[int, int, int]) -> None:
    disk = BlockImage(b"")
    disk.sectors = sectors
    disk.boots = lambda: False  # type: ignore[method-assign]  # the sectors of the large ones are not there
    assert disk.geometry() == Geometry(*geometry)


@pytest.mark.parametrize("sectors", FLOPPIES)
def test_floppy_sizes_have_their_own(sectors: int) -> None:
    disk = BlockImage(bytes(sectors * 512))
    geometry = disk.geometry()
    assert disk.is_floppy()
    assert geometry.cylinders * geometry.heads * geometry.sectors == sectors
    assert disk.ata_geometry().sectors == 63


def test_a_partition_table_tells_how_its_writer_counted() -> None:
    assert partitioned(4096, row(0x80, 6, (31, 0xC0 | 32), 32, 2000)).geometry() == Geometry(4, 32, 32)
    assert partitioned(4096, bytes(16), row(0, 6, (254, 0xFF), 63, 99)).geometry() == Geometry(1, 255, 63)


@pytest.mark.parametrize(
    "entry",
    [
        row(0x12, 6, (31, 32), 32, 2000),  # code, no table
        row(0x80, 0, (31, 32), 32, 2000),  # an empty row
        row(0x80, 6, (31, 0), 32, 2000),
        row(0x80, 6, (31, 32), 5000, 1),  # outside the disk
        row(0x80, 6, (255, 63), 63, 99),  # the heads of a protective GPT row
        row(0x00, 0xEE, (0, 1), 1, 4095),
    ],
)
def test_what_is_no_partition_table_tells_nothing(entry: bytes) -> None:
    assert partitioned(4096, entry).geometry() == Geometry(5, 16, 63)


def test_blocks_of_a_geometry() -> None:
    geometry = Geometry(80, 2, 18)
    assert geometry.block(0, 0, 1) == 0
    assert geometry.block(79, 1, 18) == 2879
    assert [geometry.block(80, 0, 1), geometry.block(0, 2, 1), geometry.block(0, 0, 0), geometry.block(0, 0, 19)] == [
        None
    ] * 4


def test_only_a_signed_sector_boots() -> None:
    assert BlockImage(bytes(510) + b"\x55\xaa").boots()
    assert not BlockImage(bytes(512)).boots()
    assert not BlockImage(b"").boots()
