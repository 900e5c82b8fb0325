"""What an ATA disk's commands do (ATA/ATAPI-6, T13 1410D, chapter 8); those that are not here it aborts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from emu.devices.ide.drive import (
    ABRT,
    COUNT,
    DRQ,
    ERR,
    IDNF,
    LBA,
    MAX_MULTIPLE,
    READY,
    Drive,
    Transfer,
)
from emu.disk_image import SECTOR

_TRANSFER_MODES: Final = frozenset((0x00, 0x01, *range(0x08, 0x0D)))  # PIO; for SET FEATURES 03h (table 45)

# The data commands (8.26 to 8.62): writes, 48-bit, a block of SET MULTIPLE at a time.
_TRANSFERS: Final = {
    0x20: (False, False, False), 0x21: (False, False, False), 0x24: (False, True, False),
    0x29: (False, True, True), 0xC4: (False, False, True),
    0x30: (True, False, False), 0x31: (True, False, False), 0x34: (True, True, False), 0x3C: (True, False, False),
    0x39: (True, True, True), 0xC5: (True, False, True),
}  # fmt: skip
# Commands a disk without a motor and without a cache that could be lost has done at once: power modes, FLUSH CACHE.
_NOTHING_TO_DO: Final = (0xE0, 0xE1, 0xE2, 0xE3, 0xE6, 0x94, 0x95, 0x96, 0x97, 0x99, 0xE7, 0xEA)


class Channel(Protocol):
    """What a command needs of the channel: the Device register, time, and the interrupt."""

    device: int

    def busy(self, drive: Drive, then: Callable[[Drive], None]) -> None: ...

    def interrupt(self, drive: Drive) -> None: ...


class Commands:
    """Runs the commands of a channel's drives."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._code = 0
        self._commands: dict[int, Callable[[Drive], None]] = {
            **dict.fromkeys(range(0x10, 0x20), self._done),  # RECALIBRATE (ATA-3, 7.15)
            **dict.fromkeys(range(0x70, 0x80), self._seek),
            **dict.fromkeys(_NOTHING_TO_DO, self._done),
            **dict.fromkeys(_TRANSFERS, self._begin),
            **dict.fromkeys((0x40, 0x41, 0x42), self._verify),
            0x91: self._set_translation,
            0x98: self._tell_power,
            0xC6: self._set_multiple,
            0xE5: self._tell_power,
            0xEC: self._identify,
            0xEF: self._set_features,
        }

    def start(self, drive: Drive, code: int) -> None:
        """Begin command `code` on a drive that is not busy."""
        self._code = code
        self._commands.get(code, self._abort)(drive)

    def _done(self, drive: Drive) -> None:
        """Be busy, then be done: a command without data."""
        self._channel.busy(drive, self._complete)

    def _complete(self, drive: Drive) -> None:
        drive.status = READY
        self._channel.interrupt(drive)

    def _abort(self, drive: Drive) -> None:
        self._channel.busy(drive, partial(self._fail, error=ABRT))

    def _fail(self, drive: Drive, error: int) -> None:
        drive.status, drive.error, drive.transfer = READY | ERR, error, None
        self._channel.interrupt(drive)

    def _not_found(self, drive: Drive, lba: int, wide: bool) -> None:
        """No such sector; the registers tell which (8.27.5)."""
        self._channel.device = drive.show(lba, self._channel.device, wide)
        self._fail(drive, IDNF)

    def _identify(self, drive: Drive) -> None:
        def answer(drive: Drive) -> None:
            drive.load(drive.identity())
            drive.status = READY | DRQ
            self._channel.interrupt(drive)

        self._channel.busy(drive, answer)

    def _seek(self, drive: Drive) -> None:
        lba = drive.place(self._channel.device, wide=False)
        if lba is None or lba >= drive.image.sectors:
            self._channel.busy(drive, partial(self._fail, error=IDNF))
        else:
            self._done(drive)

    def _tell_power(self, drive: Drive) -> None:
        drive.current[COUNT] = 0xFF  # active or idle (8.6)
        self._done(drive)

    def _set_translation(self, drive: Drive) -> None:
        """INITIALIZE DEVICE PARAMETERS (ATA-5, 8.16): sectors a track in Count, the last head in Device."""
        if not drive.current[COUNT]:
            self._abort(drive)
            return
        drive.heads, drive.sectors = (self._channel.device & 0x0F) + 1, drive.current[COUNT]
        self._done(drive)

    def _set_multiple(self, drive: Drive) -> None:
        count = drive.current[COUNT]
        if count > MAX_MULTIPLE or count & count - 1:
            drive.multiple = 0
            self._abort(drive)
            return
        drive.multiple = count
        self._done(drive)

    def _set_features(self, drive: Drive) -> None:
        match drive.features:
            case 0x02 | 0x82:
                drive.write_cache = drive.features == 0x02
            case 0xAA | 0x55:
                drive.look_ahead = drive.features == 0xAA
            case 0x66 | 0xCC:
                pass  # whether a software reset reverts to defaults: it reverts nothing that matters here
            case 0x03 if drive.current[COUNT] in _TRANSFER_MODES:
                pass  # the port has no cycle times
            case _:
                self._abort(drive)
                return
        self._done(drive)

    def _verify(self, drive: Drive) -> None:
        wide = self._code == 0x42
        lba, count = drive.place(self._channel.device, wide), drive.count(wide)
        if lba is None:
            self._channel.busy(drive, partial(self._fail, error=IDNF))
        elif lba + count > drive.image.sectors:
            self._channel.busy(drive, partial(self._not_found, lba=max(lba, drive.image.sectors), wide=wide))
        else:
            self._done(drive)

    # -- sectors -----------------------------------------------------------------------------------------------

    def _begin(self, drive: Drive) -> None:
        writes, wide, multiple = _TRANSFERS[self._code]
        if (
            (multiple and not drive.multiple)
            or (writes and drive.image.read_only)
            or (wide and not self._channel.device & LBA)
        ):
            self._abort(drive)
            return
        lba = drive.place(self._channel.device, wide)
        if lba is None:
            self._channel.busy(drive, partial(self._fail, error=IDNF))
            return
        drive.transfer = Transfer(lba, drive.count(wide), drive.multiple if multiple else 1, writes, wide)
        if not writes:
            self._channel.busy(drive, self.next_read)
        elif self._fits(drive, drive.transfer):
            self._ask(drive, drive.transfer)  # without an interrupt for the first block (9.6, PIO data-out)
        else:
            self._channel.busy(drive, self._next_write)

    def _fits(self, drive: Drive, transfer: Transfer) -> bool:
        """Whether the next block lies on the disk."""
        return transfer.lba + min(transfer.block, transfer.left) <= drive.image.sectors

    def _refuse(self, drive: Drive, transfer: Transfer) -> None:
        self._not_found(drive, max(transfer.lba, drive.image.sectors), transfer.wide)

    def _ask(self, drive: Drive, transfer: Transfer) -> None:
        drive.expect(min(transfer.block, transfer.left))
        drive.status = READY | DRQ

    def next_read(self, drive: Drive) -> None:
        transfer = drive.transfer
        if transfer is None:
            return
        if not self._fits(drive, transfer):
            self._refuse(drive, transfer)
            return
        count = min(transfer.block, transfer.left)
        drive.load(drive.image.read(transfer.lba, count))
        transfer.lba, transfer.left = transfer.lba + count, transfer.left - count
        drive.status = READY | DRQ
        self._channel.interrupt(drive)

    def _next_write(self, drive: Drive) -> None:
        transfer = drive.transfer
        if transfer is None:
            return
        if not self._fits(drive, transfer):
            self._refuse(drive, transfer)
            return
        self._ask(drive, transfer)
        self._channel.interrupt(drive)

    def store(self, drive: Drive) -> None:
        transfer = drive.transfer
        if transfer is None:
            return
        count = len(drive.buffer) // SECTOR
        drive.image.write(transfer.lba, bytes(drive.buffer))
        transfer.lba, transfer.left = transfer.lba + count, transfer.left - count
        if transfer.left:
            self._next_write(drive)
        else:
            drive.transfer = None
            self._complete(drive)
