"""BIOS services for real-mode guests: 16-bit ROM stubs that leave the work to the monitor through one port."""

from __future__ import annotations

from emu.devices.bios.device import SERVICE_PORT, Bios
from emu.disk_image import BlockImage

__all__ = ("SERVICE_PORT", "Bios", "BlockImage")
