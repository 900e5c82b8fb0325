"""Virtio devices as a driver finds and uses them over PCI: discovery, handshake, requests, interrupts, misuse."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from emu.bus import Bus
from emu.devices.pci import PciConfig, PciFunction, PciWindows
from emu.devices.virtio import BAR, VirtioBlock, VirtioConsole, VirtioPci, VirtioRng
from emu.devices.virtio.queue import F_EVENT_IDX, F_INDIRECT_DESC
from emu.devices.virtio.transport import VirtioDevice
from emu.disk_image import BlockImage, DiskError
from emu.irq import IrqLine
from emu.memory import GuestMemory

MIB = 1 << 20
WHERE = 0xFE00_0000
SLOT = 4
VERSION_1 = 1 << 32
NEXT, WRITE, INDIRECT = 1, 2, 4
COMMON_TYPE, NOTIFY_TYPE, ISR_TYPE, DEVICE_TYPE, PCI_TYPE = range(1, 6)
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
OK, IOERR, UNSUPP = 0, 1, 2
SIZE = 16


class Reset:
    name = "reset"

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        raise AssertionError("nobody resets here")


class Driver:
    """Finds a device through configuration mechanism 1 and drives it through its BAR."""

    def __init__(self, device: VirtioDevice, features: int = 0) -> None:
        self.bus = Bus("memory")
        self.memory = GuestMemory(4 * MIB, self.bus)
        self.edges = 0
        self.line = IrqLine(self._edge)
        self.pci = PciConfig(Reset(), PciFunction(0x8086, 0x1237, 0x060000))
        self.virtio = VirtioPci(device, self.memory, self.line)
        self.pci.add(SLOT, self.virtio.function)
        PciWindows(Bus("port"), self.bus).connect(self.virtio.function, {BAR: self.virtio})
        self.virtio.function.place(BAR, WHERE)
        self.extra = features
        self.offered: dict[int, int] = {}
        self.capabilities = self._find()
        self.common = self._address(COMMON_TYPE)
        self.isr = self._address(ISR_TYPE)
        self.notify = self._address(NOTIFY_TYPE)

    def _edge(self, level: bool) -> None:
        self.edges += level

    # -- PCI ---------------------------------------------------------------------------------------------------

    def config(self, register: int, size: int) -> int:
        self.pci.write(0, 4, 1 << 31 | SLOT << 11 | register & 0xFC)
        return self.pci.read(4 + (register & 3), size)

    def set_config(self, register: int, size: int, value: int) -> None:
        self.pci.write(0, 4, 1 << 31 | SLOT << 11 | register & 0xFC)
        self.pci.write(4 + (register & 3), size, value)

    def _find(self) -> dict[int, tuple[int, int, int, int]]:
        """By type: where the capability is, offset and length of its structure, and the dword behind."""
        assert self.config(0x06, 2) & 0x10
        found = {}
        at = self.config(0x34, 1)
        while at:
            assert self.config(at, 1) == 0x09
            assert self.config(at + 2, 1) >= 16
            assert self.config(at + 4, 1) == BAR
            found[self.config(at + 3, 1)] = (at, *(self.config(at + more, 4) for more in (8, 12, 16)))
            at = self.config(at + 1, 1)
        return found

    def _address(self, kind: int) -> int:
        _, offset, length, _ = self.capabilities[kind]
        assert offset + length <= 0x4000
        return WHERE + offset

    # -- the common configuration ------------------------------------------------------------------------------

    def get(self, field: int, size: int) -> int:
        return self.memory.read(self.common + field, size)

    def set(self, field: int, size: int, value: int) -> None:
        self.memory.write(self.common + field, size, value)

    @property
    def status(self) -> int:
        return self.get(0x14, 1)

    def features(self) -> int:
        found = 0
        for half in (0, 1):
            self.set(0, 4, half)
            found |= self.get(4, 4) << 32 * half
        return found

    def accept(self, features: int) -> None:
        for half in (0, 1):
            self.set(8, 4, half)
            self.set(0xC, 4, features >> 32 * half & 0xFFFF_FFFF)

    def start(self, *queues: int) -> Driver:
        """The whole handshake (3.1.1)."""
        self.set(0x14, 1, 0)
        assert self.status == 0
        self.set(0x14, 1, ACKNOWLEDGE)
        self.set(0x14, 1, ACKNOWLEDGE | DRIVER)
        self.accept(VERSION_1 | self.extra)
        self.set(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert self.status & FEATURES_OK
        for number in queues or range(self.get(0x12, 2)):
            self.set_up(number)
        self.set(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        return self

    def rings(self, number: int) -> tuple[int, int, int]:
        base = 0x10000 + 0x3000 * number
        return base, base + 0x1000, base + 0x2000

    def set_up(self, number: int) -> None:
        self.offered[number] = 0
        self.set(0x16, 2, number)
        self.set(0x18, 2, SIZE)
        for at, address in zip((0x20, 0x28, 0x30), self.rings(number), strict=True):
            self.set(at, 4, address)
            self.set(at + 4, 4, 0)
            self.memory.write_bytes(address, bytes(0x1000))
        self.set(0x1C, 2, 1)

    # -- queues ------------------------------------------------------------------------------------------------

    def offer(self, number: int, buffers: list[tuple[int, int, bool]], first: int = 0) -> None:
        """Make a chain of (address, length, device writes) available, from descriptor `first` on; do not notify."""
        table, avail, _ = self.rings(number)
        for at, (address, length, writes) in enumerate(buffers, first):
            more = at + 1 < first + len(buffers)
            raw = struct.pack("<QIHH", address, length, (WRITE if writes else 0) | (NEXT if more else 0), at + 1)
            self.memory.write_bytes(table + 16 * at, raw)
        self.memory.write(avail + 4 + 2 * (self.offered[number] % SIZE), 2, first)
        self.offered[number] += 1
        self.memory.write(avail + 2, 2, self.offered[number])

    def kick(self, number: int) -> None:
        multiplier = self.capabilities[NOTIFY_TYPE][3]
        self.set(0x16, 2, number)
        self.memory.write(self.notify + multiplier * self.get(0x1E, 2), 2, number)

    def used(self, number: int) -> list[tuple[int, int]]:
        ring = self.rings(number)[2]
        count = self.memory.read(ring + 2, 2)
        return [struct.unpack("<II", self.memory.read_bytes(ring + 4 + 8 * at, 8)) for at in range(min(count, SIZE))]

    def request(self, number: int, readable: list[bytes], writable: list[int]) -> tuple[int, list[bytes]]:
        """Make a request and wait for the interrupt: the used length, and what the device wrote."""
        buffers, where = [], 2 * MIB
        for data in readable:
            self.memory.write_bytes(where, data)
            buffers.append((where, len(data), False))
            where += len(data)
        for length in writable:
            self.memory.write_bytes(where, b"\xcc" * length)
            buffers.append((where, length, True))
            where += length
        before = self.memory.read(self.rings(number)[2] + 2, 2)
        self.offer(number, buffers)
        self.kick(number)
        assert self.line.level
        assert self.memory.read(self.isr, 1) == 1
        assert not self.line.level
        assert self.memory.read(self.rings(number)[2] + 2, 2) == before + 1
        _, length = struct.unpack("<II", self.memory.read_bytes(self.rings(number)[2] + 4 + 8 * (before % SIZE), 8))
        return length, [self.memory.read_bytes(at, size) for at, size, writes in buffers if writes]


def disk(sectors: int = 64, **options: bool) -> BlockImage:
    return BlockImage(b"".join(number.to_bytes(2, "little") * 256 for number in range(sectors)), **options)


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def block(image: BlockImage | None = None) -> Driver:
    return Driver(VirtioBlock(disk() if image is None else image)).start()


# -- PCI and the handshake ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "identity", "queues", "config"),
    [
        (VirtioBlock(disk()), 0x1042_1AF4, 1, 60),
        (VirtioConsole(lambda _: None), 0x1043_1AF4, 2, 12),
        (VirtioRng(bytes), 0x1044_1AF4, 1, 0),
    ],
)
def test_what_a_driver_finds(device: VirtioDevice, identity: int, queues: int, config: int) -> None:
    driver = Driver(device)
    assert driver.config(0, 4) == identity
    assert driver.config(0x08, 1) >= 1  # revision of a non-transitional device (4.1.2.1)
    assert driver.config(0x2E, 2) >= 0x40
    assert driver.config(0x3D, 1) == 1
    lengths = {kind: row[2] for kind, row in driver.capabilities.items()}
    wanted = {COMMON_TYPE: 56, NOTIFY_TYPE: 4 * queues, ISR_TYPE: 1, PCI_TYPE: 0}
    assert lengths == (wanted | {DEVICE_TYPE: config} if config else wanted)
    assert driver.get(0x12, 2) == queues
    assert driver.features() & (VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX) == VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
    driver.set_config(0x10, 4, 0xFFFF_FFFF)
    assert driver.config(0x10, 4) == 0xFFFF_C000


def test_the_status_handshake() -> None:
    driver = Driver(VirtioBlock(disk()))
    assert driver.status == 0
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER)
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)  # without VERSION_1
    assert driver.status == ACKNOWLEDGE | DRIVER
    driver.accept(VERSION_1 | 1 << 40)  # a feature nobody offered
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert driver.status == ACKNOWLEDGE | DRIVER
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK)  # too early
    assert driver.status == ACKNOWLEDGE | DRIVER
    driver.accept(VERSION_1 | 1 << 9)
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | NEEDS_RESET)
    assert driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK
    driver.accept(0)  # too late
    driver.set(8, 4, 1)
    assert driver.get(0xC, 4) == 1
    driver.set(0x14, 1, 0)
    assert [driver.get(at, 4) for at in (0, 8, 0xC)] == [0, 0, 0]
    assert driver.status == 0


def test_queue_registers() -> None:
    driver = Driver(VirtioConsole(lambda _: None))
    assert driver.get(0x18, 2) == 256
    assert driver.get(0x10, 2) == driver.get(0x1A, 2) == 0xFFFF
    driver.set(0x20, 8, 0x1234_5678_9000)
    driver.set(0x2C, 4, 0x55)
    driver.set(0x28, 4, 0x44)
    assert [driver.get(at, 8) for at in (0x20, 0x28, 0x30)] == [0x1234_5678_9000, 0x55_0000_0044, 0]
    driver.set(0x16, 2, 1)
    assert (driver.get(0x1E, 2), driver.get(0x20, 8)) == (1, 0)
    driver.set_up(1)
    driver.set(0x18, 2, 4)  # it is in use
    driver.set(0x20, 4, 0)
    driver.set(0x1C, 2, 0)
    assert (driver.get(0x18, 2), driver.get(0x20, 8), driver.get(0x1C, 2)) == (SIZE, driver.rings(1)[0], 1)
    driver.set(0x16, 2, 2)  # there is none
    driver.set(0x1C, 2, 1)
    driver.set(0x20, 4, 0x1000)
    assert [driver.get(at, 2) for at in (0x18, 0x1C, 0x20)] == [0, 0, 0]
    driver.set(0x14, 1, 0)
    driver.set(0x16, 2, 1)
    assert (driver.get(0x18, 2), driver.get(0x20, 8), driver.get(0x1C, 2)) == (256, 0, 0)


def test_queues_that_cannot_be_need_a_reset() -> None:
    driver = Driver(VirtioRng(bytes))
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER)
    driver.set(0x20, 4, 4 * MIB)
    driver.set(0x1C, 2, 1)
    assert driver.status == ACKNOWLEDGE | DRIVER | NEEDS_RESET
    assert not driver.line.level  # before DRIVER_OK nobody is told
    driver.start()
    assert not driver.status & NEEDS_RESET


def test_nothing_is_used_before_driver_ok() -> None:
    driver = Driver(VirtioRng(bytes))
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER)
    driver.accept(VERSION_1)
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)
    driver.set_up(0)
    driver.offer(0, [(0x40000, 4, True)])
    driver.kick(0)
    assert driver.used(0) == []
    driver.set(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    assert driver.used(0) == [(0, 4)]  # the early notification is not lost
    assert driver.line.level


def test_interrupts_can_be_disabled_and_show_in_pci_status() -> None:
    driver = Driver(VirtioRng(bytes)).start()
    driver.offer(0, [(0x40000, 4, True)])
    driver.kick(0)
    assert driver.line.level
    assert driver.config(6, 2) & 8
    driver.set_config(4, 2, 0x402)
    assert not driver.line.level
    assert driver.config(6, 2) & 8
    driver.set_config(4, 2, 0x002)
    assert driver.line.level
    assert driver.memory.read(driver.isr, 1) == 1
    assert (driver.line.level, driver.config(6, 2) & 8, driver.memory.read(driver.isr, 1)) == (False, 0, 0)
    driver.offer(0, [(0x40000, 4, True)])
    driver.kick(0)
    driver.set(0x14, 1, 0)
    assert (driver.line.level, driver.memory.read(driver.isr, 1)) == (False, 0)


def test_the_bar_through_configuration_space() -> None:
    driver = Driver(VirtioBlock(disk(77)))
    at = driver.capabilities[PCI_TYPE][0]
    _, offset, _, _ = driver.capabilities[DEVICE_TYPE]
    driver.set_config(at + 8, 4, offset)
    driver.set_config(at + 12, 4, 4)
    assert driver.config(at + 16, 4) == 77
    driver.set_config(at + 8, 4, 0x14)
    driver.set_config(at + 12, 4, 1)
    driver.set_config(at + 16, 1, ACKNOWLEDGE)
    assert driver.status == ACKNOWLEDGE
    assert driver.config(at + 16, 1) == ACKNOWLEDGE
    for offset, length, bar in ((0x4000, 4, 0), (0, 3, 0), (2, 4, 0), (0x14, 1, 1), (0xFFFF_FFFC, 4, 0), (0, 0, 0)):
        driver.set_config(at + 4, 1, bar)
        driver.set_config(at + 8, 4, offset)
        driver.set_config(at + 12, 4, length)
        driver.set_config(at + 16, 4, 0)  # no access that may be: not made
        assert driver.config(at + 16, 4) == 0
    assert driver.status == ACKNOWLEDGE


def test_an_event_index_quiets_the_device() -> None:
    driver = Driver(VirtioRng(bytes), F_EVENT_IDX).start()
    driver.memory.write(driver.rings(0)[1] + 4 + 2 * SIZE, 2, 1)
    levels = []
    for _ in range(3):
        driver.offer(0, [(0x40000, 1, True)])
        driver.kick(0)
        levels.append(driver.line.level)
        driver.memory.read(driver.isr, 1)
    assert levels == [False, True, False]


def test_a_loop_needs_a_reset_and_a_reset_helps() -> None:
    driver = block()
    table, avail, _ = driver.rings(0)
    driver.memory.write_bytes(table, struct.pack("<QIHH", 0x40000, 16, NEXT, 0))
    driver.memory.write(avail + 2, 2, 1)
    driver.kick(0)
    assert driver.status & NEEDS_RESET
    assert driver.line.level
    assert driver.memory.read(driver.isr, 1) == 2  # a change of configuration tells of it
    driver.offered[0] = 1
    driver.offer(0, [(0x40000, 16, False), (0x41000, 1, True)])
    driver.kick(0)
    assert driver.used(0) == []
    driver.start()
    assert driver.request(0, [header(IN, 3)], [512, 1])[1] == [disk().read(3, 1), b"\0"]


# -- block -------------------------------------------------------------------------------------------------------


def test_block_configuration() -> None:
    driver = block()
    at = driver._address(DEVICE_TYPE)
    assert driver.memory.read(at, 8) == 64
    assert driver.memory.read(at + 12, 4) == 254
    assert driver.memory.read(at + 20, 4) == 512
    assert driver.memory.read(at + 60, 4) == 0
    driver.memory.write(at, 4, 1)
    assert driver.memory.read(at, 4) == 64
    assert not driver.features() & 1 << 5
    assert block(disk(read_only=True)).features() & 1 << 5


@pytest.mark.parametrize("cut", [[1024, 1], [1025], [1, 1023, 1], [700, 325], [3, 0, 1021, 1]])
def test_reads_whatever_the_buffers(cut: list[int]) -> None:
    length, data = block().request(0, [header(IN, 5)], cut)
    assert (length, b"".join(data)) == (1025, disk().read(5, 2) + b"\0")


@pytest.mark.parametrize("cut", [16, 7, 20])
def test_writes_whatever_the_buffers(cut: int) -> None:
    image = disk()
    raw = header(OUT, 62) + b"new!" * 256
    driver = block(image)
    assert driver.request(0, [raw[:cut], raw[cut:]], [1]) == (1, [b"\0"])
    assert image.read(61, 3) == disk().read(61, 1) + b"new!" * 256
    assert driver.request(0, [header(FLUSH)], [1]) == (1, [b"\0"])


def test_long_requests() -> None:
    image = disk(4096)
    driver = block(image)
    length, (data, status) = driver.request(0, [header(IN, 0)], [3 * MIB // 2, 1])
    assert (length, status) == (3 * MIB // 2 + 1, b"\0")
    assert data == image.read(0, 3072)
    driver.memory.write_bytes(0x40000, header(OUT, 512))
    driver.offer(0, [(0x40000, 16, False), (0x100000, 3 * MIB // 2, False), (0x50000, 1, True)])
    driver.memory.write_bytes(0x100000, bytes(range(256)) * (3 * MIB // 512))
    driver.kick(0)
    assert image.read(512, 3072) == bytes(range(256)) * (3 * MIB // 512)


def test_identity() -> None:
    driver = Driver(VirtioBlock(disk(), "serial-of-twenty-chr")).start()
    assert driver.request(0, [header(GET_ID)], [20, 1]) == (21, [b"serial-of-twenty-chr", b"\0"])
    assert Driver(VirtioBlock(disk(), "abc")).start().request(0, [header(GET_ID)], [20, 1])[1][0] == b"abc".ljust(
        20, b"\0"
    )
    with pytest.raises(ValueError, match="20 characters"):
        VirtioBlock(disk(), "x" * 21)


@pytest.mark.parametrize(
    ("readable", "writable", "status"),
    [
        ([header(IN, 63)], [1024, 1], IOERR),  # beyond the end
        ([header(IN, 1 << 63)], [512, 1], IOERR),
        ([header(IN, 0)], [100, 1], IOERR),  # no whole sector
        ([header(OUT, 64), bytes(512)], [1], IOERR),
        ([header(OUT, 0), bytes(500)], [1], IOERR),
        ([header(11, 0), bytes(16)], [1], UNSUPP),  # DISCARD
        ([header(0xFFFF_FFFF)], [1], UNSUPP),
        ([header(IN, 0)[:15]], [512, 1], IOERR),
        ([], [1], IOERR),
    ],
)
def test_requests_that_fail(readable: list[bytes], writable: list[int], status: int) -> None:
    image = disk()
    driver = block(image)
    length, data = driver.request(0, readable, writable)
    assert data[-1] == bytes((status,))
    assert length == (1 if len(writable) == 1 else 0)
    assert image.read(0, 64) == disk().read(0, 64)
    assert not driver.status & NEEDS_RESET


def test_a_read_only_disk_refuses_writes() -> None:
    image = disk(read_only=True)
    assert block(image).request(0, [header(OUT, 0), bytes(512)], [1]) == (1, [bytes((IOERR,))])
    assert image.read(0, 1) == disk().read(0, 1)


class Broken:
    """A store whose host fails."""

    size = 64 * 512

    def read(self, offset: int, length: int) -> bytes:
        raise DiskError("disk: read failed")

    def write(self, offset: int, data: bytes) -> None:
        raise DiskError("disk: write failed")

    def flush(self) -> None:
        raise DiskError("disk: flush failed")

    def close(self) -> None:
        pass


def test_failures_of_the_host_are_statuses() -> None:
    driver = block(BlockImage(Broken()))
    assert driver.request(0, [header(IN, 0)], [512, 1])[1][1] == bytes((IOERR,))
    assert driver.request(0, [header(OUT, 0), bytes(512)], [1])[1] == [bytes((IOERR,))]
    assert driver.request(0, [header(FLUSH)], [1])[1] == [bytes((IOERR,))]


@pytest.mark.parametrize(
    "buffers",
    [
        [(0x40000, 16, False)],  # no room for the status
        [(0x40000, 16, False), (4 * MIB, 512, True), (0x50000, 1, True)],
        [(0x40000, 16, False), (0x50000, 512, True), (4 * MIB, 1, True)],
        [(4 * MIB, 16, False), (0x50000, 513, True)],
        [(0x40000, 16, False), (WHERE, 512, True), (0x50000, 1, True)],  # the device's own registers
    ],
)
def test_requests_no_answer_is_possible_to(buffers: list[tuple[int, int, bool]]) -> None:
    driver = block()
    driver.memory.write_bytes(0x40000, header(IN, 0))
    driver.offer(0, buffers)
    driver.kick(0)
    assert driver.status & NEEDS_RESET


def test_what_the_device_writes_is_traced() -> None:
    driver = block()
    traced = []
    driver.memory.on_watched_write = lambda gpa, size: traced.append((gpa, size))
    driver.memory.watch(0x50)
    driver.memory.write_bytes(0x40000, header(IN, 0))
    driver.offer(0, [(0x40000, 16, False), (0x50000, 512, True), (0x50800, 1, True)])
    driver.kick(0)
    assert traced == [(0x50000, 512), (0x50800, 1)]


# -- console and entropy -----------------------------------------------------------------------------------------


def console(features: int = 0) -> tuple[Driver, VirtioConsole, bytearray]:
    printed = bytearray()
    device = VirtioConsole(printed.extend)
    return Driver(device, features), device, printed


def test_console_output() -> None:
    driver, _, printed = console()
    driver.start()
    assert driver.request(1, [b"hello, ", b"world"], []) == (0, [])
    assert driver.request(1, [b"!" * 0x18000], []) == (0, [])
    assert printed == b"hello, world" + b"!" * 0x18000


def test_console_input_waits_for_buffers() -> None:
    driver, device, _ = console()
    device.receive(b"early ")
    driver.start()
    device.receive(b"bird")
    assert driver.used(0) == []
    driver.offer(0, [(0x50000, 8, True)], 0)
    driver.offer(0, [(0x51000, 1, True), (0x52000, 7, True)], 1)
    driver.offer(0, [(0x53000, 8, True)], 3)
    driver.kick(0)
    assert driver.used(0) == [(0, 8), (1, 2)]
    assert [driver.memory.read_bytes(at, 8) for at in (0x50000, 0x51000, 0x52000)] == [
        b"early bi", b"r\0\0\0\0\0\0\0", b"d\0\0\0\0\0\0\0",
    ]  # fmt: skip
    driver.memory.read(driver.isr, 1)
    edges = driver.edges
    device.receive(b"x")
    assert (driver.used(0)[2], driver.edges) == ((3, 1), edges + 1)
    assert driver.memory.read_bytes(0x53000, 2) == b"x\0"


def test_console_input_outlives_a_reset() -> None:
    driver, device, _ = console()
    driver.start()
    device.receive(b"kept")
    driver.start()
    driver.offer(0, [(0x50000, 8, True)])
    driver.kick(0)
    assert driver.memory.read_bytes(0x50000, 5) == b"kept\0"


def test_console_input_survives_a_bad_buffer() -> None:
    driver, device, _ = console()
    driver.start()
    driver.offer(0, [(8 * MIB, 8, True)])
    device.receive(b"kept")
    assert driver.status & NEEDS_RESET
    driver.start()
    driver.offer(0, [(0x50000, 8, True)])
    driver.kick(0)
    assert driver.memory.read_bytes(0x50000, 5) == b"kept\0"


def test_entropy_comes_from_its_source() -> None:
    driver = Driver(VirtioRng(random.Random(7).randbytes)).start()
    _, first = driver.request(0, [], [10, 6])
    _, second = driver.request(0, [], [16])
    expected = random.Random(7)
    assert (b"".join(first), b"".join(second)) == (expected.randbytes(16), expected.randbytes(16))


@pytest.mark.parametrize(("source", "length"), [(lambda count: b"ab", 2), (lambda count: bytes(count + 9), 64)])
def test_entropy_of_another_length(source: Callable[[int], bytes], length: int) -> None:
    assert Driver(VirtioRng(source)).start().request(0, [], [64])[0] == length


def test_entropy_requests_of_any_size() -> None:
    driver = Driver(VirtioRng(bytes)).start()
    assert driver.request(0, [b"ignored"], [0x18000])[0] == 0x10000
    assert driver.request(0, [b"no room"], [])[0] == 0


# -- misuse ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_no_sequence_of_accesses_does_harm(seed: int) -> None:
    dice = random.Random(seed)
    devices = (VirtioBlock(disk()), VirtioConsole(lambda _: None), VirtioRng(bytes))
    driver = Driver(devices[seed % 3], dice.choice((0, F_INDIRECT_DESC, F_EVENT_IDX, F_INDIRECT_DESC | F_EVENT_IDX)))
    interesting = (0, 1, 2, 8, 0xFFFF, 0x10000, 0x40000, WHERE, 4 * MIB - 16, 0xFFFF_FFFF)
    broken = 0
    for turn in range(300):
        if turn % 10 == 0:
            driver.start()
        for number in driver.offered:
            table, avail, _ = driver.rings(number)
            for at in range(SIZE):
                length, following = dice.choice((0, 1, 16, 512, 0xFFFF_FFFF)), dice.randrange(SIZE + 1)
                raw = struct.pack("<QIHH", dice.choice(interesting), length, dice.randrange(8), following)
                driver.memory.write_bytes(table + 16 * at, raw)
            driver.memory.write_bytes(avail, struct.pack("<HH", 0, dice.randrange(20)) + dice.randbytes(8))
        size = dice.choice((1, 2, 4, 8))
        driver.memory.write(WHERE + dice.randrange(0x4000 // size) * size, size, dice.choice(interesting))
        driver.memory.write(driver.common + dice.randrange(64), size, dice.choice(interesting))
        driver.memory.read(WHERE + dice.randrange(0x4000), size)
        driver.set_config(dice.randrange(0x40, 0x100), 1, dice.randrange(256))
        driver.kick(dice.choice((0, 1)))
        broken += bool(driver.status & NEEDS_RESET)
    assert broken
    driver.set_config(0x10, 4, WHERE)
    driver.set_config(0x04, 2, 0x02)
    driver.start()
    assert not driver.status & NEEDS_RESET
