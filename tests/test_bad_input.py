"""Damaged images of every format, missing files and absurd options: one clear line and the documented code."""

from __future__ import annotations

import os
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from emu.__main__ import main
from guests import catalogue

GUESTS = catalogue()
USAGE, BAD_FILE = 2, 4
NOBODY = 65534
# What a run that starts may end with, next to the guest's own odd codes.
STARTED = (0, 6, 8, 10, 12, 124)
Vemu = Callable[..., Any]


def bzimage(payload: bytes = bytes.fromhex("b0 02 e6 f4 f4")) -> bytes:
    """A bzImage by the boot protocol 2.12 with a 32- and a 64-bit entry that both leave with status 5."""
    data = bytearray(2 * 512)
    data[0x1F1] = 1
    struct.pack_into("<I", data, 0x1F4, 0x240 // 16)
    data[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
    struct.pack_into("<H", data, 0x206, 0x20C)
    data[0x211] = 1
    struct.pack_into("<III", data, 0x214, 0x100000, 0, 0)
    struct.pack_into("<I", data, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<I", data, 0x230, 0x1000)
    struct.pack_into("<HI", data, 0x236, 1, 255)
    struct.pack_into("<QI", data, 0x258, 0x100000, 0x4000)
    return bytes(data) + payload.ljust(0x200, b"\x90") + payload.ljust(0x40, b"\x90")


def elf32() -> bytes:
    """The ELF file of a multiboot kernel with another magic, so that it is nothing but ELF."""
    return GUESTS["kernel32"].path.read_bytes().replace(struct.pack("<I", 0x1BADB002), b"none", 1)


IMAGES = {
    "flat": (GUESTS["hello64"].path.read_bytes(), ("--format", "flat")),
    "boot": (GUESTS["bootbios"].path.read_bytes()[:4096], ("--format", "boot")),
    "elf32": (elf32(), ("--format", "elf")),
    "elf64": (GUESTS["sensitive64"].path.read_bytes(), ()),
    "multiboot": (GUESTS["kernel64"].path.read_bytes(), ("--format", "multiboot")),
    "multiboot-elf": (GUESTS["kernel32"].path.read_bytes(), ()),
    "linux": (bzimage(), ("--format", "linux")),
    "linux32": (bzimage(), ("--format", "linux", "--mode", "32")),
}
LIMITS = ("--memory", "4M", "--max-instructions", "300", "--timeout", "5", "--quiet", "--deterministic")


@pytest.fixture
def attempt(vemu: Vemu, tmp_path: Path) -> Callable[..., int]:
    """Run an image and check how vemu speaks about it; returns the exit code."""
    path = tmp_path / "guest.img"

    def run(data: bytes, *options: str) -> int:
        path.write_bytes(data)
        done = vemu("run", path, *LIMITS, *options)
        about = f"{len(data)} bytes: {done}"
        assert "Traceback" not in done.err, about
        if done.code in (USAGE, BAD_FILE):
            assert str(path) in done.line, about
            assert done.out == "", about
        elif done.code % 2:
            # a damaged guest may leave with status 1 of its own, and that is said
            assert "status" in vemu("run", path, *LIMITS[:-2], "--deterministic", *options).err, about
        else:
            assert done.code in STARTED, about
            assert not done.err or done.err.startswith("vemu: "), about
        return int(done.code)

    return run


def lengths(size: int, count: int, seed: int) -> list[int]:
    """Lengths to cut at: the edges of headers, and some at random."""
    edges = [*range(0, 70, 6), 511, 512, 513, 1023, 1024, size - 1]
    return sorted({length for length in edges if length < size} | set(random.Random(seed).sample(range(size), count)))


def test_the_images_themselves_start(attempt: Callable[..., int]) -> None:
    for name, (data, options) in IMAGES.items():
        assert attempt(data, *options) not in (USAGE, BAD_FILE), name


@pytest.mark.parametrize("name", IMAGES)
def test_truncated(attempt: Callable[..., int], name: str) -> None:
    data, options = IMAGES[name]
    codes = [attempt(data[:length], *options) for length in lengths(len(data), 8, zlib.crc32(name.encode()))]
    assert codes[0] == BAD_FILE  # nothing at all is no image of any format
    if name != "flat":
        assert codes.count(BAD_FILE) >= 5


@pytest.mark.parametrize("name", IMAGES)
def test_flipped_bytes(attempt: Callable[..., int], name: str) -> None:
    data, options = IMAGES[name]
    chance = random.Random(name)
    # headers are where a loader can be misled; the code behind them is the guest's own business
    header = range(0x1F1, 0x270) if "linux" in name else range(min(len(data), 120))
    for number in range(20):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.choice(header) if number % 4 else chance.randrange(len(data))
            damaged[at] = chance.choice((0, 0xFF, 0x80, damaged[at] ^ 1 << chance.randrange(8), chance.randrange(256)))
        attempt(bytes(damaged), *options)


@pytest.mark.parametrize("name", IMAGES)
def test_flipped_bytes_are_recognised_as_something_or_refused(attempt: Callable[..., int], name: str) -> None:
    data, _ = IMAGES[name]
    chance = random.Random(f"recognise {name}")
    for _ in range(6):
        damaged = bytearray(data)
        damaged[chance.randrange(min(len(data), 0x210))] ^= chance.randrange(1, 256)
        attempt(bytes(damaged))


def test_noise(attempt: Callable[..., int]) -> None:
    chance = random.Random(5)
    for size in (1, 2, 16, 511, 512, 5000):
        for mode in ("16", "32", "64"):
            attempt(chance.randbytes(size), "--mode", mode)


@pytest.mark.parametrize("format_", ["boot", "elf", "multiboot", "linux"])
def test_images_of_another_format(attempt: Callable[..., int], format_: str) -> None:
    for name, (data, _) in IMAGES.items():
        if not name.startswith((format_, "multiboot" if format_ == "elf" else format_)):
            assert attempt(data, "--format", format_) == BAD_FILE, name


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["guest", "--initrd", "--disk"])
@pytest.mark.parametrize("kind", ["missing", "folder", "device", "file as folder", "dangling", "long"])
def test_files_that_are_none(vemu: Vemu, tmp_path: Path, role: str, kind: str) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"x")
    path = {
        "missing": tmp_path / "none",
        "folder": tmp_path,
        "device": Path("/dev/zero"),
        "file as folder": tmp_path / "file" / "x",
        "dangling": tmp_path / "dangling",
        "long": tmp_path / ("x" * 300),
    }[kind]
    done = vemu("run", path) if role == "guest" else vemu("run", "hello64", role, path)
    assert done.code == BAD_FILE
    assert str(path) in done.line
    assert done.out == ""


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root may read everything: become nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_files_that_may_not_be_read(vemu: Vemu, closed: str) -> None:
    with TemporaryDirectory() as folder:  # tmp_path lies in a folder that is closed already
        path = Path(folder) / "secret"
        path.write_bytes(b"\xf4")
        assert vemu("run", path).code == 8  # and every module is loaded, wherever the sources lie
        Path(folder).chmod(0o755)
        (path if closed == "file" else Path(folder)).chmod(0)
        with not_as_root():
            done = vemu("run", path)
        assert (done.code, "Permission denied" in done.line) == (BAD_FILE, True), done
        Path(folder).chmod(0o755)


def test_empty_files(vemu: Vemu, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert "empty" in vemu("run", path).line
    for format_ in ("flat", "boot", "elf", "multiboot", "linux"):
        done = vemu("run", path, "--format", format_)
        assert (done.code, bool(done.line)) == (BAD_FILE, True)
    done = vemu("run", "bootbios", "--disk", path)
    assert (done.code, "sectors" in done.line) == (BAD_FILE, True)


@pytest.mark.parametrize("size", [1, 511, 513, 1000])
def test_disks_of_odd_size(vemu: Vemu, tmp_path: Path, size: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(size))
    done = vemu("run", "bootbios", "--disk", path)
    assert done.code == BAD_FILE
    assert re.search(rf"{size} bytes.*512", done.line)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("helo64", "hello64"),
        ("kernel", "kernel"),
        ("Sieve", "sieve"),
        ("nothing like it", "vemu guests"),
        ("", "empty"),
    ],
)
def test_unknown_names(vemu: Vemu, name: str, hint: str) -> None:
    for command in ("run", "blocks"):
        done = vemu(command, name)
        assert done.code == BAD_FILE
        assert hint in done.line


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--memory", "0"], USAGE, "memory"),
        (["--memory", "-1M"], USAGE, "size '-1M'"),
        (["--memory", "1T"], USAGE, "256 GiB"),
        (["--memory", "99999999999999999999G"], USAGE, "256 GiB"),
        (["--memory", "many"], USAGE, "size 'many'"),
        (["--memory", "512K"], USAGE, "MiB"),
        (["--memory", "nan"], USAGE, "size 'nan'"),
        (["--memory", ""], USAGE, "size ''"),
        (["--mode", "17"], USAGE, "'17'"),
        (["--org", "-1"], USAGE, "org -0x1"),
        (["--org", "0x100000000"], USAGE, "org 0x100000000"),
        (["--org", "here"], USAGE, "'here' is no whole number"),
        (["--org", "0x8000000"], BAD_FILE, "does not fit"),
        (["--org", "0xfffffff0"], BAD_FILE, "does not fit"),
        (["--org", "0xa0000"], BAD_FILE, "does not fit"),
        (["--org", "0x480"], BAD_FILE, "overlaps"),
        (["--timeout", "nan"], USAGE, "timeout"),
        (["--timeout", "inf"], USAGE, "timeout"),
        (["--timeout", "-1"], USAGE, "timeout"),
        (["--timeout", "0"], USAGE, "timeout"),
        (["--timeout", "soon"], USAGE, "'soon'"),
        (["--max-instructions", "0"], USAGE, "instructions"),
        (["--max-instructions", "-5"], USAGE, "instructions"),
        (["--max-instructions", "1e6"], USAGE, "'1e6'"),
        (["--success-code", "4"], USAGE, "odd"),
        (["--success-code", "-1"], USAGE, "odd"),
        (["--expect", ""], USAGE, "empty"),
        (["--fail-on", ""], USAGE, "empty"),
        (["--engine", "magic"], USAGE, "'magic'"),
        (["--format", "iso"], USAGE, "'iso'"),
        (["--console", "paper"], USAGE, "'paper'"),
        (["--serial", "tcp:1"], USAGE, "'tcp:1'"),
        (["--serial", "file:"], USAGE, "file:PATH"),
        (["--serial", "file:/"], BAD_FILE, "cannot write"),
        (["--serial", "file:/no/such/folder/log"], BAD_FILE, "cannot write"),
        (["--screenshot", "/no/such/folder/x.png"], BAD_FILE, "cannot write"),
        (["--screenshot", "/"], BAD_FILE, "directory"),
        (["--format", "elf"], BAD_FILE, "7f 45 4c 46"),
        (["--append", "x"], USAGE, "no command line"),
        (["--boot-stub"], USAGE, "only a Linux bzImage has a boot stub"),
        (["--initrd", __file__], USAGE, "no initial RAM disk"),
        (["--no-such-option"], USAGE, "--no-such-option"),
        (["--memory"], USAGE, "--memory"),
        (["and another"], USAGE, "and another"),
    ],
)
def test_absurd_options(vemu: Vemu, options: list[str], code: int, said: str) -> None:
    done = vemu("run", "hello64", *options)
    assert (done.code, done.out) == (code, ""), done
    assert said in done.line


