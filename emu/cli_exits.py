"""`vemu trace`: runs one guest as `vemu run` does, and reports its exits, its blocks or its call stacks."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
from emu.dbt.block import Block
from emu.errors import UsageError
from emu.machine import RunResult
from emu.outfile import check_writable
from emu.report import print_ending
from emu.trace.names import Names
from emu.trace.session import ExitTrace, TraceOptions
from emu.trace.stacks import StackCounts, write
from emu.trace.view import View
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
    apart = view.output is None and view.format != "table"
    ends = Endpoints()

    def both(data: bytes) -> None:
        ends.write(data)
        trace.console(data)  # there is one before the guest writes anything

    with ExitStack() as cleanup:
        machine = cleanup.enter_context(TracedMachine(config, **outlets(config, both)))
        trace = ExitTrace(tracing, machine.names, {"guest": config.guest_name, "command": "vemu trace --exits"})
        with trace:
            machine.exits_to(trace.recorder.record)
            result = _attended(machine, config, options, ends, cleanup, apart=apart, hidden=tracing.live)
            ending = result.ending
            trace.finish({"reason": ending.reason.value, "code": ending.code, "detail": ending.detail})
        if ends.cursor_within_line:
            print()
        trace.show()
        sys.stdout.flush()
        _tell(machine, options, result, trace)
        save_screenshot(machine, options)
    return result.ending.code


def trace_stacks(config: MachineConfig, options: RunOptions, kind: str, view: View) -> int:
    """Run `config`'s guest and write folded stacks or a flame graph of its "blocks" or "calls"; returns its exit code.

    Blocks are counted as they are executed, none chained to another, by guest instructions. Raises VemuError.
    """
    config.validate()
    check_outputs(config, options)
    if view.output is not None:
        check_writable(view.output, "report")
    view.names(Names())  # symbols that cannot be read are told now
    ends, counts = Endpoints(), StackCounts()
    with ExitStack() as cleanup:
        if kind == "blocks":
            if config.engine != "translate":
                raise UsageError(f"--blocks: --engine {config.engine} makes none")
            observe = _counting(counts)
            machine = cleanup.enter_context(TracedMachine(config, observe=observe, **outlets(config, ends.write)))
        else:
            machine = cleanup.enter_context(TracedMachine(config, **outlets(config, ends.write)))
            machine.samples_to(counts.add)
        result = _attended(machine, config, options, ends, cleanup, apart=view.output is None)
        named = (counts.blocks if kind == "blocks" else counts.calls)(view.names(machine.names))
        unit = "instructions" if kind == "blocks" else "samples"
        write(named, view.output, f"{config.guest_name}: {kind}", unit)
        with messages() as stream:
            if not options.quiet or result.ending.reason in ABNORMAL:
                print_ending(result.ending, stream)
            if not options.quiet:
                print(f"vemu: {counts.total:,} {unit} in {len(named)} stacks", file=stream)
        save_screenshot(machine, options)
    return result.ending.code


def _counting(counts: StackCounts) -> Callable[[Block], None]:
    def observe(block: Block) -> None:
        counts.add((block.linear,), block.count)

    return observe


def _attended(
    machine: TracedMachine, config: MachineConfig, options: RunOptions, ends: Endpoints, cleanup: ExitStack, *,
    apart: bool, hidden: bool = False,
) -> RunResult:  # fmt: skip
    """The run, its console on standard output, `apart` from it on standard error, or `hidden`."""
    open_endpoints(ends, config, RunOptions(json=apart or hidden), cleanup)
    if apart and not hidden and config.serial == "stdio":
        ends.output = Output(STDERR, "standard error")
    if ends.output is not None:
        ends.output.failed = machine.stop
    result = attended_run(machine, config, ends, options)
    if ends.output is not None:
        ends.output.check()
    return result


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
