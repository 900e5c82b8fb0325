"""Runs one machine for the command line: joins its console, reports the end, saves the screenshot."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO, TypedDict

from emu.config import MachineConfig
from emu.console import STDIN, STDOUT, Attendant, Output, PseudoTerminal, input_fd, open_file
from emu.errors import GuestFileError, UsageError
from emu.exits import EndReason
from emu.machine import Machine, RunResult
from emu.outfile import check_writable, save
from emu.report import as_json, is_terminal, print_blocks, print_ending, print_summary
from emu.terminal import RawTerminal, ScreenPainter, in_foreground, screen_as_text

ABNORMAL: Final = frozenset((
    EndReason.FAILED_ON, EndReason.PANIC, EndReason.TRIPLE_FAULT, EndReason.HALTED, EndReason.TIMEOUT,
    EndReason.INSTRUCTIONS, EndReason.NOT_IMPLEMENTED,
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to a machine's configuration: where results go."""

    screenshot: Path | None = None
    json: bool = False
    quiet: bool = False


@dataclass(slots=True)
class Endpoints:
    """Where one run's console goes and comes from.

    `output` is None where it is only kept (`captured`) or dropped; `source` is a descriptor for input, or None.
    """

    output: Output | None = None
    source: int | None = None
    interactive: bool = False
    captured: bytearray = field(default_factory=bytearray)
    capture: bool = False

    def write(self, data: bytes) -> None:
        """The machine's console."""
        if self.capture:
            self.captured += data
        if self.output is not None:
            self.output.write(data)

    @property
    def cursor_within_line(self) -> bool:
        """True where the guest's last output on this process's standard output did not end its line."""
        return self.output is not None and self.output.fd == STDOUT and self.output.last != ord("\n")


def execute(config: MachineConfig, options: RunOptions) -> int:
    """Run `config`'s guest and return the exit code. Raises VemuError for what cannot be read, written or used."""
    config.validate()
    check_outputs(config, options)
    ends = Endpoints(capture=options.json)
    with ExitStack() as cleanup:
        # the guest first: one that cannot be loaded leaves no file behind
        machine = cleanup.enter_context(Machine(config, **outlets(config, ends.write)))
        open_endpoints(ends, config, options, cleanup)
        if ends.output is not None:
            ends.output.failed = machine.stop
        result = attended_run(machine, config, ends, options)
        return _conclude(machine, config, ends, options, result)


class Outlets(TypedDict):
    """Where a machine's output goes: its console, or COM1 where that is the screen."""

    console: Callable[[bytes], None] | None
    serial: Callable[[bytes], None] | None


def outlets(config: MachineConfig, write: Callable[[bytes], None]) -> Outlets:
    """`write` as the machine's arguments want it."""
    vga = config.console == "vga"
    return {"console": None if vga else write, "serial": write if vga else None}


def attended_run(machine: Machine, config: MachineConfig, ends: Endpoints, options: RunOptions) -> RunResult:
    """The run itself, with terminal and signals in hand for just as long."""
    with ExitStack() as attended:
        source, vga = ends.source, config.console == "vga"
        if source is not None and _is_regular(source):
            # all of it before the start: what the guest reads then does not depend on timing
            machine.send_input(_whole(source))
            source = None
        show: Callable[[bytes], None] | None = None
        if ends.interactive and not vga and ends.output is not None:
            show = ends.output.write
        # signals are in hand before the terminal is changed, and until it is changed back
        attended.enter_context(Attendant(machine, source, interactive=ends.interactive, show=show))
        if ends.interactive:
            attended.enter_context(RawTerminal(STDIN))
            if not options.quiet:
                with messages() as stream:
                    print("vemu: Ctrl-A X leaves, Ctrl-A H helps", file=stream, flush=True)
            if vga:
                attended.enter_context(ScreenPainter(machine.screen_text, Output(STDOUT, "standard output").write))
        return machine.run()


def _conclude(machine: Machine, config: MachineConfig, ends: Endpoints, options: RunOptions, result: RunResult) -> int:
    """Print and save what the run left behind; returns its exit code."""
    try:
        _show(machine, config, ends, options, result)
    finally:
        save_screenshot(machine, options)
    try:
        machine.save_translations()
    except GuestFileError as error:  # the run itself is complete
        with messages() as stream:
            print(f"vemu: {error}", file=stream)
    return result.ending.code


