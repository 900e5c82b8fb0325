"""Finds in what an engine's outcome of a case differs from the real CPU's."""

from __future__ import annotations

import struct
from typing import Final

from isa.x86.decode import Decoder, Insn
from isa.x86.state import AC, ARITH, DF, ID, NT, REG_NAMES, TF
from isa.x86.undefined import undefined_flags
from tests.differential.harness import Case, Outcome

_SEEN: Final = ARITH | DF | AC | NT | ID | TF  # RF is set in what a fault stores, IF and IOPL never change here
_DECODERS: Final = {bits: Decoder(bits) for bits in (16, 32, 64)}
# An FXSAVE image (SDM vol. 1, table 10-2): control, status, tags, MXCSR; eight of 80 bits; sixteen of 128 bits.
_FX: Final = struct.Struct("<HHB19xI")
_ST_AT, _XMM_AT = 32, 160

Differences = dict[str, tuple[int, int]]  # field -> (the real CPU's value, the engine's)


def decode(case: Case) -> Insn:
    """The case's instruction, HLT behind it."""
    insn = _DECODERS[case.mode.bits].decode(case.code.ljust(15, b"\xf4"))
    assert insn is not None
    return insn


def differences(case: Case, insn: Insn, real: Outcome, found: Outcome) -> Differences:
    """Every field that differs, but for what the manual leaves undefined; empty where the engine was right."""
    out: Differences = {}
    for name, right, mine in (
        ("vector", real.vector, found.vector),
        ("error", _number(real.error), _number(found.error)),
        ("cr2", _number(real.cr2), _number(found.cr2)),
        ("rip", real.rip, found.rip),
    ):
        if right != mine:
            out[name] = (right, mine)
    if real.regs != found.regs:
        for number, (right, mine) in enumerate(zip(real.regs, found.regs, strict=True)):
            if right != mine:
                out[REG_NAMES[number]] = (right, mine)
    faulted = real.rip == case.rip and real.vector == found.vector  # flags stay as they were
    mask = _SEEN if faulted else _SEEN & ~undefined_flags(insn, case.regs[1])
    if (real.flags ^ found.flags) & mask:
        out["flags"] = (real.flags & mask, found.flags & mask)
    if real.data != found.data:
        at = next(n for n in range(len(real.data)) if real.data[n] != found.data[n])
        last = max(n for n in range(len(real.data)) if real.data[n] != found.data[n])
        end = min(last + 1, at + 64)
        out[f"data+{at:#x}"] = (
            int.from_bytes(real.data[at:end][::-1], "little"), int.from_bytes(found.data[at:end][::-1], "little"),
        )  # fmt: skip
    if case.vector:
        _vector(out, real.fx, found.fx)
    return out


def _number(value: int | None) -> int:
    return -1 if value is None else value


def _vector(out: Differences, right: bytes, mine: bytes) -> None:
    if right[:6] != mine[:6] or right[24:28] != mine[24:28]:
        for name, a, b in zip(
            ("fcw", "fsw", "ftw", "mxcsr"), _FX.unpack_from(right), _FX.unpack_from(mine), strict=True
        ):
            if a != b:
                out[name] = (a, b)
    if right[_ST_AT:416] == mine[_ST_AT:416]:
        return
    for name, start, number, size in (("st", _ST_AT, 8, 10), ("xmm", _XMM_AT, 16, 16)):
        for n in range(number):
            at = start + 16 * n
            if right[at : at + size] != mine[at : at + size]:
                out[f"{name}{n}"] = (
                    int.from_bytes(right[at : at + size], "little"), int.from_bytes(mine[at : at + size], "little"),
                )  # fmt: skip
