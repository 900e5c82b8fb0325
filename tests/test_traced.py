"""Every exit of a run is one record: they agree with the counters and the console, and with the time that passed."""

from __future__ import annotations

from collections import Counter

import pytest

from emu import MachineConfig
from emu.exits import EndReason
from emu.memory import MIB
from emu.trace.record import ExitRecord
from emu.traced import TracedMachine
from guests import catalogue
from tests.guests.test_packages import package_file

GUESTS = catalogue()
THR = 0x3F8


class Run:
    """One traced run of a bundled guest, or of `config`'s."""

    def __init__(self, name: str, engine: str = "translate", config: MachineConfig | None = None) -> None:
        guest = GUESTS.get(name)
        if config is None:
            assert guest is not None
            config = MachineConfig(
                guest.image(guest.small_scale), engine=engine, memory=guest.memory * MIB, format=guest.format,
                mode=guest.mode if guest.format == "flat" else None,
                org=guest.org if guest.format == "flat" else None, timeout=60,
            )  # fmt: skip
        self.records: list[ExitRecord] = []
        console = bytearray()
        with TracedMachine(config, console=console.extend) as machine:
            machine.exits_to(self.records.append)
            self.result = machine.run()
            self.names = machine.names
            self.inside, self.unnoted = machine.inside_seconds, machine.unnoted_seconds
        self.console = bytes(console)

    def of(self, reason: str) -> list[ExitRecord]:
        return [record for record in self.records if record.reason == reason]


@pytest.mark.parametrize("engine", ["translate", "interpret"])
@pytest.mark.parametrize("name", GUESTS)
def test_records_agree_with_counters_console_and_time(name: str, engine: str) -> None:
    run = Run(name, engine)
    assert Counter(record.reason for record in run.records) == run.result.stats.exits
    assert [record.sequence for record in run.records] == list(range(len(run.records)))
    sent = [record for record in run.records if record.operand == THR and record.access == "w"]
    if GUESTS[name].format != "boot":  # the BIOS writes the console by itself
        assert len(sent) == len(run.console)
    cost = sum(record.cost_ns for record in run.records) / 1e9
    assert run.inside + cost + run.unnoted == pytest.approx(run.result.stats.seconds, rel=0.05, abs=0.005)
    for before, after in zip(run.records, run.records[1:], strict=False):
        assert min(before[3:7]) >= 0
        assert after.host_ns >= before.host_ns + before.cost_ns


def test_records_say_where_and_what() -> None:
    run = Run("kernel64")
    faults = {record.operand for record in run.records if record.reason == "exception #PF"}
    assert faults == {14}
    assert {(r.operand, r.access, r.cpl) for r in run.of("mov_from_cr") if r.cpl == 0} >= {(2, "r", 0)}
    assert (0xC0000080, "w", 8) in {(r.operand, r.access, r.size) for r in run.of("wrmsr")}
    assert {r.operand for r in run.of("interrupt")} == {0x20}
    assert {r.cpl for r in run.of("syscall")} == {3}
    assert {"long64", "prot32"} <= {record.mode for record in run.records}
    out = run.of("out")[0]
    assert out.block <= out.pc < out.block + 4096
    assert run.names.device("port", THR) == "com1"
    assert run.names.device("memory", 0xB8000) == "" == run.names.device("port", 0x1234)


def test_memtest() -> None:
    image = package_file("/boot/memtest86+x64.bin", "memtest86+")
    config = MachineConfig(image, memory=32 * MIB, console="vga", max_instructions=3_000_000)
    run = Run("", config=config)
    assert run.result.ending.reason is EndReason.INSTRUCTIONS
    assert Counter(record.reason for record in run.records) == run.result.stats.exits
    assert len(run.records) > 100
    cost = sum(record.cost_ns for record in run.records) / 1e9
    assert run.inside + cost + run.unnoted == pytest.approx(run.result.stats.seconds, rel=0.05)


def test_memtest_on_the_serial_line() -> None:
    image = package_file("/boot/memtest86+x64.bin", "memtest86+")
    config = MachineConfig(image, memory=32 * MIB, append="console=ttyS0,115200", max_instructions=12_000_000)
    run = Run("", config=config)
    assert Counter(record.reason for record in run.records) == run.result.stats.exits
    assert b"Memtest86+" in run.console
    # each byte is one port write; the first one to that port is the divisor's low half, between two writes to LCR
    ports = [record.operand for record in run.records if record.access == "w" and THR <= record.operand <= THR + 3]
    divisors = ports[: ports.index(THR + 1) + 1].count(THR)
    assert divisors == 1
    assert ports.count(THR) - divisors == len(run.console) > 1000
    cost = sum(record.cost_ns for record in run.records) / 1e9
    assert run.inside + cost + run.unnoted == pytest.approx(run.result.stats.seconds, rel=0.05)
