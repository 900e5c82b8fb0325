"""Folded stacks and the flame graph made of them, as an SVG that needs neither script nor network.

A stack is a tuple of frames, the outermost first; a graph's widths are counts. The folded form is that of Brendan
Gregg's tools: frames parted by semicolons, a blank, the count.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

Stacks = Mapping[tuple[str, ...], int]

_WIDTH: Final = 1200.0
_MARGIN: Final = 10.0
_ROW: Final = 16
_TOP: Final = 40  # room for the title
_LETTER: Final = 6.8  # width of one in the font below
_NARROWEST: Final = 0.1  # pixels: a frame below is not drawn
_DEEPEST: Final = 400  # frames: what lies deeper counts for the last one drawn


@dataclass(slots=True)
class Node:
    """A frame below its callers; `count` holds its own samples and those of what it called."""

    count: int = 0
    children: dict[str, Node] = field(default_factory=dict)


def folded(stacks: Stacks) -> str:
    """One line a stack, sorted; what would part frames or lines within a frame becomes a colon or a blank."""
    lines = [f"{';'.join(map(_frame, stack))} {count}" for stack, count in stacks.items() if stack and count > 0]
    return "".join(f"{line}\n" for line in sorted(lines))


def tree(stacks: Stacks) -> Node:
    """The stacks joined at their outer ends."""
    root = Node()
    for stack, count in stacks.items():
        if count <= 0:
            continue
        root.count += count
        node = root
        for frame in stack[:_DEEPEST]:
            node = node.children.setdefault(frame, Node())
            node.count += count
    return root


def svg(stacks: Stacks, title: str, unit: str = "samples") -> str:
    """The flame graph: the outermost frames at the bottom, siblings by name, counts of `unit` in the tooltips."""
    root = tree(stacks)
    scale = (_WIDTH - 2 * _MARGIN) / root.count if root.count else 0.0
    boxes = list(_boxes(root, "all", 0, 0, scale))
    rows = 1 + max(depth for _, _, depth, _ in boxes)
    height = _TOP + rows * _ROW + int(_MARGIN)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH:.0f}" height="{height}" '
        f'viewBox="0 0 {_WIDTH:.0f} {height}" font-family="monospace" font-size="11">',
        f'<rect width="{_WIDTH:.0f}" height="{height}" fill="#f8f8f8"/>',
        f'<text x="{_WIDTH / 2:.0f}" y="24" font-size="16" text-anchor="middle">{_text(title)}</text>',
    ]
    for name, node, depth, start in boxes:
        x, width = _MARGIN + start * scale, node.count * scale
        y = height - _MARGIN - (depth + 1) * _ROW
        percent = 100.0 * node.count / root.count if root.count else 0.0
        shown = _shorten(name, width)
        label = f'<text x="{x + 3:.1f}" y="{y + 11.5:.1f}">{_text(shown)}</text>' if shown else ""
        lines.append(
            f"<g><title>{_text(name)} ({node.count} {_text(unit)}, {percent:.2f}%)</title>"
            f'<rect x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{_ROW - 1}" rx="2" fill="{_colour(name)}"/>'
            f"{label}</g>"
        )
    return "\n".join([*lines, "</svg>", ""])


def _boxes(node: Node, name: str, depth: int, start: int, scale: float) -> Iterator[tuple[str, Node, int, int]]:
    """Name, node, depth and first sample of each frame wide enough to be seen, callers before what they called."""
    waiting = [(name, node, depth, start)]
    while waiting:
        name, node, depth, start = waiting.pop()
        yield name, node, depth, start
        for child_name, child in sorted(node.children.items()):
            if child.count * scale >= _NARROWEST:
                waiting.append((child_name, child, depth + 1, start))
            start += child.count


def _frame(name: str) -> str:
    return " ".join(name.replace(";", ":").split()) or "?"


def _text(text: str) -> str:
    """Text that XML allows: control characters, which it has no way to write, are shown as a replacement."""
    return escape("".join(letter if letter.isprintable() else "\ufffd" for letter in text))


def _shorten(name: str, width: float) -> str:
    """As much of `name` as fits into `width` pixels."""
    room = int((width - 6) / _LETTER)
    if room >= len(name):
        return name
    return f"{name[: room - 2]}.." if room > 3 else ""


def _colour(name: str) -> str:
    """A warm colour that is the same for the same name in every graph; the ground is grey."""
    if name == "all":
        return "#d0d0d0"
    number = zlib.crc32(name.encode("utf-8", "replace"))
    return f"#{205 + number % 50:02x}{90 + (number >> 8) % 140:02x}{(number >> 16) % 55 + 20:02x}"