@pytest.mark.parametrize("name", ["linux", "multiboot"])
def test_initial_ram_disk_bigger_than_memory(vemu: Vemu, tmp_path: Path, name: str) -> None:
    image, disk = tmp_path / "image", tmp_path / "initrd"
    image.write_bytes(IMAGES[name][0])
    with disk.open("wb") as file:
        file.truncate(5 << 20)
    done = vemu("run", image, "--initrd", disk, "--memory", "4M")
    assert done.code == BAD_FILE
    assert "does not fit" in done.line
    with disk.open("wb") as file:
        file.truncate(1 << 31)
    done = vemu("run", image, "--initrd", disk, "--memory", "4M")
    assert (done.code, str(disk) in done.line) == (BAD_FILE, True)


@pytest.mark.parametrize("name", ["linux", "multiboot"])
def test_command_line_too_long(vemu: Vemu, tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(IMAGES[name][0])
    done = vemu("run", image, "--append", "x" * 5000)
    assert (done.code, "command line of" in done.line) == (BAD_FILE, True)


@pytest.mark.parametrize("name", ["elf64", "multiboot-elf", "boot"])
def test_options_that_do_not_go_with_the_format(vemu: Vemu, tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(IMAGES[name][0])
    done = vemu("run", image, "--org", "0x1000")
    assert (done.code, "--org" in done.line) == (USAGE, True)
    done = vemu("run", image, "--mode", "64" if name == "boot" else "16")
    assert (done.code, "--mode" in done.line) == (USAGE, True)


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["blocks"], ["guests", "x"], ["doctor", "--x"], ["--x"]])
def test_absurd_commands(vemu: Vemu, arguments: list[str]) -> None:
    done = vemu(*arguments)
    assert (done.code, done.out) == (USAGE, "")
    assert "--help" in done.line


@pytest.mark.parametrize("options", [["--at", "x"], ["--limit", "0"], ["--timeout", "-1"], ["--json"]])
def test_absurd_options_of_blocks(vemu: Vemu, options: list[str]) -> None:
    done = vemu("blocks", "hello64", *options)
    assert (done.code, done.out) == (USAGE, "")
    assert done.line


def test_arguments_of_strange_characters() -> None:
    for text in ("\udcff", "\0", "\n", "\x1b[2J", "💾", " ", "a" * 100_000):
        assert main(["run", text]) == BAD_FILE
