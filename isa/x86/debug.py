"""Debug registers: which breakpoints DR7 enables, what meets them, and the debug exception (SDM vol. 3, chapter 17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from isa.base import GuestFault
from isa.x86.state import CR4_DE, DB, RF

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

# DR6 (SDM vol. 3, 17.2.3). Breakpoint n has bit n.
DR6_HITS, DR6_BD, DR6_BS, DR6_BT = 0xF, 1 << 13, 1 << 14, 1 << 15
# DR7 (SDM vol. 3, 17.2.4): L0 G0 ... L3 G3, then the type and length of each breakpoint from bit 16 on.
DR7_ENABLES, DR7_GD = 0xFF, 1 << 13
DR7_LOCAL: Final = 0x155  # L0 to L3 and LE, which a task switch clears
_EXECUTE, _WRITE, _PORT, _ACCESS = range(4)
_LENGTHS: Final = (1, 2, 8, 4)


class Watch(NamedTuple):
    """A data or I/O breakpoint: its DR6 bit, the addresses it covers, and whether reads do not meet it."""

    bit: int
    first: int
    last: int
    writes_only: bool


def _watches(dr: list[int], kinds: tuple[int, ...]) -> tuple[Watch, ...]:
    """The enabled breakpoints of these types; the low bits of an address count as the length allows (17.2.5)."""
    found = []
    for n in range(4):
        kind = dr[7] >> 16 + n * 4 & 3
        if dr[7] >> n * 2 & 3 and kind in kinds:
            length = _LENGTHS[dr[7] >> 18 + n * 4 & 3]
            first = dr[n] & -length
            found.append(Watch(1 << n, first, first + length - 1, kind == _WRITE))
    return tuple(found)


def data_watches(dr: list[int]) -> tuple[Watch, ...]:
    """The enabled data breakpoints; their addresses are linear."""
    return _watches(dr, (_WRITE, _ACCESS))


def instruction_hits(cpu: Cpu, linear: int) -> int:
    """DR6 bits of the enabled instruction breakpoints at `linear`."""
    dr, hits = cpu.dr, 0
    for n in range(4):
        if dr[7] >> n * 2 & 3 and dr[7] >> 16 + n * 4 & 3 == _EXECUTE and dr[n] == linear:
            hits |= 1 << n
    return hits


def port_accessed(cpu: Cpu, port: int, size: int) -> None:
    """An instruction accessed `size` ports: remember the I/O breakpoints it met, which exist only with CR4.DE."""
    if cpu.cr4 & CR4_DE:
        for watch in _watches(cpu.dr, (_PORT,)):
            if port <= watch.last and watch.first < port + size:
                cpu.debug_pending |= watch.bit


def exception(cpu: Cpu, behind: bool) -> GuestFault:
    """The #DB for what `cpu.debug_pending` holds, which moves to DR6; BD, BS and BT there are left to software."""
    cpu.dr[6] = cpu.dr[6] & ~DR6_HITS | cpu.debug_pending
    cpu.debug_pending = 0
    return GuestFault(DB, behind=behind)


def between_iterations(cpu: Cpu) -> GuestFault:
    """The same between two iterations of a repeated string instruction, with RIP still on it.

    RF is set in the image that is pushed, so that an instruction breakpoint does not hit again (17.3.1.1).
    """
    cpu.system_flags |= RF
    return exception(cpu, False)
