"""The chipset's functions: the BIOS area's write enables, and where the power management registers are."""

from __future__ import annotations

from emu.devices.chipset import HostBridge, PowerFunction


class Area:
    def __init__(self) -> None:
        self.log: list[tuple[str, int, int]] = []

    def protect(self, start: int, length: int) -> None:
        self.log.append(("protect", start, length))

    def unprotect(self, start: int, length: int) -> None:
        self.log.append(("unprotect", start, length))


def test_write_enables_of_the_bios_area() -> None:
    area = Area()
    bridge = HostBridge(area)
    bridge.write(0x59, 1, 0x10)  # reads only
    assert area.log == []
    bridge.write(0x59, 1, 0x30)
    assert area.log == [("unprotect", 0xF0000, 0x10000)]
    bridge.write(0x5A, 2, 0x0320)
    assert area.log[1:] == [("unprotect", 0xC4000, 0x4000), ("unprotect", 0xC8000, 0x4000)]
    bridge.write(0x5F, 1, 0x30)
    bridge.write(0x59, 1, 0x10)
    assert area.log[3:] == [("unprotect", 0xEC000, 0x4000), ("protect", 0xF0000, 0x10000)]


def test_power_management_moves() -> None:
    moves: list[int | None] = []
    function = PowerFunction(0x600, 9, moves.append)
    assert (function.base(), function.read(0x40, 4), function.read(0x3C, 1)) == (0x600, 0x601, 9)
    function.write(0x40, 4, 0xB001)
    function.write(0x80, 1, 0)
    function.write(0x40, 4, 0x601)
    function.write(0x80, 1, 1)
    assert moves == [0xB000, None, 0x600]
