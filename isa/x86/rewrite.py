"""Rewrites one basic block of guest code into code for the cache.

Innocuous instructions are copied; what depends on its address (RIP-relative operands, branches, calls, returns) is
re-expressed; sensitive instructions become callouts or the in-cache sequences of `isa.x86.incache`. Where the code of
each guest instruction begins and which registers it keeps elsewhere is recorded (`isa.x86.code`), so that every host pc
at which the machine can stop maps back to a guest instruction with its registers intact.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from isa.base import Flow
from isa.x86 import incache
from isa.x86.code import UNDEFINED, Code, ExitRecord, SiteKind, pack_spills
from isa.x86.decode import Insn
from isa.x86.emit import BUDGET, INT32_MAX, INT32_MIN, Emitter, Target
from isa.x86.misexecuted import may_divide_out_of_range, misexecuted
from isa.x86.privilege import reg_number
from isa.x86.sensitive import READS, Row, Treatment, lock_is_legal, row_of
from isa.x86.state import ARITH, CS, DS, ES, GS, RCX, RDI, RSI, SS
from isa.x86.vector import (
    EMMS,
    TOUCH_MMX,
    is_sse,
    is_vector,
    loads_control,
    memory_size,
    needs_alignment,
    sees_exceptions,
)

MASK64: Final = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True, eq=False)
class BlockMode:
    """Everything besides the guest's bytes and pc that translated code depends on; compared by identity, so interned.

    `checked` is a bit mask of segment registers whose use must be checked by the interpreter; `through_gs` tells that
    DS is not flat and monitor data is reached through GS; `exact` that blocks test the instruction budget; `no_sse`
    that CR4.OSFXSR is clear, so that SSE instructions are undefined; `flat_stack` that RSP (32 bits of it in 32-bit
    code) can hold any address of the monitor's; `aligning` that misaligned accesses fault (CR0.AM, EFLAGS.AC);
    `unmasked` is `NativeUnit.unmasked`; `unlimited` is, for 16-bit code, a bit mask of segment registers that reach all
    of 4 GiB; `fsgsbase` that 64-bit code may use the bases of FS and GS (CR4.FSGSBASE).
    """

    mode: int
    cpl: int
    iopl: int
    fpu_traps: bool
    through_gs: bool
    checked: int
    stack32: bool
    cs_base: int
    exact: bool
    no_sse: bool = False
    flat_stack: bool = False
    aligning: bool = False
    unlimited: int = 0
    unmasked: int = 0
    fsgsbase: bool = False
    plain: set[Insn] = field(default_factory=set, repr=False)  # instructions found to be copied as they are

    @property
    def user(self) -> bool:
        return self.cpl == 3


_MOST_COPIES: Final = 4  # of the body of a loop that is unrolled ...
_UNROLLED: Final = 24  # ... and instructions in all of them
_STRINGS: Final = {0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF}
_MOV_TO_CR: Final = 0x0F22
_CMPXCHG8B: Final = 0x0FC7  # and CMPXCHG16B
_STACK_OPS: Final = {*range(0x50, 0x62), 0x68, 0x6A, 0x8F, 0xC2, 0xC3, 0xC8, 0xC9, 0xE8, 0x9C, 0x9D}


def segments_used(insn: Insn) -> int:
    """Bit mask of the segment registers an instruction's memory accesses go through."""
    op, used = insn.opcode, 0
    if op in _STRINGS:
        source = insn.seg if insn.seg >= 0 else DS
        if op not in (0xAA, 0xAB, 0xAC, 0xAD):
            return 1 << source | 1 << ES if op < 0xAE else 1 << ES
        return 1 << ES if op < 0xAC else 1 << source
    if op in _STACK_OPS or (op == 0xFF and insn.reg_field in (2, 6)):
        used |= 1 << SS
    if (insn.modrm >= 0 and insn.modrm < 0xC0) or 0xA0 <= op <= 0xA3 or op == 0xD7:
        mem = insn.mem
        if mem is not None and op != 0x8D:
            used |= 1 << mem.seg
        elif op == 0xD7:
            used |= 1 << (insn.seg if insn.seg >= 0 else DS)
    return used


