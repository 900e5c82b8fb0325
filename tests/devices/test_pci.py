"""PCI configuration mechanism 1, as firmware and kernels probe it."""

from __future__ import annotations

import pytest

from emu.devices.chipset import isa_bridge
from emu.devices.pci import PciConfig, PciFunction
from emu.devices.reset import ResetControl


class Bus:
    def __init__(self) -> None:
        self.resets = 0
        self.config = PciConfig(ResetControl(self._reset), PciFunction(0x8086, 0x1237, 0x060000))
        self.config.add(1, isa_bridge((10, 10, 11, 11)))

    def _reset(self) -> None:
        self.resets += 1

    def read(self, slot: int, register: int, size: int = 4, function: int = 0, bus: int = 0) -> int:
        self.select(slot, register, function, bus)
        return self.config.read(4 + (register & 3), size)

    def write(self, slot: int, register: int, value: int, size: int = 4) -> None:
        self.select(slot, register)
        self.config.write(4 + (register & 3), size, value)

    def select(self, slot: int, register: int, function: int = 0, bus: int = 0) -> None:
        self.config.write(0, 4, 1 << 31 | bus << 16 | slot << 11 | function << 8 | register & 0xFC)


@pytest.fixture
def bus() -> Bus:
    return Bus()


def test_mechanism_1_is_detected_by_its_address_register(bus: Bus) -> None:
    bus.config.write(0, 4, 0x80000000)
    assert bus.config.read(0, 4) == 0x80000000
    bus.config.write(0, 1, 0x12)  # narrower writes are not for it
    assert bus.config.read(0, 4) == 0x80000000


def test_host_and_isa_bridge(bus: Bus) -> None:
    assert bus.read(0, 0) == 0x12378086
    assert bus.read(0, 8) >> 8 == 0x060000
    assert bus.read(1, 0) == 0x70008086
    assert bus.read(1, 0x0A, 2) == 0x0601
    assert bus.read(1, 2, 2) == 0x7000
    assert bus.read(1, 3, 1) == 0x70
    assert bus.read(1, 0x60) == 0x0B0B0A0A


def test_what_is_absent_reads_as_ones(bus: Bus) -> None:
    assert bus.read(2, 0) == 0xFFFFFFFF
    assert bus.read(0, 0, bus=1) == 0xFFFFFFFF
    assert bus.read(0, 0, 2, function=3) == 0xFFFF
    bus.config.write(0, 4, 0)  # not enabled
    assert bus.config.read(4, 4) == 0xFFFFFFFF


def test_reset_control_shares_the_ports(bus: Bus) -> None:
    bus.config.write(1, 1, 2)
    assert (bus.config.read(1, 1), bus.resets) == (2, 0)
    bus.config.write(1, 1, 6)
    assert bus.resets == 1
    bus.config.write(1, 1, 6)
    assert bus.resets == 1  # it takes a rising edge


def test_sizes_of_base_addresses(bus: Bus) -> None:
    bus.config.add(5, PciFunction(0x1234, 0x5678, 0x020000, ((0x1000, False), (0x20, True))))
    for register, expected in ((0x10, 0xFFFFF000), (0x14, 0xFFFFFFE1), (0x18, 0)):
        bus.write(5, register, 0xFFFFFFFF)
        assert bus.read(5, register) == expected
    bus.write(5, 0x14, 0xC041)
    assert bus.read(5, 0x14) == 0xC041


def test_only_some_bits_can_be_written(bus: Bus) -> None:
    bus.write(1, 0, 0)
    assert bus.read(1, 0) == 0x70008086
    bus.write(1, 4, 0xFFFF, 2)
    assert bus.read(1, 4, 2) == 0x0547
    bus.write(1, 0x3C, 0x0B, 1)
    assert bus.read(1, 0x3C, 1) == 0x0B


def test_a_slot_holds_one_function_of_a_number(bus: Bus) -> None:
    with pytest.raises(ValueError, match="slot 1, function 0 is taken"):
        bus.config.add(1, PciFunction(1, 2, 3))
