"""The commands and options, their exit codes, and what goes to which stream."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from emu.__main__ import main
from emu.cli import cli
from guests import catalogue
from isa.x86.interp import BINDERS
from isa.x86.rewrite import Rewriter

SCRIPT = Path(sys.executable).with_name("vemu")
VEMU = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "emu"]
HELLO = "Hello from 64-bit mode\n"
Vemu = Callable[..., Any]
Little = Callable[[str], str]


# -- exit codes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["translate", "interpret"])
@pytest.mark.parametrize(
    ("guest", "options", "code", "said"),
    [
        ("reset", [], 0, "reset"),
        ("exit5", [], 5, "status 5"),
        ("exit5", ["--success-code", "5"], 0, "status 5"),
        ("exit5", ["--success-code", "7"], 5, "status 5"),
        ("say", ["--expect", "hi"], 0, "'hi'"),
        ("say", ["--expect", "ho"], 5, "status 5"),
        ("say", ["--fail-on", "hi"], 10, "--fail-on"),
        ("say", ["--fail-on", "h", "--expect", "hi"], 10, "--fail-on"),
        ("triple", [], 6, "triple fault"),
        ("halt", [], 8, "halted"),
        ("spin", ["--timeout", "0.05"], 124, "time-out"),
        ("spin", ["--max-instructions", "1000"], 124, "1000 instructions"),
        ("spin", ["--max-instructions", "0x10", "--deterministic"], 124, "16 instructions"),
        ("screen", ["--console", "vga", "--expect", "VGA"], 5, "status 5"),
    ],
)
def test_exit_codes(
    vemu: Vemu, little: Little, guest: str, options: list[str], code: int, said: str, engine: str
) -> None:
    done = vemu("run", little(guest), "--engine", engine, "--memory", "4M", *options)
    assert done.code == code, done
    assert said in done.err
    assert f"[exit code {code}]" in done.err


def test_triple_fault_is_explained(vemu: Vemu, little: Little) -> None:
    err = vemu("run", little("triple")).err
    assert "#UD at 0x100000" in err
    assert "#DF error code 0x0" in err
    assert "lidt was never executed" in err


def test_text_on_the_screen_is_awaited(vemu: Vemu, tmp_path: Path) -> None:
    guest = tmp_path / "guest.bin"
    guest.write_bytes(bytes.fromhex("c7 04 25 00 80 0b 00 56 1f 47 1f eb fe"))  # "VG", and goes on
    done = vemu("run", guest, "--console", "vga", "--expect", "VG", "--timeout", "20")
    assert (done.code, done.out) == (0, "VG\n")


def test_power_off_without_the_expected_text_says_so(vemu: Vemu, little: Little) -> None:
    done = vemu("run", little("say-reset"), "--expect", "ho", "--quiet")
    assert (done.code, done.line) == (0, "the console never showed 'ho'")


def test_firmware_with_a_disk(vemu: Vemu, tmp_path: Path) -> None:
    rom, disk = tmp_path / "rom", tmp_path / "disk"
    rom.write_bytes(
        bytes.fromhex("b0 02 e6 f4 f4").ljust(0xFFF0, b"\x90") + bytes.fromhex("e9 0d 00").ljust(16, b"\x90")
    )
    disk.write_bytes(bytes(512))
    assert vemu("run", "--bios", rom).code == vemu("run", "--bios", rom, disk).code == 5
    assert vemu("run", "--bios", rom, disk, "--disk", disk).code == 2
    assert vemu("run", "--bios", rom, "--format", "elf").code == 2
    assert vemu("run").code == 2
    assert "no firmware" in vemu("run", "--bios", disk).err


# -- streams -----------------------------------------------------------------------------------------------------------


def test_console_goes_out_and_the_summary_to_the_errors(vemu: Vemu) -> None:
    done = vemu("run", "hello64")
    assert (done.code, done.out) == (33, HELLO)
    for figure in ("guest instructions", "MIPS", "run natively", "blocks", "chained", "exits", "  out"):
        assert figure in done.err
    assert "\x1b" not in done.err


def test_quiet_prints_the_console_only(vemu: Vemu) -> None:
    done = vemu("run", "hello64", "--quiet")
    assert (done.code, done.out, done.err) == (33, HELLO, "")


def test_quiet_still_names_what_went_wrong(vemu: Vemu, little: Little) -> None:
    assert "halted" in vemu("run", little("halt"), "--quiet").line


def test_json_is_one_object_with_the_console_in_it(vemu: Vemu) -> None:
    done = vemu("run", "hello64", "--json", "--quiet")
    assert done.out.count("\n") == 1
    report = json.loads(done.out)
    assert report["console"] == HELLO
    assert report["code"] == done.code == 33
    assert report["ending"] == "debug-exit"
    assert report["guest"] == "hello64"
    assert report["stats"]["exits"]["out"] >= len(HELLO)
    assert 0 < report["stats"]["native_share"] < 1
    assert done.err == ""


def test_json_holds_the_screen(vemu: Vemu, little: Little) -> None:
    report = json.loads(vemu("run", little("screen"), "--json", "--console", "vga").out)
    assert report["console"] == "VGA\n"


def test_json_with_console_bytes_that_are_no_text(vemu: Vemu, tmp_path: Path) -> None:
    guest = tmp_path / "guest.bin"
    guest.write_bytes(bytes.fromhex("b0 ff e6 e9 b0 00 e6 e9 b0 02 e6 f4"))
    assert json.loads(vemu("run", guest, "--json").out)["console"] == "\ufffd\0"


def test_serial_file_gets_the_console(vemu: Vemu, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("what was there before\n" * 10)
    done = vemu("run", "hello64", "--serial", f"file:{log}", "--quiet")
    assert (done.code, done.out, log.read_text()) == (33, "", HELLO)


def test_serial_null_drops_the_console_but_watches_it(vemu: Vemu) -> None:
    done = vemu("run", "hello64", "--serial", "null", "--expect", "64-bit", "--quiet")
    assert (done.code, done.out) == (0, "")


def test_a_guest_that_cannot_be_loaded_leaves_no_serial_file(vemu: Vemu, tmp_path: Path) -> None:
    assert vemu("run", tmp_path / "none", "--serial", f"file:{tmp_path / 'log'}").code == 4
    assert list(tmp_path.iterdir()) == []


def test_standard_input_from_a_file_is_typed(little: Little, tmp_path: Path) -> None:
    typed = tmp_path / "typed"
    typed.write_bytes(b"x" * 300 + b"q and what nobody reads")
    for serial in ("stdio", "null"):
        with typed.open("rb") as stdin:
            arguments = [*VEMU, "run", little("echo"), "--quiet", "--timeout", "20", "--serial", serial]
            if serial == "null":
                arguments += ["--max-instructions", "10000"]  # nothing is typed on a line that leads nowhere
            done = subprocess.run(arguments, stdin=stdin, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == ((3, b"x" * 300 + b"q") if serial == "stdio" else (124, b""))


def test_standard_input_from_a_pipe_is_typed(little: Little) -> None:
    arguments = [*VEMU, "run", little("echo"), "--quiet", "--timeout", "20"]
    done = subprocess.run(arguments, input=b"abcq", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"abcq")


# -- the screenshot ----------------------------------------------------------------------------------------------------


def test_screenshot_shows_the_screen(vemu: Vemu, little: Little, tmp_path: Path) -> None:
    target = tmp_path / "screen.png"
    target.write_bytes(b"an older one")
    done = vemu("run", little("screen"), "--screenshot", target, "--quiet")
    picture = Image.open(io.BytesIO(target.read_bytes())).convert("RGB")
    assert done.code == 5
    assert picture.size == (720, 400)
    assert picture.getpixel((0, 0)) == (0, 0, 170)
    assert picture.getpixel((300, 200)) == (0, 0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["screen.bin", "screen.png"]


@pytest.mark.parametrize("name", ["", "no/folder.png", "/proc/x.png"])
def test_a_screenshot_that_cannot_be_saved_is_found_before_the_run(vemu: Vemu, tmp_path: Path, name: str) -> None:
    done = vemu("run", "hello64", "--screenshot", tmp_path / name)
    assert (done.code, done.out) == (4, "")
    assert done.line.startswith(f"screenshot {tmp_path / name}: cannot write it: ")


def test_outputs_do_not_go_over_inputs(vemu: Vemu, little: Little, tmp_path: Path) -> None:
    guest = little("exit5")
    before = Path(guest).read_bytes()
    for options in (["--screenshot", guest], ["--serial", f"file:{guest}"]):
        done = vemu("run", guest, *options)
        assert done.code == 2
        assert "would write over" in done.line
    same = tmp_path / "same"
    assert vemu("run", guest, "--screenshot", same, "--serial", f"file:{same}").code == 2
    assert Path(guest).read_bytes() == before
    assert not same.exists()


# -- the other commands ------------------------------------------------------------------------------------------------


def test_guests_lists_all(vemu: Vemu) -> None:
    done = vemu("guests")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == list(catalogue())
    listed = json.loads(vemu("guests", "--json").out)
    assert {guest["name"] for guest in listed} == set(catalogue())
    assert all(Path(guest["path"]).is_file() for guest in listed)


def test_blocks_shows_guest_and_host_code(vemu: Vemu) -> None:
    done = vemu("blocks", "hello64", "--at", "0x100041")
    title, *rows = done.out.rstrip().splitlines()
    assert done.code == 0
    assert re.match(r"0x100041: 64-bit kernel code, \d instructions, \d+ bytes to \d+", title)
    assert rows[0].split()[:3] == ["100041", "push", "rax"]
    assert any("push rax" in row.partition("|")[2] for row in rows)
    assert len({row.index("|") for row in rows}) == 1
    assert "blocks; the guest left with value 0x10" in done.err


def test_blocks_marks_callouts_with_their_reason(vemu: Vemu) -> None:
    out = vemu("blocks", "kernel32").out
    for name in ("lgdt", "out", "in", "hlt", "far_jmp"):
        assert f"<callout: {name}>" in out
    assert "<in cache: cli>" in out
    assert "; leave: callout" in out
    assert "; chained: 0x" in out


def test_blocks_of_a_guest_that_never_ends(vemu: Vemu, little: Little) -> None:
    done = vemu("blocks", little("spin"), "--timeout", "0.1", "--limit", "1")
    assert done.code == 0
    assert "jmp 0x100000" in done.out
    assert "1 of 1 blocks; time-out" in done.line


def test_blocks_without_any(vemu: Vemu) -> None:
    done = vemu("blocks", "hello64", "--at", "0x12")
    assert (done.code, done.out) == (4, "")
    assert "no block that holds 0x12" in done.line


def test_help_of_every_command(vemu: Vemu) -> None:
    for arguments in (["--help"], ["-h"], *([name, "--help"] for name in cli.commands)):
        done = vemu(*arguments)
        assert done.code == 0
        assert done.out.startswith("Usage: vemu")
        assert done.err == ""


def test_run_has_every_documented_option() -> None:
    names = {name for parameter in cli.commands["run"].params for name in parameter.opts}
    assert names >= {
        "--engine", "--memory", "--mode", "--org", "--format", "--initrd", "--append", "--disk", "--serial",
        "--console", "--timeout", "--expect", "--max-instructions", "--deterministic", "--screenshot", "--fail-on",
        "--success-code", "--json", "--quiet", "--debug", "--boot-stub",
    }  # fmt: skip


def test_version(vemu: Vemu) -> None:
    from emu import __version__

    assert vemu("--version").out == f"vemu {__version__}\n"


def test_no_command_is_a_usage_error(vemu: Vemu) -> None:
    done = vemu()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: vemu")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("a\nb"), 70),
        (SystemExit(1), 70),
        (RecursionError(), 70),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (BrokenPipeError(), 130),
        (OSError(28, "No space left on device", "file"), 4),
        (MemoryError(), 4),
        (ModuleNotFoundError("No module named 'unicorn'", name="unicorn"), 4),
        (ModuleNotFoundError("No module named 'emu.x'", name="emu.x"), 70),
    ],
)
def test_no_exception_becomes_code_1(
    vemu: Vemu, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("emu.cli_run.execute", fail)
    done = vemu("run", "hello64")
    assert done.code == code
    assert done.out == ""
    assert done.err == "" or done.line
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback(vemu: Vemu) -> None:
    done = vemu("run", "/nowhere/at/all", "--debug")
    assert done.code == 4
    assert "Traceback" in done.err
    assert "no such file" in done.err.splitlines()[-1]


def test_a_name_cannot_play_tricks_on_the_terminal(vemu: Vemu) -> None:
    assert "\\x1b[31mred" in vemu("run", "\x1b[31mred").line


def test_main_survives_an_interrupt_while_it_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("emu.__main__._say", interrupted)
    assert main(["run"]) == 130


def test_unprintable_screen_on_a_poor_terminal(little: Little, tmp_path: Path) -> None:
    guest = tmp_path / "guest.bin"
    guest.write_bytes(bytes.fromhex("c7 04 25 00 80 0b 00 db 1f 56 1f b0 02 e6 f4"))  # a full block, and "V"
    done = subprocess.run(
        [*VEMU, "run", guest, "--console", "vga", "--quiet"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, b"?V\n", b"")


# -- the process and its streams ---------------------------------------------------------------------------------------


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of shell in which $VEMU is the program."""
    environment = os.environ | {"VEMU": " ".join(VEMU)}
    return subprocess.run(
        ["bash", "-c", line], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$VEMU run hello64 --quiet >/dev/full", 4),
        ("$VEMU run hello64 --json --quiet >/dev/full", 4),
        ("$VEMU run hello64 --quiet --serial file:/dev/full", 4),
        ("$VEMU guests >/dev/full", 4),
        ("$VEMU run hello64 2>/dev/full", 33),
        ("$VEMU run hello64 <&- >&- 2>&-", 33),
        ("$VEMU guests >&-", 0),
    ],
)
def test_streams_that_fail(line: str, code: int) -> None:
    done = shell(line)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == (code == 4), done.stderr


