"""The bytes of a disk: sectors over an image whose file stays untouched, and the geometries they are told in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECTOR: Final = 512
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
    """A raw disk image of 512-byte sectors; writes stay in memory and never reach the file it came from."""

    def __init__(self, data: bytes, read_only: bool = False) -> None:
        """A last sector that `data` fills in part reads as zeros behind it."""
        self._data = data
        self._written: dict[int, bytes] = {}
        self.read_only = read_only
        self.sectors = -(-len(data) // SECTOR)

    def read(self, lba: int, count: int) -> bytes:
        """`count` sectors from `lba` on; ValueError beyond the end."""
        self._check(lba, count)
        if not self._written:
            return self._data[lba * SECTOR : (lba + count) * SECTOR].ljust(count * SECTOR, b"\0")
        return b"".join(self._sector(number) for number in range(lba, lba + count))

    def write(self, lba: int, data: bytes) -> None:
        """Store whole sectors from `lba` on; ValueError beyond the end."""
        self._check(lba, len(data) // SECTOR)
        for number in range(len(data) // SECTOR):
            self._written[lba + number] = bytes(data[number * SECTOR : (number + 1) * SECTOR])

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

    def _sector(self, number: int) -> bytes:
        kept = self._written.get(number)
        return self._data[number * SECTOR : (number + 1) * SECTOR].ljust(SECTOR, b"\0") if kept is None else kept

    def _check(self, lba: int, count: int) -> None:
        if lba < 0 or count < 0 or lba + count > self.sectors:
            raise ValueError(f"sectors {lba}+{count} of a disk of {self.sectors}")
