"""What each exit is, why it happens and what a guest can do about it: `vemu explain REASON`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from emu.errors import UsageError
from emu.trace.explain_memory import MEMORY
from emu.trace.explain_system import SYSTEM
from emu.trace.explanation import Explanation
from emu.trace.reasons import CAUSES, EXITS, PREFIXES, cause_of, reasons_of

EXPLANATIONS: Final[Mapping[str, Explanation]] = {**SYSTEM, **MEMORY}
_MEASURE: Final = "`vemu trace --exits --only {name} GUEST` measures it in your guest."
_ROW: Final = "The row '{row}' of `vemu bench --nano` (docs/COSTS.md) measures it beside other engines. "


@dataclass(frozen=True, slots=True)
class Explained:
    """An exit with its explanation, ready to be shown."""

    name: str
    reasons: tuple[str, ...]  # as vemu's counters call them
    text: Explanation

    @property
    def cost(self) -> str:
        """What it is spent on, and where it is measured: figures belong to a machine."""
        row = _ROW.format(row=self.text.row) if self.text.row else ""
        return f"{self.text.cost} {row}{_MEASURE.format(name=self.name)}"


def explain(reason: str) -> Explained:
    """The exit that `reason` is or is counted under, in any spelling; UsageError where there is none."""
    name = _exit_of(reason)
    if name not in EXPLANATIONS:
        raise UsageError(f"explain {reason}: no such exit; 'vemu explain' without a name lists all")
    reasons = tuple(f"{found}N" if found.endswith(" ") else found for found in reasons_of(name))
    return Explained(name, reasons, EXPLANATIONS[name])


def _exit_of(reason: str) -> str:
    asked = reason.strip()
    lower = asked.lower()
    for spelled in (asked, lower, lower.replace("-", " "), lower.replace("-", "_")):
        if spelled in CAUSES or any(spelled.startswith(prefix) for prefix in PREFIXES):
            return cause_of(spelled).exit
    return asked.upper().replace("-", "_").replace(" ", "_")


def listing() -> list[tuple[str, str]]:
    """Every exit and what it is, in the order of the tables."""
    return [(name, EXPLANATIONS[name].what) for name in EXITS if name in EXPLANATIONS]
