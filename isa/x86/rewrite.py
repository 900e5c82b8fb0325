"""Rewrites one basic block of guest code into code for the cache.

Innocuous instructions are copied; what depends on its address (RIP-relative operands, branches, calls, returns) is
re-expressed; sensitive instructions become callouts or the in-cache sequences of `isa.x86.incache`. Each guest
instruction becomes one `Piece`, so that every host pc at which the machine can stop maps back to a guest instruction
with its registers intact.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from isa.base import Flow
from isa.x86 import incache
from isa.x86.decode import Insn
from isa.x86.emit import BUDGET, INT32_MAX, INT32_MIN, Emitter, Target
from isa.x86.misexecuted import may_divide_out_of_range, misexecuted
from isa.x86.sensitive import Row, Treatment, lock_is_legal, row_of
from isa.x86.state import ARITH, CS, DS, ES, GS, RCX, RDI, RSI, SS
from isa.x86.vector import EMMS, TOUCH_MMX, is_sse, is_vector, memory_size, needs_alignment

if TYPE_CHECKING:
    from isa.x86.operands import Op

MASK64: Final = 0xFFFFFFFFFFFFFFFF


class SiteKind(enum.Enum):
    """What an exit from the cache asks for."""

    LINK = "link"  # a direct branch whose target is not chained yet
    CALLOUT = "callout"  # emulate the instruction
    BUDGET = "budget"  # the instruction budget does not cover this block
    LOOKUP = "lookup"  # as LINK, but never chained: the jump table has no entry for the target
    ALIGNMENT = "alignment"  # an operand that must be aligned is about to be used for the first time


@dataclass(slots=True)
class Site:
    """One exit: `index` is the instruction's number in the block; LINK: `target` (guest pc) and the displacement's
    cache offset `patch_at`, which points to this exit's own `stub` until it is chained. A LOOKUP is identified by the
    offset of the instruction that faults where the jump table has no entry."""

    kind: SiteKind
    index: int
    target: int = 0
    patch_at: int = 0
    stub: int = 0
    linked: object = None  # the block it is chained to


@dataclass(slots=True)
class Piece:
    """The code of one guest instruction: starts at cache offset `start`.

    `spilled` lists (start, end, {register: spill slot}): while the host pc is in [start, end) these registers' guest
    values are in the monitor's data.
    """

    start: int
    guest_pc: int
    insn: Insn
    reason: str = ""  # why it is not a plain copy: a callout's or in-cache emulation's name, for listings
    ends: bool = False  # nothing of the block is behind it
    vector: bool = False  # the interpreter hands it to the native unit
    spilled: list[tuple[int, int, dict[int, int]]] = field(default_factory=list)
    bound: tuple[Op, int] | None = None  # how the interpreter executes it, once that was needed
    quiet: bool = False  # `bound` neither reads nor writes arithmetic flags


@dataclass(frozen=True, slots=True, eq=False)
class BlockMode:
    """Everything besides the guest's bytes and pc that translated code depends on; compared by identity, so interned.

    `checked` is a bit mask of segment registers whose use must be checked by the interpreter; `through_gs` tells that
    DS is not flat and monitor data is reached through GS; `exact` that blocks test the instruction budget; `no_sse`
    that CR4.OSFXSR is clear, so that SSE instructions are undefined; `flat_stack` that RSP (32 bits of it in 32-bit
    code) can hold any address of the monitor's; `aligning` that misaligned accesses fault (CR0.AM, EFLAGS.AC).
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

    @property
    def user(self) -> bool:
        return self.cpl == 3


@dataclass(slots=True)
class Code:
    """A rewritten block: cache offsets `start` to `end`, exits by the offset behind them, pieces in order.

    The stubs of its direct exits lie behind the whole run, so that blocks which follow each other stay adjacent.
    """

    start: int
    entry: int  # where chained and dispatched code enters
    indirect_entry: int  # where jumps through a table enter, or -1
    end: int
    pieces: list[Piece]
    sites: dict[int, Site]
    counted_at: int  # the budget is charged when this instruction starts ...
    charge: int  # ... with so many: the block's instructions, as often as an unrolled loop repeats them


_MOST_COPIES: Final = 4  # of the body of a loop that is unrolled ...
_UNROLLED: Final = 24  # ... and instructions in all of them
_STRINGS: Final = {0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF}
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


