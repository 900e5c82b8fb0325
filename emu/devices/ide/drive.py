"""One ATA disk: its task file, where a command's sectors lie, and what it tells of itself (T13 1410D, ATA/ATAPI-6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from emu.clock import Alarm
from emu.disk_image import SECTOR, BlockImage

# Status (7.15) and Error (7.9).
BSY, DRDY, DSC, DRQ, ERR = 0x80, 0x40, 0x10, 0x08, 0x01
READY: Final = DRDY | DSC
IDNF, ABRT = 0x10, 0x04
PASSED: Final = 0x01  # the diagnostic code (9.10) that reset leaves in Error
# Device (7.7): the address is a block number; the second drive; bits 7 and 5, obsolete, read as ones.
LBA, DEV, DEVICE_BITS = 0x40, 0x10, 0xA0
# Offsets in the command block.
DATA, ERROR, COUNT, LOW, MID, HIGH, DEVICE, STATUS = range(8)

MAX_MULTIPLE: Final = 16  # sectors a block of READ MULTIPLE at most
MODEL: Final = "VEMU HARDDISK"
FIRMWARE: Final = "1.0"
_LBA28: Final = (1 << 28) - 1


@dataclass(slots=True)
class Transfer:
    """A command's data still to come: `left` sectors from `lba` on, `block` at a time."""

    lba: int
    left: int
    block: int
    writes: bool
    wide: bool  # a 48-bit command


