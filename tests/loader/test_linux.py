"""The Linux boot protocol: header checks, entries, boot_params, command line, initrd; and memtest86+ itself."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emu.errors import GuestFileError
from isa.x86.state import CS, DS, RSI, SS

Loading = Callable[..., Any]
CONSOLE = "console=ttyS0,115200"


def field(one: Any, offset: int, size: int) -> int:
    value: int = one.memory.read(one.state.regs[RSI] + offset, size)
    return value


def test_a_64_bit_kernel_is_entered_200h_into_its_payload(loading: Loading, samples: Any) -> None:
    one = loading(samples.linux())
    assert one.guest.format == "linux"
    assert (one.state.mode, one.state.rip) == (64, 0x100200)
    assert (one.state.segs[CS].selector, one.state.segs[DS].selector) == (0x10, 0x18)
    assert one.memory.read_bytes(0x100000, 4) == bytes(range(4))
    assert one.memory.read(0x100000 + 0x23F, 1) == 0x3F


def test_a_32_bit_kernel_is_entered_at_its_start(loading: Loading, samples: Any) -> None:
    for one in (loading(samples.linux(xloadflags=0)), loading(samples.linux(), mode=32)):
        assert (one.state.mode, one.state.rip, one.state.cr0 >> 31) == (32, 0x100000, 0)
        assert (one.state.segs[CS].selector, one.state.segs[DS].selector) == (0x10, 0x18)
    with pytest.raises(GuestFileError, match="XLF_KERNEL_64"):
        loading(samples.linux(xloadflags=0), mode=64)


def test_a_relocatable_kernel_goes_to_its_preferred_address(loading: Loading, samples: Any) -> None:
    one = loading(samples.linux(relocatable=1, pref_address=0x234567, alignment=0x10000))
    assert one.state.rip == 0x240200
    assert field(one, 0x214, 4) == 0x240000


def test_boot_params(loading: Loading, samples: Any) -> None:
    one = loading(samples.linux(), append=CONSOLE, initrd=b"\x5a" * 5000)
    assert one.memory.read(one.state.regs[RSI] + 0x202, 4) == int.from_bytes(b"HdrS", "little")
    assert (field(one, 0x206, 2), field(one, 0x210, 1), field(one, 0x1FE, 2)) == (0x20C, 0xFF, 0xAA55)
    assert one.memory.read_bytes(field(one, 0x228, 4), len(CONSOLE) + 1) == CONSOLE.encode() + b"\0"
    image, size = field(one, 0x218, 4), field(one, 0x21C, 4)
    assert (image, size) == (8 * 1024 * 1024 - 8192, 5000)
    assert one.memory.read_bytes(image, size) == b"\x5a" * 5000
    rows = [
        struct.unpack("<QQI", one.memory.read_bytes(one.state.regs[RSI] + 0x2D0 + 20 * i, 20))
        for i in range(field(one, 0x1E8, 1))
    ]
    assert rows == one.memory.e820()
    assert (field(one, 0x1E0, 4), field(one, 2, 2)) == (7 * 1024, 7 * 1024)
    assert (field(one, 6, 1), field(one, 7, 1), field(one, 14, 1), field(one, 15, 1)) == (3, 80, 25, 1)


def test_a_random_seed_is_passed_to_kernels_that_take_one(loading: Loading, samples: Any) -> None:
    seed = bytes(range(32))
    one = loading(samples.linux(), seed=seed)
    data = field(one, 0x250, 8)
    assert one.memory.read_bytes(data, 16 + len(seed)) == struct.pack("<QII", 0, 9, len(seed)) + seed
    assert field(loading(samples.linux()), 0x250, 8) == 0
    assert field(loading(samples.linux(version=0x208), seed=seed), 0x250, 8) == 0


def test_the_initrd_stays_below_its_limit(loading: Loading, samples: Any) -> None:
    one = loading(samples.linux(initrd_max=0x3FFFFF), initrd=bytes(4096))
    assert field(one, 0x218, 4) == 0x3FF000


@pytest.mark.parametrize(
    ("knobs", "options", "told"),
    [
        ({"version": 0x205}, {}, "boot protocol 0x205 at file offset 0x206"),
        ({"init_size": 8 << 20}, {}, "8388608 bytes at guest-physical 0x100000 does not fit .* 8388608"),
        ({"relocatable": 1, "alignment": 3}, {}, "kernel_alignment 0x3"),
        ({"relocatable": 1, "pref_address": 1 << 40}, {}, "pref_address"),
        ({}, {"append": "x" * 256}, "256 bytes, but the kernel takes at most 255"),
        ({}, {"initrd": bytes(8 << 20)}, "initrd of 8388608 bytes"),
        ({"initrd_max": 0x1000}, {"initrd": b"x"}, "initrd of 1 bytes"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(
    loading: Loading, samples: Any, knobs: dict[str, int], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(GuestFileError, match=f"guest.img: .*{told}"):
        loading(samples.linux(**knobs), **options)


def test_damaged_headers(loading: Loading, samples: Any) -> None:
    good = samples.linux()
    with pytest.raises(
        GuestFileError, match="truncated: the protected-mode kernel needs 561 bytes at file offset 0x400"
    ):
        loading(good[:-32])
    low = bytearray(good)
    low[0x211] = 0
    with pytest.raises(GuestFileError, match="bzImage"):
        loading(bytes(low))
    with pytest.raises(GuestFileError, match="55 aa"):
        loading(bytes(4096), format="linux")
    with pytest.raises(GuestFileError, match="HdrS"):
        loading(bytes(510) + b"\x55\xaa" + bytes(512), format="linux")


@pytest.mark.parametrize(("name", "mode", "entry"), [("x64", 64, 0x100200), ("ia32", 32, 0x100000)])
def test_memtest86_plus(loading: Loading, name: str, mode: int, entry: int) -> None:
    path = Path(f"/boot/memtest86+{name}.bin")
    if not path.exists():
        pytest.skip("the memtest86+ package is not installed")
    one = loading(path.read_bytes(), append=CONSOLE)
    assert (one.state.mode, one.state.rip) == (mode, entry)
    assert one.memory.read(entry, 2) == 0xFAFC  # cld; cli
    assert one.memory.read_bytes(field(one, 0x228, 4), len(CONSOLE)) == CONSOLE.encode()


def test_old_protocols_are_entered_by_their_real_mode_code(loading: Loading, samples: Any) -> None:
    image = samples.linux(version=0x207)
    one = loading(image, append="hello", initrd=b"disk")
    state, at = one.state, 0x10000
    assert (state.mode, state.segs[CS].selector, state.rip, state.segs[SS].selector) == (16, 0x1020, 0, 0x1000)
    assert one.memory.read_bytes(at + 0x202, 4) == b"HdrS"
    line = one.memory.read(at + 0x228, 4)
    assert one.memory.read_bytes(line, 6) == b"hello\0"
    start, size = one.memory.read(at + 0x218, 4), one.memory.read(at + 0x21C, 4)
    assert one.memory.read_bytes(start, size) == b"disk"
    assert one.memory.read(at + 0x210, 1) == 0xFF
    assert one.memory.read(at + 0x211, 1) & 0x81 == 0x81
    assert one.memory.read_bytes(0x100000, 16) == image[1024:1040]


def test_mode_16_asks_for_the_real_mode_code(loading: Loading, samples: Any) -> None:
    assert loading(samples.linux(), mode=16).state.mode == 16