def traits(insn: Insn) -> Traits:
    found = insn.traits
    if isinstance(found, Traits):
        return found
    row = row_of(insn)
    refused = row is None and not lock_is_legal(insn)
    ends = insn.flow is not Flow.NEXT or (row is not None and row.ends_block)
    vector = is_vector(insn)
    aligned = vector and 0 <= insn.modrm < 0xC0 and is_sse(insn) and needs_alignment(insn, memory_size(insn))
    insn.traits = made = Traits(row, ends, vector, refused, misexecuted(insn), aligned)
    return made


def callout_reason(insn: Insn, mode: BlockMode) -> str:
    """Why the interpreter must execute this instruction, or '' where it can be copied or re-expressed."""
    known = traits(insn)
    if insn.flow is Flow.INVALID:
        return "undefined"
    if known.refused:
        return "illegal lock"
    row = known.row
    if row is not None:
        inside = row.treatment is Treatment.IN_CACHE and not segments_used(insn) & (
            -1 if mode.aligning else mode.checked
        )
        if inside and incache.possible(row.name, insn, mode.cpl, mode.iopl, mode.flat_stack):
            return ""
        return row.name
    if known.vector and (mode.fpu_traps or (mode.no_sse and is_sse(insn))):
        return "fpu trap"
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
    if insn.adsize == 4 and mode.mode == 16 and used & ~(1 << SS):
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


def free_point(insns: list[Insn], mode: BlockMode) -> int:
    """Index of an instruction before which the arithmetic flags are dead and nothing can see them, or -1.

    That is one which overwrites all of them, reads none, and cannot fault or leave the cache.
    """
    for index, insn in enumerate(insns):
        if insn.opcode not in _SET_FLAGS or insn.vex:
            continue
        if insn.flags_read & ARITH or _definitely_written(insn) & ARITH != ARITH:
            continue
        touches_memory = 0 <= insn.modrm < 0xC0 or insn.opcode in _STRINGS
        divides = insn.opcode in (0xF6, 0xF7) and insn.reg_field >= 6
        if not (touches_memory or divides or callout_reason(insn, mode) or traits(insn).row is not None):
            return index
    return -1


