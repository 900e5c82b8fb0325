"""The virtio console with its one port (virtio 1.2, 5.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.devices.virtio.queue import VirtQueue

RECEIVE, TRANSMIT = 0, 1  # queues (5.3.2)
_PIECE: Final = 0x10000  # bytes given to `output` at a time at most


class VirtioConsole:
    """`output` gets what the guest sends; `receive` queues input until the guest has buffers, without losing any."""

    name = "virtio-console"
    type = 3
    class_code = 0x078000
    features = 0
    queues = 2

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self.kick: Callable[[int], None] | None = None
        self._output = output
        self._input = bytearray()

    def receive(self, data: bytes) -> None:
        """Input from outside."""
        self._input += data
        if self.kick is not None:
            self.kick(RECEIVE)

    def config(self) -> bytes:
        """Columns, rows, ports, emergency write (5.3.4): without their features none of them means anything."""
        return bytes(12)

    def reset(self) -> None:
        """Input that no driver took stays for the next one."""

    def service(self, number: int, queue: VirtQueue) -> None:
        if number == TRANSMIT:
            for chain in queue.chains():
                while chain.readable.left:
                    self._output(chain.readable.read(_PIECE))
                queue.push(chain, 0)
            return
        for _ in range(queue.available()):
            if not self._input:
                return
            chain = queue.pop()
            stored = chain.writable.write(bytes(self._input[: chain.writable.left]))
            del self._input[:stored]
            queue.push(chain, stored)
