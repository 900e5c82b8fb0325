"""INT 13h: one hard disk, 80h, over a raw image; by cylinder, head and sector, and by the EDD extensions."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from emu.devices.bios import bda
from emu.devices.bios.call import Call, Memory
from isa.x86.state import DS, ES, RAX, RBX, RCX, RDX, RSI

SECTOR: Final = 512
FIRST: Final = 0x80

# Status bytes in AH (Phoenix, Enhanced Disk Drive Specification 3.0, and the AT technical reference).
_OK, _BAD_REQUEST, _WRITE_PROTECTED, _NOT_FOUND, _BOUNDARY = 0x00, 0x01, 0x03, 0x04, 0x09
_EDD_VERSION: Final = 0x21
_EDD_DISK_ACCESS: Final = 1 << 0

# Sizes in sectors of the floppy disks whose geometry a boot sector may have built in: cylinders, heads, sectors.
_FLOPPIES: Final = {720: (40, 2, 9), 1440: (80, 2, 9), 2400: (80, 2, 15), 2880: (80, 2, 18), 5760: (80, 2, 36)}
_HEADS, _SECTORS, _CYLINDERS = 16, 63, 1024


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

    def geometry(self) -> tuple[int, int, int]:
        """Cylinders, heads and sectors a track."""
        if self.sectors in _FLOPPIES:
            return _FLOPPIES[self.sectors]
        return min(_CYLINDERS, max(1, -(-self.sectors // (_HEADS * _SECTORS)))), _HEADS, _SECTORS

    def _sector(self, number: int) -> bytes:
        kept = self._written.get(number)
        return self._data[number * SECTOR : (number + 1) * SECTOR].ljust(SECTOR, b"\0") if kept is None else kept

    def _check(self, lba: int, count: int) -> None:
        if lba < 0 or count < 0 or lba + count > self.sectors:
            raise ValueError(f"sectors {lba}+{count} of a disk of {self.sectors}")


class Disk:
    """The services of INT 13h; `image` None is a machine without a disk."""

    def __init__(self, memory: Memory, image: BlockImage | None) -> None:
        self._memory = memory
        self.image = image
        self._functions: dict[int, Callable[[Call, BlockImage], int | None]] = {
            0x00: lambda call, image: _OK,  # reset
            0x02: self._read,
            0x03: self._write,
            0x04: self._verify,
            0x08: self._parameters,
            0x0D: lambda call, image: _OK,  # reset, fixed disks only
            0x15: self._type,
            0x41: self._extensions,
            0x42: self._read_extended,
            0x43: self._write_extended,
            0x44: self._verify_extended,
            0x48: self._parameters_extended,
        }

    def call(self, call: Call) -> None:
        """Serve one INT 13h; the status goes to AH, carry and 40:74. None as status: AH is the function's own."""
        if call.high(RAX) == 0x01:
            status = self._memory.read(bda.DISK_STATUS, 1)
            call.set_high(RAX, status)
            call.carry(status != _OK)
            return
        function = self._functions.get(call.high(RAX))
        if function is None or self.image is None or call.low(RDX) != FIRST:
            self._finish(call, _BAD_REQUEST)
        else:
            self._finish(call, function(call, self.image))

    def boot(self, at: int) -> bool:
        """Read the first sector to `at`; False without a disk whose first sector is signed 55 AA."""
        if self.image is None or self.image.sectors == 0:
            return False
        sector = self.image.read(0, 1)
        if sector[-2:] != b"\x55\xaa":
            return False
        self._memory.write_bytes(at, sector)
        return True

    def _finish(self, call: Call, status: int | None) -> None:
        self._memory.write(bda.DISK_STATUS, 1, status or _OK)
        if status is not None:
            call.set_high(RAX, status)
        call.carry(bool(status))

    # -- cylinder, head, sector ---------------------------------------------------------------------------------

    def _place(self, call: Call, image: BlockImage) -> int | None:
        """The block that CX and DH name, or None: no such track or sector."""
        cylinders, heads, sectors = image.geometry()
        cylinder = call.high(RCX) | (call.low(RCX) & 0xC0) << 2
        head, sector = call.high(RDX), call.low(RCX) & 0x3F
        if cylinder >= cylinders or head >= heads or not 1 <= sector <= sectors:
            return None
        return (cylinder * heads + head) * sectors + sector - 1

    def _by_track(self, call: Call, image: BlockImage, transfer: Callable[[BlockImage, int, int, int], int]) -> int:
        count = call.low(RAX)
        lba = self._place(call, image)
        if count == 0:
            return _BAD_REQUEST
        status = _NOT_FOUND if lba is None else transfer(image, lba, count, call.address(ES, RBX))
        if status:
            call.set_low(RAX, 0)  # sectors transferred
        return status

    def _read(self, call: Call, image: BlockImage) -> int:
        return self._by_track(call, image, self._to_memory)

    def _write(self, call: Call, image: BlockImage) -> int:
        return self._by_track(call, image, self._to_disk)

    def _verify(self, call: Call, image: BlockImage) -> int:
        return self._by_track(call, image, self._compare)

    def _to_memory(self, image: BlockImage, lba: int, count: int, address: int) -> int:
        status = self._compare(image, lba, count, address)
        if status == _OK:
            self._memory.write_bytes(address, image.read(lba, count))
        return status

    def _to_disk(self, image: BlockImage, lba: int, count: int, address: int) -> int:
        if image.read_only:
            return _WRITE_PROTECTED
        status = self._compare(image, lba, count, address)
        if status == _OK:
            image.write(lba, self._memory.read_bytes(address, count * SECTOR))
        return status

    def _compare(self, image: BlockImage, lba: int, count: int, address: int) -> int:
        """Whether the sectors and the buffer exist; a medium in memory has no bad sectors."""
        if lba + count > image.sectors:
            return _NOT_FOUND
        return _OK if self._memory.holds(address, count * SECTOR) else _BOUNDARY

    def _parameters(self, call: Call, image: BlockImage) -> int:
        cylinders, heads, sectors = image.geometry()
        last = cylinders - 1
        call.set_word(RCX, (last & 0xFF) << 8 | last >> 8 << 6 | sectors)
        call.set_word(RDX, (heads - 1) << 8 | 1)
        call.set_word(RBX, call.word(RBX) & 0xFF00)
        call.set_low(RAX, 0)
        return _OK

    def _type(self, call: Call, image: BlockImage) -> None:
        call.set_high(RAX, 3)  # fixed disk; its size is in CX:DX
        call.set_word(RCX, min(image.sectors, 0xFFFFFFFF) >> 16)
        call.set_word(RDX, min(image.sectors, 0xFFFFFFFF))

    # -- Enhanced Disk Drive extensions -------------------------------------------------------------------------

    def _extensions(self, call: Call, image: BlockImage) -> int | None:
        if call.word(RBX) != 0x55AA:
            return _BAD_REQUEST
        call.set_word(RBX, 0xAA55)
        call.set_high(RAX, _EDD_VERSION)
        call.set_word(RCX, _EDD_DISK_ACCESS)
        return None

    def _by_packet(self, call: Call, image: BlockImage, transfer: Callable[[BlockImage, int, int, int], int]) -> int:
        """Serve a disk address packet at DS:SI: size, 0, blocks, buffer offset and segment, 64-bit block number."""
        at = call.address(DS, RSI)
        if self._memory.read(at, 1) < 16:
            return _BAD_REQUEST
        count, offset, segment = (self._memory.read(at + field, 2) for field in (2, 4, 6))
        status = transfer(image, self._memory.read(at + 8, 8), count, (segment << 4) + offset)
        if status:
            self._memory.write(at + 2, 2, 0)  # blocks transferred
        return status

    def _read_extended(self, call: Call, image: BlockImage) -> int:
        return self._by_packet(call, image, self._to_memory)

    def _write_extended(self, call: Call, image: BlockImage) -> int:
        return self._by_packet(call, image, self._to_disk)

    def _verify_extended(self, call: Call, image: BlockImage) -> int:
        return self._by_packet(call, image, self._compare)

    def _parameters_extended(self, call: Call, image: BlockImage) -> int:
        at = call.address(DS, RSI)
        if self._memory.read(at, 2) < 26 or not self._memory.holds(at, 26):
            return _BAD_REQUEST
        cylinders, heads, sectors = image.geometry()
        geometry_valid = 1 << 1
        answer = struct.pack("<HHIIIQH", 26, geometry_valid, cylinders, heads, sectors, image.sectors, SECTOR)
        self._memory.write_bytes(at, answer)
        return _OK
