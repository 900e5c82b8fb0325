"""The options that several commands share, and the `MachineConfig` they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

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


def _complete_guest(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Bundled guests, and files."""
    from guests import catalogue

    names = [CompletionItem(name) for name in catalogue() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def guest_options(command: F, format_option: str = "--format", several: bool = False) -> F:
    """The argument and the options that say what the guest is, or (`guests`) what `several` are."""
    name, count = ("guests", -1) if several else ("guest", 1)
    for option in reversed((
        click.argument(name, required=False, nargs=count, shell_complete=_complete_guest),
        click.option("--bios", type=click.Path(), metavar="FILE", help="Start this firmware; GUEST is then its disk."),
        click.option("--memory", type=size, metavar="SIZE", help="RAM, as 128M (the default of most guests)."),
        click.option("--mode", type=click.Choice(["16", "32", "64"]), help="Bits the guest starts in."),
        click.option("--org", type=number, metavar="ADDR", help="Load address of a flat binary."),
        click.option(
            format_option, "format_", type=click.Choice(_FORMATS), help="GUEST's, instead of recognising the content."
        ),
        click.option("--initrd", type=click.Path(), metavar="FILE", help="Initial RAM disk or multiboot module."),
        click.option("--append", default="", metavar="TEXT", help="The kernel's command line."),
        click.option("--boot-stub", is_flag=True, help="Let a Linux bzImage unpack its kernel itself."),
        click.option(
            "--disk",
            metavar="IMAGE[,rw][,ide|virtio]",
            help="Hard disk, raw or qcow2, the second one where GUEST is one itself; rw: writes go to the file.",
        ),
        click.option("--max-instructions", type=number, metavar="N", help="End after N guest instructions."),
        click.option(
            "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_set_debug, help="Show tracebacks."
        ),
    )):  # fmt: skip
        command = option(command)
    return command


def run_options(command: F) -> F:
    """The options that say how the guest runs, beside `guest_options`."""
    for option in reversed((
        click.option("--engine", type=click.Choice(_ENGINES), default="translate", show_default=True,
                     help="How guest code runs."),
        click.option("--serial", default="stdio", metavar="WHERE",
                     help="COM1: stdio (default), null, file:PATH or pty."),
        click.option("--console", type=click.Choice(["serial", "vga", "virtio"]), default="serial", show_default=True,
                     help="What is shown, watched for text and typed on: COM1, VGA text screen and keyboard, or a "
                          "virtio console."),
        click.option("--timeout", type=float, metavar="SECONDS", help="End after so many seconds, with 124."),
        click.option("--expect", metavar="TEXT", help="End with 0 when the console shows TEXT."),
        click.option("--fail-on", metavar="TEXT", help="End with 10 when the console shows TEXT."),
        click.option("--success-code", type=number, metavar="N", help="The guest's status N counts as 0."),
        click.option("--deterministic", is_flag=True, help="Guest time from instructions: every run is the same."),
        click.option("--cache", type=click.Path(), metavar="DIR", envvar="VEMU_CACHE",
                     help="Keep translations from run to run here instead of below the user's cache folder."),
        click.option("--no-cache", is_flag=True, help="Keep no translations, and use none."),
        click.option("--screenshot", type=click.Path(), metavar="PNG", help="Save the VGA text screen at the end."),
        click.option("--quiet", is_flag=True, help="No summary."),
    )):  # fmt: skip
        command = option(command)
    return command


def config_of(
    guest: str | None, bios: str | None, memory: int | None, mode: str | None, format_: str | None, **more: Any
) -> MachineConfig:
    """The configuration that the values of `guest_options`, and `more` of a configuration's fields, stand for."""
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
    if more.pop("no_cache", False):
        more["cache"] = None
    elif more.get("cache") is not None:
        more["cache"] = Path(more["cache"])
    if more["disk"] is not None:
        more["disk"], more["disk_writable"], more["disk_interface"] = parse_disk(more["disk"])
    return MachineConfig(guest, memory=memory or 0, mode=int(mode) if mode else None, format=format_, **more)
