"""Where a boot's time goes: every nanosecond of an exit counts once."""

from __future__ import annotations

import io

from rich.console import Console

from benchmarks.breakdown import Breakdown, table_of
from emu import MachineConfig
from emu.trace.names import Names
from emu.trace.record import ExitRecord
from emu.traced import TracedMachine


def record(reason: str, leave: int, emulate: int, device: int, resume: int, operand: int = -1) -> ExitRecord:
    return ExitRecord(0, 0, 0, leave, emulate, device, resume, reason, 0x1000, operand)


def test_an_exit_is_parted() -> None:
    translated = iter((0, 700, 700, 700))
    found = Breakdown(lambda: next(translated), Names(None, lambda space, operand: "com1" if operand == 0x3F8 else ""))
    found.add(record("out", 10, 20, 30, 40, 0x3F8))
    found.add(record("link", 0, 0, 0, 1000))
    found.add(record("hidden page fault", 1, 2, 0, 4))
    found.add(record("memory", 1, 1, 5, 1, 0xFEC00000))
    assert (found.translation.count, found.translation.ns) == (1, 700)
    assert (found.faults.count, found.faults.ns) == (1, 7)
    assert {name: cost.ns for name, cost in found.devices.items()} == {"com1": 30, "others": 5}
    assert {name: cost.ns for name, cost in found.callouts.items()} == {
        "IO_INSTRUCTION": 70, "BLOCK_LINK": 300, "MEMORY_ACCESS": 3,
    }  # fmt: skip
    text = io.StringIO()
    Console(width=100, file=text).print(table_of("title", 2000, 500, found, 2))
    rows = {line.split("│")[1].rstrip(): line.split("│")[2:6] for line in text.getvalue().splitlines() if "│" in line}
    assert rows[" native code"][2].strip() == "25.0%"
    assert rows[" callouts"][0].strip() == "3"
    assert rows["   others"][0].strip() == "1"
    assert rows[" without a counted reason"][2].strip() == f"{(2000 - 500 - 1115) / 20:.1f}%"


def test_the_parts_of_a_run_add_up() -> None:
    with TracedMachine(MachineConfig("kernel64")) as machine:
        found = Breakdown(lambda: int(machine.stats().translation_seconds * 1e9), machine.names)
        machine.exits_to(found.add)
        stats = machine.run().stats
        parts = (found.translation, found.faults, *found.callouts.values(), *found.devices.values())
        outside = sum(part.ns for part in parts) / 1e9
        assert found.translation.ns > 0
        assert found.faults.count > 0
        assert found.devices["com1"].count > 1000
        left = stats.seconds - outside - machine.inside_seconds - machine.unnoted_seconds
        assert abs(left) < 0.05 * stats.seconds