def copies_of_loop(insns: list[Insn], pc: int, mode: BlockMode) -> int:
    """How often to repeat a block that loops to itself, so that the budget is charged once for several rounds."""
    last = insns[-1]
    if mode.exact or last.flow is not Flow.BRANCH or 0xE0 <= last.opcode <= 0xE3:
        return 1
    start_of_last = pc + sum(insn.size for insn in insns[:-1])
    if last.target(start_of_last) != pc or any(traits(insn).row or callout_reason(insn, mode) for insn in insns):
        return 1
    if any(may_divide_out_of_range(insn, insns[at - 1] if at else None) for at, insn in enumerate(insns)):
        return 1
    return max(1, min(_MOST_COPIES, _UNROLLED // len(insns)))


def falls_through(last: Insn) -> bool:
    """True where a block that ends with `last` can go on behind it."""
    return not ends_block(last) or last.flow is Flow.BRANCH


@dataclass(slots=True)
class _Cold:
    """A direct exit whose stub is still to come; `refund` instructions of the charge were not executed before it."""

    site: Site
    sites: dict[int, Site]
    refund: int
    leaves_page: bool


class Rewriter:
    """Rewrites a run of blocks for one mode, starting at cache offset `start`."""

    def __init__(self, mode: BlockMode, target: Target, start: int) -> None:
        self._mode = mode
        self._emit = Emitter(target, start)
        self._sites: dict[int, Site] = {}
        self._pieces: list[Piece] = []
        self._cold: list[_Cold] = []
        self._pc = 0  # of the block

    def block(self, insns: list[Insn], pc: int, reload_prefix: bool, falls_into_next: bool) -> Code:
        """Rewrite `insns`, the block at `pc`.

        `reload_prefix`: give it an entry for jumps through a table, which must not be fallen into.
        `falls_into_next`: the following block is emitted right behind.
        """
        emit = self._emit
        self._sites, self._pieces, self._pc = {}, [], pc
        start = emit.at
        indirect = -1
        if reload_prefix and self._mode.mode != 16:
            indirect = start
            for reg, slot in incache.LOOKUP_SPILLS:
                emit.reload(reg, slot)
        entry = emit.at
        free = -1 if self._mode.exact else free_point(insns, self._mode)
        counted_at = max(free, 0)
        loop, count = pc, len(insns)
        charge = count * copies_of_loop(insns, pc, self._mode)
        for index, insn in enumerate(insns * (charge // count)):
            known = traits(insn)
            piece = Piece(emit.at, pc, insn, "", known.ends, known.vector)
            if index == 0 and indirect >= 0:
                piece.start = indirect
                piece.spilled.append((indirect, entry, dict(incache.LOOKUP_SPILLS)))
            self._pieces.append(piece)
            if index == counted_at:
                self._count(charge, free >= 0, index)
            next_pc = pc + insn.size & self._wrap(insn)
            if index + 1 < charge and index % count == count - 1:  # a round ends and another one follows
                piece.ends = False
                self._link(index, next_pc, emit.branch(insn.opcode & 15 ^ 1), charge - index - 1)
                next_pc = loop
            else:
                self._one(piece, insn, index, pc)
            pc = next_pc
        last = insns[-1]
        if falls_through(last) and not falls_into_next:
            self._link(charge - 1, pc, emit.jump())
        return Code(start, entry, indirect, emit.at, self._pieces, self._sites, counted_at, charge)

    def finish(self) -> bytes:
        """Add the stubs of all direct exits; returns the code of the whole run."""
        emit = self._emit
        for cold in self._cold:
            site = cold.site
            if cold.refund:
                emit.fill_displacement(site.patch_at, emit.at)
                emit.spill(RCX, 0)
                self._charge(-cold.refund)
                emit.reload(RCX, 0)
                site.patch_at = emit.jump()
            site.stub = emit.at
            emit.fill_displacement(site.patch_at, site.stub)
            if cold.leaves_page and self._mode.user and self._mode.mode != 16 and not self._mode.through_gs:
                self._look_up(cold)
            else:
                cold.sites[emit.leave()] = site
        return bytes(emit.code)

    def _look_up(self, cold: _Cold) -> None:
        """User code is not chained across pages, because which code lies there depends on the address space."""
        emit = self._emit
        for reg, slot in incache.LOOKUP_SPILLS:
            emit.spill(reg, slot)
        emit.load_constant(RSI, cold.site.target)
        incache.lookup(emit)
        cold.site.kind = SiteKind.LOOKUP
        cold.sites[emit.at - incache.FAULT_SIZE] = cold.site
        incache.jump_to_found(emit)

    def _wrap(self, insn: Insn) -> int:
        return MASK64 if insn.mode == 64 else 0xFFFFFFFF

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
            self._sites[emit.leave()] = Site(SiteKind.BUDGET, index)
        emit.reload(RCX, 0)
        self._pieces[-1].spilled.append((start, emit.at, {RCX: 0}))

    def _charge(self, count: int) -> None:
        """Take `count` from the budget by RCX, without touching the flags."""
        emit = self._emit
        emit.load32(RCX, BUDGET)
        emit.lea32(RCX, RCX, -count)
        emit.store32(RCX, BUDGET)

    def _link(self, index: int, target: int, patch_at: int, refund: int = 0) -> None:
        leaves_page = (target ^ self._pc) >> 12 != 0
        self._cold.append(_Cold(Site(SiteKind.LINK, index, target, patch_at), self._sites, refund, leaves_page))

    def _callout(self, piece: Piece, index: int, reason: str) -> None:
        piece.reason = reason
        self._sites[self._emit.leave()] = Site(SiteKind.CALLOUT, index)

    def _one(self, piece: Piece, insn: Insn, index: int, pc: int) -> None:
        reason = callout_reason(insn, self._mode)
        if not reason and may_divide_out_of_range(insn, self._pieces[-2].insn if index else None):
            reason = "misexecuted"
        if reason:
            self._callout(piece, index, reason)
            return
        row = traits(insn).row
        if row is not None:
            piece.reason = row.name
            sequence = incache.emulate(row.name, self._emit, insn, self._mode.cpl, self._mode.iopl)
            piece.spilled.extend(sequence.spilled)
            for behind in sequence.slow_exits:
                self._sites[behind] = Site(SiteKind.CALLOUT, index)
            return
        match insn.flow:
            case Flow.NEXT:
                if traits(insn).aligned:
                    self._sites[self._emit.leave()] = Site(SiteKind.ALIGNMENT, index)
                if insn.opcode == EMMS:
                    self._emit.raw(TOUCH_MMX)  # Unicorn's EMMS leaves the x87 top of stack alone
                elif insn.opcode == _CMPXCHG8B and insn.reg_field == 1:
                    # Unicorn's takes the flags it leaves alone from what was last brought up to date: at a jump
                    self._emit.raw((b"\x66" if insn.mode == 16 else b"") + b"\xeb\0")
                self._copy(piece, insn, pc)
            case Flow.JUMP:
                self._link(index, insn.target(pc), self._emit.jump())
            case Flow.BRANCH:
                self._branch(insn, index, pc)
            case Flow.CALL:
                self._call(piece, insn, index, pc)
            case Flow.RETURN | Flow.INDIRECT_JUMP | Flow.INDIRECT_CALL:
                self._indirect(piece, insn, index, pc)
            case Flow.SYSTEM | Flow.INVALID:
                self._callout(piece, index, insn.flow.value)

    def _branch(self, insn: Insn, index: int, pc: int) -> None:
        target = insn.target(pc)
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

    def _call(self, piece: Piece, insn: Insn, index: int, pc: int) -> None:
        if insn.mode == 64 and insn.opsize == 2:
            self._callout(piece, index, "16-bit call")
            return
        self._emit.push_constant(*self._return_address(insn, pc))
        self._link(index, insn.target(pc), self._emit.jump())

    def _indirect(self, piece: Piece, insn: Insn, index: int, pc: int) -> None:
        """A return or an indirect jump or call: look the target up in the mode's jump table."""
        emit = self._emit
        if self._mode.through_gs or not incache.lookup_possible(insn, self._mode.stack32):
            self._callout(piece, index, "indirect transfer")
            return
        spilled = dict(incache.LOOKUP_SPILLS)
        for reg, slot in incache.LOOKUP_SPILLS:
            emit.spill(reg, slot)
        loading = emit.at
        if insn.flow is Flow.RETURN:
            emit.raw(b"\x48\x8b\x34\x24" if insn.mode == 64 else b"\x8b\x34\x24")  # mov rsi, [rsp]
        else:
            self._load_target(insn, pc)
        incache.lookup(emit)
        if insn.flow is Flow.RETURN:
            extra = int.from_bytes(insn.raw[insn.opcode_at + 1 :], "little") if insn.opcode == 0xC2 else 0
            incache.drop_stack(emit, (8 if insn.mode == 64 else 4) + extra)
        elif insn.flow is Flow.INDIRECT_CALL:
            emit.push_constant(*self._return_address(insn, pc))
        incache.jump_to_found(emit)
        # until the last instruction nothing the guest can see has changed: a lookup that misses can be undone
        piece.spilled.append((loading, emit.at, spilled))

    def _load_target(self, insn: Insn, pc: int) -> None:
        """MOV rsi, r/m of an indirect jump or call, with the guest's registers still in place."""
        raw = insn.raw
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
        self._emit.raw(prefixes + bytes((0x8B, modrm)) + raw[insn.modrm_at + 1 :])

    def _absolute(self, head: bytes, reg: int, address: int, immediate: bytes, scratch: int) -> None:
        """`head` (prefixes and opcode) with ModRM.reg `reg` on an absolute 64-bit address."""
        signed = address - (1 << 64) if address >> 63 else address
        if INT32_MIN <= signed <= INT32_MAX:
            self._emit.raw(head + bytes((0x04 | (reg & 7) << 3, 0x25)) + struct.pack("<i", signed) + immediate)
            return
        self._emit.raw(bytes((0x48, 0xB8 | scratch)) + struct.pack("<Q", address))
        self._emit.raw(head + bytes(((reg & 7) << 3 | scratch,)) + immediate)

    def _copy(self, piece: Piece, insn: Insn, pc: int) -> None:
        emit = self._emit
        if not insn.rip_relative:
            emit.raw(insn.raw)
            return
        raw = insn.raw
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
        piece.spilled.append((start, emit.at, {scratch: 0}))
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
    "Code",
    "Piece",
    "Rewriter",
    "Site",
    "SiteKind",
    "Target",
    "callout_reason",
    "ends_block",
    "falls_through",
]
