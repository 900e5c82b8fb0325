"""Keeps the monitor's window for 16- and 32-bit code at linear addresses that the guest does not use.

Without paging these are the addresses of no RAM. With paging the guest's tables say what is in use; the tables on the
way to the window are watched, so that the window moves away before the guest reaches what it maps there. In 64-bit
mode there is no such window until the guest runs code of a smaller size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from emu.memory import GuestMemory
from isa.x86.cpu import Cpu
from isa.x86.paging import PHYSICAL_BITS, PTE_P, PTE_PS
from isa.x86.state import CR4_PAE

HOME: Final = 0xD000_0000  # between the RAM below the hole at 3 GiB and the devices below 4 GiB
TABLE: Final = 2  # owner of write traces on page tables (`GuestMemory.watch`)
_STEP: Final = 0x1000_0000
# Where to go else: what programs and kernels use least comes first.
_PLACES: Final = (HOME, *range(0x6000_0000, 0x1_0000_0000, _STEP), *range(0x5000_0000, 0, -_STEP))
_FRAME: Final = (1 << PHYSICAL_BITS) - 0x1000


class LowWindow:
    """Where the window of `size` bytes is; `base` is None while there is none."""

    def __init__(self, cpu: Cpu, memory: GuestMemory, size: int) -> None:
        self._cpu, self._memory, self._size = cpu, memory, size
        self.base: int | None = HOME
        self.wanted = False  # code of 16 or 32 bits runs in 64-bit mode
        self.touched = False  # a table on the way to the window was written to
        self._tables: set[int] = set()  # pages of tables with a write trace
        self._present: set[int] = set()  # those on the way to the window at the last look

    def place(self) -> bool:
        """See whether the guest uses the window's addresses; True where `base` is another one now."""
        self.touched = False
        cpu, before = self._cpu, self.base
        if not cpu.paging:
            self.base = HOME
        elif cpu.long_mode and not self.wanted:
            self.base = None
        elif self.base is None or self._in_use(self.base):
            self.base = next((place for place in _PLACES if not self._in_use(place)), HOME)
        self._trace()
        return self.base != before

    def written(self, page: int) -> None:
        """The guest wrote to a page with a trace."""
        if page in self._present:
            self.touched = True
        elif page in self._tables:  # of another address space, which is looked at when the guest enters it
            self._tables.discard(page)
            self._memory.unwatch(page, TABLE)

    def _trace(self) -> None:
        self._present = set()
        if self._cpu.paging and self.base is not None:
            self._present = {at >> 12 for at, _, _ in self._entries(self.base) if self._memory.ram_offset(at) >= 0}
        for page in self._present - self._tables:
            self._memory.watch(page, TABLE)
        self._tables |= self._present

    def _in_use(self, base: int) -> bool:
        """True where the guest maps a page table, or a larger page, within the window."""
        return any(entry & PTE_P and maps for _, entry, maps in self._entries(base))

    def _entries(self, base: int) -> Iterator[tuple[int, int, bool]]:
        """The guest's entries on the way to the window, down to page directories.

        Their guest-physical address, content, and whether what they name lies in the window alone.
        """
        cpu, read = self._cpu, self._memory.read
        end = base + self._size
        if not cpu.long_mode and not cpu.cr4 & CR4_PAE:
            for slot in range(base >> 22, (end - 1 >> 22) + 1):
                at = (cpu.cr3 & 0xFFFF_F000) + slot * 4
                yield at, read(at, 4), True
            return
        tables = cpu.cr3 & 0xFFFF_FFE0
        if cpu.long_mode:
            at = cpu.cr3 & _FRAME
            entry = read(at, 8)
            yield at, entry, False
            if not entry & PTE_P:
                return
            tables = entry & _FRAME
        at = tables + (base >> 30) * 8
        entry = read(at, 8)
        larger = cpu.long_mode and bool(entry & PTE_PS)
        yield at, entry, larger
        if not entry & PTE_P or larger:
            return
        for slot in range(base >> 21 & 511, (end - 1 >> 21 & 511) + 1):
            at = (entry & _FRAME) + slot * 8
            yield at, read(at, 8), True
