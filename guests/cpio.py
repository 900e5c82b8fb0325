"""Writes a cpio archive of the `newc` kind, the form in which Linux takes an initramfs.

The layout is that of Documentation/driver-api/early-userspace/buffer-format.rst: for each entry a header of ASCII
hexadecimal fields, the name and the content, each padded to 4 bytes.
"""

from __future__ import annotations

import stat

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


class Archive:
    """An archive in memory; everything in it belongs to root and has time stamp 0, so that equal content gives equal
    bytes. Folders must be added before what lies in them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def folder(self, path: str, mode: int = 0o755) -> None:
        self._add(path, stat.S_IFDIR | mode)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._add(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """A symbolic link to `target`."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._add(path, stat.S_IFCHR | mode, b"", (major, minor))

    def data(self) -> bytes:
        """The whole archive with its end mark."""
        return b"".join(self._parts) + _entry(_TRAILER, 0, 0, b"", (0, 0))

    def _add(self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        self._parts.append(_entry(path.lstrip("/"), self._count, mode, data, device))


def _entry(path: str, inode: int, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    name = path.encode() + b"\0"
    links, owner, group, when, checksum = (2 if stat.S_ISDIR(mode) else 1), 0, 0, 0, 0
    fields = (inode, mode, links, owner, group, when, len(data), 0, 0, *device, len(name), checksum)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
