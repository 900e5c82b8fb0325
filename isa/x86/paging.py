"""Translates linear to guest-physical addresses by walking the guest's page tables (SDM vol. 3, chapter 4).

Without a TLB of its own: whoever caches a result forgets it at `Cpu.flush_tlb`. The PDPTE registers of PAE paging are
not modelled: the four entries are read from memory at every walk, and checked where MOV to CR loads them. The A20
gate belongs to the board, not to paging.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from isa.base import Access, GuestFault
from isa.x86.state import (
    AC,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    GP,
    PAGE_FAULT,
)

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

PHYSICAL_BITS: Final = 40  # MAXPHYADDR, as CPUID leaf 80000008h tells the guest

# Bits of page-table entries (SDM vol. 3, tables 4-5 to 4-19).
PTE_P, PTE_W, PTE_U, PTE_A, PTE_D, PTE_PS, PTE_G = 1 << 0, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7, 1 << 8
PTE_NX: Final = 1 << 63
# Bits of the page-fault error code (SDM vol. 3, 4.7).
ERROR_P, ERROR_W, ERROR_U, ERROR_RSVD, ERROR_I = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4

_M32: Final = 0xFFFF_FFFF
_ADDRESS: Final = (1 << PHYSICAL_BITS) - 0x1000
_BEYOND: Final = (1 << 52) - (1 << PHYSICAL_BITS)  # address bits this CPU does not have: reserved
_PAE_BEYOND: Final = (1 << 63) - (1 << PHYSICAL_BITS)  # PAE paging reserves bits 62-52 too
_PDPTE_RESERVED: Final = _PAE_BEYOND | PTE_NX | 0x1E6
_LONG_LEVELS: Final = (39, 30, 21, 12)
_PAE_LEVELS: Final = (21, 12)
_QWORD: Final = struct.Struct("<Q").unpack_from


Path = list[tuple[int, int]]


class Mapping(NamedTuple):
    """One translation: `gpa` is the guest-physical address of the linear address itself.

    `writable`, `user` and `executable` are the rights of the whole walk, whatever CR0.WP, CR4.SMEP and CR4.SMAP make of
    them; `size` is that of the page in bytes (4 KiB, 2 MiB, 4 MiB or 1 GiB); `global_` counts CR4.PGE; `dirty` is the
    D bit after the access, so a cache that maps a clean page must keep it read-only.
    """

    gpa: int
    writable: bool
    user: bool
    executable: bool
    size: int
    global_: bool
    dirty: bool


# A complete walk: (address, entry) of every level with an A bit, the last being the leaf; bytes of one entry; binary
# logarithm of the page size; the bits that all levels have (PTE_W, PTE_U, PTE_A) and those that any has (PTE_NX).
_Walk = tuple[Path, int, int, int, int]


def translate(cpu: Cpu, linear: int, access: Access, user: bool) -> Mapping:
    """Translate `linear` for one access, setting A and D bits; raises #PF with its error code and CR2.

    `user` is True for a user-mode access (CPL 3, and not one the CPU makes to a system table). A bits of entries that
    name tables are set as they are used, also where the walk ends in a fault (SDM vol. 3, 4.8); A of the leaf only when
    the access is allowed, D only by a write.
    """
    if not cpu.cr0 & CR0_PG:
        return _identity(cpu, linear)
    if not cpu.efer & EFER_LMA:
        linear &= _M32
    path: Path = []
    walk = _walk(cpu, linear, path)
    if isinstance(walk, int):
        error = walk
    elif _allowed(cpu, walk, access, user):
        write = access is Access.WRITE
        if not walk[3] & PTE_A or (write and not path[-1][1] & PTE_D):
            _mark(cpu, walk, write)
        return _mapping(cpu, walk, linear)
    else:
        error = ERROR_P
        path.pop()
    for at, entry in path:
        if not entry & PTE_A:
            cpu.memory.write(at, 8 if cpu.long_mode or cpu.cr4 & CR4_PAE else 4, entry | PTE_A)
    if access is Access.WRITE:
        error |= ERROR_W
    if user:
        error |= ERROR_U
    if access is Access.EXECUTE and (cpu.cr4 & CR4_SMEP or (cpu.cr4 & CR4_PAE and cpu.efer & EFER_NXE)):
        error |= ERROR_I
    raise GuestFault(PAGE_FAULT, error, linear)


def probe(cpu: Cpu, linear: int) -> Mapping | None:
    """Translate `linear` without side effects or permission checks, for debuggers and tools; None: not mapped."""
    if not cpu.paging:
        return _identity(cpu, linear)
    if not cpu.long_mode:
        linear &= _M32
    walk = _walk(cpu, linear, [])
    return None if isinstance(walk, int) else _mapping(cpu, walk, linear)


def fetched_before(cpu: Cpu, linear: int, user: bool) -> bool:
    """True where fetching an instruction from `linear` neither faults nor sets an A bit."""
    if not cpu.paging:
        return True
    walk = _walk(cpu, linear if cpu.long_mode else linear & _M32, [])
    if isinstance(walk, int) or not _allowed(cpu, walk, Access.EXECUTE, user):
        return False
    return bool(walk[3] & PTE_A)


def reserved_bits(cpu: Cpu) -> int:
    """The bits that an 8-byte entry for a 4 KiB page must not have set (SDM vol. 3, 4.4.2 and 4.5.4)."""
    beyond = _BEYOND if cpu.long_mode else _PAE_BEYOND
    return beyond if cpu.efer & EFER_NXE else beyond | PTE_NX


def check_pdptes(cpu: Cpu, cr3: int) -> None:
    """Raise #GP(0) where loading the PDPTE registers from `cr3` would (SDM vol. 3, 4.4.1)."""
    for n in range(4):
        entry = cpu.memory.read((cr3 & 0xFFFF_FFE0) + n * 8, 8)
        if entry & PTE_P and entry & _PDPTE_RESERVED:
            raise GuestFault(GP, 0, note=f"PDPTE {n} has reserved bits set")


