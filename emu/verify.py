"""Runs the translator in lockstep with the interpreter and reports the first difference of state or memory.

Both machines count time in instructions, so each of them is the same run every time. Block by block, the translating
machine is observed in front of every block, which keeps blocks unchained; in steps of many instructions it runs as it
always does, and a difference is then narrowed down by running again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from emu.config import MachineConfig
from emu.dbt.block import Block
from emu.exits import Ending
from emu.machine import Machine
from isa.x86.cpu import Cpu
from isa.x86.decode import Insn
from isa.x86.state import ARITH, REG_NAMES, SEG_NAMES
from isa.x86.undefined import undefined_after

MEMORY_EVERY: Final = 2_000_000  # instructions between two comparisons of all RAM
_MOST_FAULTS: Final = 4  # delivered one after the other with no instruction in between
_SLICE: Final = 1 << 20
_SCALARS: Final = (
    "cr0", "cr2", "cr3", "cr4", "efer", "cpl", "mode", "star", "lstar", "cstar", "sfmask", "kernel_gs_base",
    "sysenter_cs", "sysenter_esp", "sysenter_eip", "apic_base", "pat", "tsc_aux", "xcr0", "halted",
)  # fmt: skip

Progress = Callable[[int], None]  # instructions compared so far


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference: after how many instructions, what differs, and the block that was executed before it."""

    retired: int
    differences: list[str]
    block: list[str]  # address and text of its instructions; empty where it is not known


@dataclass(slots=True)
class Verdict:
    """What a verification found; `ending` is how the guest itself ended (None: something else came first).

    `stopped` tells what the other side cannot do, where that ended the comparison before the guest did; `known` names
    differences that are errors of the other side and were passed over.
    """

    divergence: Divergence | None = None
    ending: Ending | None = None
    instructions: int = 0
    comparisons: int = 0
    stopped: str | None = None
    known: list[str] = field(default_factory=list)


