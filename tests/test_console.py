"""Joining a console to the world: outputs that fail, input from pipes, and signals."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.console import Attendant, Output, PseudoTerminal, input_fd, open_file
from emu.errors import GuestFileError


class Recorder:
    """A guest that keeps what it is sent."""

    def __init__(self) -> None:
        self.typed = bytearray()
        self.stopped = threading.Event()

    def send_input(self, data: bytes) -> None:
        self.typed += data

    def stop(self) -> None:
        self.stopped.set()


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_output_to_a_file(tmp_path: Path) -> None:
    output = open_file(tmp_path / "log")
    output.write(b"one\n")
    output.write(b"")
    output.write(b"two")
    output.check()
    output.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo"
    assert output.last == ord("o")


@pytest.mark.parametrize("name", ["", "no/file", "/proc/none", "nul\0"])
def test_files_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(GuestFileError, match="cannot write"):
        open_file(tmp_path / name)


def test_a_full_disk_is_reported_once_and_does_not_raise() -> None:
    failures: list[str] = []
    output = Output(os.open("/dev/full", os.O_WRONLY), "log")
    output.failed = lambda: failures.append("failed")
    output.write(b"x")
    output.write(b"y")
    output.close()
    assert failures == ["failed"]
    assert output.error is not None
    assert output.error.errno == errno.ENOSPC
    with pytest.raises(GuestFileError, match="log: cannot write the console: No space left"):
        output.check()


def test_a_reader_that_went_away() -> None:
    read, write = os.pipe()
    os.close(read)
    output = Output(write, "pipe")
    output.write(b"x")
    output.close()
    with pytest.raises(BrokenPipeError):
        output.check()


def test_a_slow_reader_gets_everything() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    data = bytes(range(256)) * 1024  # four times what a pipe holds
    got = bytearray()

    def drain() -> None:
        while len(got) < len(data):
            got.extend(os.read(read, 4096))

    thread = threading.Thread(target=drain)
    thread.start()
    Output(write, "pipe").write(data)
    thread.join()
    os.close(read)
    os.close(write)
    assert got == data


def test_nobody_on_a_pseudo_terminal_loses_output_instead_of_stopping_the_guest() -> None:
    pty = PseudoTerminal()
    try:
        for _ in range(100):
            pty.output.write(b"x" * 1000)
        pty.output.check()
        slave = os.open(pty.name, os.O_RDWR | os.O_NOCTTY)
        assert os.read(slave, 10) == b"x" * 10
        os.close(slave)
    finally:
        pty.close()


def test_input_descriptors(tmp_path: Path) -> None:
    read, write = os.pipe()
    master, slave = os.openpty()
    folder = os.open(tmp_path, os.O_RDONLY)
    assert [input_fd(fd) for fd in (read, slave, folder)] == [read, None, None]
    for fd in (read, write, master, slave, folder):
        os.close(fd)
    assert input_fd(read) is None


def test_input_reaches_the_guest_and_its_end_ends_nothing() -> None:
    read, write = os.pipe()
    guest = Recorder()
    with Attendant(guest, read):
        os.write(write, b"abc\x01x")
        assert wait_until(lambda: guest.typed == b"abc\x01x")
        os.close(write)
    os.close(read)
    assert not guest.stopped.is_set()


def test_commands_are_taken_out_of_interactive_input() -> None:
    read, write = os.pipe()
    guest = Recorder()
    shown: list[bytes] = []
    with Attendant(guest, read, interactive=True, show=shown.append):
        os.write(write, b"a\x01h\x01\x01\x01x")
        assert guest.stopped.wait(5)
        assert wait_until(lambda: guest.typed == b"a\x01")
    os.close(read)
    os.close(write)
    assert len(shown) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_stop_the_guest_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    guest = Recorder()
    with Attendant(guest, None):
        assert signal.getsignal(number) != before
        os.kill(os.getpid(), number)
        assert guest.stopped.wait(5)
    assert signal.getsignal(number) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_signal_interrupts() -> None:
    with Attendant(Recorder(), None):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # the handler runs some time after the signal
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    guest = Recorder()
    try:
        with Attendant(guest, None):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not guest.stopped.is_set()


def test_other_signals_do_not_stop_the_guest() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: seen.append(number))
    guest = Recorder()
    try:
        with Attendant(guest, None):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]
    assert not guest.stopped.is_set()


def test_an_attendant_in_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def attend() -> None:
        with Attendant(Recorder(), None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=attend)
    thread.start()
    thread.join()
    assert seen == [before]
