"""What is known of a running machine at one moment; two of them tell what happened in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emu.engines.base import Occupancy


@dataclass(frozen=True, slots=True)
class HotBlock:
    """Where the guest was found often: samples, address with its symbol, and guest instructions."""

    samples: int
    name: str
    code: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Figures since the start of the run, but for `hot`, which are those since the snapshot before.

    `samples` counts looks at the guest, `idle` those that found it halted. `occupancy` is None where nothing is
    translated.
    """

    seconds: float
    guest_seconds: float
    mode: str
    instructions: int
    native: int
    translation_seconds: float
    translated_blocks: int
    flushes: int
    exits: Mapping[str, int]  # by reason, as the counters call them
    devices: Mapping[str, int]  # accesses by device
    samples: int
    idle: int
    hot: tuple[HotBlock, ...] = ()
    occupancy: Occupancy | None = None
    console: tuple[str, ...] = field(default=())  # its last lines


START = Snapshot(0.0, 0.0, "", 0, 0, 0.0, 0, 0, {}, {}, 0, 0)
