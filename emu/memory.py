"""Guest-physical memory: sparse RAM with the PC's holes, read-only ranges and write traces; the rest goes to MMIO.

              GPA 0 +--------------------+ offset 0
                    | RAM                |
            A_0000  +--------------------+
                    | MMIO (VGA graphics)|   the bytes behind it in `ram` stay unused
            B_8000  +--------------------+
                    | RAM (VGA text)     |   plain memory, so that printing costs no exits
            C_0000  +--------------------+
                    | RAM (ROM area)     |   `protect` makes the BIOS part of it read-only
           10_0000  +--------------------+
                    | RAM                |
min(size, C000_0000)+--------------------+
                    | MMIO (PCI, APICs)  |
  1_0000_0000 - rom +--------------------+ offset size
                    | firmware, read-only|
        1_0000_0000 +--------------------+ offset C000_0000
                    | RAM above 3 GiB    |
                    +--------------------+ offset size
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from emu.bus import ALL_ONES, Bus
from emu.errors import UsageError

PAGE: Final = 0x1000
MIB: Final = 1 << 20
MAX_SIZE: Final = 256 << 30  # stays below the 512 GiB that one PML4 entry, and so a backend's direct map, spans
LOW_TOP: Final = 0xC000_0000  # RAM below 4 GiB ends here at the latest: PCI windows, I/O APIC and local APIC follow
HIGH_BASE: Final = 0x1_0000_0000
VGA_HOLE: Final = 0xA0000
VGA_TEXT: Final = 0xB8000
EBDA: Final = 0x9FC00
BIOS_TABLES: Final = 0xE0000  # ACPI tables, and the BIOS from F0000h on

E820_USABLE: Final = 1  # ACPI 6.4, 15.1, table 15-4
E820_RESERVED: Final = 2

# Linux value; the mmap module names it from Python 3.13 on.
_MAP_NORESERVE: Final[int] = getattr(mmap, "MAP_NORESERVE", 0x4000)
_SCALARS: Final = {2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}


@dataclass(frozen=True, slots=True)
class RamRegion:
    """A run of RAM: guest-physical address, offset in `GuestMemory.ram`, length in bytes (all multiples of 4 KiB)."""

    gpa: int
    offset: int
    length: int


class GuestMemory:
    """The physical memory of one guest (`isa.base.PhysicalMemory`); the host pages it in on demand.

    `on_watched_write(gpa, size)` is called after a write through this object changed bytes of a watched page;
    every function in `on_watch_change` is called with (page number, watched) when the answer of `watched` changes,
    so that software TLBs and shadow page tables can drop or regain the write permission they hold.
    """

    def __init__(self, size: int, mmio: Bus, rom: int = 0) -> None:
        """`size` is in bytes, a multiple of 1 MiB from 1 MiB to 256 GiB; anything else raises UsageError.

        `rom` bytes (a multiple of 4 KiB) below 4 GiB hold firmware.
        """
        if size < MIB or size > MAX_SIZE or size % MIB:
            raise UsageError(f"guest memory of {size} bytes: it must be a whole number of MiB from 1 MiB to 256 GiB")
        try:
            self._map = mmap.mmap(-1, size + rom, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        except (OSError, ValueError, OverflowError) as error:
            raise UsageError(f"guest memory of {size} bytes: the host gives no such mapping ({error})") from error
        self.size = size
        self.mmio = mmio
        self.ram = memoryview(self._map)
        self.low_top = min(size, LOW_TOP)
        self.high_top = HIGH_BASE + size - self.low_top  # HIGH_BASE itself where all RAM is below the hole
        self.on_watched_write: Callable[[int, int], None] | None = None
        self.on_watch_change: list[Callable[[int, bool], None]] = []
        self._watched: dict[int, int] = {}  # page -> bits of the owners of its traces
        self._read_only: set[int] = set()
        self._guarded: set[int] = set()  # the union of the two
        self._rom_base = HIGH_BASE - rom
        if rom:
            self.protect(self._rom_base, rom)

    def close(self) -> None:
        """Give the memory back to the host; views of `ram` still held elsewhere keep it alive until they go."""
        try:
            self.ram.release()
            self._map.close()
        except BufferError:
            pass  # a backend still maps it; its view is the last owner then

    # -- where RAM is -------------------------------------------------------------------------------------------

    def ram_offset(self, gpa: int) -> int:
        """Offset in `ram` of the 4 KiB page that holds `gpa`, or -1 where there is no RAM (MMIO or nothing)."""
        page = gpa & ~0xFFF
        if page < self.low_top:
            return -1 if VGA_HOLE <= page < VGA_TEXT else page
        if HIGH_BASE <= page < self.high_top:
            return page - HIGH_BASE + self.low_top
        if self._rom_base <= page < HIGH_BASE:
            return page - self._rom_base + self.size
        return -1

    def regions(self) -> list[RamRegion]:
        """All RAM, and the firmware's memory."""
        regions = [RamRegion(0, 0, VGA_HOLE), RamRegion(VGA_TEXT, VGA_TEXT, self.low_top - VGA_TEXT)]
        if self.high_top > HIGH_BASE:
            regions.append(RamRegion(HIGH_BASE, self.low_top, self.high_top - HIGH_BASE))
        if self._rom_base < HIGH_BASE:
            regions.append(RamRegion(self._rom_base, self.size, HIGH_BASE - self._rom_base))
        return regions

    def e820(self) -> list[tuple[int, int, int]]:
        """The memory map a PC's firmware reports: (start, length, type) rows, type as in ACPI's table 15-4."""
        rows = [
            (0, EBDA, E820_USABLE),
            (EBDA, VGA_HOLE - EBDA, E820_RESERVED),
            (BIOS_TABLES, MIB - BIOS_TABLES, E820_RESERVED),
        ]
        if self.low_top > MIB:
            rows.append((MIB, self.low_top - MIB, E820_USABLE))
        if self.high_top > HIGH_BASE:
            rows.append((HIGH_BASE, self.high_top - HIGH_BASE, E820_USABLE))
        return rows

    # -- the guest's accesses -----------------------------------------------------------------------------------

    def read(self, gpa: int, size: int) -> int:
        """Read 1..8 bytes, little-endian, from RAM or through MMIO; nothing there reads as all ones."""
        within = gpa & 0xFFF
        if within + size <= PAGE:
            page = self.ram_offset(gpa)
            if page >= 0:
                if size == 1:
                    return self.ram[page + within]
                scalar = _SCALARS.get(size)
                if scalar is not None:
                    value: int = scalar.unpack_from(self.ram, page + within)[0]
                    return value
                return int.from_bytes(self.ram[page + within : page + within + size], "little")
            if size in ALL_ONES:
                return self.mmio.read(gpa, size)
        value, done = 0, 0
        for start, length in _pieces(gpa, size):
            value |= self.read(start, length) << done
            done += length * 8
        return value

    def write(self, gpa: int, size: int, value: int) -> None:
        """Write 1..8 bytes, little-endian, to RAM or through MMIO; read-only memory and nothing drop it."""
        value &= (1 << size * 8) - 1
        within = gpa & 0xFFF
        if within + size > PAGE:
            for start, length in _pieces(gpa, size):
                self.write(start, length, value)
                value >>= length * 8
            return
        page = self.ram_offset(gpa)
        if page < 0:
            if size in ALL_ONES:
                self.mmio.write(gpa, size, value)
            else:
                for start, length in _pieces(gpa, size):
                    self.mmio.write(start, length, value)
                    value >>= length * 8
            return
        number = gpa >> 12
        if number in self._read_only:
            return
        self.ram[page + within : page + within + size] = value.to_bytes(size, "little")
        if number in self._watched and self.on_watched_write is not None:
            self.on_watched_write(gpa, size)

    # -- loaders and devices ------------------------------------------------------------------------------------

    def holds(self, gpa: int, length: int) -> bool:
        """True where all of [gpa, gpa+length) is RAM."""
        return gpa >= 0 and length >= 0 and self._end_of_run(gpa) >= gpa + length

    def read_bytes(self, gpa: int, length: int) -> bytes:
        """The bytes of [gpa, gpa+length); ValueError where not all of it is RAM."""
        at = self._offset(gpa, length, "read")
        return bytes(self.ram[at : at + length])

    def write_bytes(self, gpa: int, data: bytes | bytearray | memoryview, force: bool = False) -> None:
        """Store `data` at `gpa`; read-only pages keep their bytes unless `force`. ValueError outside RAM."""
        at = self._offset(gpa, len(data), "write")
        if force or not self._read_only:
            self.ram[at : at + len(data)] = data
            self._report(gpa, len(data))
            return
        for start, length in _page_pieces(gpa, len(data)):
            if start >> 12 not in self._read_only:
                done = start - gpa
                self.ram[at + done : at + done + length] = data[done : done + length]
                self._report(start, length)

    def fill(self, gpa: int, length: int, value: int = 0) -> None:
        """Set every byte of [gpa, gpa+length) that is not read-only to `value`; ValueError outside RAM."""
        self._offset(gpa, length, "write")
        for start in range(gpa, gpa + length, MIB):
            self.write_bytes(start, bytes((value,)) * min(MIB, gpa + length - start))

    # -- read-only ranges and write traces ----------------------------------------------------------------------

    def protect(self, start: int, length: int) -> None:
        """Make [start, start+length) read-only for the guest; both must be multiples of 4 KiB (ValueError)."""
        if start % PAGE or length % PAGE or start < 0:
            raise ValueError(f"protect({start:#x}, {length:#x}): not whole 4 KiB pages")
        for page in range(start >> 12, (start + length) >> 12):
            self._read_only.add(page)
            self._guard(page)

    def unprotect(self, start: int, length: int) -> None:
        """Make [start, start+length) writable again; both must be multiples of 4 KiB."""
        for page in range(start >> 12, (start + length) >> 12):
            self._read_only.discard(page)
            self._release(page)

    def watch(self, page: int, owner: int = 1) -> None:
        """Trace writes to page number `page` (GPA >> 12), for the owner whose bit is `owner`; twice is once."""
        self._watched[page] = self._watched.get(page, 0) | owner
        self._guard(page)

    def unwatch(self, page: int, owner: int = 1) -> None:
        """End an owner's trace of `page`; without one, nothing happens."""
        left = self._watched.pop(page, 0) & ~owner
        if left:
            self._watched[page] = left
        else:
            self._release(page)

    def watched(self, gpa: int) -> bool:
        """True where writes to the page of `gpa` must go through `write` (a trace, or read-only memory)."""
        return gpa >> 12 in self._guarded

    def guarded(self) -> list[int]:
        """The numbers of all pages for which `watched` is true."""
        return list(self._guarded)

    def write_protected(self, gpa: int) -> bool:
        """True where a guest's write to `gpa` is dropped."""
        return gpa >> 12 in self._read_only

    def _release(self, page: int) -> None:
        """Drop the guard of a page that is neither watched nor read-only any more."""
        if page in self._guarded and page not in self._read_only and page not in self._watched:
            self._guarded.remove(page)
            for callback in self.on_watch_change:
                callback(page, False)

    # -- inner parts --------------------------------------------------------------------------------------------

    def _guard(self, page: int) -> None:
        if page not in self._guarded:
            self._guarded.add(page)
            for callback in self.on_watch_change:
                callback(page, True)

    def _report(self, gpa: int, length: int) -> None:
        if not self._watched or self.on_watched_write is None:
            return
        for start, size in _page_pieces(gpa, length):
            if start >> 12 in self._watched:
                self.on_watched_write(start, size)

    def _end_of_run(self, gpa: int) -> int:
        """First address at or after `gpa` that is not RAM."""
        for region in self.regions():
            if region.gpa <= gpa < region.gpa + region.length:
                return region.gpa + region.length
        return gpa

    def _offset(self, gpa: int, length: int, verb: str) -> int:
        if not self.holds(gpa, length):
            raise ValueError(f"{verb} of {length} bytes at guest-physical {gpa:#x}: not all of it is RAM")
        return self.ram_offset(gpa) + (gpa & 0xFFF)


def _page_pieces(gpa: int, length: int) -> Iterator[tuple[int, int]]:
    """Cut [gpa, gpa+length) at page boundaries."""
    end = gpa + length
    while gpa < end:
        piece = min(end, (gpa | 0xFFF) + 1) - gpa
        yield gpa, piece
        gpa += piece


def _pieces(gpa: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut an access at page boundaries, and each part into the 1, 2, 4 or 8 bytes a bus takes."""
    for start, length in _page_pieces(gpa, size):
        while length:
            piece = 1 << (length.bit_length() - 1)
            yield start, piece
            start, length = start + piece, length - piece
