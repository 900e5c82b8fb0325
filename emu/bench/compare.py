"""Compares the rivals on one guest: in turn, several rounds, after rounds that warm everything up and do not count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from emu.bench import rivals
from emu.bench.console import ELAPSED, NotMeasured, Timer
from emu.bench.figures import Figure, geometric_mean, ratio
from emu.bench.rivals import Rival, Run, Subject, bundled
from guests import catalogue

TRANSLATE: Final = "translate"
NAMES: Final = ("interpret", TRANSLATE, "unicorn", "qemu")
TITLES: Final = {"interpret": "interpret", TRANSLATE: "translate", "unicorn": "plain Unicorn", "qemu": "QEMU TCG"}


def field_of(names: Iterable[str]) -> dict[str, Rival]:
    """The rivals of these names (of NAMES), in the order of NAMES; `translate`, which counts instructions, always."""
    known: dict[str, Rival] = {
        "interpret": rivals.interpret, TRANSLATE: rivals.translate, "unicorn": rivals.unicorn, "qemu": rivals.Qemu(),
    }  # fmt: skip
    wanted = {TRANSLATE, *names}
    return {name: known[name] for name in NAMES if name in wanted}


@dataclass(slots=True)
class Row:
    """One guest: million guest instructions per second by rival, and why there is no figure."""

    guest: str
    instructions: int = 0
    rates: dict[str, Figure] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def lead(self, over: str) -> float | None:
        """The rate under `translate` over that of another rival."""
        return ratio(self.rates.get(TRANSLATE), self.rates.get(over))

    def as_json(self) -> dict[str, object]:
        others = [name for name in NAMES if name != TRANSLATE]
        return {
            "guest": self.guest,
            "instructions": self.instructions,
            "million_per_second": {name: figure.as_json() for name, figure in self.rates.items()},
            "translate_over": {name: self.lead(name) for name in others},
            "missing": self.missing,
        }


@dataclass(slots=True)
class Comparison:
    """All rows, in order."""

    rows: list[Row] = field(default_factory=list)

    def mean(self, over: str) -> float | None:
        """Geometric mean of `Row.lead`; None where a row lacks it."""
        return geometric_mean(row.lead(over) for row in self.rows)

    def as_json(self) -> dict[str, object]:
        others = [name for name in NAMES if name != TRANSLATE]
        return {
            "rows": [row.as_json() for row in self.rows],
            "geometric_mean_translate_over": {name: self.mean(name) for name in others},
        }


def compare(
    subject: Subject, field_: dict[str, Rival], repeats: int, warm_up: int, *,
    timer: Timer = ELAPSED, told: Callable[[str], None] | None = None,
) -> Row:  # fmt: skip
    """Run `subject` under every rival in turn, `warm_up` rounds without and `repeats` with the stop-watch.

    `told` hears what is about to run. A rival that cannot run it is left out, the reason in the row; NotMeasured where
    that is `translate`. Raises RuntimeError where rivals print something else: then they did not do the same work.
    """
    row = Row(subject.name)
    seconds: dict[str, list[tuple[float, int | None]]] = {}
    model: Run | None = None
    for number in range(warm_up + repeats):
        for name, rival in field_.items():
            if name in row.missing:
                continue
            if told is not None:
                told(f"{subject.name}: {TITLES[name]}, run {number + 1} of {warm_up + repeats}")
            try:
                run = rival(subject, timer)
            except NotMeasured as why:
                if name == TRANSLATE:
                    raise
                row.missing[name] = str(why)
                continue
            if name == TRANSLATE:
                row.instructions, model = run.instructions or 0, run
            elif model is not None and None not in (run.status, model.status) and run.status != model.status:
                row.missing[name] = f"the guest ended with {run.status} there, and with {model.status} under vemu"
                continue
            elif (
                model is not None and name != "interpret" and subject.scale is not None and run.console != model.console
            ):
                raise RuntimeError(
                    f"{subject.name}: {model.console!r} under vemu, {run.console!r} under {TITLES[name]}"
                )
            if number >= warm_up:
                seconds.setdefault(name, []).append((run.seconds, run.instructions))
    for name, found in seconds.items():
        # those that do not count execute what `translate` counted
        rates = ((counted or row.instructions) / 1e6 / time for time, counted in found)
        row.rates[name] = Figure(tuple(rates))
    return row


def compute_guests() -> Sequence[Subject]:
    """The bundled compute guests at their long scale."""
    found = []
    for guest in catalogue().values():
        if "compute" in guest.tags:
            assert guest.scale is not None
            found.append(bundled(guest.name, guest.scale.bench))
    return found