@dataclass(slots=True)
class Drive:
    """A disk's state.

    Count, LBA low, mid and high are two deep (6.20): `current` holds what was written last, `previous` what stood there
    before. `heads` and `sectors` are the CHS translation in force, `multiple` the block of READ MULTIPLE (0: none set).
    `pending` is what the drive is busy with until guest time `due` (ns).
    """

    image: BlockImage
    number: int
    status: int = READY
    error: int = PASSED
    features: int = 0
    current: dict[int, int] = field(default_factory=lambda: dict.fromkeys((COUNT, LOW, MID, HIGH), 0))
    previous: dict[int, int] = field(default_factory=lambda: dict.fromkeys((COUNT, LOW, MID, HIGH), 0))
    interrupt: bool = False
    heads: int = 16
    sectors: int = 63
    multiple: int = 0
    write_cache: bool = True
    look_ahead: bool = True
    buffer: bytearray = field(default_factory=bytearray)
    at: int = 0  # how far the host has come in the buffer
    transfer: Transfer | None = None
    pending: Callable[[Drive], None] | None = None
    due: int = 0
    alarm: Alarm | None = None

    def sign(self) -> None:
        """The signature of an ATA disk (9.12)."""
        self.error = PASSED
        self.current.update({COUNT: 1, LOW: 1, MID: 0, HIGH: 0})
        self.previous.update(dict.fromkeys(self.previous, 0))

    # -- addresses ---------------------------------------------------------------------------------------------

    def count(self, wide: bool) -> int:
        """Sectors that a command asks for; 0 means 256, or 65536 for a 48-bit command."""
        if wide:
            return self.previous[COUNT] << 8 | self.current[COUNT] or 0x10000
        return self.current[COUNT] or 0x100

    def place(self, device: int, wide: bool) -> int | None:
        """The block that the registers name, or None where the CHS translation has no such sector."""
        low, mid, high = (self.current[at] for at in (LOW, MID, HIGH))
        if wide:
            above = self.previous[HIGH] << 16 | self.previous[MID] << 8 | self.previous[LOW]
            return above << 24 | high << 16 | mid << 8 | low
        if device & LBA:
            return (device & 0x0F) << 24 | high << 16 | mid << 8 | low
        head = device & 0x0F
        if head >= self.heads or not 1 <= low <= self.sectors:
            return None
        return ((high << 8 | mid) * self.heads + head) * self.sectors + low - 1

    def show(self, lba: int, device: int, wide: bool) -> int:
        """Put a block's address into the registers, as after an error; gives the Device register with it."""
        if wide:
            for register, shift in ((LOW, 0), (MID, 8), (HIGH, 16)):
                self.current[register], self.previous[register] = lba >> shift & 0xFF, lba >> shift + 24 & 0xFF
            return device
        if device & LBA:
            top, fields = lba >> 24 & 0x0F, (lba, lba >> 8, lba >> 16)
        else:
            track, sector = divmod(lba, self.sectors)
            cylinder, top = divmod(track, self.heads)
            fields = (sector + 1, cylinder, cylinder >> 8)
        for register, value in zip((LOW, MID, HIGH), fields, strict=True):
            self.current[register] = value & 0xFF
        return device & ~0x0F | top

    # -- IDENTIFY DEVICE ---------------------------------------------------------------------------------------

    def identity(self) -> bytes:
        """The 512 bytes of IDENTIFY DEVICE (8.15, table 27)."""
        words = [0] * 256
        default, total = self.image.ata_geometry(), self.image.sectors
        words[0] = 0x0040  # an ATA device with a fixed medium
        words[1], words[3], words[6] = default.cylinders, default.heads, default.sectors
        words[47] = 0x8000 | MAX_MULTIPLE
        words[48] = 1  # the data register takes double words (ATA-2 and earlier)
        words[49] = 1 << 11 | 1 << 9  # IORDY, LBA; no DMA
        words[50] = 1 << 14
        words[51] = 2 << 8  # PIO mode 2 timing
        words[53] = 0b011  # words 54-58 and 64-70 are valid, word 88 (Ultra DMA) is not
        cylinders = min(0xFFFF, total // (self.heads * self.sectors))
        words[54], words[55], words[56] = cylinders, self.heads, self.sectors
        words[57], words[58] = _split(cylinders * self.heads * self.sectors)
        words[59] = 1 << 8 | self.multiple if self.multiple else 0
        words[60], words[61] = _split(min(total, _LBA28))
        words[64] = 0b11  # PIO modes 3 and 4
        words[65] = words[66] = words[67] = words[68] = 120  # cycle times in ns
        words[80] = 0b111_1110  # ATA-1 to ATA/ATAPI-6
        power, cache, ahead, nop = 1 << 3, 1 << 5, 1 << 6, 1 << 14
        flush, flush48, wide = 1 << 12, 1 << 13, 1 << 10
        words[82] = nop | ahead | cache | power
        words[83] = 1 << 14 | flush48 | flush | wide
        words[84] = words[87] = 1 << 14
        words[85] = nop | power | (cache if self.write_cache else 0) | (ahead if self.look_ahead else 0)
        words[86] = flush48 | flush | wide
        words[93] = 0x6001 if self.number == 0 else 0x6100  # passed, the number set by a jumper
        for at in range(4):
            words[100 + at] = total >> 16 * at & 0xFFFF
        raw = bytearray(b"".join(word.to_bytes(2, "little") for word in words))
        for first, length, text in ((10, 20, f"VM{self.number + 1:05}"), (23, 8, FIRMWARE), (27, 40, MODEL)):
            raw[first * 2 : first * 2 + length] = _text(text, length)
        raw[510] = 0xA5  # word 255: the checksum makes all bytes add up to 0
        raw[511] = -sum(raw) & 0xFF
        return bytes(raw)

    def load(self, data: bytes) -> None:
        """Fill the buffer for the host to read."""
        self.buffer, self.at = bytearray(data), 0

    def expect(self, sectors: int) -> None:
        """Empty the buffer for the host to fill."""
        self.buffer, self.at = bytearray(sectors * SECTOR), 0


def _split(value: int) -> tuple[int, int]:
    """A double word as two words, the low one first."""
    return value & 0xFFFF, value >> 16 & 0xFFFF


def _text(text: str, length: int) -> bytes:
    """ATA strings hold the first character of each pair in the high byte (table 27, note)."""
    raw = text.ljust(length).encode("ascii")
    return b"".join(raw[at : at + 2][::-1] for at in range(0, length, 2))
