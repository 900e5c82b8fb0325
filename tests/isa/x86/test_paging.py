"""Page walks: error codes, rights and A/D bits over a table of entries, in all three formats."""

from __future__ import annotations

from typing import Any

import pytest

from isa.base import Access, GuestFault
from isa.x86.paging import Mapping, check_pdptes, probe, translate
from isa.x86.state import (
    AC,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
)

TABLES, LINEAR, FRAME = 0x100000, 0x0040_3123, 0x5000
P, W, U, A, D, PS, G, NX = 1, 2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63
FORMATS = ("32", "pae", "4-level")
READ, WRITE, EXECUTE = Access.READ, Access.WRITE, Access.EXECUTE


class Tables:
    """The walk of LINEAR in one format: `entries` are the addresses of its entries, top first; all rights granted."""

    def __init__(self, machine: Any, form: str) -> None:
        self.cpu, self.memory = machine.cpu, machine.memory
        cpu = self.cpu
        self.width = 4 if form == "32" else 8
        cpu.cr0, cpu.cr3 = CR0_PE | CR0_PG | CR0_WP, TABLES
        if form == "32":
            cpu.cr4 = CR4_PSE
            shifts = [(22, 0x3FF), (12, 0x3FF)]
        elif form == "pae":
            cpu.cr4, cpu.efer = CR4_PAE, EFER_NXE
            shifts = [(30, 3), (21, 0x1FF), (12, 0x1FF)]
        else:
            cpu.cr4, cpu.efer = CR4_PAE, EFER_NXE | EFER_LME | EFER_LMA
            shifts = [(39, 0x1FF), (30, 0x1FF), (21, 0x1FF), (12, 0x1FF)]
        self.entries = []
        for level, (shift, mask) in enumerate(shifts):
            at = TABLES + 0x1000 * level + (LINEAR >> shift & mask) * self.width
            leaf = level == len(shifts) - 1
            rights = P if form == "pae" and level == 0 else P | W | U
            self.memory.write(at, self.width, (FRAME if leaf else TABLES + 0x1000 * (level + 1)) | rights)
            self.entries.append(at)
        self.first = 1 if form == "pae" else 0  # the first level with rights and an A bit

    def get(self, level: int) -> int:
        return int(self.memory.read(self.entries[level], self.width))

    def set(self, level: int, value: int) -> None:
        self.memory.write(self.entries[level], self.width, value)

    def change(self, level: int, clear: int = 0, add: int = 0) -> None:
        self.set(level, self.get(level) & ~clear | add)

    def fault(self, access: Access, user: bool, linear: int = LINEAR) -> int | None:
        """Error code of an access, or None; a fault may set A of entries that name tables, and nothing else."""
        before = bytearray(self.memory.bytes)
        try:
            translate(self.cpu, linear, access, user)
        except GuestFault as fault:
            caught = fault
        else:
            return None
        assert (caught.vector, caught.cr2) == (14, linear)
        for level in range(self.first, len(self.entries) - 1):
            if before[self.entries[level]] & (P | PS) == P:
                before[self.entries[level]] |= self.get(level) & A
        assert bytes(self.memory.bytes) == before
        return caught.error


@pytest.fixture(params=FORMATS)
def tables(request: pytest.FixtureRequest, protected: Any) -> Tables:
    return Tables(protected, request.param)


def test_no_paging_is_identity(protected: Any) -> None:
    mapping = translate(protected.cpu, 0x1_2345_6789, WRITE, True)
    assert mapping == Mapping(0x2345_6789, True, True, True, 0x1000, False, True)
    assert probe(protected.cpu, 0x1234) == Mapping(0x1234, True, True, True, 0x1000, False, True)


def test_mapping_of_a_plain_page(tables: Tables) -> None:
    assert translate(tables.cpu, LINEAR, READ, False) == (0x5123, True, True, True, 0x1000, False, False)
    assert translate(tables.cpu, LINEAR, WRITE, True) == (0x5123, True, True, True, 0x1000, False, True)


