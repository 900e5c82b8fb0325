"""The picture of a text screen."""

from __future__ import annotations

import io

from PIL import Image

from emu.screen import render_png

BLUE, YELLOW, GREY, BLACK = (0, 0, 170), (255, 255, 85), (170, 170, 170), (0, 0, 0)


class Screen:
    """25 rows of blanks, with a few cells set."""

    def __init__(self, cells: dict[tuple[int, int], tuple[str, int]], cursor: tuple[int, int] | None = None) -> None:
        self._cells, self._cursor = cells, cursor

    def cells(self) -> list[list[tuple[str, int]]]:
        return [[self._cells.get((column, row), (" ", 0x07)) for column in range(80)] for row in range(25)]

    def cursor(self) -> tuple[int, int] | None:
        return self._cursor


def picture(screen: Screen) -> Image.Image:
    return Image.open(io.BytesIO(render_png(screen))).convert("RGB")


def colours(image: Image.Image, column: int, row: int) -> dict[tuple[int, ...], int]:
    """Colours of one cell and how many of its 9 x 16 points have them."""
    cell = image.crop((9 * column, 16 * row, 9 * column + 9, 16 * row + 16))
    return {colour: count for count, colour in cell.getcolors() or []}  # type: ignore[misc]


def test_size_and_blanks() -> None:
    image = picture(Screen({}))
    assert image.size == (720, 400)
    assert colours(image, 0, 0) == {BLACK: 144}


def test_a_letter_has_ink_and_paper() -> None:
    image = picture(Screen({(3, 2): ("M", 0x1E)}))
    found = colours(image, 3, 2)
    assert set(found) == {BLUE, YELLOW}
    assert 10 < found[YELLOW] < 72
    assert colours(image, 4, 2) == {BLACK: 144}


def test_different_characters_look_different() -> None:
    pictures = {render_png(Screen({(0, 0): (char, 0x07)})) for char in "ABab09*+#@éß"}
    assert len(pictures) == 12


def test_blocks_lines_and_shades() -> None:
    image = picture(Screen({(0, 0): ("█", 0x07), (1, 0): ("▀", 0x07), (2, 0): ("─", 0x07), (3, 0): ("▒", 0x07)}))
    assert colours(image, 0, 0) == {GREY: 144}
    assert colours(image, 1, 0) == {GREY: 72, BLACK: 72}
    assert colours(image, 2, 0)[GREY] == 9
    assert 36 <= colours(image, 3, 0)[GREY] <= 72


def test_lines_join_across_cells() -> None:
    image = picture(Screen({(0, 0): ("┌", 0x07), (1, 0): ("─", 0x07), (0, 1): ("│", 0x07)}))
    assert all(image.getpixel((x, 8)) == GREY for x in range(4, 18))
    assert all(image.getpixel((4, y)) == GREY for y in range(8, 32))


def test_cursor_is_drawn() -> None:
    image = picture(Screen({}, cursor=(5, 4)))
    assert colours(image, 5, 4) == {BLACK: 126, GREY: 18}


def test_the_same_screen_gives_the_same_bytes() -> None:
    assert render_png(Screen({(1, 1): ("x", 0x4F)})) == render_png(Screen({(1, 1): ("x", 0x4F)}))
