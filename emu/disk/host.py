"""A file of the host that holds a disk image, read and written in place, and the raw image that is nothing more."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import weakref
from pathlib import Path
from typing import Final

from emu.disk.store import DiskError
from emu.errors import GuestFileError

SECTOR: Final = 512
_NO_LOCKS: Final = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)  # file systems that have none


class HostFile:
    """An open image; the descriptor closes with the last reference to this object.

    A writer excludes everybody else, so that two machines cannot ruin one image, nor one see it change below it.
    """

    def __init__(self, path: str | Path, writable: bool) -> None:
        """GuestFileError where the file cannot be opened, is no file or device of blocks, or is in use."""
        self.path = str(path)
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        try:
            if not (stat.S_ISREG(mode := os.stat(path).st_mode) or stat.S_ISBLK(mode)):
                raise self.error("no disk image: neither a regular file nor a block device")
            self._descriptor = os.open(path, flags)
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            purpose = " for writing" if writable else ""
            raise self.error(f"cannot open the disk image{purpose}: {reason}") from error
        self._finalizer = weakref.finalize(self, os.close, self._descriptor)
        self._lock(fcntl.LOCK_EX if writable else fcntl.LOCK_SH)
        self.size = os.lseek(self._descriptor, 0, os.SEEK_END)

    def _lock(self, kind: int) -> None:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise self.error("the disk image is in use by another machine that writes to it") from error

    def close(self) -> None:
        """Close at once instead of with the last reference; nothing may be read or written after that."""
        self._finalizer()

    def error(self, problem: str) -> GuestFileError:
        """A GuestFileError that names this file."""
        return GuestFileError(f"{self.path}: {problem}")

    def failure(self, problem: str) -> DiskError:
        """A DiskError that names this file."""
        return DiskError(f"{self.path}: {problem}")

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`: fewer only where the file ends. DiskError where the host cannot."""
        parts = []
        try:
            while length and (part := os.pread(self._descriptor, length, offset)):
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
        except (OSError, OverflowError) as error:
            raise self.failure(f"cannot read {length} bytes at {offset:#x}: {_reason(error)}") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """All of `data` at `offset`; the file grows where it must. DiskError where the host cannot."""
        left = memoryview(data)
        try:
            while left:
                done = os.pwrite(self._descriptor, left, offset)
                offset, left = offset + done, left[done:]
        except (OSError, OverflowError) as error:
            raise self.failure(f"cannot write {len(left)} bytes at {offset:#x}: {_reason(error)}") from error
        self.size = max(self.size, offset)

    def flush(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self.failure(f"cannot flush: {_reason(error)}") from error


class RawImage:
    """The file's bytes are the disk's."""

    def __init__(self, file: HostFile) -> None:
        """GuestFileError where they are no whole number of sectors, or none."""
        if file.size % SECTOR or not file.size:
            raise file.error(f"{file.size} bytes are no disk: it must hold whole {SECTOR}-byte sectors")
        self._file = file
        self.size = file.size

    def read(self, offset: int, length: int) -> bytes:
        # another program may have cut the file short since
        return self._file.read(offset, length).ljust(length, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        self._file.write(offset, data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _reason(error: OSError | OverflowError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