def test_accessed_and_dirty_bits(tables: Tables) -> None:
    levels = range(tables.first, len(tables.entries))
    before = [tables.get(level) for level in range(len(tables.entries))]
    translate(tables.cpu, LINEAR, READ, True)
    assert [tables.get(level) for level in levels] == [before[level] | A for level in levels]
    translate(tables.cpu, LINEAR, WRITE, True)
    leaf = len(tables.entries) - 1
    assert [tables.get(level) for level in levels] == [before[n] | A | (D if n == leaf else 0) for n in levels]
    if tables.first:
        assert tables.get(0) == before[0]  # PDPTEs of PAE paging have no A bit


def test_a_walk_that_ends_in_a_fault_has_used_what_is_above(tables: Tables) -> None:
    leaf = len(tables.entries) - 1
    for end in range(leaf, tables.first - 1, -1):
        tables.change(end, clear=P)
        for level in range(tables.first, leaf):
            tables.change(level, clear=A)
        assert tables.fault(READ, False) == 0
        assert [bool(tables.get(level) & A) for level in range(tables.first, leaf + 1)] == [
            level < end for level in range(tables.first, leaf + 1)
        ]
        tables.change(end, add=P)
    tables.change(leaf, clear=W)
    assert tables.fault(WRITE, False) == 3
    assert all(bool(tables.get(level) & A) == (level < leaf) for level in range(tables.first, leaf + 1))


def test_probe_has_no_side_effects(tables: Tables) -> None:
    before = bytes(tables.memory.bytes)
    mapping = probe(tables.cpu, LINEAR)
    assert mapping is not None
    assert (mapping.gpa, mapping.dirty) == (0x5123, False)
    tables.change(-1, clear=P)
    assert probe(tables.cpu, LINEAR) is None
    tables.change(-1, add=P)
    assert bytes(tables.memory.bytes) == before


# (cleared in one level, access, user, WP, error code or None where allowed)
RIGHTS = [
    (P, READ, False, True, 0), (P, WRITE, False, True, 2), (P, READ, True, True, 4), (P, WRITE, True, True, 6),
    (P, EXECUTE, False, True, 0x10), (P, EXECUTE, True, True, 0x14),
    (W, READ, False, True, None), (W, READ, True, True, None), (W, WRITE, False, True, 3), (W, WRITE, True, True, 7),
    (W, WRITE, False, False, None), (W, WRITE, True, False, 7), (W, EXECUTE, True, True, None),
    (U, READ, False, True, None), (U, WRITE, False, True, None), (U, READ, True, True, 5), (U, WRITE, True, True, 7),
    (U, EXECUTE, True, True, 0x15), (U, EXECUTE, False, True, None), (W | U, WRITE, False, False, None),
    (W | U, WRITE, True, False, 7), (0, WRITE, True, True, None), (0, EXECUTE, True, True, None),
]  # fmt: skip


@pytest.mark.parametrize(("clear", "access", "user", "wp", "error"), RIGHTS)
def test_rights_of_every_level(
    tables: Tables, clear: int, access: Access, user: bool, wp: bool, error: int | None
) -> None:
    if not wp:
        tables.cpu.cr0 &= ~CR0_WP
    narrow = tables.width == 4
    if narrow and error is not None:
        error &= ~0x10  # 32-bit paging has neither NX nor, here, SMEP: no I bit
    for level in range(len(tables.entries)):
        if level < tables.first and clear != P:
            continue
        tables.change(level, clear=clear)
        assert tables.fault(access, user) == error, f"level {level}"
        tables.change(level, add=clear)


@pytest.mark.parametrize("form", ["pae", "4-level"])
def test_no_execute(protected: Any, form: str) -> None:
    tables = Tables(protected, form)
    for level in range(tables.first, len(tables.entries)):
        tables.change(level, add=NX)
        assert tables.fault(EXECUTE, True) == 0x15
        assert tables.fault(EXECUTE, False) == 0x11
        assert tables.fault(WRITE, True) is None
        assert not translate(tables.cpu, LINEAR, READ, False).executable
        tables.cpu.efer &= ~EFER_NXE  # then the bit is reserved, and the I bit of the error code gone
        assert tables.fault(READ, True) == 0xD
        assert tables.fault(EXECUTE, True) == 0xD
        tables.cpu.efer |= EFER_NXE
        tables.change(level, clear=NX)


