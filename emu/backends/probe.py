"""Measures where a saved Unicorn context keeps what the backend must read and write, instead of trusting a version.

Each offset is found by putting known values in and looking for them; a field that cannot be found raises
`ProbeError`, so that a future Unicorn with another layout is refused by name and never misread.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from emu.errors import VemuError


class ProbeError(VemuError):
    """This Unicorn keeps its registers in a way the backend does not understand."""

    exit_code = 70


@dataclass(frozen=True, slots=True)
class ContextLayout:
    """Byte offsets in a saved context: general registers, pc, CR3, mode flags, segments, fault details, x87 and SSE."""

    regs: int
    rip: int
    root: int
    mode: int  # start of the slice that holds mode flags and segment caches
    mode_end: int
    segments: tuple[int, ...]  # ES, CS, SS, DS, FS, GS; the base is 8 bytes further on
    error: int
    old_exception: int
    control: int  # x87 control and status word, MXCSR
    status: int
    mxcsr: int
    x87_noted: int  # exceptions of x87 and SSE instructions that are not in these registers yet
    sse_noted: int


def find_words(context: bytes, values: Sequence[int], what: str) -> int:
    """Offset of consecutive 64-bit `values`, which must occur exactly once."""
    needle = struct.pack(f"<{len(values)}Q", *values)
    at = context.find(needle)
    if at < 0 or context.find(needle, at + 1) >= 0:
        raise ProbeError(f"cannot locate {what} in Unicorn's saved context of {len(context)} bytes")
    return at


def find_series(
    contexts: Sequence[bytes], values: Sequence[int], width: int, start: int, what: str, step: int = 4
) -> int:
    """Offset where context i holds values[i] (`width` bytes, little-endian), for all i; the first from `start` on.

    Offsets are multiples of `step`, as far as `start` is one.
    """
    encoded = [(value & (1 << 8 * width) - 1).to_bytes(width, "little") for value in values]
    for at in range(start, len(contexts[0]) - width + 1, step):
        if all(c[at : at + width] == e for c, e in zip(contexts, encoded, strict=True)):
            return at
    raise ProbeError(f"cannot locate {what} in Unicorn's saved context of {len(contexts[0])} bytes")
