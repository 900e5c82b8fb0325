"""The user's terminal, tried on pseudo-terminals: raw mode and back, the Ctrl-A commands, the painted screen."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emu.terminal import EscapeFilter, RawTerminal, ScreenPainter, in_foreground, screen_as_text

SCRIPT = Path(sys.executable).with_name("vemu")
VEMU = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "emu"]
Little = Callable[[str], str]


class Session:
    """vemu as the foreground job of a terminal of its own, whose other side stays open here."""

    def __init__(self, *arguments: str, program: list[str] = VEMU, out: int | None = None) -> None:
        self.fd, self.slave = os.openpty()
        self.shown = b""
        self.before = self.attributes()
        # a session leader without a terminal gets the first one that it opens
        redirect = f"exec 0<>{os.ttyname(self.slave)} 2>&0" + ("; exec >&0" if out is None else "") + '; exec "$@"'
        self.process = subprocess.Popen(
            ["sh", "-c", redirect, "sh", *program, *arguments], stdout=out, start_new_session=True
        )

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def wait_for(self, text: bytes, seconds: float = 10) -> None:
        """Read until `text` was shown."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert self._read(end - time.monotonic()), f"{text!r} did not come: {self.shown!r}"

    def end(self, seconds: float = 10) -> int:
        """Wait for the process; its exit code."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it did not end: {self.shown!r}"
            self._read(0.01)
        while self._read(0.01):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if seconds <= 0 or not select.select([self.fd], [], [], seconds)[0]:
            return False
        self.shown += os.read(self.fd, 4096)
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self.slave)


@pytest.fixture
def session() -> Iterator[Callable[..., Session]]:
    made: list[Session] = []

    def start(*arguments: str, **more: Any) -> Session:
        made.append(Session(*arguments, **more))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_ctrl_a_x_leaves_and_the_terminal_is_as_before(session: Callable[..., Session], little: Little) -> None:
    one = session("run", little("echo"))
    one.wait_for(b"Ctrl-A X leaves")
    one.type(b"ab\x01\x01\x03")  # Ctrl-A Ctrl-A sends one, and Ctrl-C is the guest's
    one.wait_for(b"ab\x01\x03")
    raw = one.attributes()
    assert not raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert raw[1] & termios.OPOST
    one.type(b"\x01h")
    one.wait_for(b"[vemu] Ctrl-A X leaves")
    one.type(b"\x01x")
    assert one.end() == 130
    assert one.attributes() == one.before
    assert b"guest instructions" in one.shown
    assert b"Traceback" not in one.shown


def test_a_guest_that_ends_by_itself(session: Callable[..., Session], little: Little) -> None:
    one = session("run", little("echo"), "--success-code", "3")
    one.wait_for(b"leaves")
    one.type(b"q")
    assert one.end() == 0
    assert one.attributes() == one.before
    assert b"q\r\nvemu: the guest left" in one.shown  # the message stands on a line of its own


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_restore_the_terminal(session: Callable[..., Session], little: Little, number: signal.Signals) -> None:
    one = session("run", little("echo"))
    one.wait_for(b"leaves")
    one.type(b"a")
    one.wait_for(b"\na")  # echoed by the guest: it runs, and so the terminal is raw
    assert one.attributes() != one.before
    one.process.send_signal(number)
    assert one.end() == 130
    assert one.attributes() == one.before


def test_a_bug_in_vemu_restores_the_terminal(session: Callable[..., Session], little: Little, tmp_path: Path) -> None:
    code = (
        "import sys, emu.machine\n"
        "from emu.__main__ import main\n"
        "def fail(self): raise RuntimeError('broken')\n"
        "emu.machine.Machine.run = fail\n"
        "sys.exit(main(['run', sys.argv[1]]))\n"
    )
    script = tmp_path / "broken.py"
    script.write_text(code)
    one = session(little("echo"), program=[sys.executable, str(script)])
    assert one.end() == 70
    assert one.attributes() == one.before
    assert b"bug in vemu" in one.shown


def test_vga_console_is_painted_and_typed_on(session: Callable[..., Session], tmp_path: Path) -> None:
    guest = tmp_path / "guest.bin"
    # "VG" on the screen; waits for the keyboard controller to have a byte, then leaves with status 5
    guest.write_bytes(bytes.fromhex("c7 04 25 00 80 0b 00 56 1f 47 1f e4 64 a8 01 74 fa b0 02 e6 f4"))
    one = session("run", str(guest), "--console", "vga", "--timeout", "20")
    one.wait_for(b"\x1b[1;1HVG\x1b[K")
    one.type(b"a")
    assert one.end() == 5
    assert one.attributes() == one.before
    assert one.shown.index(b"\x1b[?1049h") < one.shown.index(b"\x1b[?1049l") < one.shown.rindex(b"VG\r\n")


def test_output_in_a_pipe_leaves_the_terminal_alone(session: Callable[..., Session], little: Little) -> None:
    read, write = os.pipe()
    one = session("run", little("say-spin"), "--timeout", "20", out=write)
    os.close(write)
    assert os.read(read, 1) == b"h"
    assert one.attributes() == one.before
    one.type(b"\x03")  # the terminal makes SIGINT of it
    assert one.end() == 130
    os.close(read)
    assert b"Ctrl-A" not in one.shown


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_only_without_no_color(
    session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    one = session("blocks", "hello64")
    assert one.end() == 0
    assert (b"\x1b[31m" in one.shown) == (no_color == "")
    assert (b"\x1b[" in one.shown) == (no_color == "")


def test_tables_are_drawn_on_a_terminal(session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    one = session("guests")
    assert one.end() == 0
    assert "─".encode() in one.shown
    assert b"summary" in one.shown


def test_serial_pty_can_be_opened(little: Little) -> None:
    arguments = [*VEMU, "run", little("echo"), "--serial", "pty", "--quiet", "--timeout", "20"]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    name = line.rpartition(" ")[2].strip()
    assert line.startswith("vemu: serial line on /dev/")
    with open(name, "r+b", buffering=0) as terminal:
        terminal.write(b"abq")
        got = b""
        while len(got) < 3:
            got += terminal.read(3 - len(got))
        out, err = process.communicate(timeout=10)
    assert (process.returncode, got, out, err) == (3, b"abq", b"", b"")


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_escape_filter() -> None:
    called: list[str] = []
    escapes = EscapeFilter(lambda: called.append("leave"), lambda: called.append("help"))
    assert escapes.feed(b"ab") == b"ab"
    assert escapes.feed(b"c\x01") == b"c"
    assert escapes.feed(b"\x01d") == b"\x01d"
    assert escapes.feed(b"\x01zz") == b"z"
    assert called == []
    assert escapes.feed(b"\x01h\x01H") == b""
    assert escapes.feed(b"\x01x\x01X") == b""
    assert called == ["help", "help", "leave", "leave"]


def test_raw_terminal_survives_a_hang_up() -> None:
    master, slave = os.openpty()
    raw = RawTerminal(slave)
    with raw:
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        os.close(master)
        os.close(slave)
    raw.restore()


def test_raw_terminal_restores_after_an_error() -> None:
    master, slave = os.openpty()
    try:
        before = termios.tcgetattr(slave)
        with contextlib.suppress(ZeroDivisionError), RawTerminal(slave):
            raise ZeroDivisionError
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_a_pipe_is_no_foreground_terminal() -> None:
    read, write = os.pipe()
    assert not in_foreground(read)
    os.close(read)
    os.close(write)
    assert not in_foreground(read)


def test_painter_writes_only_what_changed() -> None:
    rows = ["one", "two\0x", ""]
    out: list[bytes] = []
    painter = ScreenPainter(lambda: rows, out.append)
    painter.repaint()
    assert out == [b"\x1b[1;1Hone\x1b[K\x1b[2;1Htwo x\x1b[K\x1b[3;1H\x1b[K"]
    painter.repaint()
    assert len(out) == 1
    rows[2] = "\x1b[31m"  # a guest's characters are no commands
    painter.repaint()
    assert out[1] == b"\x1b[3;1H [31m\x1b[K"


def test_screen_as_text() -> None:
    assert screen_as_text(["  a ", "", "b\0c", "", " "]) == "  a\n\nb c\n"
    assert screen_as_text(["", " "]) == ""
