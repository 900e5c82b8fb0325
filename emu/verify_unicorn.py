"""Compares the interpreter with plain Unicorn in its own system mode and reports the first difference.

Unicorn shares no code with vemu but for the board around it, so it judges what both of vemu's engines have in common.
It is a CPU without its interrupts: where a guest needs what Unicorn lacks, the comparison ends and says so.
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from emu.backends.plain import PlainUnicorn, Stop, Why
from emu.config import MachineConfig
from emu.exits import Ending
from emu.machine import Machine
from emu.monitor import EXCEPTION_NAMES
from emu.verify import (
    MEMORY_EVERY,
    Divergence,
    Progress,
    Verdict,
    comparable,
    difference,
    first_difference,
    memory_differences,
)
from isa.base import GuestFault
from isa.x86 import paging
from isa.x86.decode import Decoder, Insn
from isa.x86.paging import PTE_D
from isa.x86.sensitive import row_of
from isa.x86.state import ARITH, IF, REG_NAMES, SEG_NAMES, UD
from isa.x86.undefined import undefined_after

STEPS: Final = 1000  # instructions between two comparisons where nothing else is asked for
_OTHER: Final = "Unicorn"
_CONTROL: Final = ("cr0", "cr3", "cr4", "efer")
_XMM_AT: Final = 160  # in an FXSAVE image (SDM vol. 1, 10.5.1)
_HLT: Final = 0xF4
_ATTRIBUTES_AT: Final = 5  # offset in a descriptor of type, S, DPL and P (SDM vol. 3, figure 3-8)
_CODE_SEGMENT, _ACCESSED = 0x18, 0x01
_SOFTWARE: Final = frozenset((0xCC, 0xCD, 0xCE, 0xF1))  # INT3, INT n, INTO, INT1
_UNKNOWN: Final = frozenset(("invpcid",))  # instructions newer than Unicorn, by their rows
_LACKS: Final = {
    Why.CALL: "plain Unicorn does not carry out SYSCALL and SYSENTER",
    Why.MODE: "plain Unicorn does not show the registers of a wider mode than it was started in",
}


@dataclass(slots=True)
class UnicornComparison:
    """One guest twice: `reference` interprets it, and plain Unicorn runs it on the board of `subject`."""

    config: MachineConfig
    progress: Progress | None = None
    reference: Machine = field(init=False)
    subject: Machine = field(init=False)
    plain: PlainUnicorn = field(init=False)
    verdict: Verdict = field(init=False, default_factory=Verdict)
    _passed: bool = field(init=False, default=False)  # what ended the comparison lies somewhere in the last step
    _tables: set[tuple[int, int]] = field(init=False, default_factory=set)  # descriptor tables seen: base, limit
    _attributes: dict[int, int] = field(init=False, default_factory=dict)  # GPA in one of them -> selector
    _table_pages: set[int] = field(init=False, default_factory=set)  # where accessed bits were taken over
    _decoders: dict[int, Decoder] = field(init=False, default_factory=dict)
    _memory_at: int = field(init=False, default=MEMORY_EVERY)

    def run(self, every: int, limit: int | None) -> Verdict:
        """Compare after every `every` instructions, up to `limit`; within the last step, one by one."""
        end = 1 << 62 if limit is None else limit
        self._open()
        try:
            good, divergence = self._walk(0, every, end)
        finally:
            self._close()
        if every > 1 and (divergence is not None or self._passed):
            self.verdict.stopped = None
            self._open()
            try:
                if good:
                    self._advance(good)
                good, narrowed = self._walk(good, 1, min(good + every, end))
            finally:
                self._close()
            divergence = narrowed or divergence
        self.verdict.divergence = divergence
        self.verdict.instructions = good if divergence is None else divergence.retired
        return self.verdict

    def _open(self) -> None:
        self.reference = Machine(comparable(self.config, "interpret"))
        self.subject = Machine(comparable(self.config, "interpret"))
        self.plain = PlainUnicorn(self.subject.state, self.subject.memory, self.subject.clock.fire_due)
        self._memory_at = MEMORY_EVERY

    def _close(self) -> None:
        self.plain.close()
        self.reference.close()
        self.subject.close()

    def _advance(self, retired: int) -> None:
        """Bring both to where they have been before, without comparing."""
        while self.subject.state.retired < retired:
            self.plain.run_to(retired)
        self.reference.run_to(retired)

    def _walk(self, good: int, every: int, end: int) -> tuple[int, Divergence | None]:
        """Go on step by step: the instructions after which both agreed last, and the difference after them."""
        verdict = self.verdict
        while good < end and verdict.ending is None and verdict.stopped is None:
            interrupts = self._interrupts()
            stop = self.plain.run_to(min(good + every, end))
            if stop is not None and stop.why is Why.MODE:
                verdict.stopped, self._passed = _LACKS[Why.MODE], True
                break
            retired = self.subject.state.retired
            ended = self.reference.run_to(retired)
            if self._interrupts() != interrupts:
                verdict.stopped, self._passed = "an interrupt came, and plain Unicorn delivers none", True
                break
            found = self._differences(stop, ended)
            if found:
                return good, Divergence(retired, found, self._last())
            good = retired
        return good, None

    def _interrupts(self) -> int:
        return self.reference.stats().exits.get("interrupt", 0)

    # -- one comparison ----------------------------------------------------------------------------------------

    def _differences(self, stop: Stop | None, ended: Ending | None) -> list[str]:
        """What differs now that Unicorn came to `stop`; where nothing does, notes why the comparison is over."""
        self.verdict.comparisons += 1
        self.plain.pull()
        self._note_descriptors()
        theirs = self._board_ending() if stop is not None and stop.why is Why.BOARD else None
        found = self._state_differences()
        if stop is None or stop.why is not Why.EVENT:  # of a page fault that only Unicorn has raised by now
            found += self._cr2_difference()
        if (ended and ended.reason) != (theirs and theirs.reason) and not found:
            found = [f"end: interpreted {ended and ended.detail}, {_OTHER} {theirs and theirs.detail}"]
        lacking = stop is not None and stop.why is not Why.BOARD
        over = ended is not None or lacking
        retired = self.subject.state.retired
        if not found and (over or retired >= self._memory_at):
            self._memory_at = retired + MEMORY_EVERY
            self._take_over_accessed()
            self._fetch()
            while self._pass_over_dirty():
                pass
            found = memory_differences(self.reference, self.subject, _OTHER)
            if self.progress is not None:
                self.progress(retired)
        if not found and stop is not None and lacking:
            found = self._judge(stop)
        if not found and ended is not None:
            self.verdict.ending = ended
        return found

    def _note_descriptors(self) -> None:
        """Remember where the attributes of each descriptor lie, for the guest may take another table any time."""
        cpu = self.reference.state
        table = (cpu.gdtr.base, cpu.gdtr.limit)
        if table in self._tables:
            return
        self._tables.add(table)
        for index in range(8, cpu.gdtr.limit + 1 & ~7, 8):
            mapping = paging.probe(cpu, cpu.gdtr.base + index + _ATTRIBUTES_AT)
            if mapping is not None:
                self._attributes[mapping.gpa] = index

    def _take_over_accessed(self) -> None:
        """Far transfers set the accessed bit of a code segment (SDM vol. 3, 3.4.5.1), but not Unicorn's."""
        for gpa, index in self._attributes.items():
            ours = self.reference.memory.read(gpa, 1)
            code = ours & _CODE_SEGMENT == _CODE_SEGMENT
            if code and self.subject.memory.read(gpa, 1) == ours & ~_ACCESSED:
                self.subject.memory.write(gpa, 1, ours)
                self._table_pages.add(gpa & ~0xFFF)
                self._know(f"plain Unicorn leaves the accessed bit of descriptor {index:#x} clear")

    def _pass_over_dirty(self) -> bool:
        """Take over the D bit that an accessed bit set in the entry of its page, if that is the first difference."""
        at = first_difference(self.reference, self.subject)
        if at < 0 or self.reference.memory.ram[at] ^ self.subject.memory.ram[at] != PTE_D:
            return False
        entry = int.from_bytes(self.reference.memory.ram[at : at + 4], "little")
        if entry & PTE_D == 0 or entry & 0xFFFF_F000 not in self._table_pages:
            return False
        self.subject.memory.ram[at] |= PTE_D
        self._know(f"plain Unicorn leaves the page at {entry & 0xFFFF_F000:#x} clean, whose descriptors it should mark")
        return True

    def _know(self, note: str) -> None:
        if note not in self.verdict.known:
            self.verdict.known.append(note)

    def _fetch(self) -> None:
        """Set the accessed bits of the page that both execute next: Unicorn has fetched from it already."""
        cpu = self.reference.state
        with contextlib.suppress(GuestFault):
            cpu.fetch(cpu.code_linear(cpu.rip))

    def _board_ending(self) -> Ending | None:
        """How the board of the other side ended the guest; its CPU must not take an interrupt meanwhile."""
        cpu = self.subject.state
        kept = cpu.system_flags
        cpu.system_flags &= ~IF
        ending = self.subject.run_to(cpu.retired)
        cpu.system_flags = kept
        return ending

    def _state_differences(self) -> list[str]:
        one, other = self.reference.state, self.subject.state
        pairs = list(zip((*REG_NAMES, "rip"), (*one.regs, one.rip), (*other.regs, other.rip), strict=True))
        pairs += [(name, a.selector, b.selector) for name, a, b in zip(SEG_NAMES, one.segs, other.segs, strict=True)]
        pairs += [(name, getattr(one, name), getattr(other, name)) for name in _CONTROL]
        pairs.append(("instructions", one.retired, other.retired))
        image = one.native.save() if one.native is not None else bytes(512)
        for number, theirs in enumerate(self.plain.vectors()):
            low, high = struct.unpack_from("<QQ", image, _XMM_AT + 16 * number)
            pairs.append((f"xmm{number}", high << 64 | low, theirs))
        found = [difference(name, a, b, _OTHER) for name, a, b in pairs if a != b]
        changed = one.rflags ^ other.rflags
        if changed and (changed & ~ARITH or changed & ~self._undefined()):
            found.append(difference("rflags", one.rflags, other.rflags, _OTHER))
        return found

    def _cr2_difference(self) -> list[str]:
        ours, theirs = self.reference.state.cr2, self.subject.state.cr2
        return [] if ours == theirs else [difference("cr2", ours, theirs, _OTHER)]

    def _undefined(self) -> int:
        """Flags that the last instructions left undefined; whatever was there before them counts as undefined."""
        insns = [insn for insn in map(self._insn, self.plain.recent) if insn is not None]
        return undefined_after(insns, ARITH)

    def _insn(self, linear: int) -> Insn | None:
        mode = self.subject.state.mode
        decoder = self._decoders.get(mode)
        if decoder is None:
            decoder = self._decoders[mode] = Decoder(mode)
        return decoder.decode(self.plain.code(linear, 15))

    def _last(self) -> list[str]:
        """The instruction executed last, as it stands in Unicorn's memory."""
        if not self.plain.recent:
            return []
        linear = self.plain.recent[-1]
        insn = self._insn(linear)
        return [f"{linear:#x}  {'?' if insn is None else insn.text()}"]

    # -- what Unicorn lacks ------------------------------------------------------------------------------------

    def _judge(self, stop: Stop) -> list[str]:
        """Both stand in front of an instruction that Unicorn does not carry out: must that be so?"""
        cpu = self.reference.state
        where = self.reference.name_of(cpu.rip)
        insn = self._insn(cpu.code_linear(cpu.rip))
        opcode, row = (-1, None) if insn is None else (insn.opcode, row_of(insn))
        match stop.why:
            case Why.EVENT if opcode in _SOFTWARE:
                lack = f"software interrupt {stop.vector:#x}: plain Unicorn delivers none"
            case Why.EVENT if stop.vector == UD and row is not None and row.name in _UNKNOWN:
                lack = f"plain Unicorn has no {row.name.upper()}"
            case Why.EVENT:
                name = EXCEPTION_NAMES.get(stop.vector, f"vector {stop.vector}")
                raised = self._raised()
                if raised != name:
                    return [
                        f"exception at {where}: interpreted {raised or 'none'}, {_OTHER} {name} {stop.text}".rstrip()
                    ]
                lack = f"{name}: plain Unicorn delivers no exceptions"
                if found := self._cr2_difference():
                    return found
            case Why.HALT if opcode == _HLT:
                lack = "HLT: plain Unicorn has no interrupt to end it"
            case Why.HALT | Why.ERROR:
                lack = f"plain Unicorn gave up {stop.text}".rstrip()
            case _:
                lack = _LACKS[stop.why]
        self.verdict.stopped = f"{lack} (at {where})"
        return []

    def _raised(self) -> str | None:
        """The exception that the interpreter raises on its next instruction."""
        before = Counter(self.reference.stats().exits)
        self.reference.step()
        after = Counter(self.reference.stats().exits) - before
        prefix = "exception "
        return next((name.removeprefix(prefix) for name in after if name.startswith(prefix)), None)
