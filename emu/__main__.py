"""The process around the command line: every error becomes one line and its documented exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, TextIO

import click

from emu.cli import cli
from emu.errors import VemuError

USAGE: Final = 2
ENVIRONMENT: Final = 4  # the host refused a file, a write or memory
BUG: Final = 70
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code; raises nothing."""
    _open_missing_streams()
    debug = False
    try:
        with cli.make_context("vemu", list(sys.argv[1:] if arguments is None else arguments)) as context:
            try:
                result = cli.invoke(context)
            finally:
                debug = bool(context.meta.get("vemu.debug"))
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BaseException as error:  # whatever it is, Python's own exit code 1 would pass for a guest's
        if debug:
            import traceback

            traceback.print_exc()
        code, line = _explain(error)
        _say(line)
        return _flush(code)


def _flush(code: int) -> int:
    """Write out what was printed before the error; where that fails, keep Python from trying again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = _nowhere()
    return code


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and line for an error; an empty line where there is nothing to say."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code, ""
        case click.UsageError():
            where = error.ctx.command_path if error.ctx is not None else "vemu"
            return USAGE, f"{error.format_message()} (see '{where} --help')"
        case click.ClickException():
            return USAGE, error.format_message()
        case VemuError():
            return error.exit_code, str(error)
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED, "interrupted"
        case BrokenPipeError():
            return INTERRUPTED, ""  # whoever read the output has gone
        case OSError():
            name = f"{error.filename}: " if error.filename is not None else ""
            return ENVIRONMENT, f"{name}{error.strerror or error}"
        case MemoryError():
            return ENVIRONMENT, "the host has not enough memory"
        case _:
            return BUG, f"{type(error).__name__}: {error}: this is a bug in vemu; --debug shows the traceback"


def _say(line: str) -> None:
    if not line:
        return
    try:
        print("vemu: " + " ".join(line.split()), file=sys.stderr, flush=True)
    except OSError:  # nobody listens
        sys.stderr = _nowhere()


def _open_missing_streams() -> None:
    """Python leaves a stream None when its descriptor was closed; what is printed then goes nowhere."""
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # it takes a standard stream's place until the process ends


if __name__ == "__main__":
    sys.exit(main())
