"""The click commands: options become a `MachineConfig`, and the work is done elsewhere.

Every import that costs time stays inside its command, so that `--help` answers at once. A command returns its exit
code; `emu.__main__` turns errors into theirs.
"""

from __future__ import annotations

from typing import Any

import click

from emu import __version__
from emu.cli_options import EXIT_CODES, config_of, guest_options, number, run_options

_BLOCKS_SECONDS = 2.0
_ELSEWHERE = {  # commands of other modules, which are imported only when asked for: their imports cost time
    "trace": "emu.cli_trace", "report": "emu.cli_trace", "explain": "emu.cli_trace", "bench": "emu.cli_bench",
    "top": "emu.cli_top",
}  # fmt: skip


class Commands(click.Group):
    """The commands of other modules (their COMMANDS) among those of this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _ELSEWHERE.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        from importlib import import_module

        found = import_module(module).COMMANDS[cmd_name]
        assert isinstance(found, click.Command)
        return found


@click.group(
    cls=Commands,
    invoke_without_command=True,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
@run_options
@click.option("--json", "json_", is_flag=True, help="One JSON object on standard output, the console within it.")
def run(screenshot: str | None, json_: bool, quiet: bool, **options: Any) -> int:
    """Run GUEST: a file, or the name of a bundled guest (see 'vemu guests').

    On a terminal the console is interactive: Ctrl-A X leaves.
    """
    from pathlib import Path

    from emu.cli_run import RunOptions, execute
    from emu.saved_code import default_folder

    if options["cache"] is None and not options["no_cache"]:
        options["cache"] = default_folder()
    output = RunOptions(Path(screenshot) if screenshot is not None else None, json_, quiet)
    return execute(config_of(**options), output)


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

    return show_blocks(config_of(**options), at, limit)


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

    return verify_guest(config_of(**options), every, against, json_)


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


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes SHELL complete vemu's commands, options and guests: eval "$(vemu completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "vemu", "_VEMU_COMPLETE").source())
    return 0
