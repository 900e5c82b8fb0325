"""INT 13h: floppy disk 00h and hard disks from 80h on, raw images; by cylinder, head and sector, and by EDD packets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from emu.devices.bios import bda
from emu.devices.bios.call import Call, Memory
from emu.disk_image import FLOPPIES, SECTOR, BlockImage, Geometry
from isa.x86.state import DS, ES, RAX, RBX, RCX, RDX, RSI

FLOPPY: Final = 0x00
FIRST: Final = 0x80

# Status bytes in AH (Phoenix, Enhanced Disk Drive Specification 3.0, and the AT technical reference).
_OK, _BAD_REQUEST, _WRITE_PROTECTED, _NOT_FOUND, _BOUNDARY, _UNKNOWN_MEDIA = 0x00, 0x01, 0x03, 0x04, 0x09, 0x0C
_PACKET: Final = 16  # bytes of a disk address packet, at least
_EDD_VERSION: Final = 0x21
_EDD_DISK_ACCESS: Final = 1 << 0
_NO_CHANGE_LINE, _FIXED = 1, 3  # what AH=15h tells of a drive
_FORMAT_FILL: Final = b"\xf6" * SECTOR
# Drive types of AH=08h by the sectors of the disk (IBM PS/2 BIOS): 360K, 1.2M, 720K, 1.44M, 2.88M.
_TYPES: Final = {720: 1, 2400: 2, 1440: 3, 2880: 4, 5760: 6}

Function = Callable[[Call, BlockImage], int | None]


class Disk:
    """The services of INT 13h; `drives` are the disks by number, none where the machine has no disk."""

    def __init__(self, memory: Memory, drives: Mapping[int, BlockImage]) -> None:
        self._memory = memory
        self.drives = dict(drives)
        both: dict[int, Function] = {
            0x00: self._nothing,  # reset
            0x02: self._read,
            0x03: self._write,
            0x04: self._verify,
            0x08: self._parameters,
            0x15: self._type,
        }
        self._floppy: dict[int, Function] = {
            **both,
            0x05: self._format,
            0x16: self._nothing,  # the disk has not been changed
            0x17: self._nothing,  # the media type for a format is the image's
            0x18: self._media_type,
        }
        self._fixed: dict[int, Function] = {
            **both,
            0x09: self._nothing,  # initialise the drive's parameters
            0x0C: self._seek,
            0x0D: self._nothing,  # reset, fixed disks only
            0x10: self._nothing,  # ready
            0x11: self._nothing,  # recalibrate
            0x14: self._nothing,  # controller diagnostic
            0x41: self._extensions,
            0x42: self._read_extended,
            0x43: self._write_extended,
            0x44: self._verify_extended,
            0x47: self._seek_extended,
            0x48: self._parameters_extended,
        }

    def call(self, call: Call) -> None:
        """Serve one INT 13h; the status goes to AH, carry, and 40:41 or 40:74."""
        number = call.low(RDX)
        kept = bda.DISK_STATUS if number & FIRST else bda.FLOPPY_STATUS
        if call.high(RAX) == 0x01:
            status = self._memory.read(kept, 1)
            call.set_high(RAX, status)
            call.carry(status != _OK)
            return
        function = (self._fixed if number & FIRST else self._floppy).get(call.high(RAX))
        image = self.drives.get(number)
        done = _BAD_REQUEST if function is None or image is None else function(call, image)
        self._memory.write(kept, 1, done or _OK)
        if done is not None:  # None: AH is the function's own
            call.set_high(RAX, done)
        call.carry(bool(done))

    def hard_disks(self) -> int:
        return sum(number >= FIRST for number in self.drives)

    def floppies(self) -> int:
        return len(self.drives) - self.hard_disks()

    def first(self) -> int | None:
        """The number of the drive to boot: the first that is signed 55 AA, the floppy before the hard disk."""
        return next((number for number in sorted(self.drives) if self.drives[number].boots()), None)

    def boot(self, at: int) -> int | None:
        """Read the first sector of the drive to boot to `at`; its number, or None without one."""
        number = self.first()
        if number is not None:
            self._memory.write_bytes(at, self.drives[number].read(0, 1))
        return number

    @staticmethod
    def _nothing(call: Call, image: BlockImage) -> int:
        """What a disk in memory has done before it is asked."""
        return _OK

    # -- cylinder, head, sector ---------------------------------------------------------------------------------

    @staticmethod
    def _place(call: Call, geometry: Geometry) -> int | None:
        """The block that CX and DH name, or None: no such track or sector."""
        cylinder = call.high(RCX) | (call.low(RCX) & 0xC0) << 2
        return geometry.block(cylinder, call.high(RDX), call.low(RCX) & 0x3F)

    def _by_track(self, call: Call, image: BlockImage, transfer: Callable[[BlockImage, int, int, int], int]) -> int:
        count = call.low(RAX)
        lba = self._place(call, image.geometry())
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

    def _seek(self, call: Call, image: BlockImage) -> int:
        geometry = image.geometry()
        cylinder = call.high(RCX) | (call.low(RCX) & 0xC0) << 2
        return _OK if geometry.block(cylinder, call.high(RDX), 1) is not None else _NOT_FOUND

    def _format(self, call: Call, image: BlockImage) -> int:
        """AH=05h: fill the track of CH and DH; the sectors' addresses at ES:BX are always the geometry's."""
        geometry = image.geometry()
        lba = geometry.block(call.high(RCX), call.high(RDX), 1)
        if lba is None or lba + geometry.sectors > image.sectors:
            return _NOT_FOUND
        if image.read_only:
            return _WRITE_PROTECTED
        image.write(lba, _FORMAT_FILL * geometry.sectors)
        return _OK

    def _parameters(self, call: Call, image: BlockImage) -> int:
        """AH=08h: the last cylinder, head and sector; a floppy's table in ES:DI comes from the ROM."""
        geometry, fixed = image.geometry(), bool(call.low(RDX) & FIRST)
        last = geometry.cylinders - 1
        call.set_word(RCX, (last & 0xFF) << 8 | last >> 8 << 6 | geometry.sectors)
        call.set_word(RDX, (geometry.heads - 1) << 8 | (self.hard_disks() if fixed else self.floppies()))
        call.set_word(RBX, call.word(RBX) & 0xFF00 if fixed else _TYPES.get(image.sectors, 4))
        call.set_low(RAX, 0)
        return _OK

    @staticmethod
    def _media_type(call: Call, image: BlockImage) -> int:
        """AH=18h: whether the drive takes a format of CH cylinders and CL sectors."""
        geometry = FLOPPIES.get(image.sectors)
        asked = call.high(RCX), call.low(RCX) & 0x3F
        fits = geometry is not None and asked == (geometry.cylinders - 1, geometry.sectors)
        return _OK if fits else _UNKNOWN_MEDIA

    @staticmethod
    def _type(call: Call, image: BlockImage) -> None:
        if not call.low(RDX) & FIRST:
            call.set_high(RAX, _NO_CHANGE_LINE)
            return
        call.set_high(RAX, _FIXED)  # its size is in CX:DX
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
        if self._memory.read(at, 1) < _PACKET:
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

    def _seek_extended(self, call: Call, image: BlockImage) -> int:
        at = call.address(DS, RSI)
        if self._memory.read(at, 1) < _PACKET:
            return _BAD_REQUEST
        return _OK if self._memory.read(at + 8, 8) < image.sectors else _NOT_FOUND

    def _parameters_extended(self, call: Call, image: BlockImage) -> int:
        at = call.address(DS, RSI)
        if self._memory.read(at, 2) < 26 or not self._memory.holds(at, 26):
            return _BAD_REQUEST
        shown = image.ata_geometry()  # the physical geometry, not that of the other functions (EDD 3.0, 8.10)
        geometry_valid = 1 << 1
        counts = (shown.cylinders, shown.heads, shown.sectors, image.sectors, SECTOR)
        answer = struct.pack("<HHIIIQH", 26, geometry_valid, *counts)
        self._memory.write_bytes(at, answer)
        return _OK
