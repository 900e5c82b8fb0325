"""Disk images in files, judged by qemu-img: raw and qcow2, writable or under an overlay, malformed ones refused."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from emu.disk_image import SECTOR, BlockImage, DiskError, open_disk
from emu.errors import GuestFileError

QEMU_IMG = "qemu-img"
SIZE = 3 << 20


@pytest.fixture(scope="module", autouse=True)
def _judge() -> None:
    if shutil.which(QEMU_IMG) is None:
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(f"{QEMU_IMG} is missing: install the package qemu-utils")
        pytest.skip(f"{QEMU_IMG} is not installed")


def qemu_img(*arguments: str | Path) -> str:
    return subprocess.run([QEMU_IMG, *arguments], check=True, capture_output=True, text=True).stdout


def content(seed: int, size: int = SIZE) -> bytes:
    """Random sectors with holes of zeros between them."""
    source = random.Random(seed)
    return b"".join(source.randbytes(1 << 14) if source.random() < 0.6 else bytes(1 << 14) for _ in range(size >> 14))


def as_qcow2(folder: Path, data: bytes, *options: str) -> Path:
    raw, image = folder / "source.raw", folder / "disk.qcow2"
    raw.write_bytes(data)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, image)
    return image


def as_raw(image: Path) -> bytes:
    """What QEMU reads from a qcow2 image, which must pass its check."""
    qemu_img("check", image)
    raw = image.with_suffix(".out")
    qemu_img("convert", "-O", "raw", image, raw)
    return raw.read_bytes()


def write_at_random(disk: BlockImage, data: bytes, seed: int) -> bytes:
    """Write runs of sectors here and there; the content that must be there afterwards."""
    source, expected = random.Random(seed), bytearray(data)
    for _ in range(60):
        count = source.choice((1, 1, 3, 8, 130, 300))
        lba = source.randrange(disk.sectors - count)
        new = source.randbytes(count * SECTOR) if source.random() < 0.8 else bytes(count * SECTOR)
        disk.write(lba, new)
        expected[lba * SECTOR : (lba + count) * SECTOR] = new
    return bytes(expected)


OPTIONS = [(), ("-c",), ("-o", "cluster_size=512"), ("-o", "compat=0.10"), ("-o", "cluster_size=2M,refcount_bits=64"),
           ("-o", "refcount_bits=1")]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_reads_what_qemu_wrote(tmp_path: Path, options: tuple[str, ...]) -> None:
    data = content(1)
    disk = open_disk(as_qcow2(tmp_path, data, *options))
    assert disk.sectors == SIZE // SECTOR
    assert disk.read(0, disk.sectors) == data
    for lba, count in ((0, 1), (127, 2), (disk.sectors - 1, 1)):
        assert disk.read(lba, count) == data[lba * SECTOR : (lba + count) * SECTOR]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_qemu_reads_what_was_written(tmp_path: Path, options: tuple[str, ...]) -> None:
    data = content(2)
    image = as_qcow2(tmp_path, data, *options)
    disk = open_disk(image, writable=True)
    expected = write_at_random(disk, data, 3)
    assert disk.read(0, disk.sectors) == expected
    disk.flush()
    disk.close()
    assert as_raw(image) == expected


class Killed(Exception):
    """Stands for SIGKILL, behind which the process does nothing more."""


class Mortal:
    """Lets `os.pwrite` be called so many times; the last call stores half of its bytes, as one that is killed may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
        self.left = calls
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, descriptor: int, data: bytes, offset: int) -> int:
        self.left -= 1
        if self.left > 0:
            return self._pwrite(descriptor, data, offset)
        if len(data) > 8:  # an entry of a table lies within a page, which is stored whole
            self._pwrite(descriptor, data[: len(data) // 2 & ~7], offset)
        raise Killed


@pytest.mark.parametrize("options", [("-o", "cluster_size=512"), ("-c",), ("snapshot",)], ids=" ".join)
def test_a_process_may_be_killed_at_any_write(tmp_path: Path, options: tuple[str, ...]) -> None:
    """After every single one of them the image is free of corruption, and holds what was written before."""
    data = content(14, 128 << 10)
    image = as_qcow2(tmp_path, data, *(() if options == ("snapshot",) else options))
    if options == ("snapshot",):
        qemu_img("snapshot", "-c", "before", image)
    source = random.Random(15)
    writes = [(source.randrange(250), source.randbytes(SECTOR * source.choice((1, 2, 5)))) for _ in range(12)]
    mortal, calls = image.with_suffix(".mortal"), 0
    for calls in range(1, 1000):
        shutil.copy(image, mortal)
        expected = bytearray(data)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Mortal(monkeypatch, calls)
            disk = open_disk(mortal, writable=True)
            torn: range | None = None
            try:
                for lba, new in writes:
                    torn = range(lba * SECTOR, lba * SECTOR + len(new))
                    disk.write(lba, new)
                    expected[torn.start : torn.stop] = new
                    torn = None
            except Killed:
                pass
            disk.close()
        checked = subprocess.run([QEMU_IMG, "check", mortal], capture_output=True, text=True, check=False)
        assert checked.returncode in (0, 3), f"killed at write {calls}:\n{checked.stdout}"  # 3: clusters nobody owns
        qemu_img("convert", "-O", "raw", mortal, mortal.with_suffix(".raw"))
        found = bytearray(mortal.with_suffix(".raw").read_bytes())
        if torn is None:
            assert found == expected
            break
        found[torn.start : torn.stop] = expected[torn.start : torn.stop]
        assert found == expected, f"killed at write {calls}"
        disk = open_disk(mortal, writable=True)  # what was left can be used
        disk.write(0, data[:SECTOR])
        disk.close()
    assert calls > 12


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_overlay_leaves_the_file_as_it_is(tmp_path: Path, kind: str) -> None:
    data = content(4)
    image = tmp_path / "disk.raw"
    image.write_bytes(data)
    if kind == "qcow2":
        image = as_qcow2(tmp_path, data)
    before = image.read_bytes()
    disk = open_disk(image)
    expected = write_at_random(disk, data, 5)
    assert disk.read(0, disk.sectors) == expected
    disk.close()
    assert image.read_bytes() == before


def test_a_raw_image_is_written_in_place(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(data := content(6))
    disk = open_disk(image, writable=True)
    expected = write_at_random(disk, data, 7)
    disk.close()
    assert image.read_bytes() == expected


def test_a_writer_is_alone(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(1024))
    first, second = open_disk(image), open_disk(image)
    with pytest.raises(GuestFileError, match="in use"):
        open_disk(image, writable=True)
    first.close()
    second.close()
    writer = open_disk(image, writable=True)
    with pytest.raises(GuestFileError, match="in use"):
        open_disk(image)
    writer.close()


@pytest.mark.parametrize(
    ("size", "fits"), [(0, False), (1, False), (511, False), (512, True), (1000, False), (1024, True)]
)
def test_a_raw_disk_holds_whole_sectors(tmp_path: Path, size: int, fits: bool) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(size))
    if fits:
        assert open_disk(image).sectors == size // SECTOR
        return
    with pytest.raises(GuestFileError, match="512-byte sectors"):
        open_disk(image)


def patched(image: Path, offset: int, form: str, value: int) -> Path:
    data = bytearray(image.read_bytes())
    struct.pack_into(form, data, offset, value)
    image.write_bytes(data)
    return image


@pytest.mark.parametrize(
    ("offset", "form", "value", "said"),
    [
        (4, ">I", 9, "version 9"),
        (8, ">Q", 1 << 20, "backing files"),
        (20, ">I", 40, "clusters of 2\\^40"),
        (24, ">Q", 1 << 63, "bytes"),
        (32, ">I", 2, "encrypted"),
        (36, ">I", 0, "L1 table"),
        (36, ">I", 0xFFFFFFFF, "L1 table"),
        (40, ">Q", 1 << 60, "truncated"),
        (72, ">Q", 1 << 2, "external data file"),
        (72, ">Q", 1 << 40, "unknown incompatible"),
        (100, ">I", 4, "header of 4 bytes"),
    ],
)
def test_malformed_headers(tmp_path: Path, offset: int, form: str, value: int, said: str) -> None:
    image = patched(as_qcow2(tmp_path, content(8)), offset, form, value)
    with pytest.raises(GuestFileError, match=said) as caught:
        open_disk(image)
    assert str(image) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_corruption_does_worse_than_an_error(tmp_path: Path) -> None:
    image = as_qcow2(tmp_path, content(9, 1 << 18), "-c", "-o", "cluster_size=4K")
    whole = image.read_bytes()
    for seed in range(150):
        source, data = random.Random(seed), bytearray(whole)
        for _ in range(source.choice((1, 4, 40))):
            data[source.randrange(min(len(data), 0x6000))] = source.randrange(256)
        image.write_bytes(data[: source.randrange(len(data))] if seed % 3 == 0 else data)
        try:
            disk = open_disk(image, writable=seed % 2 == 0)
        except GuestFileError:
            continue
        for lba in range(0, min(disk.sectors, 512), 8):
            with suppress(DiskError):  # and nothing else
                disk.read(lba, min(8, disk.sectors - lba))
                if seed % 2 == 0:
                    disk.write(lba, bytes(SECTOR))
        disk.close()
