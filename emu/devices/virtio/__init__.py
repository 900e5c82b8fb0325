"""Virtio 1.x devices on PCI: a disk, a console and a source of entropy, each behind the same transport."""

from __future__ import annotations

from emu.devices.virtio.block import VirtioBlock
from emu.devices.virtio.console import VirtioConsole
from emu.devices.virtio.rng import VirtioRng
from emu.devices.virtio.transport import BAR, VirtioPci

__all__ = ("BAR", "VirtioBlock", "VirtioConsole", "VirtioPci", "VirtioRng")
