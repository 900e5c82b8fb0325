"""The description of a run: defaults from the bundled guests, checks, and how a name becomes bytes."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from emu import cli
from emu.config import (
    CONSOLES,
    DEFAULT_MEMORY,
    ENGINES,
    FORMATS,
    MODES,
    MachineConfig,
    check_file,
    parse_disk,
    parse_size,
    read_file,
    resolve_guest,
)
from emu.errors import GuestFileError, UsageError
from emu.loader.detect import FORMATS as LOADED_FORMATS
from emu.memory import MIB
from guests import catalogue


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128M", 128 * MIB),
        ("1g", 1 << 30),
        ("2GiB", 2 << 30),
        ("64kb", 64 << 10),
        ("1T", 1 << 40),
        (" 33554432 ", 32 * MIB),
        ("0x2000000", 32 * MIB),
        ("0x20M", 32 * MIB),
        ("0128M", 128 * MIB),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "0", "0G", "-1M", "+1M", "1.5G", "1e9", "12X", "1 M", "nan", "128", "9" * 99 + "M", "٣M"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_size(text)


def test_bundled_guests_bring_their_settings() -> None:
    guest = catalogue()["hello16"]
    config = MachineConfig("hello16")
    assert (config.format, config.mode, config.org) == ("flat", 16, guest.org)
    assert config.memory == guest.memory * MIB
    assert resolve_guest(config).data == guest.path.read_bytes()


def test_what_is_said_goes_before_what_a_bundled_guest_brings() -> None:
    config = MachineConfig("hello64", memory=8 * MIB, org=0x200000, mode=32)
    assert (config.memory, config.org, config.mode) == (8 * MIB, 0x200000, 32)
    assert MachineConfig("hello64", format="elf").mode is None


def test_others_get_the_default_memory() -> None:
    assert MachineConfig(b"\xf4").memory == DEFAULT_MEMORY == 128 * MIB
    assert MachineConfig("no such guest").memory == DEFAULT_MEMORY


def test_a_file_goes_before_a_bundled_guest_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello64").write_bytes(b"file")
    assert resolve_guest(MachineConfig("hello64")).data == b"file"
    assert MachineConfig("hello64").format is None
    (tmp_path / "hello32").mkdir()
    assert resolve_guest(MachineConfig("hello32")).data == catalogue()["hello32"].path.read_bytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine", "magic"),
        ("console", "paper"),
        ("format", "iso"),
        ("mode", 17),
        ("memory", -1),
        ("memory", MIB + 1),
        ("memory", 1 << 40),
        ("org", -1),
        ("org", 1 << 32),
        ("timeout", 0.0),
        ("timeout", -1.0),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("max_instructions", 0),
        ("expect", ""),
        ("fail_on", ""),
        ("success_code", 0),
        ("success_code", 2),
        ("success_code", -1),
        ("success_code", (1 << 33) + 1),
        ("serial", "file:"),
        ("serial", "tcp:1234"),
    ],
)
def test_absurd_values(field: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        MachineConfig(b"\xf4", **{field: value}).validate()
    assert "\n" not in str(caught.value)


def test_sensible_values() -> None:
    MachineConfig(
        b"\xf4", engine="interpret", memory=MIB, mode=16, org=0, format="flat", timeout=0.1, expect="x", fail_on="y",
        success_code=1, max_instructions=1, console="vga", serial="file:x",
    ).validate()  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a.img", (Path("a.img"), False, None)),
        ("a.img,rw", (Path("a.img"), True, None)),
        ("a,b,rw,ide", (Path("a,b"), True, "ide")),
        ("a.img,virtio,rw", (Path("a.img"), True, "virtio")),
        ("rw", (Path("rw"), False, None)),
    ],
)
def test_disk_options(text: str, parsed: tuple[Path, bool, str | None]) -> None:
    assert parse_disk(text) == parsed


def test_a_disk_needs_a_file() -> None:
    with pytest.raises(UsageError, match="no file"):
        parse_disk(",rw")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        listener.bind("socket")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
        (tmp_path / "file").write_bytes(b"x")
        huge = tmp_path / "huge"
        with huge.open("wb") as file:
            file.truncate(1 << 40)
        for name in ("", "none", "loop", "dangling", "socket", "file/x", "huge", "n" * 300, "nul\0"):
            for reader in (check_file, read_file):
                with pytest.raises(GuestFileError, match=r"^thing "):
                    reader(tmp_path / name, "thing")
        with pytest.raises(GuestFileError):
            resolve_guest(MachineConfig(str(tmp_path / "dangling")))
    for device in ("/dev/zero", "/dev/tty"):
        with pytest.raises(GuestFileError, match=r"no regular file|No such"):
            check_file(Path(device), "thing")


def test_a_pipe_can_be_read() -> None:
    read, write = os.pipe()
    os.write(write, b"some bytes")
    os.close(write)
    try:
        assert read_file(Path(f"/dev/fd/{read}"), "guest") == b"some bytes"
    finally:
        os.close(read)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("helo64", "hello64"), ("HELLO16", "hello16"), ("kernel-64", "kernel64"), ("xyzzy", "vemu guests")],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(GuestFileError, match=hint):
        resolve_guest(MachineConfig(name))


def test_an_empty_name() -> None:
    with pytest.raises(GuestFileError, match="empty"):
        resolve_guest(MachineConfig(""))


def test_serial_file() -> None:
    assert MachineConfig(b"", serial="file:a:b").serial_file == Path("a:b")
    assert MachineConfig(b"", serial="pty").serial_file is None
    assert MachineConfig(b"").guest_name == "<bytes>"


def test_the_command_line_offers_what_the_configuration_knows() -> None:
    """`emu.cli` repeats the lists, because importing them costs time."""
    choices = {p.name: tuple(p.type.choices) for p in cli.run.params if hasattr(p.type, "choices")}
    assert choices["engine"] == ENGINES
    assert choices["console"] == CONSOLES
    assert choices["mode"] == tuple(map(str, MODES))
    assert choices["format_"] == FORMATS == LOADED_FORMATS
