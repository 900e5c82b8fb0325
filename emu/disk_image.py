"""The sectors of a disk over whatever holds its bytes, and the geometries they are told in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emu.disk.header import MAGIC
from emu.disk.host import SECTOR, HostFile, RawImage
from emu.disk.qcow2 import Qcow2Image
from emu.disk.store import Constant, DiskError, Overlay, Store

__all__ = ("FLOPPIES", "FORMATS", "SECTOR", "SIGNATURE", "BlockImage", "DiskError", "Geometry", "open_disk")

FORMATS: Final = ("raw", "qcow2")
SIGNATURE: Final = b"\x55\xaa"  # the last two bytes of a sector that boots

_PARTITIONS: Final = 0x1BE  # four rows of 16 bytes; byte 5 is the last head, byte 6 the last sector
_ROW_SIZE: Final = 16
_HEADS, _SECTORS = 16, 63  # most that ATA's registers (heads) and the BIOS's (sectors) can name
_ATA_CYLINDERS, _BIOS_CYLINDERS, _BIOS_HEADS = 16383, 1024, 255


@dataclass(frozen=True, slots=True)
class Geometry:
    """Cylinders, heads (each from 0) and sectors a track (from 1)."""

    cylinders: int
    heads: int
    sectors: int

    def block(self, cylinder: int, head: int, sector: int) -> int | None:
        """The block number of a sector; None where the geometry has no such one."""
        if cylinder >= self.cylinders or head >= self.heads or not 1 <= sector <= self.sectors:
            return None
        return (cylinder * self.heads + head) * self.sectors + sector - 1


# The formats of floppy disks by their number of sectors.
FLOPPIES: Final = {
    320: Geometry(40, 1, 8), 360: Geometry(40, 1, 9), 640: Geometry(40, 2, 8), 720: Geometry(40, 2, 9),
    1440: Geometry(80, 2, 9), 2400: Geometry(80, 2, 15), 2880: Geometry(80, 2, 18), 3360: Geometry(80, 2, 21),
    3444: Geometry(82, 2, 21), 5760: Geometry(80, 2, 36),
}  # fmt: skip


class BlockImage:
    """A disk of 512-byte sectors.

    Bytes given as such stay as they are: what is written is kept in memory. A store decides that for itself.
    """

    def __init__(self, data: bytes | Store, read_only: bool = False) -> None:
        """A last sector that `data` fills in part reads as zeros behind it; `read_only` is what guests are told."""
        self._store: Store = (
            Overlay(Constant(data, -(-len(data) // SECTOR) * SECTOR)) if isinstance(data, bytes) else data
        )
        self.read_only = read_only
        self.sectors = self._store.size // SECTOR

    def read(self, lba: int, count: int) -> bytes:
        """`count` sectors from `lba` on; ValueError beyond the end, DiskError where the image cannot be read."""
        self._check(lba, count)
        return self._store.read(lba * SECTOR, count * SECTOR)

    def write(self, lba: int, data: bytes) -> None:
        """Store whole sectors from `lba` on; ValueError beyond the end, DiskError where the image takes no more."""
        count = len(data) // SECTOR
        self._check(lba, count)
        self._store.write(lba * SECTOR, data if len(data) == count * SECTOR else data[: count * SECTOR])

    def flush(self) -> None:
        """Have everything written reach the host's medium where writes go to a file; DiskError where it fails."""
        self._store.flush()

    def close(self) -> None:
        """Let go of the file, where there is one, before the last reference does; nothing can be read after that."""
        self._store.close()

    def is_floppy(self) -> bool:
        """True where the image has exactly the size of a floppy disk."""
        return self.sectors in FLOPPIES

    def boots(self) -> bool:
        """True where the first sector is signed."""
        return self.sectors > 0 and self.read(0, 1).endswith(SIGNATURE)

    def ata_geometry(self) -> Geometry:
        """What an ATA disk of this size tells of itself (ATA-5, 6.2.1)."""
        return Geometry(min(_ATA_CYLINDERS, max(1, self.sectors // (_HEADS * _SECTORS))), _HEADS, _SECTORS)

    def geometry(self) -> Geometry:
        """How a BIOS names the sectors: as the floppy of this size, or as a hard disk.

        A hard disk's partition table says how the system that wrote it counted; a disk without one gets as many heads
        as make its cylinders fit INT 13h (the "assisted LBA" translation of the EDD specification 3.0, annex A).
        """
        floppy = FLOPPIES.get(self.sectors)
        if floppy is not None:
            return floppy
        heads, sectors = self._partitioned() or (self._assisted_heads(), _SECTORS)
        cylinders = max(1, -(-self.sectors // (heads * sectors)))
        return Geometry(min(_BIOS_CYLINDERS, cylinders), heads, sectors)

    def _assisted_heads(self) -> int:
        heads = _HEADS
        while heads < 128 and self.sectors > _BIOS_CYLINDERS * heads * _SECTORS:
            heads *= 2
        return heads if self.sectors <= _BIOS_CYLINDERS * heads * _SECTORS else _BIOS_HEADS

    def _partitioned(self) -> tuple[int, int] | None:
        """Heads and sectors a track as the first partition's end tells them, since partitions end with a cylinder.

        Programs that do not care write FEh/FFh/FFh there, which gives the 255 heads that they mean.
        """
        if not self.boots():
            return None
        table = self.read(0, 1)[_PARTITIONS:-2]
        rows = [table[at : at + _ROW_SIZE] for at in range(0, len(table), _ROW_SIZE)]
        if any(row[0] & 0x7F for row in rows):
            return None  # code or text, no partition table
        for row in rows:
            heads, sectors = row[5] + 1, row[6] & 0x3F
            start, length = int.from_bytes(row[8:12], "little"), int.from_bytes(row[12:16], "little")
            if row[4] and length and 0 < start < self.sectors and 1 < heads <= _BIOS_HEADS and sectors:
                return heads, sectors
        return None

    def _check(self, lba: int, count: int) -> None:
        if lba < 0 or count < 0 or lba + count > self.sectors:
            raise ValueError(f"sectors {lba}+{count} of a disk of {self.sectors}")


def open_disk(
    path: str | Path, *, writable: bool = False, read_only: bool = False, format: str | None = None
) -> BlockImage:
    """The disk in a file (or block device), of which only what is asked for is read.

    What a guest writes stays in memory, or with `writable` goes to the file at once; `read_only` has guests told that
    they cannot write. `format` is one of FORMATS; None takes qcow2 where the file begins with its signature, else raw.
    GuestFileError where the file cannot be opened, is in use by a writer (or by anybody, for a writer), is malformed,
    or asks for what is not here: backing files, encryption, other compression than zlib. ValueError: no such format.
    """
    if format not in (None, *FORMATS):
        raise ValueError(f"disk image format {format!r}: {' or '.join(FORMATS)}")
    file = HostFile(path, writable)
    if format is None:
        format = "qcow2" if file.read(0, len(MAGIC)) == MAGIC else "raw"
    store: Store = Qcow2Image(file, writable) if format == "qcow2" else RawImage(file)
    return BlockImage(store if writable else Overlay(store), read_only)
