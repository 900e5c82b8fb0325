"""vemu runs whole x86 guests by binary translation: `from emu import Machine, MachineConfig`.

Names are imported when they are first asked for, so that `import emu` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.config import MachineConfig
    from emu.errors import GuestFileError, NotImplementedHere, UsageError, VemuError
    from emu.exits import Ending, EndReason
    from emu.machine import Machine, RunResult, RunStats

__version__ = "0.1.0"

_HOMES = {
    "Ending": "emu.exits",
    "EndReason": "emu.exits",
    "GuestFileError": "emu.errors",
    "Machine": "emu.machine",
    "MachineConfig": "emu.config",
    "NotImplementedHere": "emu.errors",
    "RunResult": "emu.machine",
    "RunStats": "emu.machine",
    "UsageError": "emu.errors",
    "VemuError": "emu.errors",
}

__all__ = [
    "EndReason",
    "Ending",
    "GuestFileError",
    "Machine",
    "MachineConfig",
    "NotImplementedHere",
    "RunResult",
    "RunStats",
    "UsageError",
    "VemuError",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'emu' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