class _Diverged(Exception):
    """Carries a divergence out of the running machine."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(f"after {divergence.retired} instructions")
        self.divergence = divergence


def comparable(config: MachineConfig, engine: str) -> MachineConfig:
    """The same guest under `engine`, with time counted in instructions and nothing but the guest to end it."""
    return dataclasses.replace(
        config, engine=engine, deterministic=True, timeout=None, expect=None, fail_on=None, max_instructions=None
    )


def _hex(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) else str(value)


def difference(name: str, ours: object, theirs: object, other: str = "translated") -> str:
    """One line: what the interpreter has, and what the other side."""
    bits = f" (bits {ours ^ theirs:#x})" if isinstance(ours, int) and isinstance(theirs, int) else ""
    return f"{name}: interpreted {_hex(ours)}, {other} {_hex(theirs)}{bits}"


def state_differences(one: Cpu, other: Cpu, ignored_flags: int = 0) -> list[str]:
    """One line for each part of the state in which `one` (interpreted) and `other` (translated) differ."""
    out = []
    if one.regs != other.regs or one.rip != other.rip:
        pairs = zip((*REG_NAMES, "rip"), (*one.regs, one.rip), (*other.regs, other.rip), strict=True)
        out += [difference(name, a, b) for name, a, b in pairs if a != b]
    if (one.rflags ^ other.rflags) & ~ignored_flags:
        out.append(difference("rflags", one.rflags, other.rflags))
    if one.segs != other.segs:
        named = zip(SEG_NAMES, one.segs, other.segs, strict=True)
        out += [difference(name, str(a), str(b)) for name, a, b in named if a != b]
    for name in ("gdtr", "idtr", "ldtr", "tr", "dr"):
        if getattr(one, name) != getattr(other, name):
            out.append(difference(name, str(getattr(one, name)), str(getattr(other, name))))
    for name in _SCALARS:
        if getattr(one, name) != getattr(other, name):
            out.append(difference(name, getattr(one, name), getattr(other, name)))
    return out


def first_difference(one: Machine, other: Machine) -> int:
    """Offset in RAM of the first byte that differs, or -1."""
    ours, theirs = one.memory.ram, other.memory.ram
    for start in range(0, len(ours), _SLICE):
        a, b = bytes(ours[start : start + _SLICE]), bytes(theirs[start : start + _SLICE])
        if a != b:
            return start + next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return -1


def memory_differences(one: Machine, other: Machine, name: str = "translated") -> list[str]:
    """The first difference of the RAM contents, if there is one."""
    at = first_difference(one, other)
    return [] if at < 0 else [difference(f"byte at RAM offset {at:#x}", one.memory.ram[at], other.memory.ram[at], name)]


@dataclass(slots=True)
class Lockstep:
    """Two machines with the same guest: `reference` interprets, `subject` translates."""

    config: MachineConfig
    progress: Progress | None = None
    reference: Machine = field(init=False)
    subject: Machine = field(init=False)
    verdict: Verdict = field(init=False, default_factory=Verdict)
    _last: list[Block] = field(init=False, default_factory=list)  # the blocks since the last comparison
    _since: int = field(init=False, default=0)  # instructions retired at the last comparison
    _undefined: int = field(init=False, default=0)
    _memory_at: int = field(init=False, default=MEMORY_EVERY)

    def _open(self, observed: bool) -> None:
        self.reference = Machine(comparable(self.config, "interpret"))
        observe = self._observe if observed else None
        self.subject = Machine(comparable(self.config, "translate"), observe=observe)
        self._memory_at = MEMORY_EVERY

    def _close(self) -> None:
        self.reference.close()
        self.subject.close()

    # -- block by block ----------------------------------------------------------------------------------------

    def by_block(self, limit: int | None) -> Verdict:
        """Compare in front of every block, up to `limit` instructions."""
        self._open(observed=True)
        try:
            ending = self.subject.run_to(1 << 62 if limit is None else limit)
            self.reference.run_to(self.subject.state.retired)
            self._compare(None, memory=True)
            self.verdict.ending = ending
        except _Diverged as found:
            self.verdict.divergence = found.divergence
        finally:
            self.verdict.instructions = self.subject.state.retired
            self._close()
        return self.verdict

    def _observe(self, block: Block) -> None:
        subject = self.subject.state
        self.reference.run_to(subject.retired)
        memory = subject.retired >= self._memory_at
        self._compare(block, memory)
        if memory:
            self._memory_at = subject.retired + MEMORY_EVERY
            if self.progress is not None:
                self.progress(subject.retired)

    def _compare(self, following: Block | None, memory: bool) -> None:
        one, other = self.reference.state, self.subject.state
        self.verdict.comparisons += 1
        # Undefined flags are taken over from the subject; delivering a fault does not change them.
        mask = self._undefined = undefined_after(self._executed(), self._undefined)
        if (one.rflags ^ other.rflags) & mask:
            one.rflags = one.rflags & ~mask | other.rflags & mask
        found = state_differences(one, other)
        for _ in range(_MOST_FAULTS):
            # A fault retires nothing: the reference may stand in front of the instruction whose fault was delivered.
            if not found or one.rip == other.rip or one.retired != other.retired:
                break
            self.reference.step()
            if one.retired == other.retired:
                found = state_differences(one, other)
        if memory and not found:
            found = memory_differences(self.reference, self.subject)
        if found:
            raise _Diverged(Divergence(other.retired, found, self._listing()))
        self._last = [] if following is None else [following]
        self._since = other.retired

    def _executed(self) -> list[Insn]:
        """The instructions of the last block that were executed."""
        count = self.subject.state.retired - self._since
        return [insn for block in self._last for insn in block.insns[:count]]

    def _listing(self) -> list[str]:
        return [f"{piece.guest_pc:#x}  {piece.insn.text()}" for block in self._last for piece in block.pieces]

    # -- in steps ----------------------------------------------------------------------------------------------

    def by_steps(self, every: int, limit: int | None) -> Verdict:
        """Compare state after every `every` instructions, with the translator's blocks chained as usual."""
        end = 1 << 62 if limit is None else limit
        good, bad = 0, -1
        self._open(observed=False)
        try:
            ending = None
            while ending is None and good < end:
                goal = min(good + every, end)
                ending = self.subject.run_to(goal)
                self.reference.run_to(self.subject.state.retired)
                if self._step_differs():
                    bad = self.subject.state.retired
                    break
                good = goal
            self.verdict.ending = ending
            self.verdict.instructions = self.subject.state.retired
        finally:
            self._close()
        if bad >= 0:
            self._narrow(good, bad)
        return self.verdict

    def _step_differs(self) -> bool:
        self.verdict.comparisons += 1
        one, other = self.reference, self.subject
        memory = other.state.retired >= self._memory_at
        if memory:
            self._memory_at = other.state.retired + MEMORY_EVERY
            if self.progress is not None:
                self.progress(other.state.retired)
        unit, units = one.state.native, other.state.native
        return bool(
            state_differences(one.state, other.state, ARITH)
            or (unit is not None and units is not None and unit.save() != units.save())
            or (memory and memory_differences(one, other))
        )

    def _narrow(self, good: int, bad: int) -> None:
        """Find the first instruction after which the machines differ, running both again for every guess."""
        found: list[str] = []
        while bad - good > 1 or not found:
            middle = (good + bad) // 2 if bad - good > 1 else bad
            self._open(observed=False)
            try:
                self.subject.run_to(middle)
                self.reference.run_to(middle)
                one, other = self.reference, self.subject
                differences = state_differences(one.state, other.state, ARITH) or memory_differences(one, other)
            finally:
                self._close()
            if differences:
                bad, found = middle, differences
            elif middle == bad:
                found = ["the difference does not come again"]
            else:
                good = middle
        self.verdict.divergence = Divergence(bad, found, [])
