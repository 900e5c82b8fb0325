"""Where code and data of a case lie and which segments it sees: the same on the real CPU and in the guests.

CODE  +-----------------------+
      | slots of 512 bytes    |  read, execute; HLT everywhere but in the slot of the case
      +-----------------------+
DATA  +-----------------------+
      | 2 pages, the case's   |  read, write
      +-----------------------+
FIXED | 1 page, always equal  |  read
      +-----------------------+  nothing
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from isa.x86.state import CS, DS, ES, FS, GS, SS, Segment

CODE: Final = 0x1000_0000
CODE_SIZE: Final = 4 << 20
SLOT: Final = 512
IN_SLOT: Final = 256  # where a slot's code starts: short jumps stay within the slot
DATA: Final = 0x2000_0000
DATA_SIZE: Final = 0x2000
FIXED: Final = DATA + DATA_SIZE
FIXED_SIZE: Final = 0x1000
FIXED_BYTES: Final = random.Random(7).randbytes(FIXED_SIZE)
END: Final = FIXED + FIXED_SIZE
FS_BASE: Final = DATA + 0x240
GS_BASE: Final = DATA + 0x1120

_M16: Final = 0xFFFF
_M32: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class LdtEntry:
    """A segment of the LDT that both sides have: `attr` as in `Segment`, `limit` in bytes."""

    base: int
    limit: int
    attr: int


# 16-bit code, and data segments through which 16-bit offsets reach the data; then 32-bit segments with tight limits.
LDT: Final = (
    LdtEntry(CODE, _M16, 0x00FB),
    LdtEntry(DATA - 0x4000, _M16, 0x00F3),
    LdtEntry(DATA - 0x8000, _M16, 0x00F3),
    LdtEntry(DATA - 0x2000, _M16, 0x00F3),
    LdtEntry(DATA - 0x1000, 0x1000 + DATA_SIZE - 0x100 - 1, 0x40F3),
    LdtEntry(DATA - 0x123, _M16, 0x40F1),  # read-only
    LdtEntry(DATA - 0x10000, 0x10FFF, 0x40F7),  # expand-down: offsets above 10FFFh, the data's second page
)


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to run a case: the mode's width in bits, and the selectors of CS, SS, DS and ES."""

    name: str
    bits: int
    cs: int
    ss: int
    ds: int
    es: int

    def segment(self, number: int) -> Segment:
        """What the segment register holds; FS and GS are null with a base, which only 64-bit mode uses."""
        selector = {CS: self.cs, SS: self.ss, DS: self.ds, ES: self.es}.get(number, 0)
        if selector == 0:
            return Segment(0, {FS: FS_BASE, GS: GS_BASE}[number], 0, 0)
        if selector & 4:
            entry = LDT[selector >> 3]
            return Segment(selector, entry.base, entry.limit, entry.attr)
        return Segment(selector, 0, _M32, {0x33: 0xA0FB, 0x23: 0xC0FB, 0x2B: 0xC0F3}[selector])

    def base(self, number: int) -> int:
        """The base an access through the segment register adds."""
        if self.bits == 64:
            return {FS: FS_BASE, GS: GS_BASE}.get(number, 0)
        return self.segment(number).base

    @property
    def stack_bits(self) -> int:
        """The width of the stack pointer."""
        return 64 if self.bits == 64 else 32 if self.segment(SS).attr & 0x4000 else 16

    @property
    def slots(self) -> int:
        """How many code slots the mode can reach."""
        return (0x10000 if self.bits == 16 else CODE_SIZE) // SLOT

    @property
    def mask(self) -> int:
        """Which bits of a register the mode defines: no upper halves outside 64-bit mode (SDM vol. 1, 3.4.1.1)."""
        return (1 << 64) - 1 if self.bits == 64 else _M32


def _ldt(entry: int) -> int:
    return entry << 3 | 7


# The flat selectors are those that Linux gives every 64-bit process.
MODES: Final[dict[str, Mode]] = {
    mode.name: mode
    for mode in (
        Mode("64", 64, 0x33, 0x2B, 0x2B, 0x2B),
        Mode("32", 32, 0x23, 0x2B, 0x2B, 0x2B),
        Mode("32-limits", 32, 0x23, _ldt(4), _ldt(4), _ldt(4)),
        Mode("32-types", 32, 0x23, 0x2B, _ldt(5), _ldt(6)),
        Mode("16", 16, _ldt(0), _ldt(3), _ldt(1), _ldt(2)),
    )
}
FLAT: Final = ("64", "32")  # what can be run without an LDT
