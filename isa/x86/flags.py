"""Arithmetic flags: how the lazy fields of `Cpu` are read, set and tested.

The integer families leave the last result and its carries in `cpu.fz`, `fr`, `fc` and `fs` (see `Cpu`); most flags are
overwritten before anybody reads them, so they are worked out only when asked for. For a sum or difference of two
numbers below 2**fs, a ^ b ^ (a + b) and a ^ b ^ (a - b), taken before truncation, are the carries or borrows into each
bit, whatever the carry in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from isa.x86.state import AF, ARITH, CF, OF, PF, SF, ZF

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

_PARITY = tuple(0 if bin(byte).count("1") & 1 else PF for byte in range(256))


def szp(result: int, size: int) -> int:
    """SF, ZF and PF of a result of `size` bytes (already truncated), as RFLAGS bits."""
    bits = _PARITY[result & 0xFF] | (result >> size * 8 - 1 & 1) << 7
    return bits if result else bits | ZF


def set_arith(cpu: Cpu, bits: int, mask: int = ARITH) -> None:
    """Set the arithmetic flags in `mask` to those of `bits` (RFLAGS layout) and leave the others as they are."""
    if mask & ARITH != ARITH:
        bits = cpu.rflags & ~mask | bits & mask
    carry = bits & CF
    cpu.fz = ~bits & ZF
    cpu.fr = (bits & SF) << 24 | (0 if bits & PF else 1)
    cpu.fc = carry << 32 | (carry ^ (bits & OF) >> 11) << 31 | bits & AF
    cpu.fs = 32


def get_arith(cpu: Cpu) -> int:
    """CF, PF, AF, ZF, SF and OF as RFLAGS bits."""
    return cpu.rflags & ARITH


def get_cf(cpu: Cpu) -> int:
    """CF as 0 or 1."""
    return cpu.fc >> cpu.fs & 1


def set_cf(cpu: Cpu, carry: int) -> None:
    """Set CF to 0 or 1, keeping OF: both bits that OF compares change together."""
    if cpu.fc >> cpu.fs & 1 != carry:
        cpu.fc ^= 3 << cpu.fs - 1


def _of(cpu: Cpu) -> bool:
    top = cpu.fc >> cpu.fs - 1
    return bool((top ^ top >> 1) & 1)


def _no(cpu: Cpu) -> bool:
    top = cpu.fc >> cpu.fs - 1
    return not (top ^ top >> 1) & 1


def _cf(cpu: Cpu) -> bool:
    return bool(cpu.fc >> cpu.fs & 1)


def _nc(cpu: Cpu) -> bool:
    return not cpu.fc >> cpu.fs & 1


def _zf(cpu: Cpu) -> bool:
    return not cpu.fz


def _nz(cpu: Cpu) -> bool:
    return bool(cpu.fz)


def _be(cpu: Cpu) -> bool:
    return not cpu.fz or bool(cpu.fc >> cpu.fs & 1)


def _above(cpu: Cpu) -> bool:
    return bool(cpu.fz) and not cpu.fc >> cpu.fs & 1


def _sf(cpu: Cpu) -> bool:
    return bool(cpu.fr >> cpu.fs - 1 & 1)


def _ns(cpu: Cpu) -> bool:
    return not cpu.fr >> cpu.fs - 1 & 1


def _pf(cpu: Cpu) -> bool:
    return _PARITY[cpu.fr & 0xFF] != 0


def _np(cpu: Cpu) -> bool:
    return _PARITY[cpu.fr & 0xFF] == 0


def _less(cpu: Cpu) -> bool:
    sign = cpu.fs - 1
    top = cpu.fc >> sign
    return bool((top ^ top >> 1 ^ cpu.fr >> sign) & 1)


def _ge(cpu: Cpu) -> bool:
    sign = cpu.fs - 1
    top = cpu.fc >> sign
    return not (top ^ top >> 1 ^ cpu.fr >> sign) & 1


def _le(cpu: Cpu) -> bool:
    return not cpu.fz or _less(cpu)


def _greater(cpu: Cpu) -> bool:
    return bool(cpu.fz) and _ge(cpu)


_CONDITIONS = (_of, _no, _cf, _nc, _zf, _nz, _be, _above, _sf, _ns, _pf, _np, _less, _ge, _le, _greater)


def condition(code: int) -> Callable[[Cpu], bool]:
    """The test of condition code 0..15 (SDM vol. 2, appendix B, table B-10)."""
    return _CONDITIONS[code]
