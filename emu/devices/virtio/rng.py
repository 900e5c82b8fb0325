"""The virtio entropy device (virtio 1.2, 5.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.devices.virtio.queue import VirtQueue

_MOST: Final = 0x10000  # bytes to a request; a driver must take fewer than it asked for (5.4.6.2)


class VirtioRng:
    """`entropy(count)` gives `count` random bytes; a seeded one makes runs repeat."""

    name = "virtio-rng"
    type = 4
    class_code = 0x00FF00
    features = 0
    queues = 1

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self.kick: Callable[[int], None] | None = None  # nothing comes but by requests
        self._entropy = entropy

    def config(self) -> bytes:
        """No configuration."""
        return b""

    def reset(self) -> None:
        """Nothing is kept."""

    def service(self, number: int, queue: VirtQueue) -> None:
        """Fill every buffer that waits."""
        for chain in queue.chains():
            count = min(chain.writable.left, _MOST)
            queue.push(chain, chain.writable.write(self._entropy(count)[:count]) if count else 0)
