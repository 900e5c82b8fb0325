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
from typing import Final

from emu.config import MachineConfig
from emu.console import STDIN, STDOUT, Attendant, Output, PseudoTerminal, input_fd, open_file
from emu.errors import GuestFileError, UsageError
from emu.exits import EndReason
from emu.machine import Machine, RunResult
from emu.report import as_json, is_terminal, print_blocks, print_ending, print_summary
from emu.terminal import RawTerminal, ScreenPainter, in_foreground, screen_as_text

_ABNORMAL: Final = frozenset((
    EndReason.FAILED_ON, EndReason.TRIPLE_FAULT, EndReason.HALTED, EndReason.TIMEOUT, EndReason.INSTRUCTIONS,
    EndReason.NOT_IMPLEMENTED,
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


def execute(config: MachineConfig, options: RunOptions) -> int:
    """Run `config`'s guest and return the exit code. Raises VemuError for what cannot be read, written or used."""
    config.validate()
    _check_outputs(config, options)
    with ExitStack() as cleanup:
        ends = _endpoints(config, options, cleanup)
        vga = config.console == "vga"
        serial = ends.output.write if vga and ends.output is not None and ends.output.fd != STDOUT else None
        machine = cleanup.enter_context(Machine(config, console=None if vga else ends.write, serial=serial))
        if ends.output is not None:
            ends.output.failed = machine.stop
        result = _run(machine, config, ends, options)
        return _conclude(machine, config, ends, options, result)


def _run(machine: Machine, config: MachineConfig, ends: Endpoints, options: RunOptions) -> RunResult:
    """The run itself, with terminal and signals in hand for just as long."""
    with ExitStack() as attended:
        show: Callable[[bytes], None] | None = None
        if ends.interactive:
            if not options.quiet:
                print("vemu: Ctrl-A X leaves, Ctrl-A H helps", file=sys.stderr, flush=True)
            attended.enter_context(RawTerminal(STDIN))
            if config.console == "vga":
                attended.enter_context(ScreenPainter(machine.screen_text, Output(STDOUT, "standard output").write))
            elif ends.output is not None:
                show = ends.output.write
        source = ends.source
        if source is not None and _is_regular(source):
            # all of it before the start: what the guest reads then does not depend on timing
            machine.send_input(_whole(source))
            source = None
        attended.enter_context(Attendant(machine, source, interactive=ends.interactive, show=show))
        return machine.run()


def _conclude(machine: Machine, config: MachineConfig, ends: Endpoints, options: RunOptions, result: RunResult) -> int:
    """Print what the run left behind; returns its exit code."""
    screen = screen_as_text(machine.screen_text()) if config.console == "vga" else ""
    if options.screenshot is not None:
        _save(options.screenshot, machine.screenshot())
    if ends.output is not None:
        ends.output.check()
    if options.json:
        console = screen or ends.captured.decode("utf-8", "replace")
        print(json.dumps(as_json(result, console, config.guest_name)), flush=True)
    elif screen:
        print(screen, end="", flush=True)
    ending = result.ending
    if (
        ends.output is not None
        and ends.output.fd == STDOUT
        and ends.output.last != ord("\n")
        and is_terminal(sys.stderr)
    ):
        print(file=sys.stderr)  # the guest left the cursor within a line
    if not options.quiet or ending.reason in _ABNORMAL:
        print_ending(ending, sys.stderr)
    if not options.quiet:
        print_summary(result.stats, machine.guest.description, sys.stderr)
    return ending.code


def show_blocks(config: MachineConfig, at: int | None, limit: int | None) -> int:
    """Run `config`'s guest with its console hidden, then print its translated blocks; 0, or 4 where none fits."""
    from emu.listing import Lister, covers

    with Machine(config) as machine:
        with Attendant(machine, None):
            result = machine.run()
        found = [block for block in machine.blocks() if at is None or covers(block, at)]
        lister = Lister(machine.code, machine.name_of)
        print_blocks(map(lister.listing, found[:limit]), sys.stdout)
        shown = len(found[:limit])
        print(f"vemu: {shown} of {len(found)} blocks; {result.ending.detail.partition(chr(10))[0]}", file=sys.stderr)
        if not found:
            where = "" if at is None else f" that holds {at:#x}"
            raise GuestFileError(f"{config.guest_name}: the run made no block{where}")
    return 0


# -- endpoints -----------------------------------------------------------------------------------------------------


def _endpoints(config: MachineConfig, options: RunOptions, cleanup: ExitStack) -> Endpoints:
    """Open what --serial names; what has to be closed goes to `cleanup`."""
    ends = Endpoints(capture=options.json)
    path = config.serial_file
    if path is not None:
        ends.output = cleanup.enter_context(_closing(open_file(path)))
    elif config.serial == "pty":
        pty = PseudoTerminal()
        cleanup.callback(pty.close)
        print(f"vemu: serial line on {pty.name}", file=sys.stderr, flush=True)
        ends.output, ends.source = pty.output, pty.output.fd
    elif config.serial == "stdio" and config.console == "serial" and not options.json:
        ends.output = Output(STDOUT, "standard output")
    if ends.source is None and (config.console == "vga" or config.serial == "stdio"):
        ends.interactive = not options.json and os.isatty(STDOUT) and in_foreground(STDIN)
        ends.source = STDIN if ends.interactive else input_fd()
    return ends


@contextmanager
def _closing(output: Output) -> Iterator[Output]:
    try:
        yield output
    finally:
        output.close()


def _check_outputs(config: MachineConfig, options: RunOptions) -> None:
    """Refuse to write over what is read, and a screenshot that could not be saved after a long run."""
    read = [path for path in (config.initrd, config.disk) if path is not None]
    if not isinstance(config.guest, bytes):
        read.append(Path(config.guest))
    for name, path in (("serial", config.serial_file), ("screenshot", options.screenshot)):
        if path is not None and any(_same_file(path, other) for other in read):
            raise UsageError(f"{name} {path}: that would write over the guest's own file")
    if options.screenshot is not None and not options.screenshot.parent.is_dir():
        raise UsageError(f"screenshot {options.screenshot}: there is no folder {options.screenshot.parent}")


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _whole(fd: int) -> bytes:
    data = bytearray()
    while chunk := os.read(fd, 1 << 16):
        data += chunk
    return bytes(data)


def _save(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise GuestFileError(f"screenshot {path}: {error.strerror}") from error
