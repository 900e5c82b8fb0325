"""The IDE controller's two channels, each with up to two ATA disks."""

from __future__ import annotations

from emu.devices.ide.channel import CONTROL, IdeChannel

__all__ = ("CONTROL", "IdeChannel")