@pytest.mark.parametrize("arguments", ["guests", "run {chatter} --timeout 20"])
def test_broken_pipe(little: Little, arguments: str) -> None:
    command = arguments.format(chatter=little("chatter"))
    done = shell(f"{{ $VEMU {command}; echo $? >&2; }} | true")
    assert done.stderr == "130\n"


def test_closed_descriptors_are_not_mixed_up_with_files(tmp_path: Path) -> None:
    """The serial file would get descriptor 1 if that were left closed, and the screen be printed into it."""
    log = tmp_path / "log"
    done = shell(f"$VEMU run hello64 --console vga --serial file:{log} <&- >&- 2>&-")
    assert (done.returncode, log.read_text()) == (33, HELLO)


@pytest.mark.parametrize(
    ("number", "guest"), [(signal.SIGINT, "say-spin"), (signal.SIGTERM, "chatter"), (signal.SIGHUP, "say-wait")]
)
def test_signals_end_the_run(little: Little, number: signal.Signals, guest: str, tmp_path: Path) -> None:
    picture, log = tmp_path / "screen.png", tmp_path / "log"
    options = ["--timeout", "30", "--screenshot", str(picture), "--serial", f"file:{log}", "--json"]
    process = subprocess.Popen(
        [*VEMU, "run", little(guest), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for _ in range(1000):
        if log.exists() and log.stat().st_size >= 2:
            break
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert json.loads(out)["ending"] == "interrupted"
    assert picture.exists()
    assert b"Traceback" not in err


def test_an_interrupt_at_any_moment_ends_with_130(little: Little) -> None:
    code = (
        "import sys\n"
        "from emu.__main__ import main\n"
        "try:\n"
        "    print('here', flush=True)\n"
        "    sys.exit(main(['run', sys.argv[1], '--quiet']))\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit('it got out')\n"
    )
    for milliseconds in (2, 15, 40, 80, 120, 200):
        process = subprocess.Popen(
            [sys.executable, "-c", code, little("spin")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert (process.returncode, b"Traceback" in err) == (130, False), (milliseconds, err)


def test_verify_finds_no_difference(vemu: Vemu) -> None:
    done = vemu("verify", "hello64")
    assert (done.code, done.out.startswith("no difference in 426 instructions (")) == (0, True)
    record = json.loads(vemu("verify", "hello32", "--every", "100", "--json").out)
    assert (record["divergence"], record["instructions"], record["ending"]) == (None, 426, "debug-exit")


def test_verify_against_unicorn(vemu: Vemu, monkeypatch: pytest.MonkeyPatch) -> None:
    done = vemu("verify", "hello64", "--against", "unicorn")
    assert (done.code, done.out.startswith("no difference in 426 instructions (1 comparisons)")) == (0, True)
    done = vemu("verify", "kernel32", "--against", "unicorn")
    assert (done.code, "not compared further: #DE: plain Unicorn delivers no exceptions" in done.out) == (0, True)
    record = json.loads(vemu("verify", "kernel32", "--against", "unicorn", "--every", "7", "--json").out)
    assert (record["divergence"], record["ending"], record["stopped"][:3]) == (None, None, "#DE")
    monkeypatch.setitem(BINDERS, 0x8D, lambda insn, pc: lambda cpu: None)  # LEA does nothing
    done = vemu("verify", "hello64", "--against", "unicorn")
    assert done.code == 1
    assert "difference after 1 instructions:" in done.out
    assert "rsi: interpreted 0x0, Unicorn 0x100011 (bits 0x100011)" in done.out
    assert "executed before it:\n  0x100000  lea rsi, [rip + 0xa]" in done.out


def test_verify_reports_a_difference(vemu: Vemu, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Rewriter._constant
    monkeypatch.setattr(Rewriter, "_constant", lambda self, insn, value: right(self, insn, value + 2))
    done = vemu("verify", "hello64")
    assert done.code == 1
    assert "difference after 2 instructions:" in done.out
    assert "rsi: interpreted 0x100011, translated 0x100013 (bits 0x2)" in done.out
    assert "0x100000  lea rsi" in done.out
    assert "again: vemu" in done.out
