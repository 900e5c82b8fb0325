"""One IDE channel in PIO mode: the registers two drives share, and the protocol of BSY, DRQ and INTRQ (ATA/ATAPI-6)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from emu.bus import ALL_ONES
from emu.clock import Clock
from emu.devices.ide.commands import Commands
from emu.devices.ide.drive import BSY, DATA, DEVICE, DEVICE_BITS, DRQ, ERROR, READY, STATUS, Drive
from emu.disk_image import BlockImage
from emu.irq import IrqLine

CONTROL: Final = 8  # offset of Device Control and Alternate Status; the command block is at 0 to 7

_HOB, _SRST, _NIEN = 0x80, 0x04, 0x02  # Device Control (7.8)
_COMMAND_NS: Final = 10_000  # how long a disk that has everything in memory is busy with a command or a block
_RESET_NS: Final = 2_000_000  # a host looks at BSY from 2 ms after a reset on (9.2)
_DIAGNOSE: Final = 0x90


class IdeChannel:
    """The command block at offsets 0 to 7 (1F0h, 170h), Alternate Status and Device Control at 8 (3F6h, 376h).

    A drive works on a command while guest time passes, BSY set; the interrupt comes with its end, or with each block
    of data. A channel without drives reads as 0: the host pulls its bus down, so that nothing there is ever busy.
    """

    name = "IDE"

    def __init__(
        self, clock: Clock, line: IrqLine, master: BlockImage | None = None, slave: BlockImage | None = None
    ) -> None:
        self._clock, self._line = clock, line
        images = ((number, image) for number, image in enumerate((master, slave)) if image is not None)
        self.drives: dict[int, Drive] = {number: Drive(image, number) for number, image in images}
        self.device = DEVICE_BITS  # both drives see every write of it
        self._control = 0
        self._commands = Commands(self)
        for drive in self.drives.values():
            drive.sign()

    def _selected(self) -> Drive | None:
        """The drive that the Device register names."""
        return self.drives.get(self.device >> 4 & 1)

    # -- the registers -----------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if offset == DATA and size > 1:
            return self._read_data(size)
        value = ALL_ONES[size]
        for step in range(size):  # a wide access takes one register after the other
            if offset + step <= CONTROL:
                value &= ~(0xFF << 8 * step) | self._read_register(offset + step) << 8 * step
        return value

    def _read_register(self, offset: int) -> int:
        if not self.drives:
            return 0
        drive = self._selected()
        if offset in (STATUS, CONTROL):
            return 0 if drive is None else self._read_status(drive, acknowledge=offset == STATUS)
        if drive is None:
            drive = next(iter(self.drives.values()))  # answers for the absent one, but for its status (9.16.1)
        self._settle(drive)
        if offset == DATA:
            return 0xFF  # the register is a word wide
        if offset == ERROR:
            return drive.error
        if offset == DEVICE:
            return self.device
        return (drive.previous if self._control & _HOB else drive.current)[offset]

    def _read_status(self, drive: Drive, acknowledge: bool) -> int:
        self._settle(drive)
        if acknowledge:
            drive.interrupt = False
            self._drive_line()
        return drive.status

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == DATA and size > 1:
            self._write_data(size, value)
            return
        for step in range(size):
            octet = value >> 8 * step & 0xFF
            if offset + step == CONTROL:
                self._write_control(octet)
            elif DATA < offset + step <= STATUS:
                self._write_register(offset + step, octet)

    def _write_register(self, offset: int, value: int) -> None:
        self._control &= ~_HOB  # (7.8)
        for drive in self.drives.values():
            self._settle(drive)
        if offset == STATUS:
            self._command(value)
        elif offset == DEVICE:
            if not self._any_busy():
                self.device = value | DEVICE_BITS
                self._drive_line()
        else:
            for drive in self.drives.values():
                if drive.status & BSY:
                    continue
                if offset == ERROR:
                    drive.features = value
                else:
                    drive.previous[offset], drive.current[offset] = drive.current[offset], value

    def _write_control(self, value: int) -> None:
        falls = self._control & ~value & _SRST
        rises = value & ~self._control & _SRST
        self._control = value
        for drive in self.drives.values():
            if rises:
                self._stop(drive)
                drive.status, drive.transfer, drive.interrupt = BSY, None, False
            elif falls:
                self.busy(drive, self._reset, _RESET_NS)
        self._drive_line()

    # -- time and the interrupt --------------------------------------------------------------------------------

    def _any_busy(self) -> bool:
        return any(drive.status & BSY for drive in self.drives.values())

    def _drive_line(self) -> None:
        drive = self._selected()
        self._line.set(drive is not None and drive.interrupt and not self._control & _NIEN)

    def interrupt(self, drive: Drive) -> None:
        """Have a drive ask for the host."""
        drive.interrupt = True
        self._drive_line()

    def busy(self, drive: Drive, then: Callable[[Drive], None], ns: int = _COMMAND_NS) -> None:
        """Set BSY, and do `then` when `ns` have passed."""
        self._stop(drive)
        drive.status = BSY
        drive.pending, drive.due = then, self._clock.now() + ns
        drive.alarm = self._clock.at(drive.due, partial(self._finish, drive))

    def _stop(self, drive: Drive) -> None:
        if drive.alarm is not None:
            drive.alarm.cancel()
        drive.alarm = drive.pending = None

    def _finish(self, drive: Drive) -> None:
        then = drive.pending
        self._stop(drive)
        if then is not None:
            then(drive)

    def _settle(self, drive: Drive) -> None:
        """Let a drive finish whose time has come: its alarm may be late."""
        if drive.pending is not None and self._clock.now() >= drive.due:
            self._finish(drive)

    # -- the data register -------------------------------------------------------------------------------------

    def _read_data(self, size: int) -> int:
        drive = self._selected()
        if drive is None:
            return 0
        self._settle(drive)
        if not drive.status & DRQ or (drive.transfer is not None and drive.transfer.writes):
            return 0
        value = int.from_bytes(drive.buffer[drive.at : drive.at + size], "little")
        drive.at += size
        if drive.at >= len(drive.buffer):
            if drive.transfer is not None and drive.transfer.left:
                self.busy(drive, self._commands.next_read)
            else:
                drive.status, drive.transfer = READY, None
        return value

    def _write_data(self, size: int, value: int) -> None:
        drive = self._selected()
        if drive is None:
            return
        self._settle(drive)
        if not drive.status & DRQ or drive.transfer is None or not drive.transfer.writes:
            return
        drive.buffer[drive.at : drive.at + size] = value.to_bytes(size, "little")
        drive.at += size
        if drive.at >= len(drive.buffer):
            self.busy(drive, self._commands.store)

    # -- commands and resets ------------------------------------------------------------------------------------

    def _command(self, code: int) -> None:
        if code == _DIAGNOSE:
            if not self._any_busy():
                for drive in self.drives.values():
                    self.busy(drive, self._diagnosed)
            return
        selected = self._selected()
        if selected is None or selected.status & BSY:
            return
        selected.interrupt, selected.transfer, selected.error = False, None, 0
        self._drive_line()
        self._commands.start(selected, code)

    def _reset(self, drive: Drive) -> None:
        """A software reset (9.12); the CHS translation stays."""
        drive.sign()
        drive.status, drive.multiple = READY, 0
        self.device = DEVICE_BITS

    def _diagnosed(self, drive: Drive) -> None:
        """EXECUTE DEVICE DIAGNOSTIC (8.11): every drive does it, the first one interrupts."""
        drive.sign()
        drive.status, drive.transfer = READY, None
        self.device = DEVICE_BITS
        if drive.number == 0:
            self.interrupt(drive)
