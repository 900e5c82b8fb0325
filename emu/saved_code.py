"""Keeps translations from one run to the next: one file a guest in a folder, read at the start, replaced at the end.

A file is named after the first bytes of the guest's image, so that runs of the same guest find each other's work; what
is in it is used only where the guest's memory holds the same bytes. A file that is damaged, or made by another vemu, is
as good as none. Files are written aside and renamed, so that neither a run that is killed nor two runs at once leave
half a file: the last one to end wins.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import platform
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

import zstandard

from emu.dbt.store import Translation, TranslationStore
from emu.errors import GuestFileError
from emu.garbage import not_collected
from emu.outfile import save

_MAGIC: Final = b"vemu translations\n"
_DIGEST: Final = 32
_SUFFIX: Final = ".translations"
_NAMED_AFTER: Final = 1 << 20  # bytes of the guest's image
_MOST_BYTES: Final = 512 << 20  # of a folder's files together; the ones unused for longest go first
_ABANDONED: Final = 3600  # seconds after which a draft belongs to a run that was killed
_WORTH: Final = 50  # a file is replaced where one in so many translations is new
_SOURCES: Final = ("isa/**/*.py", "emu/dbt/*.py", "emu/backends/*.py")


def default_folder() -> Path | None:
    """Where translations are kept by default: below XDG_CACHE_HOME (XDG Base Directory Specification).

    None where there can be no such folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "vemu" / "code"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter where nobody has a home
        return None
    return folder


@cache
def _fingerprint() -> bytes:
    """What translations depend on besides the guest: everything that makes them, and the interpreter's own format."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(f"{platform.python_implementation()} {marshal.version}".encode())
    for pattern in _SOURCES:
        for path in sorted(root.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.digest()


class SavedCode:
    """The translations of one guest in `folder`. `store` holds those of earlier runs, and takes this one's."""

    def __init__(self, folder: Path, image: bytes) -> None:
        """Raises GuestFileError where `folder` is no folder and cannot be made one."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GuestFileError(f"code cache {folder}: {error.strerror}") from error
        name = hashlib.sha256(len(image).to_bytes(8, "little") + image[:_NAMED_AFTER]).hexdigest()[:32]
        self.path = folder / (name + _SUFFIX)
        self.store = TranslationStore(_load(self.path))

    def save(self) -> None:
        """Replace the file where this run made much that it lacks; raises GuestFileError where that fails."""
        store = self.store
        if not store.made or store.made * _WORTH < store.loaded:
            with suppress(OSError):  # the time of the last use decides which files are given up
                os.utime(self.path)
            return
        kept = store.to_save()
        numbers = {key: number for number, key in enumerate(dict.fromkeys(translation.key for translation in kept))}
        runs = [(numbers[translation.key], translation.record()) for translation in kept]
        packed = zstandard.ZstdCompressor(level=1).compress(marshal.dumps((list(numbers), runs)))
        save(self.path, "code cache", _MAGIC + _fingerprint() + hashlib.sha256(packed).digest() + packed)
        _tidy(self.path)


def _load(path: Path) -> list[Translation]:
    """What a file holds, or nothing where it cannot be used."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    start = len(_MAGIC) + _DIGEST
    packed = data[start + _DIGEST :]
    if data[:start] != _MAGIC + _fingerprint() or data[start : start + _DIGEST] != hashlib.sha256(packed).digest():
        return []
    with not_collected():
        keys, runs = marshal.loads(zstandard.ZstdDecompressor().decompress(packed))
        return [Translation(keys[key], record) for key, record in runs]


def _tidy(latest: Path) -> None:
    """Remove what killed runs left, and the oldest files where all together are too large."""
    now, files = time.time(), []
    for path in latest.parent.iterdir():
        with suppress(OSError):
            status = path.stat()
            if path.name.startswith(".") and _SUFFIX in path.name:
                if now - status.st_mtime > _ABANDONED:
                    path.unlink()
            elif path.name.endswith(_SUFFIX):
                files.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > _MOST_BYTES and path != latest:
            with suppress(OSError):
                path.unlink()
