"""What a terminal gets of the BIOS's screen: plain text of a guest that prints, addressed cells of one that paints."""

from __future__ import annotations

import pytest

from emu.devices.bios.mirror import Mirror


class Terminal:
    def __init__(self) -> None:
        self.got = b""
        self.mirror = Mirror(self._take, 25, 80)

    def _take(self, data: bytes) -> None:
        self.got += data

    def type(self, text: bytes, row: int = 0, column: int = 0) -> None:
        for step, character in enumerate(text):
            self.mirror.teletype(character, row, column + step)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_printing_is_passed_on(terminal: Terminal) -> None:
    terminal.mirror.cleared()
    terminal.type(b"one\r")
    terminal.mirror.teletype(10, 0, 0)
    terminal.type(b"two\x08", row=1)
    terminal.type(b"\x07", row=1, column=2)
    terminal.type(b"W", row=1, column=2)
    assert terminal.got == b"one\r\ntwo\x08\x07W"


def test_a_long_line_goes_on_without_a_sequence(terminal: Terminal) -> None:
    terminal.type(b"x" * 80)
    terminal.type(b"y", row=1)
    assert terminal.got == b"x" * 80 + b"y"


def test_the_last_row_scrolls(terminal: Terminal) -> None:
    for row in range(24):
        terminal.mirror.teletype(10, row, 0)
    terminal.type(b"a", row=24)
    terminal.mirror.teletype(10, 24, 1)
    terminal.type(b"b", row=24, column=1)
    assert terminal.got == b"\n" * 24 + b"a\nb"


def test_other_places_are_addressed(terminal: Terminal) -> None:
    terminal.mirror.glyphs(b"title", 0, 10)
    terminal.mirror.glyphs(b"!", 0, 15)
    terminal.mirror.glyphs(b"next", 1, 0)
    terminal.mirror.glyphs(b"again", 1, 0)
    terminal.mirror.glyphs(b"up", 0, 3)
    assert terminal.got == b"\x1b[1;11Htitle!\r\nnext\ragain\x1b[1;4Hup"


def test_a_cleared_screen_is_cleared_before_the_next_text(terminal: Terminal) -> None:
    terminal.type(b"old")
    terminal.mirror.cleared()
    assert terminal.got == b"old"
    terminal.mirror.glyphs(b" " * 2000, 0, 0)  # clearing by blanks is clearing
    terminal.type(b"new")
    assert terminal.got == b"old\x1b[H\x1b[2Jnew"


def test_scrolling_the_screen(terminal: Terminal) -> None:
    terminal.type(b"a")
    terminal.mirror.scrolled(2)
    terminal.type(b"b", row=24)
    assert terminal.got == b"a\x1b[25;1H\n\nb"


@pytest.mark.parametrize(
    ("code", "glyph"), [(0, " "), (0x10, "►"), (0x18, "↑"), (0x41, "A"), (0x7F, "⌂"), (0xC4, "─"), (0xE1, "ß")]
)
def test_glyphs_of_code_page_437(terminal: Terminal, code: int, glyph: str) -> None:
    terminal.mirror.glyphs(bytes((code,)), 0, 0)
    assert terminal.got.decode() == glyph
