"""`vemu trace --exits`: runs one guest as `vemu run` does, and reports its exits."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from emu.cli_run import (
    ABNORMAL,
    Endpoints,
    RunOptions,
    attended_run,
    check_outputs,
    messages,
    open_endpoints,
    outlets,
    save_screenshot,
)
from emu.config import MachineConfig
from emu.console import STDERR, Output
from emu.machine import RunResult
from emu.report import print_ending
from emu.trace.session import ExitTrace, TraceOptions
from emu.traced import TracedMachine


def trace_exits(config: MachineConfig, options: RunOptions, tracing: TraceOptions) -> int:
    """Run `config`'s guest and report its exits; returns the guest's exit code.

    Its console shares standard output with a table, in front of it; where standard output holds something that programs
    read, it goes to standard error, and with --live nowhere. Raises VemuError for what cannot be read, written or used.
    """
    config.validate()
    check_outputs(config, options)
    tracing.check()
    view = tracing.view
    apart = tracing.live or (view.output is None and view.format != "table")
    ends = Endpoints()

    def write(data: bytes) -> None:
        ends.write(data)
        trace.console(data)  # there is one before the guest writes anything

    with ExitStack() as cleanup:
        machine = cleanup.enter_context(TracedMachine(config, **outlets(config, write)))
        trace = ExitTrace(tracing, machine.names, {"guest": config.guest_name, "command": "vemu trace --exits"})
        open_endpoints(ends, config, RunOptions(json=apart), cleanup)
        if apart and config.serial == "stdio" and not tracing.live:
            ends.output = Output(STDERR, "standard error")
        if ends.output is not None:
            ends.output.failed = machine.stop
        with trace:
            machine.exits_to(trace.recorder.record)
            result = attended_run(machine, config, ends, options)
            ending = result.ending
            trace.finish({"reason": ending.reason.value, "code": ending.code, "detail": ending.detail})
        if ends.output is not None:
            ends.output.check()
        if ends.cursor_within_line:
            print()
        trace.show()
        sys.stdout.flush()
        _tell(machine, options, result, trace)
        save_screenshot(machine, options)
    return result.ending.code


def _tell(machine: TracedMachine, options: RunOptions, result: RunResult, trace: ExitTrace) -> None:
    """Say beside the report how the run ended, where its time went, and why a report may be empty."""
    total = result.stats.seconds
    exits = trace.aggregate.total.total / 1e9
    with messages() as stream:
        if not options.quiet or result.ending.reason in ABNORMAL:
            print_ending(result.ending, stream)
        for sentence in trace.missed:
            print(f"vemu: {sentence}", file=stream)
        if not options.quiet:
            inside, unnoted = machine.inside_seconds, machine.unnoted_seconds
            print(
                f"vemu: {total:.3f} s: {inside:.3f} s in the guest, {exits:.3f} s in the exits shown, "
                f"{unnoted:.3f} s without a counted reason",
                file=stream,
            )
