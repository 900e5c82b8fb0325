"""The VGA's registers and what it shows, over a memory of bytes."""

from __future__ import annotations

import pytest

from emu.devices.vga import TEXT, Vga

ATTRIBUTE, SEQUENCER, GRAPHICS, CRTC, STATUS = 0x00, 0x04, 0x0E, 0x14, 0x1A


@pytest.fixture
def memory() -> bytearray:
    return bytearray(b" \x07" * 0x4000)


@pytest.fixture
def vga(memory: bytearray) -> Vga:
    def read(gpa: int, length: int) -> bytes:
        return bytes(memory[gpa - TEXT : gpa - TEXT + length])

    return Vga(read)


def set_crtc(vga: Vga, index: int, value: int) -> None:
    vga.write(CRTC, 1, index)
    vga.write(CRTC + 1, 1, value)


def test_text_and_attributes(vga: Vga, memory: bytearray) -> None:
    memory[0:8] = b"H\x1fi\x2e\xc4\x07\0\x07"
    memory[160 * 24 + 158 : 160 * 25] = b"z\x70"
    assert vga.text()[0] == "Hi─"
    assert vga.text()[24] == " " * 79 + "z"
    assert len(vga.text()) == 25
    assert vga.cells()[0][:2] == [("H", 0x1F), ("i", 0x2E)]


def test_every_code_has_a_character(vga: Vga, memory: bytearray) -> None:
    for code in range(256):
        memory[2 * code] = code
    shown = "".join(char for row in vga.cells() for char, _ in row)[:256]
    assert shown[0x41] == "A"
    assert (shown[0xDB], shown[0xB0], shown[0x10], shown[0xE1], shown[0xFE]) == ("█", "░", "►", "ß", "■")
    assert len(set(shown)) == 256


def test_start_address_scrolls_and_wraps(vga: Vga, memory: bytearray) -> None:
    memory[160] = ord("x")
    set_crtc(vga, 0x0D, 80)
    assert vga.text()[0] == "x"
    memory[0] = ord("y")
    set_crtc(vga, 0x0C, 0x3F)
    set_crtc(vga, 0x0D, 0xB0)  # 3FB0h words: one row before the end of the text memory
    assert vga.text()[1] == "y"


def test_cursor(vga: Vga) -> None:
    assert vga.cursor() == (0, 0)
    set_crtc(vga, 0x0E, (80 * 3 + 17) >> 8)
    set_crtc(vga, 0x0F, (80 * 3 + 17) & 0xFF)
    assert vga.cursor() == (17, 3)
    vga.write(CRTC, 1, 0x0F)
    assert vga.read(CRTC + 1, 1) == (80 * 3 + 17) & 0xFF
    set_crtc(vga, 0x0E, 0x10)
    assert vga.cursor() is None  # beyond the screen
    set_crtc(vga, 0x0E, 0)
    set_crtc(vga, 0x0A, 0x20)
    assert vga.cursor() is None  # switched off


def test_timing_registers_can_be_protected(vga: Vga) -> None:
    set_crtc(vga, 0x11, 0x80)
    before = vga.crtc[0]
    set_crtc(vga, 0, before ^ 0xFF)
    assert vga.crtc[0] == before
    set_crtc(vga, 0x11, 0)
    set_crtc(vga, 0, before ^ 0xFF)
    assert vga.crtc[0] == before ^ 0xFF


def test_retrace_bits_come_and_go(vga: Vga) -> None:
    seen = {vga.read(STATUS, 1) & 9 for _ in range(4)}
    assert seen == {0, 9}


def test_attribute_flip_flop(vga: Vga) -> None:
    vga.read(STATUS, 1)
    vga.write(ATTRIBUTE, 1, 0x05)
    vga.write(ATTRIBUTE, 1, 0x2A)
    vga.read(STATUS, 1)
    vga.write(ATTRIBUTE, 1, 0x05)
    assert vga.read(ATTRIBUTE + 1, 1) == 0x2A


@pytest.mark.parametrize(("index", "register"), [(SEQUENCER, 2), (GRAPHICS, 6)])
def test_indexed_registers_are_kept(vga: Vga, index: int, register: int) -> None:
    vga.write(index, 1, register)
    vga.write(index + 1, 1, 0x0B)
    assert (vga.read(index, 1), vga.read(index + 1, 1)) == (register, 0x0B)


def test_palette(vga: Vga) -> None:
    vga.write(0x08, 1, 7)
    for value in (1, 2, 3, 63, 62, 61):
        vga.write(0x09, 1, value)
    vga.write(0x07, 1, 7)
    assert [vga.read(0x09, 1) for _ in range(6)] == [1, 2, 3, 63, 62, 61]


def test_unknown_registers_read_as_ones(vga: Vga) -> None:
    assert vga.read(0x1F, 1) == 0xFF
    assert vga.read(0x10, 1) == 0xFF