def _identity(cpu: Cpu, linear: int) -> Mapping:
    return Mapping(linear & _M32 & cpu.address_mask, True, True, True, 0x1000, False, True)


def _walk(cpu: Cpu, linear: int, path: Path) -> _Walk | int:
    """Follow the tables, noting the entries in `path`; an int is the P and RSVD part of the error code of a walk that
    does not complete, and whose last entry is not in `path`.
    """
    if cpu.efer & EFER_LMA:
        return _walk_wide(cpu, linear, cpu.cr3 & _ADDRESS, _LONG_LEVELS, _BEYOND, path)
    if cpu.cr4 & CR4_PAE:
        pdpte = cpu.memory.read((cpu.cr3 & 0xFFFF_FFE0) + (linear >> 30) * 8, 8)
        if not pdpte & PTE_P:
            return 0
        if pdpte & _PDPTE_RESERVED:
            return ERROR_P | ERROR_RSVD
        return _walk_wide(cpu, linear, pdpte & _ADDRESS, _PAE_LEVELS, _PAE_BEYOND, path)
    return _walk_narrow(cpu, linear, path)


def _walk_wide(cpu: Cpu, linear: int, table: int, levels: tuple[int, ...], beyond: int, path: Path) -> _Walk | int:
    """8-byte entries: PAE and 4-level paging; `levels` are the shifts of the linear address."""
    ram, ram_offset = cpu.ram, cpu.memory.ram_offset
    reserved = beyond if cpu.efer & EFER_NXE else beyond | PTE_NX
    all_bits, any_bits = -1, 0
    shift = 12
    for shift in levels:
        index = (linear >> shift & 0x1FF) * 8
        at, offset = table + index, ram_offset(table)
        entry = _QWORD(ram, offset + index)[0] if offset >= 0 else cpu.memory.read(at, 8)
        if not entry & PTE_P:
            return 0
        if entry & reserved:
            return ERROR_P | ERROR_RSVD
        larger = shift != 12 and entry & PTE_PS
        # PML4 entries have no PS bit; of a large page's address, the bits below its size (but PAT) are reserved.
        if larger and (shift == 39 or entry & ((1 << shift) - 0x2000)):
            return ERROR_P | ERROR_RSVD
        path.append((at, entry))
        all_bits &= entry
        any_bits |= entry
        if larger:
            break
        table = entry & _ADDRESS
    return path, 8, shift, all_bits, any_bits


def _walk_narrow(cpu: Cpu, linear: int, path: Path) -> _Walk | int:
    """4-byte entries: 32-bit paging, with 4 MiB pages where CR4.PSE allows them (without PSE-36)."""
    read = cpu.memory.read
    at = (cpu.cr3 & 0xFFFF_F000) + (linear >> 22) * 4
    pde = read(at, 4)
    if not pde & PTE_P:
        return 0
    if pde & PTE_PS and cpu.cr4 & CR4_PSE:
        if pde & 0x3F_E000:
            return ERROR_P | ERROR_RSVD
        path.append((at, pde))
        return path, 4, 22, pde, 0
    path.append((at, pde))
    leaf = (pde & 0xFFFF_F000) + (linear >> 12 & 0x3FF) * 4
    pte = read(leaf, 4)
    if not pte & PTE_P:
        return 0
    path.append((leaf, pte))
    return path, 4, 12, pde & pte, 0


def _allowed(cpu: Cpu, walk: _Walk, access: Access, user: bool) -> bool:
    """Access rights (SDM vol. 3, 4.6)."""
    _, _, _, rights, any_bits = walk
    if user and not rights & PTE_U:
        return False
    if access is Access.EXECUTE:
        if any_bits & PTE_NX:
            return False
        return user or not rights & PTE_U or not cpu.cr4 & CR4_SMEP
    if not user and rights & PTE_U and cpu.cr4 & CR4_SMAP and (cpu.cpl == 3 or not cpu.system_flags & AC):
        return False  # at CPL 3 it is an implicit supervisor access, which EFLAGS.AC does not excuse
    if access is Access.WRITE and not rights & PTE_W:
        return not user and not cpu.cr0 & CR0_WP
    return True


def _mark(cpu: Cpu, walk: _Walk, write: bool) -> None:
    """Set A on every level and, for a write, D in the leaf; entries that have them are not written."""
    path, width, _, _, _ = walk
    last = len(path) - 1
    for n, (at, entry) in enumerate(path):
        marked = entry | PTE_A | (PTE_D if write and n == last else 0)
        if marked != entry:
            cpu.memory.write(at, width, marked)
            path[n] = (at, marked)


def _mapping(cpu: Cpu, walk: _Walk, linear: int) -> Mapping:
    path, width, shift, all_bits, any_bits = walk
    leaf, size = path[-1][1], 1 << shift
    base = leaf & (_ADDRESS if width == 8 else 0xFFFF_F000) & -size
    return Mapping(
        (base | linear & size - 1) & cpu.address_mask,
        bool(all_bits & PTE_W),
        bool(all_bits & PTE_U),
        not any_bits & PTE_NX,
        size,
        bool(leaf & PTE_G and cpu.cr4 & CR4_PGE),
        bool(leaf & PTE_D),
    )
