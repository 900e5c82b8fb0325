"""Debian's amd64 kernel under both engines in lockstep, and every exit of a boot the same when it is repeated."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emu import MachineConfig
from emu.exits import EndReason
from emu.trace.record import ExitRecord
from emu.traced import TracedMachine
from emu.verify import Lockstep
from guests.linux import DONE
from tests.guests.linux import MEMORY, TIMEOUT, kernel_and_initrd

APPEND = "console=ttyS0 quiet"
INSTRUCTIONS = 20_000_000
SCRIPT = """#!/bin/sh
i=0; while [ $i -lt 10 ]; do /bin/true; i=$((i+1)); done; date; sleep 1; cat /proc/sys/kernel/random/boot_id
"""


def test_the_engines_agree_on_the_first_instructions(tmp_path: Path) -> None:
    image, initrd = kernel_and_initrd("cloud", tmp_path)
    config = MachineConfig(image, initrd=initrd, memory=MEMORY, append=APPEND)
    verdict = Lockstep(config, lambda _: None).by_steps(1000, INSTRUCTIONS)
    assert verdict.divergence is None
    assert (verdict.ending, verdict.stopped) == (None, None)
    assert verdict.instructions == INSTRUCTIONS


def test_a_deterministic_boot_repeats_every_exit(tmp_path: Path) -> None:
    """From the first instruction to the power-off, with what the guest takes for the time and for chance."""
    image, initrd = kernel_and_initrd("cloud", tmp_path, script=SCRIPT)
    config = MachineConfig(image, initrd=initrd, memory=MEMORY, append=APPEND, deterministic=True, timeout=TIMEOUT)

    def boot() -> tuple[int, str, bytes]:
        digest, count, console = hashlib.sha256(), 0, bytearray()

        def add(record: ExitRecord) -> None:
            nonlocal count
            count += 1
            # all but what the host's clock says
            digest.update(repr((record.sequence, record.guest_ns, *record[7:])).encode())

        with TracedMachine(config, console=console.extend) as machine:
            machine.exits_to(add)
            assert machine.run().ending.reason is EndReason.POWER_OFF, console[-2000:]
        return count, digest.hexdigest(), bytes(console)

    first = boot()
    assert first[0] > 100_000
    assert f"{DONE} 0".encode() in first[2]
    assert boot() == first
