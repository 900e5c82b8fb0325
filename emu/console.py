"""Joins a machine's console to the world: standard streams, a file or a pseudo-terminal, and signals.

One thread serves whatever comes in: bytes for the guest, and signals, whose Python handlers must not enter the monitor
while its own thread holds a lock. Output goes out from the machine's thread; a write that fails ends the run instead
of raising, since the writer may have been called from inside the backend.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
import tty
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Protocol

from emu.errors import GuestFileError
from emu.terminal import HELP, EscapeFilter

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
_CHUNK: Final = 256  # bytes of input passed on at once, and the pause after them: some 50 KB/s, whatever comes in,
_PAUSE: Final = 0.005  # so that an endless pipe does not pile up in front of a guest that reads slowly
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Guest(Protocol):
    """What the console needs of a machine; both may be called from any thread."""

    def send_input(self, data: bytes) -> None: ...

    def stop(self) -> None: ...


class Output:
    """Writes console bytes to a file descriptor; the first failure is kept in `error` and reported to `failed`.

    With `lossy`, bytes that the other side does not take at once are dropped, as by a serial line nobody listens to.
    """

    def __init__(self, fd: int, name: str, *, lossy: bool = False) -> None:
        self.fd, self.name = fd, name
        self.error: OSError | None = None
        self.failed: Callable[[], None] | None = None
        self.last = ord("\n")  # the last byte written: the guest may have left the cursor within a line
        self._lossy = lossy

    def write(self, data: bytes) -> None:
        """Write all of `data`, unless an earlier write failed."""
        view = memoryview(data)
        while view and self.error is None:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:
                if self._lossy:
                    return
                select.select([], [self.fd], [])
            except OSError as error:
                self.error = error
                if self.failed is not None:
                    self.failed()
                return
        if data:
            self.last = data[-1]

    def check(self) -> None:
        """Raise GuestFileError where a write failed; BrokenPipeError where its reader went away."""
        if isinstance(self.error, BrokenPipeError):
            raise self.error
        if self.error is not None:
            raise GuestFileError(f"{self.name}: cannot write the console: {self.error.strerror}")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def open_file(path: Path) -> Output:
    """A file that receives the console; GuestFileError where it cannot be written."""
    try:
        return Output(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666), str(path))
    except (OSError, ValueError) as error:
        raise GuestFileError(f"{path}: cannot write the console: {getattr(error, 'strerror', error)}") from error


class PseudoTerminal:
    """A pseudo-terminal pair: programs open `name`, the machine reads and writes `output.fd`."""

    def __init__(self) -> None:
        try:
            master, self._slave = os.openpty()
        except OSError as error:
            raise GuestFileError(f"serial pty: the host gives no pseudo-terminal: {error.strerror}") from error
        tty.setraw(self._slave)
        os.set_blocking(master, False)
        self.name = os.ttyname(self._slave)
        self.output = Output(master, self.name, lossy=True)

    def close(self) -> None:
        """Close both sides; ours of the slave was held open so that the pair outlives each program that uses it."""
        self.output.close()
        os.close(self._slave)


def input_fd(fd: int = STDIN) -> int | None:
    """`fd` where it can be read as a stream that is no terminal, else None."""
    try:
        return None if os.isatty(fd) or stat.S_ISDIR(os.fstat(fd).st_mode) else fd
    except OSError:  # closed
        return None


class Attendant:
    """Passes input and stop signals on to a running machine, from a thread of its own, while the context is open.

    `source` is the descriptor the guest's input comes from, or None. With `interactive` the Ctrl-A commands are taken
    out of it, and `show` writes their help. SIGINT, SIGTERM, SIGHUP and SIGQUIT stop the machine; a second one of
    them, when the machine did not stop, raises KeyboardInterrupt.
    """

    def __init__(
        self,
        guest: Guest,
        source: int | None,
        *,
        interactive: bool = False,
        show: Callable[[bytes], None] | None = None,
    ) -> None:
        self._guest, self._source = guest, source
        self._filter = EscapeFilter(guest.stop, lambda: show(HELP) if show else None) if interactive else None
        self._wake_read = self._wake_write = -1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="vemu-console", daemon=True)
        self._old_handlers: dict[int, object] = {}
        self._old_wakeup: int | None = None
        self._signals = 0

    def __enter__(self) -> Attendant:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        if threading.current_thread() is threading.main_thread():  # Python sets handlers nowhere else
            self._old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
            for number in _STOP_SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup stays nohup; None is not Python's
                    self._old_handlers[number] = signal.signal(number, self._signalled)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it is what signal() returned
        if self._old_wakeup is not None:
            signal.set_wakeup_fd(self._old_wakeup)
        self._closing.set()
        os.write(self._wake_write, b"\0")
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        """Runs in the main thread; the attendant's thread, woken through the descriptor, does the work."""
        self._signals += 1
        if self._signals > 1:
            raise KeyboardInterrupt

    def _serve(self) -> None:
        source = self._source
        while not self._closing.is_set():
            ready, _, _ = select.select([self._wake_read] + ([] if source is None else [source]), [], [])
            if self._wake_read in ready:
                # the numbers of the signals that came, whoever handles them
                if any(number in _STOP_SIGNALS for number in os.read(self._wake_read, 64)):
                    self._guest.stop()
                continue
            if source is not None and not self._pass_on(source):
                source = None

    def _pass_on(self, source: int) -> bool:
        """Send one chunk of input to the guest; False at its end."""
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # a terminal that hung up, a pseudo-terminal without its other side
            return False
        if not data:
            return False
        if self._filter is not None:
            data = self._filter.feed(data)
        if data:
            self._guest.send_input(data)
        self._closing.wait(_PAUSE)
        return True
