"""Debian's amd64 kernel under both engines in lockstep, and every exit of a boot the same when it is repeated."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emu import MachineConfig
from emu.exits import EndReason
from emu.trace.record import ExitRecord
from emu.traced import TracedMachine
from emu.verify import Lockstep
from guests.linux import READY
from tests.guests.test_linux import MEMORY, kernel_and_initrd

APPEND = "console=ttyS0 quiet"
INSTRUCTIONS = 20_000_000


def test_the_engines_agree_on_the_first_instructions(tmp_path: Path) -> None:
    image, initrd = kernel_and_initrd("cloud", tmp_path)
    config = MachineConfig(image, initrd=initrd, memory=MEMORY, append=APPEND)
    verdict = Lockstep(config, lambda _: None).by_steps(1000, INSTRUCTIONS)
    assert verdict.divergence is None
    assert (verdict.ending, verdict.stopped) == (None, None)
    assert verdict.instructions == INSTRUCTIONS


def test_a_deterministic_boot_repeats_every_exit(tmp_path: Path) -> None:
    image, initrd = kernel_and_initrd("cloud", tmp_path)
    config = MachineConfig(
        image, initrd=initrd, memory=MEMORY, append=APPEND, deterministic=True, expect=READY, timeout=240
    )

    def boot() -> tuple[int, str]:
        digest, count = hashlib.sha256(), 0

        def add(record: ExitRecord) -> None:
            nonlocal count
            count += 1
            # all but what the host's clock says
            digest.update(repr((record.sequence, record.guest_ns, *record[7:])).encode())

        with TracedMachine(config) as machine:
            machine.exits_to(add)
            assert machine.run().ending.reason is EndReason.EXPECTED
        return count, digest.hexdigest()

    first = boot()
    assert first[0] > 100_000
    assert boot() == first
