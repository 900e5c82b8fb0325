"""Makes a failing case small: fewer prefixes, and zeros where registers and memory do not matter.

Cases are drawn by a seeded generator and executed in batches by another process, so Hypothesis, which shrinks what it
has drawn itself and one example at a time, has nothing to hold on to; the operands of one instruction need no more than
this.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator

from isa.x86.state import IF
from tests.differential.compare import decode
from tests.differential.harness import Case

Fails = Callable[[Case], bool]
_QUIET = struct.pack("<H22xI484x", 0x37F, 0x1F80)
_SMALLEST = 16


def shrink(case: Case, fails: Fails) -> Case:
    """The smallest case found that still `fails`; `case` itself must."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(case):
            if fails(smaller):
                case, changed = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    at = decode(case).opcode_at
    for n in range(at):
        yield dataclasses.replace(case, code=case.code[:n] + case.code[n + 1 :])
    if case.vector:
        yield dataclasses.replace(case, vector=False, fx=_QUIET)
        if case.fx != _QUIET:
            yield dataclasses.replace(case, fx=_QUIET)
        for start, length in _pieces(case.fx, 16):
            yield dataclasses.replace(case, fx=case.fx[:start] + bytes(length) + case.fx[start + length :])
    if case.flags != IF | 2:
        yield dataclasses.replace(case, flags=IF | 2)
        for bit in range(22):
            if case.flags & ~(IF | 2) & 1 << bit:
                yield dataclasses.replace(case, flags=case.flags & ~(1 << bit))
    for start, length in _pieces(case.data, _SMALLEST):
        yield dataclasses.replace(case, data=case.data[:start] + bytes(length) + case.data[start + length :])
    for number, value in enumerate(case.regs):
        for simple in (0, 1, value & 0xFF, value & 0xFFFF, value & 0xFFFF_FFFF):
            if simple < value:
                yield dataclasses.replace(case, regs=[*case.regs[:number], simple, *case.regs[number + 1 :]])


def _pieces(content: bytes, smallest: int) -> Iterator[tuple[int, int]]:
    """Runs that are not all zero, from everything down to small ones; not those of which a half is zero already."""
    length = len(content)
    while length >= smallest:
        for start in range(0, len(content), length):
            piece = content[start : start + length]
            half = length // 2
            whole = any(piece[:half]) and any(piece[half:])
            if whole or (length == smallest and any(piece)):
                yield start, length
        length //= 2
