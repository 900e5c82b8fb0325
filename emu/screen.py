"""Renders a text screen as a PNG picture, with the font Pillow brings and box characters drawn as lines."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_WIDTH, _HEIGHT = 9, 16
_COLOURS = (
    (0, 0, 0), (0, 0, 170), (0, 170, 0), (0, 170, 170), (170, 0, 0), (170, 0, 170), (170, 85, 0), (170, 170, 170),
    (85, 85, 85), (85, 85, 255), (85, 255, 85), (85, 255, 255), (255, 85, 85), (255, 85, 255), (255, 255, 85),
    (255, 255, 255),
)  # fmt: skip
# Arms of box-drawing characters: left, right, up, down, each 0 (none), 1 (single) or 2 (double).
_BOXES = {
    "─": "1100", "│": "0011", "┌": "0101", "┐": "1001", "└": "0110", "┘": "1010", "├": "0111", "┤": "1011",
    "┬": "1101", "┴": "1110", "┼": "1111", "═": "2200", "║": "0022", "╔": "0202", "╗": "2002", "╚": "0220",
    "╝": "2020", "╠": "0222", "╣": "2022", "╦": "2202", "╩": "2220", "╬": "2222", "╞": "0211", "╡": "2011",
    "╟": "0122", "╢": "1022", "╤": "2201", "╧": "2210", "╥": "1102", "╨": "1120", "╪": "2211", "╫": "1122",
    "╒": "0201", "╕": "2001", "╘": "0210", "╛": "2010", "╓": "0102", "╖": "1002", "╙": "0120", "╜": "1020",
}  # fmt: skip
# Blocks as fractions of a cell: left, top, right, bottom.
_BLOCKS = {
    "█": (0.0, 0.0, 1.0, 1.0), "▀": (0.0, 0.0, 1.0, 0.5), "▄": (0.0, 0.5, 1.0, 1.0), "▌": (0.0, 0.0, 0.5, 1.0),
    "▐": (0.5, 0.0, 1.0, 1.0), "■": (0.2, 0.3, 0.8, 0.7),
}  # fmt: skip
_SHADES = {"░": 4, "▒": 2, "▓": 1}


class TextScreen(Protocol):
    """What can be rendered."""

    def cells(self) -> list[list[tuple[str, int]]]: ...

    def cursor(self) -> tuple[int, int] | None: ...


def _box(draw: ImageDraw, x: int, y: int, arms: str, colour: tuple[int, int, int]) -> None:
    middle_x, middle_y = x + _WIDTH // 2, y + _HEIGHT // 2
    ends = ((x, middle_y), (x + _WIDTH - 1, middle_y), (middle_x, y), (middle_x, y + _HEIGHT - 1))
    for number, (arm, (end_x, end_y)) in enumerate(zip(arms, ends, strict=True)):
        for shift in {"0": (), "1": (0,), "2": (-2, 2)}[arm]:
            dx, dy = (0, shift) if number < 2 else (shift, 0)
            draw.line((middle_x + dx, middle_y + dy, end_x + dx, end_y + dy), fill=colour)


def render_png(screen: TextScreen) -> bytes:
    """The screen's 80 x 25 cells as a PNG of 720 x 400 pixels."""
    from PIL import Image, ImageDraw, ImageFont  # here: only a picture needs the library

    font = ImageFont.load_default_imagefont()
    cells = screen.cells()
    image = Image.new("RGB", (len(cells[0]) * _WIDTH, len(cells) * _HEIGHT))
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(cells):
        for column, (char, attribute) in enumerate(line):
            x, y = column * _WIDTH, row * _HEIGHT
            ink, paper = _COLOURS[attribute & 15], _COLOURS[attribute >> 4 & 7]
            draw.rectangle((x, y, x + _WIDTH - 1, y + _HEIGHT - 1), fill=paper)
            if char in _BOXES:
                _box(draw, x, y, _BOXES[char], ink)
            elif char in _BLOCKS:
                left, top, right, bottom = _BLOCKS[char]
                corners = (x + left * _WIDTH, y + top * _HEIGHT, x + right * _WIDTH - 1, y + bottom * _HEIGHT - 1)
                draw.rectangle(corners, fill=ink)
            elif char in _SHADES:
                step = _SHADES[char]
                points = [
                    (x + i, y + j) for i in range(_WIDTH) for j in range(_HEIGHT) if (i + 2 * j) % (step + 1) == 0
                ]
                draw.point(points, fill=ink)
            elif char not in "\0 ":
                shown = char if ord(char) < 256 else "?"
                draw.text((x + 1, y + 2), shown, font=font, fill=ink)
    cursor = screen.cursor()
    if cursor is not None:
        x, y = cursor[0] * _WIDTH, cursor[1] * _HEIGHT + _HEIGHT - 3
        draw.rectangle((x, y, x + _WIDTH - 1, y + 1), fill=_COLOURS[7])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
