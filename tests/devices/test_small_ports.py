"""The devices of one register: port 92h, reset control, debug console, debug exit, POST code."""

from __future__ import annotations

from emu.devices.debugcon import DebugConsole
from emu.devices.debugexit import DebugExit
from emu.devices.port92 import Port92
from emu.devices.post import PostCode
from emu.devices.reset import ResetControl


def test_port_92() -> None:
    a20: list[bool] = []
    resets: list[int] = []
    port = Port92(a20.append, lambda: resets.append(1))
    assert port.read(0, 1) == 2
    port.write(0, 1, 0)
    port.write(0, 1, 2)
    assert (a20, resets) == ([False, True], [])
    port.write(0, 1, 3)
    port.write(0, 1, 3)
    assert (a20, resets) == ([False, True], [1])
    assert port.read(0, 1) == 3


def test_reset_control() -> None:
    resets: list[int] = []
    control = ResetControl(lambda: resets.append(1))
    control.write(0, 1, 0x02)
    assert (control.read(0, 1), resets) == (0x02, [])
    control.write(0, 1, 0x06)
    assert resets == [1]
    control.write(0, 1, 0x00)
    control.write(0, 1, 0x04)
    assert resets == [1, 1]


def test_debug_console() -> None:
    out = bytearray()
    console = DebugConsole(out.extend)
    console.write(0, 1, 0x41)
    console.write(0, 1, 0x42)
    assert out == b"AB"
    assert console.read(0, 1) == 0xE9


def test_debug_exit() -> None:
    values: list[int] = []
    device = DebugExit(values.append)
    device.write(0, 4, 0x10)
    assert values == [0x10]
    assert [device.read(0, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFFFFFF]


def test_post_code() -> None:
    post = PostCode()
    post.write(0, 1, 0xA5)
    assert (post.last, post.read(0, 1)) == (0xA5, 0xA5)
