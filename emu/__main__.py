"""The process around the command line: every error becomes one line and its documented exit code.

Nothing but the standard library is imported before `main` stands guard, so that an interrupt while the rest is
loading, or a library that is missing, ends with a documented code as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Final, TextIO

USAGE: Final = 2
ENVIRONMENT: Final = 4  # the host refused a file, a write or memory, or lacks a library
BUG: Final = 70
INTERRUPTED: Final = 130
COMPLETE: Final = "_VEMU_COMPLETE"  # set by the shell's completion function, which `vemu completion` prints
_OWN: Final = ("emu", "isa", "guests")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code; raises nothing."""
    try:
        return _guarded(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # came while another error was being reported
        return INTERRUPTED


def _guarded(arguments: Sequence[str]) -> int:
    debug = False
    try:
        _open_missing_streams()
        from emu.cli import cli

        asked = os.environ.get(COMPLETE)
        if asked:
            from click.shell_completion import shell_complete

            return shell_complete(cli, {}, "vemu", COMPLETE, asked)
        with cli.make_context("vemu", list(arguments)) as context:
            try:
                result = cli.invoke(context)
            finally:
                debug = bool(context.meta.get("vemu.debug"))
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BaseException as error:  # whatever it is, Python's own exit code 1 would pass for a guest's
        code, line = _explain(error)
        if debug:
            import traceback

            line = traceback.format_exc() + line
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
    code, line = _explain_python(error) or _explain_own(error)
    return code, line and "vemu: " + _one_line(line)


def _explain_python(error: BaseException) -> tuple[int, str] | None:
    """For an error of Python's own; None for any other. Imports nothing: an import may be what was interrupted."""
    match error:
        case KeyboardInterrupt():
            return INTERRUPTED, "interrupted"
        case BrokenPipeError():
            return INTERRUPTED, ""  # whoever read the output has gone
        case OSError():
            name = f"{error.filename}: " if error.filename is not None else ""
            return ENVIRONMENT, f"{name}{error.strerror or error}"
        case MemoryError():
            return ENVIRONMENT, "the host has not enough memory"
        case ModuleNotFoundError() if (error.name or "").partition(".")[0] not in _OWN:
            return ENVIRONMENT, f"{error}: the installation is incomplete ('vemu doctor' tells more)"
        case _:
            return None


def _explain_own(error: BaseException) -> tuple[int, str]:
    """For an error of vemu or click, and what nobody expected."""
    from click import Abort, ClickException, UsageError
    from click.exceptions import Exit

    from emu.errors import VemuError

    match error:
        case Exit():
            return error.exit_code, ""
        case UsageError():
            where = error.ctx.command_path if error.ctx is not None else "vemu"
            return USAGE, f"{error.format_message()} (see '{where} --help')"
        case ClickException():
            return USAGE, error.format_message()
        case VemuError():
            return error.exit_code, str(error)
        case Abort():
            return INTERRUPTED, "interrupted"
        case _:
            return BUG, f"{type(error).__name__}: {error}: this is a bug in vemu; --debug shows the traceback"


def _one_line(text: str) -> str:
    """`text` on one line; what a file's name may hold to play tricks on a terminal is written as an escape."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def _say(line: str) -> None:
    if not line:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody listens
        sys.stderr = _nowhere()


def _open_missing_streams() -> None:
    """See to it that the three standard descriptors are open, and that printing cannot fail for want of a character.

    A descriptor that was closed would be given to the next file that is opened, and what is printed go into that.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    # Python leaves a stream None whose descriptor was closed when it started
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # it takes a standard stream's place until the process ends


if __name__ == "__main__":
    sys.exit(main())
