"""Results as tables, Markdown and drawings."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from emu.bench import plot
from emu.bench.compare import Comparison, Row
from emu.bench.figures import Figure
from emu.bench.nano import EVENTS, ExitShare, NanoRow
from emu.bench.tables import as_markdown, comparison_reports, nano_reports, print_reports
from emu.errors import GuestFileError, UsageError
from emu.trace.aggregate import Stat

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def comparison() -> Comparison:
    flat = Row("flat", 10, {"translate": Figure((100.0, 120.0)), "unicorn": Figure((50.0,)), "qemu": Figure((1234.0,))})
    kernel = Row("kernel", 10, {"translate": Figure((9.5,)), "qemu": Figure((19.0,))}, {"unicorn": "not flat"})
    return Comparison([flat, kernel])


@pytest.fixture
def nano_rows() -> list[NanoRow]:
    stat = Stat()
    stat.add(1000, 2000, 3000, 4000)
    names = {event.name: event for event in EVENTS}
    rows = [NanoRow(name, names[name].what, names[name].paper) for name in ("in", "call/ret", "divzero")]
    rows[0].ns = {"translate": Figure((6000.0, 6600.0, 6300.0))}
    rows[0].missing = {"bare CPU": "privileged", "QEMU TCG": "not installed"}
    rows[0].exits = [ExitShare("IO_INSTRUCTION", 1.0, stat)]
    rows[1].ns = {"bare CPU": Figure((1.25,)), "translate": Figure((20.0,))}
    rows[1].missing = {"QEMU TCG": "not installed"}
    rows[1].exits = []
    rows[2].ns = {"bare CPU": Figure((2181.0,))}
    return rows


def test_tables(comparison: Comparison, nano_rows: list[NanoRow]) -> None:
    out = io.StringIO()
    print_reports(comparison_reports(comparison, "elapsed time"), out)
    print(file=out)
    print_reports(nano_reports(nano_rows, 2.0, "elapsed time"), out)
    assert out.getvalue() == (GOLDEN / "tables.txt").read_text(encoding="utf-8")


def test_markdown(nano_rows: list[NanoRow]) -> None:
    found = as_markdown(nano_reports(nano_rows, 2.0, "elapsed time"))
    assert found == (GOLDEN / "nano.md").read_text(encoding="utf-8")


def test_without_a_counter_there_are_no_cycles(nano_rows: list[NanoRow]) -> None:
    assert [report.header[0] for report in nano_reports(nano_rows, None, "")] == ["event", "event"]
    assert all("cycles" not in report.title for report in nano_reports(nano_rows, None, ""))


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_drawings(comparison: Comparison, nano_rows: list[NanoRow], tmp_path: Path, kind: str) -> None:
    for name, chart in (("a", plot.comparison_chart(comparison)), ("b", plot.nano_chart(nano_rows))):
        file = tmp_path / f"{name}.{kind}"
        plot.check_plot(file)
        plot.draw(chart, file)
        if kind == "png":
            with Image.open(file) as image:
                assert image.size[0] > 500
                assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10
        else:
            root = ET.parse(file).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            texts = {(node.text or "").strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
            assert {*chart.groups, *chart.series, chart.title} <= texts
        again = tmp_path / f"again.{kind}"
        plot.draw(chart, again)
        assert again.read_bytes() == file.read_bytes()


def test_a_drawing_that_cannot_be_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--plot .*x.pdf: the file's name must end in .png or .svg"):
        plot.check_plot(tmp_path / "x.pdf")
    with pytest.raises(GuestFileError, match="missing"):
        plot.check_plot(tmp_path / "missing" / "x.png")
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="matplotlib is not installed"):
        plot.check_plot(tmp_path / "x.png")
