"""Every bundled guest meets its expectation under both engines, and twice the same where time is the guest's own."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from emu import Ending, Machine, MachineConfig
from emu.memory import MIB
from guests import Guest, catalogue

GUESTS = catalogue()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run showed and left behind."""

    console: str
    ending: Ending
    instructions: int
    exits: dict[str, int]
    registers: object
    memory: str


def run(guest: Guest, engine: str, **options: Any) -> Outcome:
    config = MachineConfig(
        guest.image(guest.small_scale),
        engine=engine,
        memory=guest.memory * MIB,
        format=guest.format,
        mode=guest.mode if guest.format == "flat" else None,
        org=guest.org if guest.format == "flat" else None,
        timeout=60,
        **options,
    )
    console = bytearray()
    with Machine(config, console=console.extend) as machine:
        result = machine.run()
        cpu = machine.state
        registers = (
            tuple(cpu.regs), cpu.rip, cpu.rflags, cpu.mode, cpu.cpl, cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer,
            tuple(map(repr, cpu.segs)), repr(cpu.gdtr), repr(cpu.idtr), cpu.halted,
        )  # fmt: skip
        memory = hashlib.sha256(machine.memory.ram).hexdigest()
    return Outcome(
        console.decode("latin-1"), result.ending, result.stats.instructions, result.stats.exits, registers, memory
    )


@pytest.mark.parametrize("engine", ["translate", "interpret"])
@pytest.mark.parametrize("guest", GUESTS.values(), ids=GUESTS)
def test_meets_its_expectation(guest: Guest, engine: str) -> None:
    outcome = run(guest, engine)
    assert outcome.console == (guest.expect_small or guest.expect), outcome.ending
    assert outcome.ending.code == guest.exit_code


@pytest.mark.parametrize("engine", ["translate", "interpret"])
@pytest.mark.parametrize("guest", GUESTS.values(), ids=GUESTS)
def test_deterministic_runs_are_the_same(guest: Guest, engine: str) -> None:
    first = run(guest, engine, deterministic=True)
    assert first.console == (guest.expect_small or guest.expect), first.ending
    assert run(guest, engine, deterministic=True) == first


@pytest.mark.parametrize("guest", GUESTS.values(), ids=GUESTS)
def test_engines_leave_the_same(guest: Guest) -> None:
    translated, interpreted = (run(guest, engine, deterministic=True) for engine in ("translate", "interpret"))
    assert translated.console == interpreted.console
    assert translated.ending == interpreted.ending
    assert translated.instructions == interpreted.instructions
    assert translated.registers == interpreted.registers
    assert translated.memory == interpreted.memory


@pytest.mark.parametrize(
    "guest", [g for g in GUESTS.values() if g.scale], ids=[n for n, g in GUESTS.items() if g.scale]
)
def test_compute_guests_at_their_default_scale(guest: Guest) -> None:
    console = bytearray()
    with Machine(MachineConfig(guest.name, timeout=60), console=console.extend) as machine:
        assert machine.run().ending.code == guest.exit_code
    assert console.decode() == guest.expect


def test_catalogue_is_whole() -> None:
    assert {
        "hello16", "hello32", "hello64", "bootbios", "kernel32", "kernel64", "sensitive", "sensitive64", "smc", "sieve",
        "sha256", "quicksort", "matmul", "fib", "bytecode", "strings", "memwalk",
    } <= set(GUESTS)  # fmt: skip
