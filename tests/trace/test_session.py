"""One traced run from its options to its files: filters, formats, Ctrl-C, errors, the live table."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from emu.cli_trace import options_of, trace_options
from emu.errors import GuestFileError, UsageError
from emu.trace.aggregate import Aggregate
from emu.trace.live import LiveTable
from emu.trace.names import Names
from emu.trace.record import Batch
from emu.trace.saved import SavedTrace
from emu.trace.session import ExitTrace, TraceOptions
from emu.trace.table import Selection
from emu.trace.view import View

Golden = Callable[[str, str], None]
ABOUT = {"guest": "tiny", "command": "vemu trace tiny"}


def parsed(*arguments: str) -> TraceOptions:
    """The options of a command line."""
    found: list[TraceOptions] = []

    @click.command()
    @trace_options
    def command(**options: Any) -> None:
        found.append(options_of(options))
        assert options == {}

    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def traced(options: TraceOptions, records: Batch, names: Names, error: type[BaseException] | None = None) -> ExitTrace:
    """A run that leaves `records`, writes texts in between, and may end with an exception."""
    with ExitTrace(options, names, ABOUT) as trace:
        for number, record in enumerate(records):
            trace.console(f"<{number}>".encode())
            trace.recorder.record(record)
        if error is not None:
            raise error
        trace.finish({"code": 0})
    trace.show()
    return trace


def test_options(tmp_path: Path) -> None:
    assert parsed() == TraceOptions(View())
    file, symbols = tmp_path / "o", tmp_path / "m"
    options = parsed(
        "--by", "symbol", "--sort", "mean", "--format", "csv", "-o", str(file), "--only", "hlt", "--from", "a",
        "--until", "b", "--symbols", str(symbols), "--save", "s", "--between", "x", "y z", "--live",
    )  # fmt: skip
    view = View(Selection("symbol", "mean"), "csv", file, "hlt", "a", "b", (symbols,))
    assert options == TraceOptions(view, Path("s"), ("x", "y z"), True)


def test_table(records: Batch, names: Names, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    traced(parsed(), records, names)
    golden("table-reason.txt", capsys.readouterr().out)


def test_save_and_report_at_once(tmp_path: Path, records: Batch, names: Names, golden: Golden) -> None:
    saved, out = tmp_path / "saved", tmp_path / "out"
    options = parsed("--save", str(saved), "--format", "jsonl", "-o", str(out))
    options.check()
    assert list(tmp_path.iterdir()) == []
    traced(options, records, names)
    golden("exits.jsonl", out.read_text())
    trace = SavedTrace(saved)
    assert [record for batch in trace.batches() for record in batch] == records
    assert (trace.whole, trace.ending, trace.about) == (True, {"code": 0}, ABOUT)


@pytest.mark.parametrize(("format_", "exits"), [("jsonl", 7), ("perfetto", None)])
def test_ctrl_c_keeps_what_was_recorded(
    format_: str, exits: int | None, tmp_path: Path, records: Batch, names: Names
) -> None:
    saved, out = tmp_path / "saved", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        traced(parsed("--save", str(saved), "--format", format_, "-o", str(out)), records, names, KeyboardInterrupt)
    trace = SavedTrace(saved)
    assert [record for batch in trace.batches() for record in batch] == records
    assert not trace.whole
    if exits is not None:
        assert len(out.read_text().splitlines()) == 1 + exits
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "saved"]


def test_an_error_leaves_no_file(tmp_path: Path, records: Batch, names: Names) -> None:
    options = parsed("--save", str(tmp_path / "saved"), "--format", "jsonl", "-o", str(tmp_path / "out"))
    with pytest.raises(ZeroDivisionError):
        traced(options, records, names, ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []


def test_filters_work_together(records: Batch, names: Names) -> None:
    options = parsed("--between", "<1>", "<6>", "--from", "main", "--only", "IO_INSTRUCTION,CPUID", "--format", "csv")
    trace = traced(options, records, names)
    assert trace.aggregate.total.count == 3  # 1 to 3
    assert trace.missed == []
    assert traced(parsed("--between", "never", "x"), records, names).missed == [
        "--between: the console never showed 'never'"
    ]


def test_what_cannot_work_is_told_beforehand(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--only NOTHING"):
        parsed("--only", "NOTHING").check()
    with pytest.raises(UsageError, match="--live and --format jsonl both write on standard output"):
        parsed("--live", "--format", "jsonl").check()
    parsed("--live", "--format", "jsonl", "-o", str(tmp_path / "x")).check()
    same = str(tmp_path / "same")
    with pytest.raises(UsageError, match="-o writes the same file"):
        parsed("--save", same, "-o", same).check()
    with pytest.raises(GuestFileError, match=r"trace .*: cannot write it"):
        parsed("--save", str(tmp_path / "none" / "file")).check()
    with pytest.raises(GuestFileError, match=r"--symbols .*nowhere: cannot read it"):
        ExitTrace(parsed("--symbols", str(tmp_path / "nowhere")), Names(), ABOUT)


def test_streams_go_to_standard_output(
    records: Batch, names: Names, golden: Golden, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    traced(parsed("--format", "jsonl"), records, names)
    golden("exits.jsonl", capsysbinary.readouterr().out.decode())


def test_json_names_the_guest(records: Batch, names: Names, capsys: pytest.CaptureFixture[str]) -> None:
    traced(parsed("--format", "json"), records, names)
    assert json.loads(capsys.readouterr().out)["guest"] == "tiny"


def test_live_table_comes_and_goes(records: Batch, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    aggregate = Aggregate()
    out = io.StringIO()
    before = sys.stdout
    with LiveTable(aggregate, names, Selection(), out):
        aggregate.add(records)
        assert sys.stdout is before  # the guest's console is not redirected
    shown = out.getvalue()
    assert "Total Samples:0" in shown
    assert "Total Samples:7" in shown
    assert shown.endswith("\x1b[2K") or "\x1b[1A" in shown  # its lines are taken away
