"""Writes a result file whole or not at all, and tells beforehand whether that can work."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from emu.errors import GuestFileError


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
    try:
        target = _target(path)
        if not _replaceable(target):
            target.write_bytes(data)
            return
        draft, fd = _draft(target)
        try:
            with open(fd, "wb") as file:
                file.write(data)
            os.replace(draft, target)
        except BaseException:
            os.unlink(draft)
            raise
    except (OSError, ValueError) as error:
        raise _error(path, what, error) from error


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
    """A new file beside `target`, open for writing."""
    draft = target.with_name(f".{target.name[:200]}.{os.getpid()}")
    return draft, os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _error(path: Path, what: str, error: Exception) -> GuestFileError:
    reason = error.strerror if isinstance(error, OSError) else error
    return GuestFileError(f"{what} {path}: cannot write it: {reason}")
