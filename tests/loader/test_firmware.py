"""Firmware: where its ROM is seen, what can be written, and the state of the CPU at the reset vector."""

from __future__ import annotations

import pytest

from emu import Machine, MachineConfig
from emu.errors import GuestFileError
from emu.exits import EndReason

SIZE = 0x40000
MAIN = 0x10  # offset of the program in the last 64 KiB


def rom(program: str) -> bytes:
    """A ROM whose reset vector jumps to F000:0010, where `program` lies."""
    image = bytearray(b"\xaa" * SIZE)
    code = bytes.fromhex(program)
    image[-0x10000 + MAIN : -0x10000 + MAIN + len(code)] = code
    image[-16:-11] = bytes.fromhex("ea 10 00 00 f0")
    return bytes(image)


@pytest.mark.parametrize("engine", ["translate", "interpret"])
def test_starts_at_the_reset_vector(engine: str) -> None:
    config = MachineConfig(rom("b8 aa 55 e6 f4 f4"), format="firmware", engine=engine)
    with Machine(config) as machine:
        state, memory = machine.state, machine.memory
        assert (state.segs[1].selector, state.segs[1].base, state.rip) == (0xF000, 0xFFFF0000, 0xFFF0)
        assert (state.cr0, state.rflags) == (0x60000010, 2)
        assert memory.read(0xFFFFFFF0, 1) == memory.read(0xFFFF0, 1) == 0xEA
        assert memory.read(0xE0000, 1) == memory.read(0x1_0000_0000 - SIZE, 1) == 0xAA
        assert memory.read(0xC0000, 1) == 0xFF
        memory.write(0xFFFF0, 1, 0)
        memory.write(0xFFFFFFF0, 1, 0)
        assert memory.read(0xFFFFFFF0, 1) == memory.read(0xFFFF0, 1) == 0xEA
        ending = machine.run().ending
    assert (ending.reason, ending.code) == (EndReason.DEBUG_EXIT, 0x55)  # (AAh << 1 | 1) & FFh


def test_the_host_bridge_opens_the_area_for_writing() -> None:
    # mov eax, 80000058h; mov dx, 0CF8h; out dx, eax; mov dx, 0CFDh; mov al, 30h; out dx, al
    # mov ax, cs; mov ds, ax; mov byte [0], 15h; mov al, [0]; out 0F4h, al
    program = "66 b8 58 00 00 80 ba f8 0c 66 ef ba fd 0c b0 30 ee 8c c8 8e d8 c6 06 00 00 15 a0 00 00 e6 f4"
    with Machine(MachineConfig(rom(program), format="firmware")) as machine:
        assert machine.run().ending.code == 0x2B


@pytest.mark.parametrize("size", [0, 100, 0x1001, (16 << 20) + 0x1000])
def test_sizes_that_are_no_rom(size: int) -> None:
    with pytest.raises(GuestFileError, match=rf"{size} bytes are no firmware"):
        Machine(MachineConfig(b"x" * size, format="firmware"))