@dataclass(frozen=True, slots=True)
class Traits:
    """What holds for an instruction in every mode of its width, found out once: decoded ones are shared."""

    row: Row | None
    ends: bool  # nothing of a block comes behind it
    vector: bool
    refused: bool  # a LOCK prefix makes it none
    misexecuted: bool
    aligned: bool  # misaligned, its memory operand faults
    asks: SiteKind | None  # what the monitor must do before an x87 or SSE instruction, besides
    frees_flags: bool  # before it the arithmetic flags are dead, and it cannot fault


def traits(insn: Insn) -> Traits:
    found = insn.traits
    if isinstance(found, Traits):
        return found
    row = row_of(insn)
    refused = row is None and not lock_is_legal(insn)
    ends = insn.flow is not Flow.NEXT or (row is not None and row.ends_block and not loads_root(insn))
    vector = is_vector(insn)
    aligned = vector and 0 <= insn.modrm < 0xC0 and is_sse(insn) and needs_alignment(insn, memory_size(insn))
    asks = None
    if vector and loads_control(insn):
        asks = SiteKind.CONTROL
    elif vector and sees_exceptions(insn):
        asks = SiteKind.EXCEPTIONS
    insn.traits = made = Traits(row, ends, vector, refused, misexecuted(insn), aligned, asks, _frees_flags(insn, row))
    return made


def loads_root(insn: Insn) -> bool:
    """True for MOV to CR3: where code lies may be another thing behind it, but not what the code means."""
    return insn.opcode == _MOV_TO_CR and reg_number(insn) == 3


def callout_reason(insn: Insn, mode: BlockMode) -> str:
    """Why the interpreter must execute this instruction, or '' where it can be copied or re-expressed."""
    known = traits(insn)
    if insn.flow is Flow.INVALID:
        return UNDEFINED
    if known.refused:
        return "illegal lock"
    row = known.row
    if row is not None:
        inside = row.treatment is Treatment.IN_CACHE and not segments_used(insn) & (
            -1 if mode.aligning else mode.checked
        )
        if inside and incache.possible(row.name, insn, mode.cpl, mode.iopl, mode.flat_stack, mode.fsgsbase):
            return ""
        return row.name
    if known.vector and (mode.fpu_traps or (mode.no_sse and is_sse(insn))):
        return "fpu trap"
    if known.vector and mode.unmasked and mode.unmasked & (1 if is_sse(insn) else 2):
        return "fpu exception"
    if known.misexecuted:
        return "misexecuted"
    if mode.aligning and segments_used(insn):
        return "alignment"
    if mode.mode == 64:
        if insn.rip_relative and (insn.adsize != 8 or insn.vex):
            return "rip-relative"
        return ""
    used = segments_used(insn)
    if used & 1 << CS and insn.flow is Flow.NEXT:
        return "cs override"
    if used & mode.checked:
        return "segment check"
    if mode.through_gs and used & 1 << GS:
        return "gs override"
    if insn.adsize == 4 and mode.mode == 16 and used & ~(1 << SS | mode.unlimited):
        return "segment check"  # 32-bit offsets may leave a 64 KiB segment
    return ""


def ends_block(insn: Insn) -> bool:
    """True where the block cannot go on behind this instruction."""
    return traits(insn).ends


def _definitely_written(insn: Insn) -> int:
    """Flags that certainly change: a shift by CL and a repeated compare may leave them alone."""
    if insn.opcode in (0xD2, 0xD3, 0x0FA5, 0x0FAD) or (insn.rep and insn.opcode in _STRINGS):
        return 0
    if insn.opcode in (0xC0, 0xC1, 0x0FA4, 0x0FAC):  # a count of zero changes nothing
        return insn.flags_written if insn.raw[-1] & 0x1F else 0
    return insn.flags_written


