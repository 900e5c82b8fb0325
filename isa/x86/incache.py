"""Sequences that stay in the code cache, for the frequent cases of the rows `sensitive.IN_CACHE`, and lookups.

None of them changes a flag that the guest could still see: comparisons are made by LEA and JRCXZ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from isa.base import Flow
from isa.x86.decode import Insn
from isa.x86.emit import KERNEL_GS, PENDING, SCRATCH_STACK, TABLE_SLOTS, VIRTUAL_IF, Emitter
from isa.x86.sensitive import CHANGES_OF_BASES, READS_OF_BASES
from isa.x86.state import AC, IF, IOPL, NT, RCX, RDX, RSI, RSP, TF

LOOKUP_SPILLS: Final = ((RCX, 0), (RDX, 1), (RSI, 2))
LOOKUP_END: Final = b"\xf3\xac"  # the instruction that ends `lookup`, REP LODSB; it faults where nothing was found
FAULT_SIZE: Final = len(LOOKUP_END)
# In 64-bit code, LOOKUP_END and what comes behind it: drop_stack or push_constant, and jump_to_found, which is never a
# copy of a guest's instruction.
LOOKUP_END_64: Final = re.compile(
    LOOKUP_END + rb"(?:\x48\x8d\xa4\x24.{4}|\x68.{4}(?:\xc7\x44\x24\x04.{4})?)?\xff\xa2"
    + re.escape((TABLE_SLOTS * 8).to_bytes(4, "little")), re.DOTALL,
)  # fmt: skip
_BASES_SPILLS: Final = ((RCX, 0), (RDX, 1))
_SWAPGS_SIZE: Final = 3
_BASE_SIZE: Final = 4  # of RDFSBASE and its like, without a REX prefix; other prefixes are left to the interpreter


@dataclass(slots=True)
class Sequence:
    """What the rewriter must know of an emitted sequence: spilled ranges, and exits to full emulation."""

    spilled: list[tuple[int, int, dict[int, int]]] = field(default_factory=list)
    slow_exits: list[int] = field(default_factory=list)


def possible(name: str, insn: Insn, cpl: int, iopl: int, flat_stack: bool, fsgsbase: bool) -> bool:
    """True where the instruction's frequent case can be emulated in the cache; the rest is a callout.

    CLI and STI raise #GP above IOPL (SDM vol. 2). PUSHF and POPF are done in the mode's natural size only, and not
    where POPF changes IF but not IOPL. The bases of FS and GS are the machine's own. `flat_stack` and `fsgsbase` as in
    `BlockMode`.
    """
    if name in ("cli", "sti"):
        return cpl <= iopl
    if name in ("stac", "clac"):
        return cpl == 0 and flat_stack and not insn.lock
    if name == "mov_from_seg":
        return insn.modrm >= 0xC0 and insn.reg_field < 6 and not insn.lock
    if name == "serialize":
        return not insn.lock
    if name == "swapgs":
        return insn.mode == 64 and cpl == 0 and insn.size == _SWAPGS_SIZE
    if name in READS_OF_BASES or name in CHANGES_OF_BASES:
        return fsgsbase and insn.size == (_BASE_SIZE + 1 if insn.rex else _BASE_SIZE)
    natural = {16: 0, 32: 4, 64: 8}[insn.mode]
    size = 8 if insn.mode == 64 and insn.opsize == 4 else insn.opsize
    return size == natural and not 0 < cpl <= iopl and not insn.lock


def emulate(name: str, emit: Emitter, insn: Insn, cpl: int, iopl: int) -> Sequence:
    """Emit the in-cache emulation of a row for which `possible` holds."""
    if name == "cli":
        emit.set32(VIRTUAL_IF, 0)
        return Sequence()
    if name == "sti":
        return _sti(emit)
    if name == "pushf":
        return _pushf(emit, insn, iopl)
    if name == "mov_from_seg":
        emit.load_selector(insn.modrm & 7 | (insn.rex & 1) << 3, insn.reg_field, insn.opsize)
        return Sequence()
    if name == "serialize":
        return Sequence()  # nothing runs ahead in the cache (SDM vol. 3, 9.3)
    if name in ("stac", "clac"):
        return _change_ac(emit, name == "stac")
    if name == "swapgs":
        return _swapgs(emit)
    if name in READS_OF_BASES:
        emit.raw(insn.raw)
        return Sequence()
    if name in CHANGES_OF_BASES:
        return _write_base(emit, insn)
    assert name == "popf"
    return _popf(emit, insn, cpl > 0, iopl)


def _sti(emit: Emitter) -> Sequence:
    out = Sequence()
    emit.spill(RCX, 0)
    start = emit.at
    emit.load32(RCX, PENDING)
    emit.jump_if_zero_ecx(len(emit.target.layout.leave))
    out.slow_exits.append(emit.leave())
    emit.reload(RCX, 0)
    out.spilled.append((start, emit.at, {RCX: 0}))
    emit.set32(VIRTUAL_IF, IF)
    return out


def _pushf(emit: Emitter, insn: Insn, iopl: int) -> Sequence:
    """PUSHF pushes the machine's flags, whose IF is always 1 and IOPL 0; add the difference to the guest's."""
    wide = b"\x48" if insn.mode == 64 else b""
    emit.raw(b"\x9c")
    emit.spill(RCX, 0)
    emit.spill(RDX, 1)
    emit.raw(b"\x8b\x0c\x24")  # mov ecx, [rsp]: flags fit 32 bits
    emit.load32(RDX, VIRTUAL_IF)
    emit.lea32_sum(RCX, RCX, RDX, (iopl << 12) - IF)
    emit.raw(wide + b"\x89\x0c\x24")
    emit.reload(RDX, 1)
    emit.reload(RCX, 0)
    return Sequence()


def _popf(emit: Emitter, insn: Insn, user: bool, iopl: int) -> Sequence:
    """POPF at CPL 0 sets IF; above IOPL it does not. TF, NT, at CPL 3 AC, and an interrupt waiting for IF
    need the monitor.

    The flags may be clobbered once the stack was read: POPF replaces all of them.
    """
    out = Sequence()
    leave = len(emit.target.layout.leave)
    emit.spill(RCX, 0)
    start = emit.at
    wide = b"\x48" if insn.mode == 64 else b""
    # All that POPF reads, because it must not fault behind the change of the flags: mov rcx, [rsp]
    emit.raw(wide + b"\x8b\x0c\x24")
    special = TF | NT
    if user:
        special |= AC  # accesses may have to be checked from here on
    else:
        special |= IOPL  # a change of IOPL changes the mode of every following block
        emit.raw(b"\x81\xf1" + (iopl << 12).to_bytes(4, "little"))  # xor ecx, the present IOPL
    emit.raw(b"\xf7\xc1" + special.to_bytes(4, "little"))  # test ecx, special
    emit.raw(b"\x74" + bytes((leave,)))  # jz past the exit
    out.slow_exits.append(emit.leave())
    if not user:
        emit.raw(b"\x81\xe1" + IF.to_bytes(4, "little"))  # and ecx, IF
        emit.raw(b"\x74")  # jz store
        hole = emit.at
        emit.raw(b"\0")
        emit.compare32_clobbering_flags(PENDING, 0)
        emit.raw(b"\x74" + bytes((leave,)))
        out.slow_exits.append(emit.leave())
        emit.code[hole - emit.start] = emit.at - hole - 1
        emit.store32(RCX, VIRTUAL_IF)
    emit.raw(b"\x9d")
    emit.reload(RCX, 0)
    out.spilled.append((start, emit.at, {RCX: 0}))
    return out


def _change_ac(emit: Emitter, on: bool) -> Sequence:
    """STAC and CLAC, which the machine refuses outside CPL 0: by POPF, on a stack in the monitor's data."""
    out = Sequence()
    emit.spill(RSP, 0)
    start = emit.at
    emit.data_address(RSP, SCRATCH_STACK)
    emit.raw(b"\x9c")
    mask = AC if on else ~AC & 0xFFFFFFFF
    emit.raw(b"\x81" + (b"\x0c" if on else b"\x24") + b"\x24" + mask.to_bytes(4, "little"))  # or/and dword [rsp], mask
    emit.raw(b"\x9d")
    emit.reload(RSP, 0)
    out.spilled.append((start, emit.at, {RSP: 0}))
    return out


