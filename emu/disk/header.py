"""The header of a qcow2 image, checked (QEMU's docs/interop/qcow2: "Header", "Header extensions" excepted)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from emu.disk.host import HostFile

MAGIC: Final = b"QFI\xfb"
AUTOCLEAR_AT: Final = 88  # file offsets of fields that writers change
REFCOUNT_TABLE_AT: Final = 48

_V2: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_V3: Final = struct.Struct(">QQQII")
_SMALLEST_CLUSTER, _LARGEST_CLUSTER = 9, 21  # bits; no more than QEMU takes
_MOST_L1: Final = 32 << 20  # bytes, as in QEMU
_MOST_REFCOUNT_TABLE: Final = 8 << 20
_MOST_NAME: Final = 1023

DIRTY, CORRUPT = 1 << 0, 1 << 1  # incompatible features
_REFUSED: Final = {
    1 << 2: "an external data file",
    1 << 3: "a compression other than zlib",
    1 << 4: "extended L2 entries",
}
_ENCRYPTIONS: Final = {1: "AES", 2: "LUKS"}


@dataclass(frozen=True, slots=True)
class Header:
    """What reading and writing need of the header: numbers of bytes, file offsets, and counts of entries."""

    version: int
    cluster_bits: int
    size: int
    l1_size: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    incompatible: int
    autoclear: int
    refcount_order: int

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits


def read_header(file: HostFile) -> Header:
    """The header of `file`; GuestFileError where it is malformed or asks for what is not here."""
    raw = file.read(0, _V2.size + _V3.size)
    if len(raw) < _V2.size:
        raise file.error(f"truncated: a qcow2 header needs {_V2.size} bytes, but the file has {len(raw)}")
    (
        magic, version, backing_offset, backing_size, cluster_bits, size, crypt, l1_size, l1_offset,
        table_offset, table_clusters, _snapshots, _snapshots_offset,
    ) = _V2.unpack_from(raw)  # fmt: skip
    if magic != MAGIC:
        raise file.error("no qcow2 image: it does not begin with its signature")
    if version not in (2, 3):
        raise file.error(f"qcow2 version {version}: only versions 2 and 3 can be read")
    incompatible = autoclear = 0
    order = 4
    if version == 3:
        if len(raw) < _V2.size + _V3.size:
            raise file.error(
                f"truncated: a qcow2 header needs {_V2.size + _V3.size} bytes, but the file has {len(raw)}"
            )
        incompatible, _, autoclear, order, length = _V3.unpack_from(raw, _V2.size)
        if length < _V2.size + _V3.size:
            raise file.error(f"qcow2 header of {length} bytes: version 3 has at least {_V2.size + _V3.size}")
    if not _SMALLEST_CLUSTER <= cluster_bits <= _LARGEST_CLUSTER:
        raise file.error(f"qcow2 clusters of 2^{cluster_bits} bytes: they can have 2^9 to 2^21")
    for bit, what in _REFUSED.items():
        if incompatible & bit:
            raise file.error(f"the qcow2 image uses {what}, which cannot be read here ('qemu-img convert' can)")
    if unknown := incompatible & ~(DIRTY | CORRUPT):
        raise file.error(f"the qcow2 image uses unknown incompatible features {unknown:#x}")
    if crypt:
        raise file.error(f"the qcow2 image is encrypted ({_ENCRYPTIONS.get(crypt, f'method {crypt}')})")
    if backing_offset:
        name = file.read(backing_offset, min(backing_size, _MOST_NAME)).decode("utf-8", "backslashreplace")
        raise file.error(f"the qcow2 image is a layer over {name!r}, and backing files cannot be read here")
    header = Header(
        version, cluster_bits, size, l1_size, l1_offset, table_offset, table_clusters, incompatible, autoclear, order
    )
    _check(file, header)
    return header


def _check(file: HostFile, header: Header) -> None:
    """Whether the tables can be where the header says, and are large enough."""
    if header.size >> 63:
        raise file.error(f"a qcow2 disk of {header.size} bytes, more than a file offset can tell")
    if header.refcount_order > 6:
        raise file.error(f"qcow2 reference counts of 2^{header.refcount_order} bits: they have 64 at most")
    covered = header.cluster_bits * 2 - 3  # an L1 entry stands for 2^covered bytes
    needed = -(-header.size >> covered) if header.size else 0
    if header.l1_size < needed:
        raise file.error(f"qcow2 L1 table of {header.l1_size} entries: the disk's size needs {needed}")
    if header.l1_size * 8 > _MOST_L1:
        raise file.error(f"qcow2 L1 table of {header.l1_size} entries: more than {_MOST_L1 // 8}")
    if header.refcount_table_clusters << header.cluster_bits > _MOST_REFCOUNT_TABLE:
        raise file.error(f"qcow2 refcount table of {header.refcount_table_clusters} clusters: too large")
    tables = (("L1 table", header.l1_offset), ("refcount table", header.refcount_table_offset))
    for name, offset in tables:
        if offset % header.cluster_size:
            raise file.error(f"qcow2 {name} at {offset:#x}, where no cluster begins")
    if header.l1_size and (header.l1_offset == 0 or header.l1_offset + 8 * needed > file.size):
        raise file.error(
            f"truncated: the qcow2 L1 table needs {8 * needed} bytes at {header.l1_offset:#x}, "
            f"but the file has {file.size}"
        )
