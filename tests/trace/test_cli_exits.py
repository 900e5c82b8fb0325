"""`vemu trace --exits` as a command: console and report beside each other, files, filters, endings."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Vemu = Callable[..., Any]
SAYS = "Hello from 64-bit mode\n"
CODE = 33


def exits(text: str) -> list[dict[str, Any]]:
    """The exits of a jsonl report, whose first line names the schema."""
    first, *rest = [json.loads(line) for line in text.splitlines()]
    assert first["schema"] == "vemu-exits"
    return rest


def test_a_table_follows_the_console(vemu: Vemu) -> None:
    done = vemu("trace", "--exits", "hello64")
    assert done.code == CODE
    assert done.out.startswith(SAYS + "             VM-EXIT    Samples")
    assert re.search(r"^      IO_INSTRUCTION         47 +\d\d\.\d\d% ", done.out, re.MULTILINE)
    assert "0x3f8:POUT IO_INSTRUCTION       com1         23 " in done.out
    last = done.err.splitlines()[-1]
    assert last.startswith("vemu: ")
    assert "in the guest" in last
    assert vemu("trace", "hello64", "--quiet").err == ""


@pytest.mark.parametrize("format_", ["json", "jsonl", "csv", "perfetto"])
def test_what_programs_read_has_standard_output_for_itself(format_: str) -> None:
    line = [sys.executable, "-m", "emu", "trace", "hello64", "--format", format_, "--deterministic"]
    done = subprocess.run(line, capture_output=True, timeout=60, check=False)
    assert done.returncode == CODE
    assert done.stderr.decode().startswith(SAYS)
    if format_ == "json":
        assert {row["reason"]: row["samples"] for row in json.loads(done.stdout)["groups"]}["IO_INSTRUCTION"] == 47
    elif format_ == "jsonl":
        assert [e["operand"] for e in exits(done.stdout.decode())].count("0x3f8") == len(SAYS)
    elif format_ == "csv":
        assert done.stdout.startswith(b"reason,samples,")
    else:
        from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

        assert len(Trace.FromString(done.stdout).packet) > 2 * 47


def test_a_saved_trace_says_what_the_run_said(vemu: Vemu, tmp_path: Path) -> None:
    done = vemu("trace", "kernel64", "--by", "address", "-o", tmp_path / "said", "--save", tmp_path / "trace")
    assert done.code == CODE
    assert done.out.endswith("done\n")
    assert vemu("report", tmp_path / "trace", "--by", "address").out == (tmp_path / "said").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["said", "trace"]


def test_only_a_stretch_and_a_reason(vemu: Vemu) -> None:
    line = ("trace", "kernel64", "--format", "jsonl", "--between", "unknown call", "compatibility")
    found = exits(vemu(*line).out)
    sent = [exit_ for exit_ in found if exit_["operand"] == "0x3f8"]
    assert len(sent) == len(" refused\nuser: fs base 1234\nuser: compatibility")
    only = exits(vemu(*line, "--only", "IO_INSTRUCTION").out)
    assert {e["exit"] for e in only} == {"IO_INSTRUCTION"} < {e["exit"] for e in found}
    never = vemu("trace", "hello64", "--between", "not this", "nor that")
    assert "the console never showed 'not this'" in never.err
    assert never.code == CODE


def test_interpreted_guests_exit_too(vemu: Vemu) -> None:
    found = exits(vemu("trace", "hello64", "--engine", "interpret", "--format", "jsonl").out)
    assert [e["reason"] for e in found].count("port write") == 24
    assert {e["block"] for e in found} == {None}


def test_bad_options_are_told_before_the_run(vemu: Vemu, tmp_path: Path) -> None:
    assert (done := vemu("trace", "hello64", "--only", "NOTHING")).code == 2
    assert "NOTHING" in done.line
    missing = tmp_path / "missing" / "file"
    assert (done := vemu("trace", "hello64", "-o", missing)).code == 4
    assert (done.out, str(missing) in done.line) == ("", True)
    assert vemu("trace", "hello64", "--live", "--format", "jsonl").code == 2
    assert vemu("trace", tmp_path / "absent", "-o", tmp_path / "out").code == 4
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_trace_keeps_what_it_has(tmp_path: Path) -> None:
    guest, kept = tmp_path / "guest", tmp_path / "kept"
    guest.write_bytes(bytes.fromhex("e460 ebfc"))  # in al, 0x60, again and again
    line = [sys.executable, "-m", "emu", "trace", str(guest), "--mode", "64", "--save", str(kept)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        while not any(path.name.startswith(".kept") and path.stat().st_size for path in tmp_path.iterdir()):
            assert running.poll() is None
            time.sleep(0.05)
        os.kill(running.pid, signal.SIGINT)
        out, _ = running.communicate(timeout=30)
        assert running.returncode == 130
    assert b"0x60:PIN IO_INSTRUCTION   8042 " in out
    again = subprocess.run([sys.executable, "-m", "emu", "report", str(kept)], capture_output=True, check=True)
    assert again.stdout == out
