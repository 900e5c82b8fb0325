"""Base address registers: what a guest reads back, which ranges they give, and devices that follow them on the bus."""

from __future__ import annotations

import pytest

from emu.bus import ALL_ONES, Bus
from emu.devices.chipset import isa_bridge, piix3_ide
from emu.devices.pci import PciConfig, PciFunction, PciWindows, Window

IO, MEMORY, COMMAND = (0x20, True), (0x1000, False), 0x04
BAR0, BAR1 = 0x10, 0x14


class Echo:
    """Answers with its letter and the offset."""

    def __init__(self, letter: int, name: str = "echo") -> None:
        self.name = name
        self.letter = letter

    def read(self, offset: int, size: int) -> int:
        return self.letter << 8 | offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.letter = value


def function() -> PciFunction:
    return PciFunction(0x1234, 0x5678, 0x020000, (IO, MEMORY), interrupt_pin=1, revision=7, subsystem=(0x1AF4, 3))


def address(slot: int, register: int, number: int = 0) -> int:
    return 1 << 31 | slot << 11 | number << 8 | register


def test_header_fields() -> None:
    made = function()
    assert made.read(0, 4) == 0x5678_1234
    assert made.read(8, 4) == 0x0200_0007
    assert made.read(0x2C, 4) == 0x0003_1AF4
    assert made.read(0x3D, 1) == 1
    for register in (0, 8, 0x2C, 0x3D):
        made.write(register, 1, 0xEE)
    assert (made.read(0, 4), made.read(8, 4), made.read(0x2C, 4), made.read(0x3D, 1)) == (
        0x5678_1234, 0x0200_0007, 0x0003_1AF4, 1,
    )  # fmt: skip
    made.write(0x3C, 1, 11)
    assert made.read(0x3C, 1) == 11


def test_all_ones_tell_the_size_and_missing_registers_stay_zero() -> None:
    made = function()
    for register in (BAR0, BAR1, 0x18, 0x24, 0x30):
        made.write(register, 4, 0xFFFF_FFFF)
    assert made.read(BAR0, 4) == 0xFFFF_FFE1
    assert made.read(BAR1, 4) == 0xFFFF_F000
    assert [made.read(register, 4) for register in (0x18, 0x24, 0x30)] == [0, 0, 0]


def test_ranges_need_an_address_and_the_command_register() -> None:
    made = function()
    assert made.windows() == []
    made.write(BAR0, 4, 0xC005)
    made.write(BAR1, 4, 0xE000_0000)
    assert made.windows() == []
    made.write(COMMAND, 2, 1)
    assert made.windows() == [Window(0, 0xC000, 0x20, True)]
    made.write(COMMAND, 2, 2)
    assert made.windows() == [Window(1, 0xE000_0000, 0x1000, False)]
    made.write(COMMAND, 2, 3)
    assert len(made.windows()) == 2
    made.write(BAR0, 4, 0xFFFF_FFFF)  # sized while it decodes
    made.write(BAR1, 4, 0)
    assert made.windows() == []
    made.write(BAR0, 4, 0x1_0000)  # beyond the ports there are
    assert made.windows() == []


def test_a_function_is_told_of_changes_only() -> None:
    made, told = function(), []
    made.changed = lambda: told.append(made.windows())
    made.write(BAR0, 4, 0xC000)
    made.write(COMMAND, 2, 1)
    assert told == [[], [Window(0, 0xC000, 0x20, True)]]
    made.write(COMMAND, 2, 1)
    made.write(0x3C, 1, 5)
    made.write(0x0C, 4, 0x10)
    made.read(BAR0, 4)
    assert len(told) == 2
    made.write(BAR0 + 1, 1, 0xD0)  # a byte of the address
    assert told[2] == [Window(0, 0xD000, 0x20, True)]
    made.place(1, 0xE000_0000)
    assert told[3] == [Window(0, 0xD000, 0x20, True), Window(1, 0xE000_0000, 0x1000, False)]


def test_devices_follow_their_registers() -> None:
    ports, memory, made = Bus("port"), Bus("memory"), function()
    windows = PciWindows(ports, memory)
    windows.connect(made, {0: Echo(0xA), 1: Echo(0xB)})
    made.place(0, 0xC000)
    made.place(1, 0xE000_0000)
    assert ports.read(0xC005, 2) == 0xA05
    assert memory.read(0xE000_000F, 4) == 0xB0F
    made.write(BAR0, 4, 0xC100)
    assert ports.read(0xC005, 2) == ALL_ONES[2]
    assert ports.read(0xC105, 2) == 0xA05
    made.write(COMMAND, 2, 2)
    assert ports.ranges() == []
    assert memory.read(0xE000_0001, 2) == 0xB01
    made.write(COMMAND, 2, 0)
    assert memory.ranges() == []


def test_a_range_in_use_stays_with_its_owner_until_it_is_given_up() -> None:
    ports, memory = Bus("port"), Bus("memory")
    ports.attach(0x3F8, 8, Echo(0xC, "COM1"))
    windows, first, second = PciWindows(ports, memory), function(), function()
    windows.connect(first, {0: Echo(0xA)})
    windows.connect(second, {0: Echo(0xB)})
    first.place(0, 0xC000)
    second.place(0, 0xC000)
    assert ports.read(0xC000, 2) == 0xA00
    first.write(BAR0, 4, 0x3E1)  # on COM1
    assert ports.read(0x3F8, 2) == 0xC00
    assert ports.read(0x3E4, 1) == 0xFF
    assert ports.read(0xC000, 2) == 0xB00


@pytest.mark.parametrize("bar", [(24, True), (2, True), (8, False)])
def test_sizes_no_register_can_have_are_refused(bar: tuple[int, bool]) -> None:
    with pytest.raises(ValueError, match="base address register"):
        PciFunction(1, 1, 0, (bar,))


def test_functions_of_one_slot() -> None:
    config = PciConfig(Echo(0), PciFunction(0x8086, 0x1237, 0x060000))
    ide = piix3_ide()
    config.add(1, isa_bridge((10, 10, 11, 11)))
    config.add(1, ide, 1)
    config.write(0, 4, address(1, 0x0C))
    assert config.read(6, 1) == 0x80  # more functions than one
    config.write(0, 4, address(1, 0, 1))
    assert config.read(4, 4) == 0x7010_8086
    config.write(0, 4, address(1, 8, 1))
    assert config.read(4, 4) >> 8 == 0x010100
    config.write(0, 4, address(1, 0x40, 1))
    assert config.read(4, 4) == 0x8000_8000
    config.write(5, 1, 0)
    assert config.read(4, 4) == 0x8000_0000
    config.write(0, 4, address(0, 0x0C))
    assert config.read(6, 1) == 0
    with pytest.raises(ValueError, match="taken"):
        config.add(1, function(), 1)
    with pytest.raises(ValueError, match="no function 0"):
        config.add(5, function(), 1)
