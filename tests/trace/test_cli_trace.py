"""`vemu report` and `vemu explain` as commands: formats, files, filters, comparison, and sentences for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from emu.cli_trace import explain_command, report
from emu.errors import GuestFileError, UsageError
from emu.trace.names import Names
from emu.trace.record import Batch
from emu.trace.saved import SavedWriter

Golden = Callable[[str, str], None]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(report, [str(argument) for argument in arguments], catch_exceptions=False)


def save(path: Path, batches: list[Batch], names: Names, finish: bool = True) -> Path:
    with path.open("wb") as file:
        writer = SavedWriter(file, names, {"guest": "tiny", "command": "vemu trace tiny"})
        for batch in batches:
            writer.add(batch)
        if finish:
            writer.finish({})
    return path


@pytest.fixture
def trace(tmp_path: Path, records: Batch, names: Names) -> Path:
    return save(tmp_path / "a.trace", [records[:4], records[4:]], names)


def test_table(trace: Path, golden: Golden) -> None:
    golden("table-reason.txt", run(trace).stdout)
    golden("table-vcpu-mode.txt", run(trace, "--by", "vcpu-mode").stdout)


def test_other_formats(trace: Path, golden: Golden) -> None:
    golden("summary.json", run(trace, "--format", "json").stdout)
    golden("summary.csv", run(trace, "--format", "csv", "--by", "symbol", "--sort", "samples").stdout)
    golden("exits.jsonl", run(trace, "--format", "jsonl").stdout)


@pytest.mark.parametrize("format_", ["table", "json", "csv", "jsonl", "perfetto"])
def test_files_hold_what_is_printed(trace: Path, tmp_path: Path, format_: str) -> None:
    printed = run(trace, "--format", format_).stdout_bytes
    done = run(trace, "--format", format_, "-o", tmp_path / "out")
    assert done.stdout_bytes == b""
    assert (tmp_path / "out").read_bytes() == printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.trace", "out"]


def test_filters(trace: Path) -> None:
    found = json.loads(run(trace, "--format", "json", "--only", "io_instruction,trap 0", "--from", "probe").stdout)
    assert [(group["reason"], group["samples"]) for group in found["groups"]] == [("EXCEPTION_NMI", 1)]
    assert "vemu: --from nowhere: no exit lies in that symbol" in run(trace, "--from", "nowhere").stderr
    with pytest.raises(UsageError, match="--only NOPE"):
        run(trace, "--only", "NOPE")


def test_more_symbols(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("0000000000003000 T apic_eoi\n")
    found = run(trace, "--by", "symbol", "--symbols", tmp_path / "map").stdout
    assert "apic_eoi" in found
    assert "main" in found
    assert "[unknown]" not in found


def test_a_cut_recording_is_shown_and_named(tmp_path: Path, records: Batch, names: Names) -> None:
    done = run(save(tmp_path / "cut", [records], names, finish=False))
    assert "Total Samples:7" in done.stdout
    assert "cut: the recording was cut off" in done.stderr


def test_a_damaged_trace_leaves_no_file(trace: Path, tmp_path: Path) -> None:
    data = bytearray(trace.read_bytes())
    data[-20] ^= 1
    trace.write_bytes(data)
    for format_ in ("jsonl", "json"):
        with pytest.raises(GuestFileError, match="damaged"):
            run(trace, "--format", format_, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_comparison(trace: Path, tmp_path: Path, records: Batch, names: Names, golden: Golden) -> None:
    changed = [records[0], records[1], records[1], records[3]._replace(reason="hlt")]
    other = save(tmp_path / "b.trace", [changed], names)
    golden("compare.txt", run(trace, other).stdout)
    golden("compare.csv", run(trace, other, "--format", "csv").stdout)
    assert json.loads(run(trace, other, "--format", "json", "--by", "device").stdout)["by"] == "device"
    with pytest.raises(UsageError, match="--format jsonl: two traces"):
        run(trace, other, "--format", "jsonl")


def test_explain() -> None:
    def explained(*arguments: str) -> str:
        return CliRunner().invoke(explain_command, arguments, catch_exceptions=False).stdout

    text = explained("hlt")
    assert text.startswith("HLT (counted as hlt)\n  What: The guest waits for an interrupt.\n")
    assert all(f"\n  {title}: " in text for title in ("Why", "Instructions", "Cost", "To avoid it"))
    assert max(map(len, text.splitlines())) <= 100
    listed = explained()
    assert "IO_INSTRUCTION" in listed
    assert "CODE_WRITE" in listed
    with pytest.raises(UsageError, match="no such exit"):
        explained("nothing")
