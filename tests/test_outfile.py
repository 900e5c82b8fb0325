"""Result files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emu.errors import GuestFileError
from emu.outfile import check_writable, save, stream


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new", "picture")
    assert names(tmp_path) == []


def test_saving_replaces_an_older_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"older and longer")
    check_writable(target, "picture")
    assert target.read_bytes() == b"older and longer"
    save(target, "picture", b"new")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_the_umask_counts(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        save(tmp_path / "file", "picture", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    save(tmp_path / "link", "picture", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"x"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "file"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(GuestFileError, match=r"picture .*file: cannot write it: No space left on device"):
        save(target, "picture", b"new")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "file", "picture", b"new")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["", "no/file", "nul\0", "/proc/none"])
def test_places_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    for act in (lambda path: check_writable(path, "picture"), lambda path: save(path, "picture", b"x")):
        with pytest.raises(GuestFileError, match="cannot write it"):
            act(tmp_path / name)


def test_devices_are_written_as_they_are() -> None:
    check_writable(Path("/dev/null"), "picture")
    save(Path("/dev/null"), "picture", b"x")
    assert not Path("/dev/null").is_file()
    with pytest.raises(GuestFileError, match="No space left"):
        save(Path("/dev/full"), "picture", b"x")


def test_a_file_without_write_permission_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"kept")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    with pytest.raises(GuestFileError, match="permission denied"):
        check_writable(target, "picture")


def test_a_stream_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with stream(target, "trace") as file:
        file.write(b"one ")
        file.write(b"two")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"one two"
    assert names(tmp_path) == ["file"]


def write_and_raise(target: Path, data: bytes, error: type[BaseException]) -> None:
    with stream(target, "trace") as file:
        file.write(data)
        raise error


def test_an_interrupt_keeps_what_was_written(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(tmp_path / "file", b"so far", KeyboardInterrupt)
    assert (tmp_path / "file").read_bytes() == b"so far"
    assert names(tmp_path) == ["file"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_and_raise(target, b"new", ZeroDivisionError)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_told_in_a_sentence() -> None:
    with (
        pytest.raises(GuestFileError, match="trace /dev/full: cannot write it: No space left"),
        stream(Path("/dev/full"), "trace") as file,
    ):
        file.write(bytes(1 << 20))
    with (
        pytest.raises(GuestFileError, match="trace /dev/full: cannot write it: No space left"),
        stream(Path("/dev/full"), "trace") as file,
    ):
        file.write(b"held back until the end")


def test_a_stream_that_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(GuestFileError, match="cannot write it: it is a directory"), stream(tmp_path, "trace"):
        pass
