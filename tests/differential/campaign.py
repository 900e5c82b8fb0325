"""Runs many cases on the real CPU and on both engines, and tells what was covered, explained and found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from isa.x86.decode import Insn
from isa.x86.interp import BINDERS, VEX
from isa.x86.vector import is_vector
from tests.differential import generate
from tests.differential.compare import Differences, decode, differences
from tests.differential.explain import explain
from tests.differential.guests import Guest, Interpreted, Translated
from tests.differential.harness import LOST, MAX_BATCH, TIMEOUT, Case, Outcome, RealCpu
from tests.differential.rows import ROWS

ENGINES: Final[dict[str, Callable[[], Guest]]] = {"interpret": Interpreted, "translate": Translated}
_UD: Final = 6


def key_of(insn: Insn) -> str:
    """The row of the instruction tables that executes `insn`: its opcode, for vector instructions with the prefix."""
    if insn.vex:
        return f"vex {insn.opcode:x}"
    if is_vector(insn):
        if insn.opcode < 0x100:
            form = f"/{insn.reg_field}" if insn.modrm < 0xC0 else f" {insn.modrm:02x}"
            return f"x87 {insn.opcode:02x}{form}"
        prefix = insn.rep or (0x66 if 0x66 in insn.raw[: insn.opcode_at] else 0)
        return f"sse {prefix:02x} {insn.opcode:x}"
    return f"integer {insn.opcode:x}"


def family_of(key: str) -> str:
    """The family that coverage is counted by."""
    return key.split()[0]


def _tables() -> dict[str, set[str]]:
    """Every row of the instruction tables, by family."""
    rows: dict[str, set[str]] = {}
    keys = [f"vex {key - VEX:x}" if key & VEX else f"integer {key:x}" for key in BINDERS]
    for row in ROWS:
        opcode = int.from_bytes(row.opcode, "big")
        if opcode < 0x100 and row.values == "x87" and row.name not in ("wait", "x87 undefined"):
            keys.append(
                f"x87 {opcode:02x}/{row.modrm}" if row.modrm < 8 else f"x87 {opcode:02x} {row.modrm & 0xFF:02x}"
            )
        elif row.values and opcode > 0xFF:
            keys.append(f"sse {row.prefix:02x} {opcode:x}")
    for key in keys:
        rows.setdefault(family_of(key), set()).add(key)
    return rows


TABLES: Final = _tables()


@dataclass(slots=True)
class Failure:
    """A difference that nothing explains."""

    engine: str
    seed: int
    number: int
    case: Case
    left: Differences
    error: str = ""

    def command(self) -> str:
        """What shows it again."""
        return f"python -m tests.differential --seed {self.seed} --case {self.number} --engine {self.engine}"

    def text(self) -> str:
        """One line."""
        insn = decode(self.case)
        found = self.error or ", ".join(f"{name}: {a:#x} is {b:#x} here" for name, (a, b) in self.left.items())
        return f"{self.engine}, mode {self.case.mode.name}: {self.case.code.hex()} {insn.text()}: {found}"


@dataclass(slots=True)
class Result:
    """What a campaign found; `covered` counts by engine and row, `copied` what the machine executed itself.

    `unsteady` are differences that went away when the real CPU executed the case again: it is not steady in it.
    """

    cases: int = 0
    completed: int = 0
    vectors: Counter[int] = field(default_factory=Counter)
    covered: dict[str, Counter[str]] = field(default_factory=dict)
    copied: Counter[str] = field(default_factory=Counter)
    explained: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unsteady: list[Failure] = field(default_factory=list)

    def missing(self, engine: str) -> list[str]:
        """Rows of the tables that no case executed."""
        return sorted(key for keys in TABLES.values() for key in keys if not self.covered[engine][key])


class Campaign:
    """The real CPU and the engines, and what they have shown so far."""

    def __init__(self, engines: Iterable[str] = tuple(ENGINES)) -> None:
        self.real = RealCpu()
        self._guests = {name: ENGINES[name]() for name in engines}
        self.result = Result(
            covered={name: Counter() for name in self._guests}, explained={name: Counter() for name in self._guests}
        )

    def close(self) -> None:
        """End the processes and machines."""
        self.real.close()
        for guest in self._guests.values():
            guest.close()

    def run(self, seed: int, start: int, count: int, progress: Callable[[int], None] | None = None) -> None:
        """Run `count` cases of a seed from number `start` on."""
        for first in range(start, start + count, MAX_BATCH):
            numbers = range(first, min(first + MAX_BATCH, start + count))
            cases = [generate.case(seed, number, self.real.modes) for number in numbers]
            for number, case, outcome in zip(numbers, cases, self.real.run(cases), strict=True):
                self._one(seed, number, case, outcome)
            if progress is not None:
                progress(len(cases))

    def _one(self, seed: int, number: int, case: Case, real: Outcome) -> None:
        result, insn = self.result, decode(case)
        result.cases += 1
        result.vectors[real.vector] += 1
        if real.vector in (TIMEOUT, LOST):
            what = "does not end" if real.vector == TIMEOUT else "ends the harness"
            result.failures.append(Failure("real", seed, number, case, {}, f"the case {what}"))
            return
        ended = real.rip != case.rip
        result.completed += ended
        key = key_of(insn)
        for name in self._guests:
            before = self._guests[name].emulated
            try:
                left, explanations = self.judge(name, case, insn, real)
            except Exception as error:  # whatever gets out of an engine is a finding of this campaign
                result.failures.append(Failure(name, seed, number, case, {}, f"{type(error).__name__}: {error}"))
                self._renew(name)
                continue
            if ended:
                result.covered[name][key] += 1
                if name == "translate" and self._guests[name].emulated == before:
                    result.copied[key] += 1
            elif real.vector != _UD:
                result.covered[name][key] += 1  # it faulted in the middle, as instructions do
            result.explained[name].update(explanations)
            if left:
                repeated, _ = self.judge(name, case, insn, next(iter(self.real.run([case]))))
                (result.failures if repeated else result.unsteady).append(Failure(name, seed, number, case, left))

    def judge(self, name: str, case: Case, insn: Insn, real: Outcome) -> tuple[Differences, list[str]]:
        """The unexplained differences of one engine, and the names of the explanations that were needed."""
        found = self._guests[name].run(case)
        unlike = differences(case, insn, real, found)
        if not unlike:
            return {}, []
        names, left = explain(name, case, insn, real, found, unlike)
        return left, names

    def _renew(self, name: str) -> None:
        self._guests[name].close()
        self._guests[name] = ENGINES[name]()
