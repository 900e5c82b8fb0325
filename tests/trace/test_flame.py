"""Folded stacks and flame graphs: expected texts, geometry, and frames that XML would not like."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

from emu.trace.flame import folded, svg, tree

Golden = Callable[[str, str], None]
SVG = "{http://www.w3.org/2000/svg}"
STACKS = {
    ("start", "main", "write"): 5, ("start", "main", "a<b; c"): 2, ("start", "main"): 1, ("handler",): 2,
}  # fmt: skip
Box = tuple[float, float, float]


def boxes(text: str) -> dict[str, Box]:
    """x, y and width by frame."""
    found = {}
    for group in ElementTree.fromstring(text.encode()).iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert title.text is not None
        assert rect is not None
        name = title.text.rsplit(" (", 1)[0]
        found[name] = (float(rect.attrib["x"]), float(rect.attrib["y"]), float(rect.attrib["width"]))
    return found


def test_expected_texts(golden: Golden) -> None:
    golden("stacks.folded", folded(STACKS))
    golden("stacks.svg", svg(STACKS, "stacks of <tiny>"))


def test_folded_form_is_unambiguous() -> None:
    text = folded({("a;b", "c d", "e\nf", ""): 3, ("zero",): 0, (): 4})
    assert text == "a:b;c d;e f;? 3\n"


def test_widths_are_counts() -> None:
    found = boxes(svg(STACKS, "t"))
    per_sample = found["all"][2] / 10
    assert {name: round(box[2] / per_sample, 3) for name, box in found.items()} == {
        "all": 10, "handler": 2, "start": 8, "main": 8, "a<b; c": 2, "write": 5,
    }  # fmt: skip
    assert tree(STACKS).count == 10


def test_callees_stand_on_their_callers() -> None:
    found = boxes(svg(STACKS, "t"))
    for caller, callee in (("all", "start"), ("start", "main"), ("main", "write"), ("all", "handler")):
        (x, y, width), (inner_x, inner_y, inner_width) = found[caller], found[callee]
        assert inner_y == y - 16
        assert x <= inner_x
        assert inner_x + inner_width <= x + width + 0.01
    # siblings do not overlap
    assert found["a<b; c"][0] + found["a<b; c"][2] <= found["write"][0] + 0.01


def test_nothing_and_the_unprintable() -> None:
    assert list(boxes(svg({}, "empty"))) == ["all"]
    assert len(boxes(svg({("\x00\x1b[1m", "&<>\"'"): 1}, "a\x00b"))) == 3


def test_deep_recursion() -> None:
    text = svg({("f",) * 5000: 1}, "deep")
    assert text.count("<title>") == 401
    ElementTree.fromstring(text.encode())


def test_no_script_and_no_network() -> None:
    text = svg(STACKS, "t")
    assert "<script" not in text
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]


def test_a_frame_keeps_its_colour() -> None:
    def fill(text: str) -> str:
        found = re.search(r"<title>main .*?fill=\"(#\w{6})\"", text)
        assert found is not None
        return found[1]

    assert fill(svg(STACKS, "t")) == fill(svg({("main",): 1}, "other"))
