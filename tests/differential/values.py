"""Random contents of registers and memory, in which the interesting values are frequent."""

from __future__ import annotations

import random
import struct
from typing import Final

M64: Final = (1 << 64) - 1
_EDGES: Final = (
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0000,
    1 << 63, (1 << 63) - 1, M64, M64 - 1, 0x0F0F_0F0F_0F0F_0F0F, 0x8080_8080_8080_8080,
)  # fmt: skip


def _floats(fraction: int, exponent: int) -> tuple[int, ...]:
    """Encodings of zeros, ones, denormals, extremes, infinities and NaNs of a format of that many bits."""
    bias, top = (1 << exponent - 1) - 1, (1 << exponent) - 1
    half = 1 << fraction - 1
    fields = (
        (0, 0), (0, 1), (0, half), (0, 2 * half - 1), (1, 0), (bias, 0), (bias, half), (bias - 1, 0), (bias + 1, half),
        (bias, 1), (bias + fraction, 0), (bias + 15, 3), (bias + 30, 2 * half - 1), (bias + 31, 0), (bias + 63, 0),
        (top - 1, 2 * half - 1), (top, 0), (top, half), (top, half | 5), (top, 1), (top, 2 * half - 1),
        (bias - fraction, 7), (bias + 2, 0x1234 % half),
    )  # fmt: skip
    return tuple(sign << fraction + exponent | e << fraction | f for e, f in fields for sign in (0, 1))


F32: Final = _floats(23, 8)
F64: Final = _floats(52, 11)
_INTEGER_BIT: Final = 1 << 63
# The 80-bit format shows its integer bit: the last rows are pseudo-denormals, unnormals, pseudo-NaNs and -infinities,
# which processors since the 80387 refuse (SDM vol. 1, 8.2.2).
F80: Final = (
    *(
        sign << 79 | e << 64 | f
        for e, f in (
            (0, 0), (0, 1), (0, _INTEGER_BIT - 1), (1, _INTEGER_BIT), (0x3FFF, _INTEGER_BIT),
            (0x3FFF, _INTEGER_BIT | 1 << 62), (0x3FFE, _INTEGER_BIT), (0x4000, 0xC90F_DAA2_2168_C235),
            (0x3FFF, 0xFFFF_FFFF_FFFF_FFFF), (0x401E, 0xFFFF_FFFF_0000_0001), (0x403E, _INTEGER_BIT | 1),
            (0x400D, 0xFFFE_0000_0000_0000), (0x400E, _INTEGER_BIT), (0x7FFE, M64), (0x7FFF, _INTEGER_BIT),
            (0x7FFF, 3 << 62), (0x7FFF, 3 << 62 | 9), (0x7FFF, _INTEGER_BIT | 1), (0x3FC0, _INTEGER_BIT | 3),
            (0, _INTEGER_BIT), (0x3FFF, 1 << 62), (0x7FFF, 1), (0x7FFF, 0),
        )
        for sign in (0, 1)
    ),
)  # fmt: skip
_POOL: Final = random.Random(5).randbytes(1 << 16)
_TEXT: Final = b"abcabd\0xyz ABC\0\0"


def word(rng: random.Random) -> int:
    """A value for a general register."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(_EDGES)
    if kind < 0.5:
        return rng.getrandbits(8)
    if kind < 0.6:
        return rng.getrandbits(rng.randrange(1, 65))
    return rng.getrandbits(64)


def block(rng: random.Random, size: int) -> bytes:
    """Memory contents: random bytes, sometimes the same few over and over, for the comparing string instructions."""
    if rng.random() < 0.15:
        pattern = rng.choice((b"\0", b"\xff", b"ab", b"\0\0\0\1"))
        return (pattern * (size // len(pattern) + 1))[:size]
    at = rng.randrange(len(_POOL) - size)
    return _POOL[at : at + size]


def vector(rng: random.Random, kind: str) -> bytes:
    """16 bytes for a vector register or memory operand of that kind."""
    if rng.random() < 0.2:
        return rng.randbytes(16)
    if kind == "f32":
        return struct.pack("<4I", *(_single(rng) for _ in range(4)))
    if kind == "f64":
        return struct.pack("<2Q", *(_double(rng) for _ in range(2)))
    if kind == "x87":
        return extended(rng) + rng.randbytes(6)
    if kind == "text":
        at = rng.randrange(16)
        return (_TEXT[at:] + _TEXT)[:16]
    return struct.pack("<2Q", word(rng), word(rng))


def _single(rng: random.Random) -> int:
    return rng.choice(F32) if rng.random() < 0.6 else rng.getrandbits(1) << 31 | 0x3F000000 + rng.getrandbits(25)


def _double(rng: random.Random) -> int:
    return rng.choice(F64) if rng.random() < 0.6 else rng.getrandbits(1) << 63 | 0x3FE0 << 48 | rng.getrandbits(53)


def extended(rng: random.Random) -> bytes:
    """An 80-bit number."""
    if rng.random() < 0.5:
        return rng.choice(F80).to_bytes(10, "little")
    exponent = rng.choice((0x3FFF, 0x3FFD, 0x4001, 0x4007, 0x401D, 0x403D)) + rng.randrange(3)
    return struct.pack("<QH", _INTEGER_BIT | rng.getrandbits(63), rng.getrandbits(1) << 15 | exponent)


def image(rng: random.Random, kind: str) -> bytes:
    """An FXSAVE image (SDM vol. 1, table 10-2) whose registers suit instructions of that kind."""
    control = 0x37F
    if rng.random() < 0.4:
        control = 0x40 | rng.choice((0, 2, 3)) << 8 | rng.getrandbits(2) << 10 | 0x3F
        if rng.random() < 0.25:
            control &= ~rng.getrandbits(6)
    status = (rng.getrandbits(3) << 11 | rng.getrandbits(4) % 8 << 8) if rng.random() < 0.6 else 0
    if rng.random() < 0.15:
        status |= rng.getrandbits(7)
        if status & 0x3F & ~control:
            status |= 0x8080  # ES and B summarize the unmasked exceptions
    tags = 0xFF if rng.random() < 0.6 else rng.getrandbits(8)
    mxcsr = 0x1F80
    if rng.random() < 0.5:
        mxcsr = 0x1F80 | rng.getrandbits(2) << 13 | (rng.getrandbits(6) if rng.random() < 0.2 else 0)
        if rng.random() < 0.3:
            mxcsr |= rng.choice((0x40, 0x8000, 0x8040))  # DAZ, FTZ
        if rng.random() < 0.2:
            mxcsr &= ~(rng.getrandbits(6) << 7)
    x87 = kind == "x87" or (kind == "mmx" and rng.random() < 0.3)
    stack = b"".join((extended(rng) if x87 else vector(rng, kind)[:8] + b"\xff\xff") + bytes(6) for _ in range(8))
    xmm = b"".join(vector(rng, kind) for _ in range(16))
    return struct.pack("<HHBxHQQII", control, status, tags, 0, 0, 0, mxcsr, 0xFFFF) + stack + xmm + bytes(96)
