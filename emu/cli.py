"""The click commands: options become a `MachineConfig`, and the work is done elsewhere.

Every import that costs time stays inside its command, so that `--help` answers at once. A command returns its exit
code; `emu.__main__` turns errors into theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from emu import __version__

if TYPE_CHECKING:
    from emu.config import MachineConfig

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES = """\b
Exit codes:
  0    clean power-off, --expect text seen, or --success-code
  odd  the guest's own: (value << 1) | 1 from the ISA debug exit
  2    usage              4    bad guest file or configuration
  6    triple fault       8    halted for good
  10   --fail-on text     12   something not implemented
  14   a Linux guest's kernel panicked
  70   a bug in vemu      124  time-out     130  interrupted"""

_ENGINES = ("translate", "interpret")
_FORMATS = ("flat", "boot", "elf", "multiboot", "multiboot2", "linux", "pvh", "firmware")
_BLOCKS_SECONDS = 2.0


def number(text: str) -> int:
    """A whole number, decimal or with 0x."""
    try:
        return int(text, 0)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no whole number (decimal, or hexadecimal with 0x).") from None


def size(text: str) -> int:
    """A size in bytes with K, M or G behind it."""
    from emu.config import parse_size
    from emu.errors import UsageError

    try:
        return parse_size(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Leave word for `emu.__main__`, which reports errors."""
    ctx.meta["vemu.debug"] = value


def guest_options(command: F) -> F:
    """The argument and the options that say what the guest is."""
    for option in reversed((
        click.argument("guest", required=False),
        click.option("--bios", type=click.Path(), metavar="FILE", help="Start this firmware; GUEST is then its disk."),
        click.option("--memory", type=size, metavar="SIZE", help="RAM, as 128M (the default of most guests)."),
        click.option("--mode", type=click.Choice(["16", "32", "64"]), help="Bits the guest starts in."),
        click.option("--org", type=number, metavar="ADDR", help="Load address of a flat binary."),
        click.option("--format", "format_", type=click.Choice(_FORMATS), help="Instead of recognising the content."),
        click.option("--initrd", type=click.Path(), metavar="FILE", help="Initial RAM disk or multiboot module."),
        click.option("--append", default="", metavar="TEXT", help="The kernel's command line."),
        click.option("--boot-stub", is_flag=True, help="Let a Linux bzImage unpack its kernel itself."),
        click.option(
            "--disk", metavar="IMAGE[,rw][,ide|virtio]", help="Hard disk, raw or qcow2; rw: writes go to the file."
        ),
        click.option("--max-instructions", type=number, metavar="N", help="End after N guest instructions."),
        click.option(
            "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_set_debug, help="Show tracebacks."
        ),
    )):  # fmt: skip
        command = option(command)
    return command


def _config(
    guest: str | None, bios: str | None, memory: int | None, mode: str | None, format_: str | None, **more: Any
) -> MachineConfig:
    from pathlib import Path

    from emu.config import MachineConfig, parse_disk

    if more["initrd"] is not None:
        more["initrd"] = Path(more["initrd"])
    if bios is not None:
        if format_ not in (None, "firmware"):
            raise click.UsageError(f"--bios {bios}: a firmware's --format is firmware, not {format_}")
        if guest is not None:
            if more["disk"] is not None:
                raise click.UsageError(f"--bios: its disk is {guest} or --disk {more['disk']}, not both")
            more["disk"] = guest
        guest, format_ = bios, "firmware"
    if guest is None:
        raise click.UsageError("Missing argument 'GUEST'.")
    if more["disk"] is not None:
        more["disk"], more["disk_writable"], more["disk_interface"] = parse_disk(more["disk"])
    return MachineConfig(guest, memory=memory or 0, mode=int(mode) if mode else None, format=format_, **more)