def save_screenshot(machine: Machine, options: RunOptions) -> None:
    """Save the screen where the options ask for it."""
    if options.screenshot is not None:
        save(options.screenshot, "screenshot", machine.screenshot())


def _show(machine: Machine, config: MachineConfig, ends: Endpoints, options: RunOptions, result: RunResult) -> None:
    ending = result.ending
    vga = config.console == "vga"
    screen = screen_as_text(machine.screen_text()) if vga else ""
    if ends.output is not None:
        ends.output.check()
    if options.json:
        console = screen if vga else ends.captured.decode("utf-8", "replace")
        print(json.dumps(as_json(result, console, config.guest_name)), flush=True)
    elif screen:
        print(screen, end="", flush=True)
    with messages() as stream:
        if ends.cursor_within_line and is_terminal(stream):
            print(file=stream)
        if not options.quiet or ending.reason in ABNORMAL:
            print_ending(ending, stream)
        if config.expect is not None and ending.code == 0 and ending.reason is not EndReason.EXPECTED:
            print(f"vemu: the console never showed {config.expect!r}", file=stream)
        if not options.quiet:
            print_summary(result.stats, machine.guest.description, stream)


def show_blocks(config: MachineConfig, at: int | None, limit: int | None) -> int:
    """Run `config`'s guest with its console hidden, then print its translated blocks.

    Raises GuestFileError where there is none to print.
    """
    from emu.listing import Lister, covers

    with Machine(config) as machine:
        with Attendant(machine, None):
            ending = machine.run().ending
        if ending.reason is EndReason.INTERRUPTED:
            raise KeyboardInterrupt
        found = [block for block in machine.blocks() if at is None or covers(block, at)]
        how = ending.detail.partition("\n")[0]
        if not found:
            where = "" if at is None else f" that holds {at:#x}"
            raise GuestFileError(f"{config.guest_name}: the run made no block{where} ({how})")
        lister = Lister(machine.code, machine.name_of)
        shown = print_blocks(map(lister.listing, found[:limit]), sys.stdout)
        sys.stdout.flush()
        with messages() as stream:
            print(f"vemu: {shown} of {len(found)} blocks; {how}", file=stream)
    return 0


@contextmanager
def messages() -> Iterator[TextIO]:
    """Standard error, for what accompanies a result: where it cannot be written, the result stands all the same."""
    try:
        yield sys.stderr
        sys.stderr.flush()
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # it takes the stream's place until the process ends


# -- endpoints -----------------------------------------------------------------------------------------------------


def open_endpoints(ends: Endpoints, config: MachineConfig, options: RunOptions, cleanup: ExitStack) -> None:
    """Open what --serial names; what has to be closed goes to `cleanup`."""
    path, vga = config.serial_file, config.console == "vga"
    if path is not None:
        ends.output = open_file(path)
        cleanup.callback(ends.output.close)
    elif config.serial == "pty":
        pty = PseudoTerminal()
        cleanup.callback(pty.close)
        with messages() as stream:
            print(f"vemu: serial line on {pty.name}", file=stream, flush=True)
        ends.output, ends.source = pty.output, pty.output.fd
    elif config.serial == "stdio" and not vga and not options.json:
        ends.output = Output(STDOUT, "standard output")
    if ends.source is None and (vga or config.serial == "stdio"):
        ends.interactive = not options.json and os.isatty(STDOUT) and in_foreground(STDIN)
        ends.source = STDIN if ends.interactive else input_fd()


def check_outputs(config: MachineConfig, options: RunOptions) -> None:
    """Refuse to write over what is read, and a screenshot that could not be saved after a long run."""
    used = [path for path in (config.initrd, config.disk) if path is not None]
    if not isinstance(config.guest, bytes):
        used.append(Path(config.guest))
    for name, path in (("serial", config.serial_file), ("screenshot", options.screenshot)):
        if path is None:
            continue
        if any(_same_file(path, other) for other in used):
            raise UsageError(f"{name} {path}: that would write over another file of this run")
        used.append(path)
    if options.screenshot is not None:
        check_writable(options.screenshot, "screenshot")


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return one == other


def _is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _whole(fd: int) -> bytes:
    data = bytearray()
    while chunk := os.read(fd, 1 << 16):
        data += chunk
    return bytes(data)
