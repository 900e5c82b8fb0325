"""The examination of an installation, whole and broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emu import __version__, doctor

Vemu = Callable[..., Any]


@pytest.fixture(scope="module")
def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def test_everything_needed_is_found(findings: dict[str, doctor.Finding]) -> None:
    assert [name for name, finding in findings.items() if finding.needed and not finding.ok] == []
    assert {finding.topic for finding in findings.values()} == {"version", "backend", "engine", "tool"}


def test_versions_are_those_installed(findings: dict[str, doctor.Finding]) -> None:
    import PIL

    assert findings["vemu"].detail == __version__
    assert findings["pillow"].detail == PIL.__version__


def test_engines_and_backend_have_run(findings: dict[str, doctor.Finding]) -> None:
    assert findings["translate"].detail == findings["interpret"].detail == "runs hello64"
    assert findings["unicorn"].ok


def test_command(vemu: Vemu) -> None:
    done = vemu("doctor")
    assert done.code == 0
    assert done.err == ""
    for word in ("translate", "unicorn", "capstone", "python"):
        assert word in done.out
    listed = json.loads(vemu("doctor", "--json").out)
    assert {"topic", "name", "ok", "detail", "needed"} == set(listed[0])


def test_a_file_of_the_probe_guests_name_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello64").write_bytes(b"\xf4")
    assert all(finding.ok for finding in doctor.examine() if finding.topic == "engine")


def test_an_engine_that_fails_is_a_finding(vemu: Vemu, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("emu.machine.UnicornBackend", fail)
    done = vemu("doctor")
    assert done.code == 4
    assert done.out.count("FAILS") == 3
    assert "RuntimeError: no such luck" in done.out


def test_a_guest_that_prints_something_else_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.machine.Machine._console_written", lambda *_: None)
    engines = [finding for finding in doctor.examine() if finding.topic == "engine"]
    assert [finding.ok for finding in engines] == [False, False]
    assert engines[0].detail == "hello64 printed ''"


def test_missing_libraries() -> None:
    """Without Unicorn the doctor says so and `run` ends with 4, both in one go."""
    code = (
        "import sys; sys.modules['unicorn'] = None\n"
        "from emu.__main__ import main\n"
        "print(main(['doctor'])); print(main(['run', 'hello64']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "FAILS" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["4", "4"]
    assert done.stderr.count("\n") == 1
    assert "the installation is incomplete" in done.stderr


def test_missing_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_MEMTEST_FOLDER", tmp_path)
    tools = [finding for finding in doctor.examine() if finding.topic == "tool" and finding.name != "/dev/kvm"]
    assert len(tools) == 3
    assert not any(finding.ok or finding.needed for finding in tools)


def test_a_tool_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text("no program")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = [finding for finding in doctor.examine() if finding.name == fake.name]
    assert not found.ok
    assert str(fake) in found.detail