@pytest.mark.parametrize("form", ["pae", "4-level"])
def test_reserved_address_bits(protected: Any, form: str) -> None:
    tables = Tables(protected, form)
    for level in range(len(tables.entries)):
        tables.change(level, add=1 << 45)
        assert tables.fault(READ, False) == 9
        assert tables.fault(WRITE, True) == 0xF
        tables.change(level, clear=1 << 45)
    tables.change(-1, add=1 << 55)
    assert tables.fault(READ, False) == (9 if form == "pae" else None)


def test_reserved_bits_of_an_absent_entry_do_not_matter(protected: Any) -> None:
    tables = Tables(protected, "4-level")
    tables.change(2, clear=P, add=1 << 45)
    assert tables.fault(READ, False) == 0


def test_page_size_bit_in_pml4e_is_reserved(protected: Any) -> None:
    tables = Tables(protected, "4-level")
    tables.change(0, add=PS)
    assert tables.fault(READ, False) == 9


LARGE = [
    ("32", 0, 0x0080_0000, 0x400000, 0x2000),
    ("pae", 1, 0x0060_0000, 0x200000, 0x2000),
    ("4-level", 2, 0x0060_0000, 0x200000, 0x2000),
    ("4-level", 1, 0x4000_0000, 0x40000000, 0x2000),
]


@pytest.mark.parametrize(("form", "level", "frame", "size", "reserved"), LARGE)
def test_large_pages(protected: Any, form: str, level: int, frame: int, size: int, reserved: int) -> None:
    tables = Tables(protected, form)
    tables.cpu.cr4 |= CR4_PGE
    tables.set(level, frame | P | W | U | PS | G | 0x1000)  # bit 12 is PAT
    mapping = translate(tables.cpu, LINEAR, WRITE, True)
    assert mapping == Mapping(frame + LINEAR % size, True, True, True, size, True, True)
    assert tables.get(level) & (A | D) == A | D
    tables.change(level, add=reserved)
    assert tables.fault(READ, True) == 0xD


def test_pse_off_makes_a_page_directory_entry_plain(protected: Any) -> None:
    tables = Tables(protected, "32")
    tables.cpu.cr4 = 0
    tables.change(0, add=PS)
    assert translate(tables.cpu, LINEAR, READ, False).gpa == 0x5123


def test_global_needs_pge(tables: Tables) -> None:
    tables.change(-1, add=G)
    assert not translate(tables.cpu, LINEAR, READ, False).global_
    tables.cpu.cr4 |= CR4_PGE
    assert translate(tables.cpu, LINEAR, READ, False).global_


def test_smep(tables: Tables) -> None:
    tables.cpu.cr4 |= CR4_SMEP
    assert tables.fault(EXECUTE, False) == 0x11
    assert tables.fault(EXECUTE, True) is None
    assert tables.fault(READ, False) is None
    tables.change(-1, clear=U)
    assert tables.fault(EXECUTE, False) is None


def test_smap(tables: Tables) -> None:
    cpu = tables.cpu
    cpu.cr4 |= CR4_SMAP
    assert tables.fault(READ, False) == 1
    assert tables.fault(WRITE, False) == 3
    assert tables.fault(READ, True) is None
    assert tables.fault(EXECUTE, False) is None
    cpu.rflags |= AC
    assert tables.fault(WRITE, False) is None
    cpu.cpl = 3  # an access to a system table from user mode: AC does not excuse it
    assert tables.fault(READ, False) == 1


def test_legacy_paging_ignores_the_upper_half_of_linear_addresses(protected: Any) -> None:
    tables = Tables(protected, "32")
    assert translate(tables.cpu, LINEAR | 7 << 32, READ, False).gpa == 0x5123


def test_check_pdptes(protected: Any) -> None:
    tables = Tables(protected, "pae")
    check_pdptes(tables.cpu, TABLES)
    tables.change(0, add=W)
    with pytest.raises(GuestFault) as caught:
        check_pdptes(tables.cpu, TABLES)
    assert (caught.value.vector, caught.value.error) == (13, 0)
    tables.change(0, clear=P)
    check_pdptes(tables.cpu, TABLES)
