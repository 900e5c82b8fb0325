"""Writes a result file whole or not at all, at once or piece by piece, and tells beforehand whether that can work."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from emu.errors import GuestFileError

_BUFFER: Final = 1 << 16  # bytes that are written at once


def check_writable(path: Path, what: str) -> None:
    """Raise GuestFileError where `save` could not write `path`; leaves nothing behind."""
    try:
        target = _target(path)
        if not _replaceable(target):
            return
        draft, fd = _draft(target)
        os.close(fd)
        os.unlink(draft)
    except (OSError, ValueError) as error:
        raise _error(path, what, error) from error


def save(path: Path, what: str, data: bytes) -> None:
    """Write `data` beside `path` and rename it there; GuestFileError where that fails, and `path` is as it was.

    A device or a pipe is written as it is.
    """
    with stream(path, what) as file:
        file.write(data)


class Stream:
    """A result file being written; GuestFileError where that fails."""

    def __init__(self, file: BinaryIO, path: Path, what: str) -> None:
        self._file, self._path, self._what = file, path, what

    def write(self, data: bytes) -> None:
        """Append `data`."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _error(self._path, self._what, error) from error


@contextmanager
def stream(path: Path, what: str) -> Iterator[Stream]:
    """A file to write piece by piece; it takes its place at `path` when the block ends, or is interrupted by Ctrl-C.

    Any other exception leaves `path` as it was. A device or a pipe is written as it is.
    """
    draft: Path | None = None
    try:
        target = _target(path)
        if _replaceable(target):
            draft, fd = _draft(target)
        else:
            fd = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _error(path, what, error) from error
    file = open(fd, "wb", buffering=_BUFFER)  # noqa: SIM115  # closing it may fail, and then decides what is left
    try:
        try:
            yield Stream(file, path, what)
        except KeyboardInterrupt:
            _finish(file, draft, target, path, what)
            raise
        _finish(file, draft, target, path, what)
    except BaseException:
        _discard(file, draft)
        raise


def _finish(file: BinaryIO, draft: Path | None, target: Path, path: Path, what: str) -> None:
    """Put what was written into its place."""
    try:
        file.close()
        if draft is not None:
            os.replace(draft, target)
    except OSError as error:
        raise _error(path, what, error) from error


def _discard(file: BinaryIO, draft: Path | None) -> None:
    """Forget what was written, unless it is in its place already."""
    with suppress(OSError):  # what is in the buffer may not go where the rest did not
        file.close()
    if draft is not None:
        draft.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """The file itself: a rename must not put a file in a symbolic link's place."""
    return Path(os.path.realpath(path))


def _replaceable(target: Path) -> bool:
    """True for a file that a rename may replace or create, False for a device or pipe; OSError for what refuses."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(0, "it is a directory")
    if not os.access(target, os.W_OK):  # a rename would go over the head of a file's own permissions
        raise PermissionError(0, "permission denied")
    return stat.S_ISREG(mode)


def _draft(target: Path) -> tuple[Path, int]:
    """A new file beside `target`, open for writing, of a new name: a run that was killed may have left one."""
    draft = target.with_name(f".{target.name[:200]}.{os.getpid()}.{os.urandom(4).hex()}")
    return draft, os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _error(path: Path, what: str, error: Exception) -> GuestFileError:
    reason = error.strerror if isinstance(error, OSError) else error
    return GuestFileError(f"{what} {path}: cannot write it: {reason}")
