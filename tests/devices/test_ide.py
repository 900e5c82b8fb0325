"""An IDE channel as a driver sees it: signatures, BSY, DRQ and the interrupt, transfers, errors, absent drives."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from emu.clock import Clock
from emu.devices.ide import CONTROL, IdeChannel
from emu.disk_image import BlockImage
from emu.irq import IrqLine

DATA, ERROR, COUNT, LOW, MID, HIGH, DEVICE, STATUS = range(8)
BSY, DRDY, DSC, DRQ, ERR = 0x80, 0x40, 0x10, 0x08, 0x01
READY = DRDY | DSC
ABRT, IDNF = 0x04, 0x10
NIEN, SRST, HOB = 0x02, 0x04, 0x80
LBA = 0xE0
SECTORS = 3000


def image(sectors: int = SECTORS, **options: bool) -> BlockImage:
    return BlockImage(b"".join(number.to_bytes(2, "little") * 256 for number in range(sectors)), **options)


class Host:
    """A driver: waits for the drive as guest time passes, and counts the interrupt's edges."""

    def __init__(
        self, clock: Clock, run_to: Callable[[int], None], master: BlockImage | None, slave: BlockImage | None = None
    ) -> None:
        self.edges = 0
        self.line = IrqLine(self._edge)
        self.clock, self._run_to = clock, run_to
        self.ide = IdeChannel(clock, self.line, master, slave)

    def _edge(self, level: bool) -> None:
        self.edges += level

    def wait(self, ns: int = 5_000_000) -> None:
        self._run_to(self.clock.now() + ns)

    def out(self, **registers: int) -> None:
        offsets = {"features": ERROR, "count": COUNT, "low": LOW, "mid": MID, "high": HIGH, "device": DEVICE}
        for name, value in registers.items():
            self.ide.write(offsets[name], 1, value)

    def address(self, lba: int, count: int) -> None:
        self.out(count=count & 0xFF, low=lba & 0xFF, mid=lba >> 8 & 0xFF, high=lba >> 16 & 0xFF, device=LBA | lba >> 24)

    def address48(self, lba: int, count: int) -> None:
        for name, value in (("count", count), ("low", lba), ("mid", lba >> 8), ("high", lba >> 16)):
            above = value >> 8 if name == "count" else value >> 24
            self.out(**{name: above & 0xFF})
            self.out(**{name: value & 0xFF})
        self.out(device=0x40)

    def command(self, code: int) -> None:
        self.ide.write(STATUS, 1, code)

    def run(self, code: int) -> int:
        """Start a command, wait for its end or its data, and acknowledge: the status."""
        self.command(code)
        self.wait()
        return self.ide.read(STATUS, 1)

    def get(self, size: int = 2) -> bytes:
        return b"".join(self.ide.read(DATA, size).to_bytes(size, "little") for _ in range(512 // size))

    def put(self, data: bytes, size: int = 2) -> None:
        for at in range(0, len(data), size):
            self.ide.write(DATA, size, int.from_bytes(data[at : at + size], "little"))

    def registers(self) -> tuple[int, ...]:
        return tuple(self.ide.read(at, 1) for at in (ERROR, COUNT, LOW, MID, HIGH))


@pytest.fixture
def host(clock: Clock, run_to: Callable[[int], None]) -> Host:
    return Host(clock, run_to, image())


@pytest.fixture
def pair(clock: Clock, run_to: Callable[[int], None]) -> Host:
    return Host(clock, run_to, image(), BlockImage(bytes(512 * 100)))


def sector(number: int) -> bytes:
    return number.to_bytes(2, "little") * 256


# -- what is there ------------------------------------------------------------------------------------------------


def test_power_on_leaves_the_signature_of_a_disk(host: Host) -> None:
    assert host.registers() == (1, 1, 1, 0, 0)
    assert host.ide.read(STATUS, 1) == host.ide.read(CONTROL, 1) == READY
    assert not host.line.level


def test_an_absent_slave_has_status_0_and_takes_no_command(host: Host) -> None:
    host.out(device=0xB0)
    assert host.ide.read(STATUS, 1) == host.ide.read(CONTROL, 1) == 0
    host.out(count=0x55, low=0xAA)
    assert (host.ide.read(COUNT, 1), host.ide.read(LOW, 1)) == (0x55, 0xAA)  # the master answers for it
    assert host.run(0xEC) == 0
    assert host.ide.read(DATA, 2) == 0
    assert host.edges == 0
    host.out(device=0xA0)
    assert host.ide.read(STATUS, 1) == READY


def test_a_channel_without_drives_reads_as_0(clock: Clock, run_to: Callable[[int], None]) -> None:
    empty = Host(clock, run_to, None)
    for number in (0xA0, 0xB0):
        empty.out(device=number, count=0x55, low=0xAA)
        assert [empty.ide.read(at, 1) for at in range(1, 9)] == [0] * 8
        assert empty.run(0xEC) == 0
    empty.ide.write(CONTROL, 1, SRST)
    empty.ide.write(CONTROL, 1, 0)
    assert empty.ide.read(STATUS, 1) == 0
    assert empty.ide.read(DATA, 2) == 0
    assert empty.edges == 0


def test_software_reset_is_busy_and_then_signs(pair: Host) -> None:
    pair.out(device=0xF0, count=9, low=9, mid=9, high=9)
    pair.run(0xEC)
    pair.ide.write(CONTROL, 1, SRST)
    assert pair.ide.read(CONTROL, 1) == BSY
    pair.wait()
    assert pair.ide.read(CONTROL, 1) == BSY  # as long as the host holds it
    pair.ide.write(CONTROL, 1, 0)
    assert pair.ide.read(CONTROL, 1) == BSY
    edges = pair.edges
    pair.wait()
    assert pair.ide.read(STATUS, 1) == READY
    assert pair.registers() == (1, 1, 1, 0, 0)
    assert pair.ide.read(DEVICE, 1) == 0xA0
    pair.out(device=0xB0)
    assert pair.registers() == (1, 1, 1, 0, 0)
    assert pair.edges == edges  # without an interrupt


def test_diagnostic_is_done_by_both_and_told_by_the_first(pair: Host) -> None:
    pair.out(device=0xB0)
    assert pair.run(0x90) == READY
    assert pair.registers() == (1, 1, 1, 0, 0)
    assert pair.ide.read(DEVICE, 1) == 0xA0
    assert pair.edges == 1


def test_identify(host: Host) -> None:
    host.command(0xEC)
    assert host.ide.read(CONTROL, 1) == BSY
    assert not host.line.level
    host.wait()
    assert host.line.level
    assert host.ide.read(CONTROL, 1) == READY | DRQ
    assert host.line.level  # the alternate status acknowledges nothing
    assert host.ide.read(STATUS, 1) == READY | DRQ
    assert not host.line.level
    raw = host.get()
    assert host.ide.read(STATUS, 1) == READY
    assert host.edges == 1
    words = struct.unpack("<256H", raw)
    assert words[0] & 0x8000 == 0
    assert (words[1], words[3], words[6]) == (2, 16, 63)
    assert words[49] & 0x300 == 0x200  # LBA and no DMA
    assert words[60] | words[61] << 16 == SECTORS
    assert words[83] & 0xC400 == 0x4400
    assert words[100] | words[101] << 16 | words[102] << 32 | words[103] << 48 == SECTORS
    assert words[80] >> 6 == 1  # up to ATA/ATAPI-6
    model = b"".join(struct.pack(">H", word) for word in words[27:47]).rstrip()
    assert model == b"VEMU HARDDISK"
    assert sum(raw) & 0xFF == 0
    assert raw[510] == 0xA5


def test_capacity_beyond_28_bits(clock: Clock, run_to: Callable[[int], None]) -> None:
    disk = BlockImage(b"")
    disk.sectors = 5 << 30
    host = Host(clock, run_to, disk)
    host.run(0xEC)
    words = struct.unpack("<256H", host.get())
    assert words[60] | words[61] << 16 == 0xFFF_FFFF
    assert words[100] | words[101] << 16 | words[102] << 32 == 5 << 30
    assert words[1] == 16383


def test_a_disk_is_no_packet_device_and_has_no_dma(host: Host) -> None:
    for code in (0xA1, 0xA0, 0x08, 0xC8, 0xCA, 0x25, 0x35, 0x00, 0xFF):
        assert host.run(code) == READY | ERR
        assert host.ide.read(ERROR, 1) == ABRT
    assert host.edges == 9
    assert host.run(0xE7) == READY
    assert host.ide.read(ERROR, 1) == 0


# -- reading ------------------------------------------------------------------------------------------------------


def test_reading_interrupts_with_every_sector(host: Host) -> None:
    host.address(0x123, 3)
    host.command(0x20)
    for number in range(3):
        assert host.ide.read(STATUS, 1) == BSY
        host.wait()
        assert host.line.level
        assert host.ide.read(STATUS, 1) == READY | DRQ
        assert host.get() == sector(0x123 + number)
    assert host.ide.read(STATUS, 1) == READY
    host.wait()
    assert host.edges == 3
    assert host.ide.read(DATA, 2) == 0


def test_a_late_alarm_does_not_keep_a_polling_driver_waiting(host: Host) -> None:
    host.address(5, 1)
    host.command(0x20)
    source = host.clock.source
    source.ns += 1_000_000  # type: ignore[attr-defined]  # time passes and no alarm is fired
    assert host.ide.read(STATUS, 1) == READY | DRQ
    assert host.get(4) == sector(5)
    host.wait()
    assert host.ide.read(STATUS, 1) == READY


def test_cylinder_head_and_sector(host: Host) -> None:
    host.out(count=1, low=3, mid=1, high=0, device=0xA2)
    assert host.run(0x21) == READY | DRQ
    assert host.get() == sector((1 * 16 + 2) * 63 + 2)
    host.out(count=18, device=0xA1)  # two heads, 18 sectors
    assert host.run(0x91) == READY
    host.out(count=1, low=3, mid=1, high=0, device=0xA1)
    assert host.run(0x20) == READY | DRQ
    assert host.get() == sector((1 * 2 + 1) * 18 + 2)
    for wrong in ({"low": 0}, {"low": 19}, {"device": 0xA2}):
        host.out(**({"count": 1, "low": 1, "mid": 0, "high": 0, "device": 0xA0} | wrong))
        assert host.run(0x20) == READY | ERR
        assert host.ide.read(ERROR, 1) == IDNF
    host.out(count=0)
    assert host.run(0x91) == READY | ERR


def test_48_bit_addresses_and_counts(host: Host) -> None:
    host.address48(0x345, 0x0102)
    host.ide.write(CONTROL, 1, HOB)
    assert host.ide.read(COUNT, 1) == 1
    host.ide.write(CONTROL, 1, 0)
    assert host.ide.read(COUNT, 1) == 2
    assert host.run(0x24) == READY | DRQ
    for number in range(0x102):
        assert host.get() == sector(0x345 + number)
        host.wait()
        assert host.ide.read(STATUS, 1) == READY | (DRQ if number < 0x101 else 0)
    assert host.edges == 0x102
    host.address48(1 << 40, 1)
    assert host.run(0x24) == READY | ERR
    assert host.ide.read(ERROR, 1) == IDNF
    host.ide.write(CONTROL, 1, HOB)
    assert host.ide.read(HIGH, 1) == 1
    host.out(count=1)  # a write to the command block ends it
    assert host.ide.read(HIGH, 1) == 0
    host.out(device=0xA0)
    assert host.run(0x24) == READY | ERR  # no CHS addresses


def test_a_count_of_0_is_256_sectors(host: Host) -> None:
    host.address(0, 0)
    assert host.run(0x40) == READY
    host.address(SECTORS - 255, 0)
    assert host.run(0x40) == READY | ERR
    assert host.ide.read(ERROR, 1) == IDNF
    assert host.ide.read(LOW, 1) | host.ide.read(MID, 1) << 8 == SECTORS
    host.address48(0, 0)
    assert host.run(0x42) == READY | ERR  # 65536


def test_reading_past_the_end_fails_at_the_first_sector_that_is_missing(host: Host) -> None:
    host.address(SECTORS - 2, 4)
    assert host.run(0x20) == READY | DRQ
    for number, status in ((2, READY | DRQ), (1, READY | ERR)):
        assert host.get() == sector(SECTORS - number)
        host.wait()
        assert host.ide.read(STATUS, 1) == status
    assert host.ide.read(ERROR, 1) == IDNF
    assert host.ide.read(LOW, 1) | host.ide.read(MID, 1) << 8 == SECTORS
    assert host.edges == 3


def test_multiple_sectors_a_block(host: Host) -> None:
    host.address(0, 5)
    assert host.run(0xC4) == READY | ERR  # not set yet
    for wrong in (3, 32):
        host.out(count=wrong)
        assert host.run(0xC6) == READY | ERR
    host.out(count=4)
    assert host.run(0xC6) == READY
    host.run(0xEC)
    assert struct.unpack("<256H", host.get())[59] == 0x104
    edges = host.edges
    host.address(10, 5)
    assert host.run(0xC4) == READY | DRQ
    assert host.get() + host.get() + host.get() + host.get() == b"".join(map(sector, range(10, 14)))
    host.wait()
    assert host.ide.read(STATUS, 1) == READY | DRQ
    assert host.get() == sector(14)
    assert host.ide.read(STATUS, 1) == READY
    assert host.edges == edges + 2


# -- writing ------------------------------------------------------------------------------------------------------


def test_writing_asks_for_the_first_sector_without_an_interrupt(host: Host) -> None:
    host.address(7, 2)
    host.command(0x30)
    assert host.ide.read(STATUS, 1) == READY | DRQ
    assert host.edges == 0
    host.put(b"A" * 512)
    assert host.ide.read(STATUS, 1) == BSY
    host.wait()
    assert host.line.level
    assert host.ide.read(STATUS, 1) == READY | DRQ
    host.put(b"B" * 512, size=4)
    host.wait()
    assert host.ide.read(STATUS, 1) == READY
    assert host.edges == 2
    assert host.ide.drives[0].image.read(6, 4) == sector(6) + b"A" * 512 + b"B" * 512 + sector(9)
    host.put(b"C" * 512)
    assert host.ide.drives[0].image.read(9, 1) == sector(9)


@pytest.mark.parametrize("code", [0x34, 0x39])
def test_writing_with_48_bits(host: Host, code: int) -> None:
    host.out(count=2)
    host.run(0xC6)
    host.address48(300, 2)
    host.command(code)
    for _ in range(2):
        host.put(b"W" * 512)
        host.wait()
    assert host.ide.read(STATUS, 1) == READY
    assert host.ide.drives[0].image.read(300, 2) == b"W" * 1024


def test_writes_that_cannot_be(host: Host, clock: Clock, run_to: Callable[[int], None]) -> None:
    host.address(SECTORS, 1)
    assert host.run(0x30) == READY | ERR
    assert host.ide.read(ERROR, 1) == IDNF
    host.address(SECTORS - 1, 2)
    host.command(0x30)
    host.put(b"Z" * 512)
    host.wait()
    assert host.ide.read(STATUS, 1) == READY | ERR
    assert host.ide.drives[0].image.read(SECTORS - 1, 1) == b"Z" * 512
    protected = Host(clock, run_to, image(4, read_only=True))
    protected.address(0, 1)
    assert protected.run(0x30) == READY | ERR
    assert protected.ide.read(ERROR, 1) == ABRT


# -- the interrupt and the rest -----------------------------------------------------------------------------------


def test_nien_holds_the_interrupt_back(host: Host) -> None:
    host.ide.write(CONTROL, 1, NIEN)
    host.address(0, 1)
    host.command(0x20)
    host.wait()
    assert not host.line.level
    host.ide.write(CONTROL, 1, 0)
    assert host.line.level
    host.ide.write(CONTROL, 1, NIEN)
    assert not host.line.level
    assert host.ide.read(STATUS, 1) == READY | DRQ
    host.ide.write(CONTROL, 1, 0)
    assert not host.line.level


def test_only_the_selected_drive_drives_the_line(pair: Host) -> None:
    pair.command(0xE7)
    pair.wait()
    assert pair.line.level
    pair.out(device=0xB0)
    assert not pair.line.level
    pair.out(device=0xA0)
    assert pair.line.level
    pair.command(0xE7)  # a command acknowledges too
    assert not pair.line.level


def test_a_busy_drive_takes_neither_registers_nor_commands(host: Host) -> None:
    host.address(40, 1)
    host.command(0x20)
    host.out(low=1, device=0xB0)
    host.command(0xEC)
    host.wait()
    assert host.ide.read(DEVICE, 1) == LBA
    assert host.ide.read(LOW, 1) == 40
    assert host.get() == sector(40)


def test_drives_have_their_own_data(pair: Host) -> None:
    pair.address(1, 1)
    pair.out(device=0xF0)
    assert pair.run(0x20) == READY | DRQ
    assert pair.get() == bytes(512)
    pair.address(99, 2)
    pair.out(device=0xF0)
    assert pair.run(0x40) == READY | ERR
    pair.out(device=0xE0)
    assert pair.run(0x40) == READY


def test_commands_without_data(host: Host) -> None:
    for code in (0x10, 0xE0, 0xE1, 0xE2, 0xE3, 0xE6, 0xE7, 0xEA):
        assert host.run(code) == READY
    assert host.run(0xE5) == READY
    assert host.ide.read(COUNT, 1) == 0xFF
    host.address(SECTORS - 1, 1)
    assert host.run(0x70) == READY
    host.address(SECTORS, 1)
    assert host.run(0x70) == READY | ERR


def test_features(host: Host) -> None:
    def words() -> tuple[int, ...]:
        host.run(0xEC)
        return struct.unpack("<256H", host.get())

    assert words()[85] & 0x60 == 0x60
    for feature in (0x82, 0x55):
        host.out(features=feature)
        assert host.run(0xEF) == READY
    assert words()[85] & 0x60 == 0
    for mode, status in ((0x00, READY), (0x0C, READY), (0x0D, READY | ERR), (0x22, READY | ERR), (0x45, READY | ERR)):
        host.out(features=3, count=mode)
        assert host.run(0xEF) == status
    host.out(features=0x99)
    assert host.run(0xEF) == READY | ERR


def test_register_widths(host: Host) -> None:
    host.ide.write(COUNT, 2, 0x3412)
    assert (host.ide.read(COUNT, 1), host.ide.read(LOW, 1), host.ide.read(COUNT, 2)) == (0x12, 0x34, 0x3412)
    assert host.ide.read(CONTROL, 2) == 0xFF00 | READY
    host.address(0x4142, 1)
    host.address(0x42, 1)
    host.run(0x20)
    assert host.ide.read(DATA, 1) == 0xFF  # no byte of the data
    assert host.get() == sector(0x42)
