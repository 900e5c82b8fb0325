"""`vemu top` as a command: in a pipe, on a terminal of any size, and when it is interrupted."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Vemu = Callable[..., Any]
VEMU = (sys.executable, "-m", "emu")


def test_a_pipe_gets_plain_text(vemu: Vemu) -> None:
    done = vemu("top", "kernel64", "--interval", 0.1)
    assert done.code == 33
    assert "\x1b" not in done.out
    *_, last = done.out.split("\n\n")
    assert last.startswith("vemu top: kernel64, translate  long64 cpl0\n")
    assert re.search(r"^  IO_INSTRUCTION +[\d,]+/s", last, re.MULTILINE)
    assert "\ncode cache  [" in last
    assert last.endswith(
        "console\n  kernel: exception 13 error 00000000\n  kernel: exception 8 error 00000000\n  done\n"
    )
    assert done.err == "vemu: the guest left with value 0x10 (status 33) [exit code 33]\n"


def test_other_ends_and_options(vemu: Vemu, tmp_path: Path) -> None:
    done = vemu("top", "hello64", "--engine", "interpret", "--serial", f"file:{tmp_path / 'log'}", "--quiet")
    assert (done.code, done.err) == (33, "")
    assert (tmp_path / "log").read_text() == "Hello from 64-bit mode\n"
    assert vemu("top", tmp_path / "absent").code == 4
    assert vemu("top", "hello64", "--interval", 0).code == 2
    done = vemu("top", "kernel64", "--max-instructions", 1000)
    assert done.code == 124


@pytest.mark.parametrize(("columns", "rows"), [(100, 40), (40, 10), (20, 5)])
def test_a_terminal_of_any_size_and_ctrl_c(tmp_path: Path, columns: int, rows: int) -> None:
    guest = tmp_path / "spin"
    guest.write_bytes(bytes.fromhex("e460 ebfc"))
    line = [*VEMU, "top", str(guest), "--mode", "64", "--interval", "0.1", "--timeout", "60"]
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.environ.pop("COLUMNS", None)
        os.environ.pop("LINES", None)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        os.execve(line[0], line, os.environ)  # not what readline put into C's environment: LINES and COLUMNS
    out, interrupted, end = b"", False, time.monotonic() + 60
    try:
        while time.monotonic() < end:
            if select.select([fd], [], [], 0.1)[0]:
                try:
                    data = os.read(fd, 1 << 16)
                except OSError:  # Linux's way to say that nobody is at the other end
                    break
                if not data:
                    break
                out += data
            if not interrupted and out.count(b"vemu top") >= 3:
                os.write(fd, b"\x03")
                interrupted = True
    finally:
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 130
    text = out.decode()
    screen, _, left = text.rpartition("\x1b[?1049l")
    assert screen.count("\x1b[?1049h") == 1
    assert "IO_INSTRUCTION"[: columns - 8] in screen or rows < 6
    lines = left.split("\r\n")
    assert lines[-2] == "vemu: stopped [exit code 130]"
    assert all(len(line) <= columns for line in lines[:-2]), lines
    for shown in screen.split("\x1b[H")[1:-1]:
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).split("\r\n")
        assert len(plain) <= rows
        assert all(len(line) <= columns for line in plain), plain


def test_whoever_reads_it_may_go_away(tmp_path: Path) -> None:
    guest = tmp_path / "spin"
    guest.write_bytes(bytes.fromhex("ebfe"))
    line = [*VEMU, "top", str(guest), "--mode", "64", "--interval", "0.1", "--timeout", "60"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith(b"vemu top")
        running.stdout.close()
        assert running.wait(timeout=30) == 130
        assert running.stderr.read() == b""