def _swapgs(emit: Emitter) -> Sequence:
    """SWAPGS, which the machine refuses outside CPL 0: IA32_KERNEL_GS_BASE is in the monitor's data."""
    for reg, slot in _BASES_SPILLS:
        emit.spill(reg, slot)
    emit.raw(b"\xf3\x48\x0f\xae\xc9")  # rdgsbase rcx
    emit.load(RDX, KERNEL_GS)
    emit.store(RCX, KERNEL_GS)
    emit.raw(b"\xf3\x48\x0f\xae\xda")  # wrgsbase rdx
    for reg, slot in _BASES_SPILLS:
        emit.reload(reg, slot)
    return Sequence()


def _write_base(emit: Emitter, insn: Insn) -> Sequence:
    """WRFSBASE and WRGSBASE, which the machine lets load any address: one that is not canonical is for the monitor."""
    out = Sequence()
    if insn.opsize == 8:
        reg = insn.modrm & 7 | (insn.rex & 1) << 3
        emit.spill(RCX, 0)
        start = emit.at
        # Bits 63 to 47 are all equal where their sum with 1 leaves only the lowest of them set, or none.
        emit.raw(bytes((0xC4, 0xE3 if reg < 8 else 0xC3, 0xFB, 0xF0, 0xC8 | reg & 7, 47)))  # rorx rcx, reg, 47
        emit.lea32(RCX, RCX, 1)
        emit.raw(b"\xc4\xe3\xfb\xf0\xc9\x01")  # rorx rcx, rcx, 1
        emit.raw(b"\x0f\xb7\xc9")  # movzx ecx, cx
        emit.jump_if_zero_ecx(len(emit.target.layout.leave))
        out.slow_exits.append(emit.leave())
        emit.reload(RCX, 0)
        out.spilled.append((start, emit.at, {RCX: 0}))
    emit.raw(insn.raw)
    return out


