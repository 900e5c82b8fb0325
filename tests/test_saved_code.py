"""Translations kept in files: a second run hardly translates, and no file, whatever is in it, does any harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emu import Machine, MachineConfig, saved_code
from emu.errors import GuestFileError
from emu.machine import RunResult
from emu.saved_code import SavedCode, default_folder


def run(folder: Path | None, guest: str = "kernel64", **options: object) -> tuple[RunResult, bytes]:
    console = bytearray()
    config = MachineConfig(guest, cache=folder, timeout=60.0, **options)  # type: ignore[arg-type]
    with Machine(config, console=console.extend) as machine:
        return machine.run(), bytes(console)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("guest", ["kernel64", "kernel32", "bootbios", "smc"])
def test_the_second_run_hardly_translates_and_is_the_same(tmp_path: Path, guest: str) -> None:
    first, shown = run(tmp_path, guest)
    assert first.stats.reused_instructions == 0
    second, again = run(tmp_path, guest)
    assert (second.ending, again) == (first.ending, shown)
    assert second.stats.reused_instructions > 0.95 * second.stats.translated_instructions


def test_an_unchanged_file_is_not_written_again(tmp_path: Path) -> None:
    run(tmp_path, "hello64")  # too short to be stopped in its midst, where it would go on with a translation of its own
    path = only_file(tmp_path)
    before = path.stat().st_ino
    run(tmp_path, "hello64")
    assert path.stat().st_ino == before


@pytest.mark.parametrize("options", [{"engine": "interpret"}, {"deterministic": True}])
def test_no_file_is_made_where_none_would_be_used(tmp_path: Path, options: dict[str, object]) -> None:
    run(tmp_path, "hello64", **options)
    assert list(tmp_path.iterdir()) == []


def damaged(data: bytes) -> list[bytes]:
    flips = [bytearray(data) for _ in range(6)]
    for number, copy in enumerate(flips):
        copy[number * (len(data) - 1) // 5] ^= 0x10
    return [b"", data[:10], data[: len(data) // 2], data[:-1], data + b"x", os.urandom(len(data)), *map(bytes, flips)]


def test_a_damaged_file_is_as_good_as_none_and_is_replaced(tmp_path: Path) -> None:
    first, shown = run(tmp_path)
    path = only_file(tmp_path)
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        result, again = run(tmp_path)
        assert (result.ending, again, result.stats.reused_instructions) == (first.ending, shown, 0)
        assert run(tmp_path)[0].stats.reused_instructions > 0, "the run before did not replace the file"


def test_a_file_of_another_vemu_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    monkeypatch.setattr(saved_code, "_fingerprint", lambda: b"\1" * 32)
    assert run(tmp_path)[0].stats.reused_instructions == 0


def test_guests_have_files_of_their_own(tmp_path: Path) -> None:
    run(tmp_path, "kernel64")
    run(tmp_path, "kernel32")
    assert len(list(tmp_path.iterdir())) == 2


def test_another_guest_of_the_same_name_gets_its_own_code(tmp_path: Path) -> None:
    """The file is chosen by the image's first bytes; what is behind them may differ and must not be believed."""
    head = b"\xe9\xfb\xff\x1f\x00" + bytes(2 << 20 - 5)  # jmp to the end of the padding
    results = []
    for value in (1, 2, 1):
        tail = bytes((0xB0, value, 0xE6, 0xF4, 0xF4))  # mov al, value; out 0xf4, al; hlt
        image = (head[:5] + bytes((2 << 20) - 5)) + tail
        config = MachineConfig(image, format="flat", mode=64, cache=tmp_path, memory=64 << 20)
        with Machine(config) as machine:
            results.append(machine.run().ending.code)
    assert results == [3, 5, 3]
    assert len(list(tmp_path.iterdir())) == 1


def test_two_runs_at_once_leave_a_file_that_can_be_used(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emu", "run", "kernel64", "--cache", str(tmp_path), "--quiet"]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) for _ in range(3)]
    assert {process.wait(60) for process in running} == {33}
    only_file(tmp_path)
    assert run(tmp_path)[0].stats.reused_instructions > 0


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    run(tmp_path, "sieve")
    path = only_file(tmp_path)
    old, new = (tmp_path / f".{path.name}.{number}.abcdef01" for number in (7, 8))
    for draft in (old, new):
        draft.write_bytes(b"half")
    os.utime(old, (1, 1))
    path.write_bytes(b"")
    run(tmp_path, "sieve")
    assert not old.exists()
    assert new.exists(), "its run may still be writing"


def test_the_least_used_files_go_where_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for guest in ("kernel32", "kernel64", "sieve"):
        run(tmp_path, guest)
    old = min(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    monkeypatch.setattr(saved_code, "_MOST_BYTES", sum(path.stat().st_size for path in tmp_path.iterdir()) - 1)
    run(tmp_path, "fib")
    assert not old.exists()


def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GuestFileError, match=r"code cache .*file"):
        SavedCode(tmp_path / "file", b"")


def test_the_default_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "vemu" / "code"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert default_folder() is None


def cli(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emu", "run", "hello64", *options]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ | environment, timeout=60
    )


def test_the_command_line_names_folder_and_refusal(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert cli(XDG_CACHE_HOME=str(home)).returncode == 33
    assert only_file(home / "vemu" / "code")
    assert cli("--no-cache", XDG_CACHE_HOME=str(tmp_path / "other")).returncode == 33
    assert not (tmp_path / "other").exists()
    assert cli("--cache", str(tmp_path / "mine"), XDG_CACHE_HOME=str(tmp_path / "other")).returncode == 33
    assert only_file(tmp_path / "mine")
    (tmp_path / "file").write_text("")
    refused = cli("--cache", str(tmp_path / "file"))
    assert refused.returncode == 4
    assert refused.stderr.count("\n") == 1
    assert "file" in refused.stderr


def test_a_file_that_cannot_be_written_does_not_spoil_the_run(tmp_path: Path) -> None:
    with Machine(MachineConfig("hello64", cache=tmp_path)) as machine:
        result = machine.run()
        tmp_path.rmdir()
        with pytest.raises(GuestFileError, match="code cache"):
            machine.save_translations()
    assert result.ending.code == 33
