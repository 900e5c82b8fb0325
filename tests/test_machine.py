"""The Python interface: console, devices, limits, stopping and typing from other threads."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import emu
from emu import EndReason, GuestFileError, Machine, MachineConfig, UsageError
from guests.encode import raw

pytestmark = pytest.mark.parametrize("engine", ["translate", "interpret"])

SPIN = "eb fe"
IDLE = "b0 ff e6 21 fb f4 eb fd"  # halted, with interrupts on and all lines masked
ECHO = "66 ba fd 03 ec a8 01 74 fb b2 f8 ec ee 3c 71 75 ef b0 01 e6 f4 f4"
EXIT = "e6 f4 f4"  # AL through the debug exit


class Register:
    """A device of one byte that remembers how it was used."""

    name = "register"

    def __init__(self) -> None:
        self.value = 0
        self.log: list[tuple[str, int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.log.append(("read", offset, size, self.value))
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(("write", offset, size, value))
        self.value = value


@pytest.fixture
def machine(engine: str) -> Callable[..., Machine]:
    def build(code: str, out: Callable[[bytes], Any] | None = None, **options: Any) -> Machine:
        config = MachineConfig(
            bytes.fromhex(code), **{"engine": engine, "format": "flat", "memory": 4 << 20, "timeout": 20.0} | options
        )
        return Machine(config, console=out)

    return build


Build = Callable[..., Machine]


def test_console_callback_gets_the_guests_bytes(machine: Build) -> None:
    got: list[bytes] = []
    with machine("66 ba f8 03 b0 48 ee b0 49 ee b0 02" + EXIT, got.append) as one:
        assert one.run().ending.code == 5
    assert b"".join(got) == b"HI"


def test_without_a_console_output_is_dropped(machine: Build) -> None:
    with machine("b0 48 e6 e9 b0 02" + EXIT) as one:
        assert one.run().ending.code == 5


def test_port_device(machine: Build) -> None:
    device = Register()
    with machine("b0 07 e6 e0 e4 e0 04 02 66 e7 e0 e4 e1" + EXIT) as one:
        one.add_port_device(0xE0, 2, device)
        result = one.run()
    # in al, 0xe1 reads what out 0xe0, ax wrote: 9
    assert [entry[:3] for entry in device.log] == [("write", 0, 1), ("read", 0, 1), ("write", 0, 2), ("read", 1, 1)]
    assert device.log[0][3] == 7
    assert result.ending.code == 9 << 1 | 1


def test_memory_device(machine: Build) -> None:
    device = Register()
    # mov eax, [0xe0000004]; inc eax; mov [0xe0000008], eax; out 0xf4, al
    with machine("bb 00 00 00 e0 8b 43 04 ff c0 89 43 08" + EXIT) as one:
        one.add_memory_device(0xE000_0000, 0x1000, device)
        device.value = 20
        assert one.run().ending.code == 21 << 1 | 1
    assert device.log == [("read", 4, 4, 20), ("write", 8, 4, 21)]


def test_ports_nobody_claims_read_as_ones(machine: Build) -> None:
    with machine("e4 e0" + EXIT) as one:
        assert one.run().ending.detail == "the guest left with value 0xff (status 511)"


def test_devices_must_not_overlap(machine: Build) -> None:
    with machine(SPIN) as one:
        with pytest.raises(ValueError, match=r"register at 0x2f0\+0x9 overlaps com2 at 0x2f8\+0x8"):
            one.add_port_device(0x2F0, 9, Register())
        one.add_port_device(0x2F0, 8, Register())
        with pytest.raises(ValueError, match="overlaps register"):
            one.add_port_device(0x2F7, 1, Register())
        with pytest.raises(ValueError, match="overlaps RAM"):
            one.add_memory_device(0x1000, 0x1000, Register())
        with pytest.raises(ValueError, match="overlaps RAM"):
            one.add_memory_device((4 << 20) - 1, 2, Register())
        one.add_memory_device(4 << 20, 0x1000, Register())
        with pytest.raises(ValueError, match="overlaps register"):
            one.add_memory_device((4 << 20) + 0xFFF, 1, Register())


def test_a_device_that_fails_is_not_swallowed(machine: Build) -> None:
    class Broken(Register):
        def read(self, offset: int, size: int) -> int:
            raise ZeroDivisionError

    with machine("e4 e0" + EXIT) as one:
        one.add_port_device(0xE0, 1, Broken())
        with pytest.raises(ZeroDivisionError):
            one.run()


def test_a_console_that_fails_is_not_swallowed(machine: Build) -> None:
    def fail(_data: bytes) -> None:
        raise ZeroDivisionError

    with machine("b0 48 e6 e9 b0 02" + EXIT, fail) as one, pytest.raises(ZeroDivisionError):
        one.run()


@pytest.mark.parametrize("code", [SPIN, "e4 80 eb fc", IDLE], ids=["spin", "ports", "idle"])
def test_stop_from_another_thread(machine: Build, code: str) -> None:
    with machine(code) as one:
        timer = threading.Timer(0.1, one.stop)
        timer.start()
        started = time.monotonic()
        ending = one.run().ending
        timer.join()
    assert (ending.reason, ending.code) == (EndReason.INTERRUPTED, 130)
    assert 0.05 < time.monotonic() - started < 5


def test_stop_before_the_run(machine: Build) -> None:
    with machine(SPIN) as one:
        one.stop()
        assert one.run().ending.code == 130


def test_timeout(machine: Build) -> None:
    for code in (SPIN, IDLE):
        started = time.monotonic()
        with machine(code, timeout=0.1) as one:
            ending = one.run().ending
        assert (ending.reason, ending.code) == (EndReason.TIMEOUT, 124)
        assert 0.1 <= time.monotonic() - started < 2


@pytest.mark.parametrize("count", [1, 2, 17, 1000, 30_001])
def test_max_instructions_is_exact(machine: Build, count: int) -> None:
    # inc ecx; inc edx; jmp back: after n instructions the counters tell where it stopped
    with machine("ff c1 ff c2 eb fa", max_instructions=count) as one:
        result = one.run()
        assert result.ending.reason is EndReason.INSTRUCTIONS
        assert result.stats.instructions == one.state.retired == count
        assert one.state.regs[1] == (count + 2) // 3
        assert one.state.regs[2] == (count + 1) // 3
        assert one.state.rip == 0x100000 + 2 * (count % 3)


def test_input_typed_before_the_run(machine: Build) -> None:
    console = bytearray()
    with machine(ECHO, console.extend) as one:
        one.send_input(b"some text, longer than a FIFO: ")
        one.send_input(b"q")
        assert one.run().ending.code == 3
    assert console == b"some text, longer than a FIFO: q"


def test_input_typed_meanwhile(machine: Build) -> None:
    console = bytearray()

    def answer(data: bytes) -> None:
        console.extend(data)
        if data == b"b":
            one.send_input(b"q")

    with machine(ECHO, answer) as one:
        timer = threading.Timer(0.1, one.send_input, [b"ab"])
        timer.start()
        assert one.run().ending.code == 3
        timer.join()
    assert console == b"abq"


def test_keys_of_the_vga_console(machine: Build) -> None:
    # wait for a byte of the keyboard controller: the scan code of "a" in set 1
    with machine("e4 64 a8 01 74 fa e4 60" + EXIT, console="vga") as one:
        one.send_input(b"a")
        assert one.run().ending.code == 0x1E << 1 | 1


def test_vga_console_leaves_the_serial_line_to_its_own_callback(engine: str) -> None:
    shown, line = bytearray(), bytearray()
    code = bytes.fromhex("66 ba f8 03 b0 48 ee b0 02" + EXIT)
    config = MachineConfig(code, engine=engine, format="flat", console="vga", timeout=20)
    with Machine(config, console=shown.extend, serial=line.extend) as one:
        one.run()
    assert (shown, line) == (b"", b"H")


def test_expected_text_may_come_in_pieces(machine: Build) -> None:
    seen: list[bytes] = []
    with machine("b0 48 e6 e9 b0 49 e6 e9 b0 4a e6 e9" + SPIN, seen.append, expect="HI", fail_on="HJ") as one:
        assert one.run().ending.reason is EndReason.EXPECTED
    with machine("b0 48 e6 e9 b0 4a e6 e9" + SPIN, expect="HI", fail_on="HJ") as one:
        assert one.run().ending.code == 10
    with machine("b0 ff e6 e9" + SPIN, expect="\udcff") as one:  # a byte typed in a shell that is no UTF-8
        assert one.run().ending.code == 0


def test_screen(machine: Build) -> None:
    with machine("c7 04 25 00 80 0b 00 56 1f 47 4f b0 02" + EXIT) as one:
        one.run()
        assert one.screen_text()[0] == "VG"
        assert len(one.screen_text()) == 25
        picture = Image.open(io.BytesIO(one.screenshot())).convert("RGB")
    assert picture.getpixel((0, 0)) == (0, 0, 170)
    assert picture.getpixel((9, 0)) == (170, 0, 0)


def test_statistics(machine: Build, engine: str) -> None:
    with machine("b9 0a 00 00 00 e6 80 ff c9 75 fa b0 02" + EXIT) as one:
        stats = one.run().stats
        blocks = one.blocks()
        assert stats.instructions == 33
        assert stats.seconds > 0
        if engine == "interpret":
            assert (stats.native_instructions, stats.blocks, blocks) == (0, 0, [])
            assert stats.exits["port write"] == 11
        else:
            assert 0 < stats.native_instructions < 33
            assert stats.blocks == len(blocks) > 0
            assert sum(len(one.code(block)) for block in blocks) <= stats.host_bytes
            assert stats.exits["out"] == 11


def test_symbols_name_addresses(engine: str) -> None:
    with Machine(MachineConfig("kernel32", engine=engine)) as one:
        assert one.name_of(one.guest.entry).startswith(f"{one.guest.entry:#x} (")
        assert one.name_of(0xDEAD0000) == "0xdead0000"


def test_bad_configurations_are_refused(engine: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Machine(MachineConfig(b"\xf4", engine=engine, mode=17))
    with pytest.raises(GuestFileError):
        Machine(MachineConfig(b"", engine=engine))
    with pytest.raises(GuestFileError):
        Machine(MachineConfig(tmp_path, engine=engine))


def test_closing_twice(machine: Build) -> None:
    one = machine(SPIN)
    one.close()
    one.close()


def test_public_names(engine: str) -> None:
    assert all(hasattr(emu, name) for name in emu.__all__)
    assert set(emu.__all__) <= set(dir(emu))
    with pytest.raises(AttributeError, match="nothing"):
        _ = emu.nothing


def test_soft_power_off_ends_the_run_with_0(engine: str) -> None:
    code = bytes.fromhex("66ba0406 66b80020 66ef f4")  # mov dx, 604h; mov ax, 2000h; out dx, ax; hlt
    with Machine(MachineConfig(code, engine=engine, format="flat", mode=32)) as machine:
        ending = machine.run().ending
    assert (ending.reason, ending.code) == (EndReason.POWER_OFF, 0)


def test_a_disk_image_and_another_disk_are_the_first_and_the_second(engine: str, tmp_path: Path) -> None:
    def read(drive: int) -> str:
        return (
            f"mov ax, 0x0201; mov cx, 1; mov dx, {drive}; xor bx, bx; mov es, bx; mov bx, 0x8000; int 0x13; "
            "mov al, byte ptr [0x81f4]; out 0xe9, al; "
        )

    slave = (
        "mov dx, 0x1f6; mov al, 0xf0; out dx, al; mov dx, 0x1f2; mov al, 1; out dx, al; inc dx; mov al, 0; out dx, al; "
        "inc dx; out dx, al; inc dx; out dx, al; mov dx, 0x1f7; mov al, 0x20; out dx, al; "
        "again: in al, dx; and al, 0x88; cmp al, 8; jne again; mov dx, 0x1f0; mov cx, 251; "
        "more: in ax, dx; loop more; out 0xe9, al; "
    )
    code = raw(read(0x80) + read(0x81) + slave + "mov al, 0x10; out 0xf4, al; hlt", 16)
    first = bytearray(code.ljust(2048, b"\0"))
    first[500:502], first[510:512] = b"AB", b"\x55\xaa"
    second = tmp_path / "second"
    second.write_bytes(b"\0" * 500 + b"XY" + bytes(522))
    console = bytearray()
    config = MachineConfig(bytes(first), engine=engine, disk=second, timeout=20.0)
    with Machine(config, console=console.extend) as one:
        assert one.run().ending.code == 33
    assert console == b"AXX"
