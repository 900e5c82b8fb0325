"""The virtio block device (virtio 1.2, 5.2); a request is done when the driver's notification returns."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from emu.devices.virtio.queue import MAX_SIZE, Chain, RingError, VirtQueue
from emu.disk_image import SECTOR, BlockImage, DiskError

IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8  # request types (5.2.6)
OK, IOERR, UNSUPP = 0, 1, 2  # status

F_SEG_MAX, F_GEOMETRY, F_RO, F_BLK_SIZE, F_FLUSH = 1 << 2, 1 << 4, 1 << 5, 1 << 6, 1 << 9  # 5.2.3

_HEADER: Final = struct.Struct("<I4xQ")  # type, sector
_CONFIG: Final = struct.Struct("<QIIHBBI36x")  # capacity, size_max, seg_max, geometry, blk_size (5.2.4)
_ID_SIZE: Final = 20
_PIECE: Final = 2048  # sectors moved at a time, so that no request needs its size in host memory


class VirtioBlock:
    """A disk over `image`; `serial` is what GET_ID tells, 20 bytes of ASCII at most (ValueError)."""

    name = "virtio-blk"
    type = 2
    class_code = 0x010000
    queues = 1

    def __init__(self, image: BlockImage, serial: str = "VM00001") -> None:
        self.kick: Callable[[int], None] | None = None  # nothing comes but by requests
        self._image = image
        self._serial = serial.encode("ascii")
        if len(self._serial) > _ID_SIZE:
            raise ValueError(f"serial number {serial!r}: more than {_ID_SIZE} characters")
        self.features = F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_FLUSH | (F_RO if image.read_only else 0)
        self._requests: dict[int, Callable[[Chain, int], bool]] = {
            IN: self._in, OUT: self._out, FLUSH: self._flush, GET_ID: self._get_id,
        }  # fmt: skip

    def config(self) -> bytes:
        """Capacity in sectors, the most data buffers of a request, geometry and sector size."""
        geometry = self._image.ata_geometry()
        seg_max = MAX_SIZE - 2  # header and status take one each
        return _CONFIG.pack(
            self._image.sectors, 0, seg_max, geometry.cylinders, geometry.heads, geometry.sectors, SECTOR
        )

    def reset(self) -> None:
        """Nothing is kept between requests."""

    def service(self, number: int, queue: VirtQueue) -> None:
        """Do every request that waits; RingError where one has no room for its status."""
        for chain in queue.chains():
            if not chain.writable.left:
                raise RingError("a block request without room for its status")
            status = chain.writable.take_last()
            room = chain.writable.left
            result = self._request(chain)
            status.write(bytes((result,)))
            # The length counts from the first writable byte on (2.7.8.2): the status is in it only with all before it.
            stored = room - chain.writable.left
            queue.push(chain, stored if chain.writable.left else stored + 1)

    def _request(self, chain: Chain) -> int:
        if chain.readable.left < _HEADER.size:
            return IOERR
        kind, sector = _HEADER.unpack(chain.readable.read(_HEADER.size))
        request = self._requests.get(kind)
        if request is None:
            return UNSUPP
        try:
            return OK if request(chain, sector) else IOERR
        except DiskError:
            return IOERR

    def _fits(self, sector: int, length: int) -> bool:
        return not length % SECTOR and sector + length // SECTOR <= self._image.sectors

    def _in(self, chain: Chain, sector: int) -> bool:
        if not self._fits(sector, chain.writable.left):
            return False
        while count := min(chain.writable.left // SECTOR, _PIECE):
            chain.writable.write(self._image.read(sector, count))
            sector += count
        return True

    def _out(self, chain: Chain, sector: int) -> bool:
        if self._image.read_only or not self._fits(sector, chain.readable.left):
            return False
        while chain.readable.left:
            data = chain.readable.read(_PIECE * SECTOR)
            self._image.write(sector, data)
            sector += len(data) // SECTOR
        return True

    def _flush(self, chain: Chain, sector: int) -> bool:
        self._image.flush()
        return True

    def _get_id(self, chain: Chain, sector: int) -> bool:
        """The serial number, zero-filled to 20 bytes, without a terminator where it has them all (5.2.6)."""
        chain.writable.write(self._serial.ljust(_ID_SIZE, b"\0"))
        return True