@click.group(invoke_without_command=True, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vemu", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> int:
    """Run whole x86 guests by binary translation, without hardware virtualization."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return 2
    return 0


@cli.command(epilog=EXIT_CODES)
@guest_options
@click.option(
    "--engine", type=click.Choice(_ENGINES), default="translate", show_default=True, help="How guest code runs."
)
@click.option("--serial", default="stdio", metavar="WHERE", help="COM1: stdio (default), null, file:PATH or pty.")
@click.option(
    "--console",
    type=click.Choice(["serial", "vga", "virtio"]),
    default="serial",
    show_default=True,
    help="What is shown, watched for text and typed on: COM1, VGA text screen and keyboard, or a virtio console.",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="End after so many seconds, with 124.")
@click.option("--expect", metavar="TEXT", help="End with 0 when the console shows TEXT.")
@click.option("--fail-on", metavar="TEXT", help="End with 10 when the console shows TEXT.")
@click.option("--success-code", type=number, metavar="N", help="The guest's status N counts as 0.")
@click.option("--deterministic", is_flag=True, help="Guest time from instructions: every run is the same.")
@click.option("--screenshot", type=click.Path(), metavar="PNG", help="Save the VGA text screen at the end.")
@click.option("--json", "json_", is_flag=True, help="One JSON object on standard output, the console within it.")
@click.option("--quiet", is_flag=True, help="No summary.")
def run(screenshot: str | None, json_: bool, quiet: bool, **options: Any) -> int:
    """Run GUEST: a file, or the name of a bundled guest (see 'vemu guests').

    On a terminal the console is interactive: Ctrl-A X leaves.
    """
    from pathlib import Path

    from emu.cli_run import RunOptions, execute

    output = RunOptions(Path(screenshot) if screenshot is not None else None, json_, quiet)
    return execute(_config(**options), output)


@cli.command()
@guest_options
@click.option("--at", type=number, metavar="ADDR", help="Only blocks that hold this guest address.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N blocks.")
@click.option("--timeout", type=float, default=_BLOCKS_SECONDS, show_default=True, metavar="SECONDS", help="End then.")
def blocks(at: int | None, limit: int | None, **options: Any) -> int:
    """Show GUEST's translated blocks: guest code left, translated code right, callouts with their reason.

    The guest runs first, its console hidden, and the blocks it leaves behind are shown. With --max-instructions they
    are made to stop exactly, which takes a few instructions more in each.
    """
    from emu.cli_run import show_blocks

    return show_blocks(_config(**options), at, limit)


@cli.command()
@guest_options
@click.option(
    "--every", type=click.IntRange(min=1), metavar="N", help="Compare after every N instructions, blocks chained."
)
@click.option(
    "--against",
    type=click.Choice(["translate", "unicorn"]),
    default="translate",
    show_default=True,
    help="Compare the interpreter with the translator, or with plain Unicorn (by default every 1000 instructions).",
)
@click.option("--json", "json_", is_flag=True, help="One JSON object on standard output.")
def verify(every: int | None, against: str, json_: bool, **options: Any) -> int:
    """Run GUEST under interpreter and translator in lockstep; end with 1 at the first difference, else with 0.

    The whole state is compared in front of every block, or with --every in steps (blocks being chained), and all RAM
    from time to time. Guest time comes from the instructions, so that every run is the same.

    Plain Unicorn delivers no interrupts and exceptions: against it, a guest that needs one is compared up to there.
    """
    from emu.cli_verify import verify_guest

    return verify_guest(_config(**options), every, against, json_)


@cli.command()
@click.option("--json", "json_", is_flag=True, help="As a JSON list.")
def guests(json_: bool) -> int:
    """List the bundled guests."""
    import sys

    from emu.report import print_table
    from guests import catalogue

    found = catalogue().values()
    if json_:
        import json

        keys = ("name", "summary", "format", "mode", "org", "memory", "tags", "exit_code")
        rows = [{key: getattr(guest, key) for key in keys} | {"path": str(guest.path)} for guest in found]
        click.echo(json.dumps(rows, indent=2))
        return 0
    print_table(
        ("guest", "format", "bits", "kind", "summary"),
        [(g.name, g.format, str(g.mode), " ".join(g.tags), g.summary) for g in found],
        sys.stdout,
        right=(2,),
    )
    return 0


@cli.command()
@click.option("--json", "json_", is_flag=True, help="As a JSON list.")
def doctor(json_: bool) -> int:
    """Show versions, whether the engines run here, and optional tools; ends with 4 where something needed fails."""
    import sys

    from emu.doctor import examine
    from emu.report import print_table

    findings = examine()
    if json_:
        import json
        from dataclasses import asdict

        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        rows = [(f.topic, f.name, "ok" if f.ok else "missing" if not f.needed else "FAILS", f.detail) for f in findings]
        print_table(("kind", "name", "state", "detail"), rows, sys.stdout)
    return 4 if any(finding.needed and not finding.ok for finding in findings) else 0