# Opcodes that set all arithmetic flags without looking at them, where ModRM.reg or a prefix does not say otherwise. The
# decoder's own list of flags is not trusted alone: it has CMPSS and CMPSD compare integers, and DAA and AAS ignore AF.
_SET_FLAGS: Final = frozenset((
    *(base + form for base in (0x00, 0x08, 0x20, 0x28, 0x30, 0x38) for form in range(6)),
    *range(0x80, 0x86), 0xA8, 0xA9, 0x69, 0x6B, 0x0FAF, 0xC0, 0xC1, 0xD0, 0xD1, 0xF6, 0xF7, 0x0FC0, 0x0FC1,
))  # fmt: skip


def _frees_flags(insn: Insn, row: Row | None) -> bool:
    """True where an instruction overwrites all arithmetic flags, reads none, and cannot fault."""
    if insn.opcode not in _SET_FLAGS or insn.vex or row is not None:
        return False
    if insn.flags_read & ARITH or _definitely_written(insn) & ARITH != ARITH:
        return False
    touches_memory = 0 <= insn.modrm < 0xC0 or insn.opcode in _STRINGS
    divides = insn.opcode in (0xF6, 0xF7) and insn.reg_field >= 6
    return not (touches_memory or divides)


def free_point(insns: list[Insn], mode: BlockMode) -> int:
    """Index of an instruction before which the arithmetic flags are dead and nothing can see them, or -1.

    That is one which overwrites all of them, reads none, and cannot fault or leave the cache.
    """
    for index, insn in enumerate(insns):
        if traits(insn).frees_flags and not callout_reason(insn, mode):
            return index
    return -1