def lookup_possible(insn: Insn, stack32: bool) -> bool:
    """True where an indirect transfer can be looked up in the cache: natural operand and stack size."""
    if insn.mode == 64:
        return insn.opsize != 2
    if insn.mode == 16:
        return insn.opsize == 2
    if insn.opsize == 2 or insn.adsize == 2:
        return False
    return stack32 or insn.flow is Flow.INDIRECT_JUMP


def lookup(emit: Emitter) -> None:
    """Look up the target in RSI; falls through with RDX at the found entry. A miss faults at the void address."""
    wide = b"\x48" if emit.mode == 64 else b""
    if emit.target.salt:
        emit.lea32(RSI, RSI, emit.target.salt)
    emit.wide(b"\x0f\xb7\xce")  # movzx ecx, si
    emit.table_address(RDX)
    emit.wide(wide + b"\x8d\x14\xca")  # lea rdx, [rdx + rcx * 8]
    emit.wide(wide + b"\x8b\x0a", data=True)  # mov rcx, [rdx]: the negated target
    emit.wide(wide + b"\x8d\x0c\x31")  # lea rcx, [rcx + rsi]
    emit.void_address(RSI)
    emit.fault_unless_zero_rcx()


def jump_to_found(emit: Emitter) -> None:
    """JMP to the host address of the entry at RDX."""
    emit.wide(b"\xff\xa2" + (TABLE_SLOTS * 8).to_bytes(4, "little"), data=True)


def return_target(emit: Emitter, stack32: bool) -> None:
    """MOV rsi, [rsp], or in 16-bit code a word of the stack."""
    if emit.mode == 64:
        emit.raw(b"\x48\x8b\x34\x24")
    elif emit.mode == 32:
        emit.raw(b"\x8b\x34\x24")
    elif stack32:
        emit.wide(b"\x0f\xb7\x34\x24")  # movzx esi, word [esp]
    else:
        emit.wide(b"\x0f\xb7\xf4")  # movzx esi, sp
        emit.wide(b"\x36\x0f\xb7\x36")  # movzx esi, word ss:[esi]


def drop_stack(emit: Emitter, size: int, stack32: bool) -> None:
    """LEA rsp, [rsp + size], of which SP alone changes where `stack32` is False."""
    code = b"\x8d\xa4\x24" + size.to_bytes(4, "little")
    if emit.mode == 64:
        emit.raw(b"\x48" + code)
    elif stack32:
        emit.wide(code)
    else:
        emit.raw(b"\x67" + code)  # lea sp, [esp + size], in 16-bit code
