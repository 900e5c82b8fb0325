"""The PVH entry: the note that names it, the start-info structure, and the start state."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from emu.errors import GuestFileError
from emu.loader.elf import notes
from isa.x86.state import CS, DS, RBX, SS

Loading = Callable[..., Any]


@pytest.mark.parametrize("bits", [32, 64])
def test_start_state(loading: Loading, samples: Any, bits: int) -> None:
    one = loading(samples.pvh(bits))
    state = one.state
    assert one.guest.format == "pvh"
    assert (state.mode, state.rip, one.guest.entry) == (32, 0x200001, 0x200001)
    assert (state.cr0 & 0x80000001, state.cr4, state.efer, state.rflags) == (1, 0, 0, 2)
    for index in (CS, DS, SS):
        assert (state.segs[index].base, state.segs[index].limit) == (0, 0xFFFFFFFF)
    assert (state.tr.base, state.tr.limit, state.tr.attr) == (0, 0x67, 0x8B)
    assert one.memory.read_bytes(0x200000, 3) == b"\xf4\xeb\xfd"


def test_start_info(loading: Loading, samples: Any) -> None:
    one = loading(samples.pvh(), append="console=ttyS0", initrd=b"\x5a" * 5000, rsdp=0xE0000)
    at = one.state.regs[RBX]
    magic, version, flags, modules, modules_at, line, rsdp, map_at, rows, _ = struct.unpack(
        "<4I4Q2I", one.memory.read_bytes(at, 56)
    )
    assert (magic, version, flags, modules, rsdp) == (0x336EC578, 1, 0, 1, 0xE0000)
    assert one.memory.read_bytes(line, 14) == b"console=ttyS0\0"
    start, size, its_line, _ = struct.unpack("<4Q", one.memory.read_bytes(modules_at, 32))
    assert (start, size, its_line) == ((8 << 20) - 8192, 5000, 0)
    assert one.memory.read_bytes(start, size) == b"\x5a" * 5000
    table = [struct.unpack("<2Q2I", one.memory.read_bytes(map_at + 24 * i, 24)) for i in range(rows)]
    assert table == [(*row, 0) for row in one.memory.e820()]


def test_without_a_module(loading: Loading, samples: Any) -> None:
    one = loading(samples.pvh())
    assert one.memory.read(one.state.regs[RBX] + 12, 4) == 0
    assert one.memory.read(one.state.regs[RBX] + 16, 8) == 0
    assert one.memory.read(one.state.regs[RBX] + 32, 8) == 0


def test_linux_s_own_protocol_can_be_asked_for(loading: Loading, samples: Any) -> None:
    one = loading(samples.pvh(), format="linux")
    assert (one.guest.format, one.state.mode, one.state.rip) == ("linux", 64, 0x200000)


def test_what_cannot_be_started(loading: Loading, samples: Any) -> None:
    with pytest.raises(GuestFileError, match=r"guest.img: no PVH entry: there is no note of type 18 owned by 'Xen'"):
        loading(samples.vmlinux(), format="pvh")
    with pytest.raises(GuestFileError, match="PVH entry 0x300000 lies in no loaded segment"):
        loading(samples.pvh(entry=0x300000))
    with pytest.raises(GuestFileError, match="initrd of 8388608 bytes does not fit"):
        loading(samples.pvh(), initrd=bytes(8 << 20))
    with pytest.raises(GuestFileError, match="command line of 65536 bytes, but the kernel takes at most 65535"):
        loading(samples.pvh(), append="x" * 65536)


def test_notes(samples: Any) -> None:
    found = notes(samples.pvh(32))
    assert [(note.owner, note.kind, note.content) for note in found] == [
        ("Linux", 0x101, b"6.1.0\0"),
        ("Xen", 18, b"\x01\x00\x20\x00"),
    ]
    assert notes(samples.elf()) == notes(b"no elf") == notes(b"\x7fELF") == []
    cut = samples.note(b"Xen", 18, bytes(8))
    assert notes(samples.elf(notes=cut[:-1])) == []
    assert len(notes(samples.elf(notes=cut * 3 + cut[:-1]))) == 3