def copies_of_loop(insns: list[Insn], raw: bytes, size: int, pc: int, mode: BlockMode) -> int:
    """How often to repeat a block that loops to itself, so that the budget is charged once for several rounds.

    `raw` are the bytes of its last instruction, `size` counts all.
    """
    last = insns[-1]
    if mode.exact or last.flow is not Flow.BRANCH or 0xE0 <= last.opcode <= 0xE3:
        return 1
    if last.target(pc + size - len(raw), raw) != pc or any(
        traits(insn).row or callout_reason(insn, mode) for insn in insns
    ):
        return 1
    if any(may_divide_out_of_range(insn, insns[at - 1] if at else None) for at, insn in enumerate(insns)):
        return 1
    return max(1, min(_MOST_COPIES, _UNROLLED // len(insns)))


def falls_through(last: Insn) -> bool:
    """True where a block that ends with `last` can go on behind it."""
    return not ends_block(last) or last.flow is Flow.BRANCH


@dataclass(slots=True)
class _Draft:
    """A block whose direct exits have no stubs yet."""

    pc: int
    raw: bytes
    start: int
    sizes: bytes
    indirect_entry: int = -1
    entry: int = 0
    end: int = 0
    counted_at: int = 0
    charge: int = 0
    falls_through: bool = False
    starts: array[int] = field(default_factory=lambda: array("H"))
    reasons: list[tuple[int, str]] = field(default_factory=list)
    spills: list[tuple[int, int, int, int]] = field(default_factory=list)
    exits: list[ExitRecord] = field(default_factory=list)

    def spilled(self, index: int, start: int, end: int, regs: dict[int, int]) -> None:
        """Note that from `start` to `end` registers of instruction `index` are in the monitor's data."""
        self.spills.append((index, start, end, pack_spills(tuple(regs.items()))))

    def leaves(self, behind: int, kind: SiteKind, index: int) -> None:
        self.exits.append((behind, int(kind), index, 0, 0, 0))

    def code(self) -> Code:
        return Code(
            self.pc, self.raw, self.start, self.entry, self.indirect_entry, self.end, self.counted_at, self.charge,
            self.falls_through, self.sizes, self.starts.tobytes(), tuple(self.reasons), tuple(self.spills),
            tuple(self.exits),
        )  # fmt: skip


@dataclass(slots=True)
class _Cold:
    """A direct exit of a block whose stub is still to come.

    `patch_at` is the place of the branch's displacement, `refund` how many instructions of the charge were not executed
    before it.
    """

    draft: _Draft
    index: int
    target: int
    patch_at: int
    refund: int
    leaves_page: bool


class Rewritten(NamedTuple):
    """A run of rewritten blocks: its code for offset 0 of the cache, and what else moving it needs.

    `fixups` are the places of 4-byte displacements from the code to the monitor's data (64-bit code only).
    """

    host: bytes
    fixups: tuple[int, ...]
    codes: tuple[Code, ...]


class Rewriter:
    """Rewrites a run of blocks for one mode; all offsets count from the start of the run."""

    def __init__(self, mode: BlockMode, target: Target) -> None:
        self._mode = mode
        self._emit = Emitter(target, 0)
        self._drafts: list[_Draft] = []
        self._draft: _Draft
        self._cold: list[_Cold] = []

    def block(self, insns: list[Insn], raws: list[bytes], pc: int, reload_prefix: bool, falls_into_next: bool) -> None:
        """Rewrite `insns`, the block at `pc`; of one that is but a template (`Decoder.template`) only `raws` tells.

        `reload_prefix`: give it an entry for jumps through a table, which must not be fallen into.
        `falls_into_next`: the following block is emitted right behind.
        """
        emit, mode = self._emit, self._mode
        count = len(insns)
        draft = self._draft = _Draft(pc, b"".join(raws), len(emit.code), bytes(map(len, raws)))
        self._drafts.append(draft)
        if reload_prefix:
            draft.indirect_entry = emit.at
            for reg, slot in incache.LOOKUP_SPILLS:
                emit.reload(reg, slot)
            draft.spilled(0, draft.indirect_entry, emit.at, dict(incache.LOOKUP_SPILLS))
        draft.entry = emit.at
        free = -1 if mode.exact else free_point(insns, mode)
        counted_at = draft.counted_at = max(free, 0)
        charge = draft.charge = count * copies_of_loop(insns, raws[-1], len(draft.raw), pc, mode)
        if charge != count:
            insns, raws = insns * (charge // count), raws * (charge // count)
        loop, plain, starts, code = pc, mode.plain, draft.starts, emit.code
        wrap = MASK64 if mode.mode == 64 else 0xFFFFFFFF
        before = None
        for index, insn in enumerate(insns):
            starts.append(len(code))
            if index == counted_at:
                self._count(charge, free >= 0, index)
            if insn in plain:
                code += raws[index]
                pc += insn.size
            else:
                raw, next_pc = raws[index], pc + insn.size & wrap
                if index + 1 < charge and index % count == count - 1:  # a round ends and another one follows
                    self._link(index, next_pc, emit.branch(insn.opcode & 15 ^ 1), charge - index - 1)
                    next_pc = loop
                else:
                    self._one(insn, raw, index, pc, before)
                pc = next_pc
            before = insn
        starts[0] = draft.start
        pc &= wrap
        draft.falls_through = falls_through(insns[-1])
        if draft.falls_through and not falls_into_next:
            self._link(charge - 1, pc, emit.jump())
        draft.end = emit.at

    def finish(self) -> Rewritten:
        """Add the stubs of all direct exits."""
        emit = self._emit
        for cold in self._cold:
            patch_at = cold.patch_at
            if cold.refund:
                emit.fill_displacement(patch_at, emit.at)
                emit.spill(RCX, 0)
                self._charge(-cold.refund)
                emit.reload(RCX, 0)
                patch_at = emit.jump()
            stub = emit.at
            emit.fill_displacement(patch_at, stub)
            if cold.leaves_page and self._mode.user and self._mode.mode != 16 and not self._mode.through_gs:
                self._look_up(cold, patch_at, stub)
            else:
                exits = cold.draft.exits
                exits.append((emit.leave(), int(SiteKind.LINK), cold.index, cold.target, patch_at, stub))
        return Rewritten(bytes(emit.code), tuple(emit.fixups), tuple(draft.code() for draft in self._drafts))

    def _look_up(self, cold: _Cold, patch_at: int, stub: int) -> None:
        """User code is not chained across pages, because which code lies there depends on the address space."""
        emit = self._emit
        for reg, slot in incache.LOOKUP_SPILLS:
            emit.spill(reg, slot)
        emit.load_constant(RSI, cold.target)
        incache.lookup(emit)
        at = emit.at - incache.FAULT_SIZE
        cold.draft.exits.append((at, int(SiteKind.LOOKUP), cold.index, cold.target, patch_at, stub))
        incache.jump_to_found(emit)

    def _count(self, count: int, flags_dead: bool, index: int) -> None:
        """Charge the block to the budget."""
        emit = self._emit
        if flags_dead:
            emit.subtract32_clobbering_flags(BUDGET, count)
            return
        emit.spill(RCX, 0)
        start = emit.at
        self._charge(count)
        if self._mode.exact:
            # budgets stay below 2**23, so the top byte is zero until the budget is overdrawn
            emit.load_byte(RCX, BUDGET + 3)
            emit.jump_if_zero_ecx(len(emit.target.layout.leave))
            self._draft.leaves(emit.leave(), SiteKind.BUDGET, index)
        emit.reload(RCX, 0)
        self._draft.spilled(index, start, emit.at, {RCX: 0})

    def _charge(self, count: int) -> None:
        """Take `count` from the budget by RCX, without touching the flags."""
        emit = self._emit
        emit.load32(RCX, BUDGET)
        emit.lea32(RCX, RCX, -count)
        emit.store32(RCX, BUDGET)

    def _link(self, index: int, target: int, patch_at: int, refund: int = 0) -> None:
        draft = self._draft
        self._cold.append(_Cold(draft, index, target, patch_at, refund, (target ^ draft.pc) >> 12 != 0))

    def _callout(self, index: int, reason: str, kind: SiteKind = SiteKind.CALLOUT) -> None:
        self._draft.reasons.append((index, reason))
        self._draft.leaves(self._emit.leave(), kind, index)

    def _kind(self, insn: Insn, reason: str) -> SiteKind:
        """How much of the guest's state a callout concerns."""
        if reason in READS:
            return SiteKind.READ
        light = reason == "mov_to_cr" and loads_root(insn) and self._mode.mode == 64 and self._mode.cpl == 0
        return SiteKind.ROOT if light else SiteKind.CALLOUT

    def _one(self, insn: Insn, raw: bytes, index: int, pc: int, before: Insn | None) -> None:
        reason = callout_reason(insn, self._mode)
        if not reason and may_divide_out_of_range(insn, before):
            reason = "misexecuted"
        if reason:
            self._callout(index, reason, self._kind(insn, reason))
            return
        row = traits(insn).row
        if row is not None:
            draft = self._draft
            draft.reasons.append((index, row.name))
            sequence = incache.emulate(row.name, self._emit, insn, self._mode.cpl, self._mode.iopl)
            for start, end, regs in sequence.spilled:
                draft.spilled(index, start, end, regs)
            for behind in sequence.slow_exits:
                draft.leaves(behind, SiteKind.CALLOUT, index)
            return
        match insn.flow:
            case Flow.NEXT:
                asks = traits(insn).asks
                if asks is not None:
                    self._draft.leaves(self._emit.leave(), asks, index)
                if traits(insn).aligned:
                    self._draft.leaves(self._emit.leave(), SiteKind.ALIGNMENT, index)
                if insn.opcode == EMMS:
                    self._emit.raw(TOUCH_MMX)  # Unicorn's EMMS leaves the x87 top of stack alone
                elif insn.opcode == _CMPXCHG8B and insn.reg_field == 1:
                    # Unicorn's takes the flags it leaves alone from what was last brought up to date: at a jump
                    self._emit.raw((b"\x66" if insn.mode == 16 else b"") + b"\xeb\0")
                elif not (insn.rip_relative or insn.opcode in (0xF6, 0xF7) or traits(insn).aligned or asks is not None):
                    self._mode.plain.add(insn)
                self._copy(insn, raw, index, pc)
            case Flow.JUMP:
                self._link(index, insn.target(pc, raw), self._emit.jump())
            case Flow.BRANCH:
                self._branch(insn, raw, index, pc)
            case Flow.CALL:
                self._call(insn, raw, index, pc)
            case Flow.RETURN | Flow.INDIRECT_JUMP | Flow.INDIRECT_CALL:
                self._indirect(insn, raw, index, pc)
            case Flow.SYSTEM | Flow.INVALID:
                self._callout(index, insn.flow.value)

    def _branch(self, insn: Insn, raw: bytes, index: int, pc: int) -> None:
        target = insn.target(pc, raw)
        if insn.opcode < 0xE0 or insn.opcode >= 0x0F80:
            self._link(index, target, self._emit.branch(insn.opcode & 15))
            return
        # LOOPcc and JCXZ reach 127 bytes only: hop to a jump behind the way past it
        default = {16: 2, 32: 4, 64: 8}[insn.mode]
        size = b"\x67" if insn.adsize != default else b""
        whole = b"\x66" if insn.mode == 16 else b""  # keeps EIP from being cut to 16 bits
        hop = whole + b"\xeb" + bytes((len(whole) + 5,))
        emit = self._emit
        emit.raw(whole + size + bytes((insn.opcode, len(hop))) + hop)
        self._link(index, target, emit.jump())

    def _return_address(self, insn: Insn, pc: int) -> tuple[int, int]:
        """What a near call pushes: value and size in bytes."""
        if insn.mode == 64:
            return pc + insn.size & MASK64, 8
        return pc + insn.size & (0xFFFF if insn.opsize == 2 else 0xFFFFFFFF), insn.opsize

    def _call(self, insn: Insn, raw: bytes, index: int, pc: int) -> None:
        if insn.mode == 64 and insn.opsize == 2:
            self._callout(index, "16-bit call")
            return
        self._emit.push_constant(*self._return_address(insn, pc))
        self._link(index, insn.target(pc, raw), self._emit.jump())

    def _indirect(self, insn: Insn, raw: bytes, index: int, pc: int) -> None:
        """A return or an indirect jump or call: look the target up in the mode's jump table."""
        emit = self._emit
        mem = insn.mem if insn.flow is not Flow.RETURN else None
        if mem is not None and mem.seg == CS and self._mode.cs_base:  # the machine's CS begins at 0
            self._callout(index, "cs override")
            return
        if not incache.lookup_possible(insn, self._mode.stack32):
            self._callout(index, "indirect transfer")
            return
        spilled = dict(incache.LOOKUP_SPILLS)
        for reg, slot in incache.LOOKUP_SPILLS:
            emit.spill(reg, slot)
        loading = emit.at
        if insn.flow is Flow.RETURN:
            incache.return_target(emit, self._mode.stack32)
        else:
            self._load_target(insn, raw, pc)
        incache.lookup(emit)
        if insn.flow is Flow.RETURN:
            extra = int.from_bytes(raw[insn.opcode_at + 1 :], "little") if insn.opcode == 0xC2 else 0
            incache.drop_stack(emit, insn.mode // 8 + extra, self._mode.stack32)
        elif insn.flow is Flow.INDIRECT_CALL:
            emit.push_constant(*self._return_address(insn, pc))
        incache.jump_to_found(emit)
        # until the last instruction nothing the guest can see has changed: a lookup that misses can be undone
        self._draft.spilled(index, loading, emit.at, spilled)

    def _load_target(self, insn: Insn, raw: bytes, pc: int) -> None:
        """MOV rsi, r/m of an indirect jump or call, with the guest's registers still in place."""
        modrm = insn.modrm & 0xC7 | RSI << 3
        prefixes = bytes(b for b in raw[: insn.opcode_at] if b not in (0xF2, 0xF3, 0x3E) and b & 0xF0 != 0x40)
        if insn.mode == 64:
            prefixes = bytes(b for b in raw[: insn.opcode_at] if b in (0x64, 0x65, 0x67))
            rex = 0x48 | insn.rex & 3
            if insn.rip_relative:
                address = pc + insn.size + struct.unpack_from("<i", raw, insn.disp_at)[0] & MASK64
                self._absolute(prefixes + bytes((0x48, 0x8B)), RSI, address, b"", RSI)
                return
            self._emit.raw(prefixes + bytes((rex, 0x8B, modrm)) + raw[insn.modrm_at + 1 :])
            return
        # in 16-bit code MOVZX esi, r/m16
        head = b"\x66" + prefixes + b"\x0f\xb7" if insn.mode == 16 else prefixes + b"\x8b"
        self._emit.raw(head + bytes((modrm,)) + raw[insn.modrm_at + 1 :])

    def _absolute(self, head: bytes, reg: int, address: int, immediate: bytes, scratch: int) -> None:
        """`head` (prefixes and opcode) with ModRM.reg `reg` on an absolute 64-bit address."""
        signed = address - (1 << 64) if address >> 63 else address
        if INT32_MIN <= signed <= INT32_MAX:
            self._emit.raw(head + bytes((0x04 | (reg & 7) << 3, 0x25)) + struct.pack("<i", signed) + immediate)
            return
        self._emit.raw(bytes((0x48, 0xB8 | scratch)) + struct.pack("<Q", address))
        self._emit.raw(head + bytes(((reg & 7) << 3 | scratch,)) + immediate)

    def _copy(self, insn: Insn, raw: bytes, index: int, pc: int) -> None:
        emit = self._emit
        if not insn.rip_relative:
            emit.code += raw
            return
        address = pc + insn.size + struct.unpack_from("<i", raw, insn.disp_at)[0] & MASK64
        if insn.opcode == 0x8D:  # LEA has no memory access: load its result as a constant
            self._constant(insn, address)
            return
        head = bytearray(raw[: insn.modrm_at])
        if insn.rex:
            head[insn.opcode_at - 1] &= 0xFC  # REX.X and REX.B would change the new operand's meaning
        immediate = raw[insn.disp_at + 4 :]
        signed = address - (1 << 64) if address >> 63 else address
        if INT32_MIN <= signed <= INT32_MAX:
            self._absolute(bytes(head), insn.reg_field, address, immediate, RSI)
            return
        # no form reaches that far: borrow a register that the instruction does not name
        scratch = RDI if insn.reg_field == RSI else RSI
        emit.spill(scratch, 0)
        start = emit.at
        self._absolute(bytes(head), insn.reg_field, address, immediate, scratch)
        self._draft.spilled(index, start, emit.at, {scratch: 0})
        emit.reload(scratch, 0)

    def _constant(self, insn: Insn, value: int) -> None:
        reg = insn.reg_field | (insn.rex & 4) << 1
        if insn.opsize == 8:
            self._emit.raw(bytes((0x48 | reg >> 3, 0xB8 | reg & 7)) + struct.pack("<Q", value))
        elif insn.opsize == 4:
            rex = b"\x41" if reg >= 8 else b""
            self._emit.raw(rex + bytes((0xB8 | reg & 7,)) + struct.pack("<I", value & 0xFFFFFFFF))
        else:
            rex = b"\x41" if reg >= 8 else b""
            self._emit.raw(b"\x66" + rex + bytes((0xB8 | reg & 7,)) + struct.pack("<H", value & 0xFFFF))


__all__ = [
    "BlockMode",
    "Rewriter",
    "Rewritten",
    "Target",
    "callout_reason",
    "ends_block",
    "falls_through",
]
