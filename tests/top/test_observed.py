"""What is seen of a running machine agrees with its own counters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from emu import MachineConfig
from emu.observed import ObservedMachine
from emu.top.sample import Snapshot
from guests import catalogue

KERNEL64 = MachineConfig(catalogue()["kernel64"].image(), format="multiboot", timeout=60)


def spinning(code: str, look: Callable[[ObservedMachine], None], engine: str = "translate") -> None:
    """Run endless code, and have `look` called a hundred times in between."""
    config = MachineConfig(bytes.fromhex(code), format="flat", mode=64, timeout=60, engine=engine)
    with ObservedMachine(config) as machine:
        had = threading.Semaphore(0)

        def ask() -> None:
            for _ in range(100):
                machine.submit(lambda: (look(machine), had.release())[0])
                had.acquire(timeout=30)
            machine.stop()

        asking = threading.Thread(target=ask)
        asking.start()
        machine.run()
        asking.join()


@pytest.mark.parametrize("engine", ["translate", "interpret"])
def test_the_hot_block_is_found(engine: str) -> None:
    found: list[Snapshot] = []

    def look(machine: ObservedMachine) -> None:
        machine.sample()
        if machine._samples == 100:
            found.append(machine.snapshot(whole=True))

    # mov ecx, 5; again: in al, 60h; jmp again
    spinning("b905000000 e460 ebfc", look, engine)
    (snapshot,) = found
    loop = [block for block in snapshot.hot if block.name in ("0x100005", "0x100007")]  # a block, or its instructions
    assert sum(block.samples for block in loop) >= 90
    assert any("in al, 0x60" in line or "jmp 0x100005" in line for block in loop for line in block.code)
    assert (snapshot.samples, snapshot.idle) == (100, 0)
    assert (snapshot.occupancy is None) == (engine == "interpret")


def test_a_halted_guest_is_idle() -> None:
    found: list[Snapshot] = []

    def look(machine: ObservedMachine) -> None:
        time.sleep(0.001)
        machine.sample()
        found.append(machine.snapshot())

    spinning("b0ff e621 fb f4 ebfd", look)  # all interrupts masked; sti; hlt, again and again
    assert found[-1].idle >= 90
    assert sum(block.samples for block in found[-1].hot) <= 10


@pytest.mark.parametrize("engine", ["translate", "interpret"])
def test_figures_agree_with_the_runs_own(engine: str) -> None:
    console = bytearray()
    with ObservedMachine(MachineConfig("kernel64", engine=engine, timeout=60), console=console.extend) as machine:
        result = machine.run()
        snapshot = machine.snapshot(("last",))
        held = machine.blocks()
    stats = result.stats
    assert result.ending.code == 33
    assert snapshot.exits == stats.exits
    assert (snapshot.instructions, snapshot.native) == (stats.instructions, stats.native_instructions)
    assert snapshot.devices["com1"] > 2 * len(console) - 10  # a look at its status, and a character
    assert snapshot.console == ("last",)
    full = snapshot.occupancy
    if engine == "interpret":
        assert full is None
        return
    assert full is not None
    assert full.blocks == len(held)
    assert 0 < full.code_used < full.code_size
    assert 0 < full.shadow_tables <= full.shadow_pages <= full.table_pages <= full.table_capacity
    assert full.spaces >= 1


def test_places_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.observed._MOST_PLACES", 10)
    with ObservedMachine(KERNEL64) as machine:
        for number in range(50):
            machine.state.rip = 0x100000 + number % 25
            machine.sample()
            machine.snapshot()
        assert len(machine._earlier) <= 11
