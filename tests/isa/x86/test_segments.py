"""Segment loads and their error codes, limits and types of accesses, and the mode that follows from it all."""

from __future__ import annotations

from typing import Any

import pytest

from isa.base import GuestFault
from isa.x86.segments import check_target, drop_privileged_data, linearize, load_segment, update_mode
from isa.x86.state import CR0_PE, CS, DS, ES, FS, GS, SS, Segment

DATA, CODE, LIMIT = 0xC093, 0xC09B, 0xFFFFFFFF
FREE = 0x50
GP, NP, SS_FAULT = 13, 11, 12


def load(machine: Any, seg: int, selector: int) -> tuple[int, int | None] | None:
    """The fault of a load, or None where it worked."""
    try:
        load_segment(machine.cpu, seg, selector)
    except GuestFault as fault:
        return fault.vector, fault.error
    return None


# (attributes, CPL, RPL, fault of loading DS, fault of loading SS); faults name the selector
LOADS = [
    (DATA, 0, 0, None, None),
    (0xC091, 0, 0, None, GP),  # read-only data
    (DATA, 0, 3, GP, GP),
    (DATA, 3, 3, GP, GP),  # DPL 0 from CPL 3
    (0xC0F3, 3, 3, None, None),
    (0xC0F3, 3, 0, None, GP),  # RPL 0 at CPL 3 is fine for data, not for the stack
    (0xC0F3, 0, 0, None, GP),  # the stack needs DPL = CPL
    (0xC0F3, 0, 3, None, GP),
    (CODE, 0, 0, None, GP),  # readable code
    (0xC099, 0, 0, GP, GP),  # execute-only code
    (0xC09F, 3, 3, None, GP),  # conforming readable code: no privilege check
    (0xC09B, 3, 3, GP, GP),
    (0x0089, 0, 0, GP, GP),  # a TSS
    (0x0082, 0, 0, GP, GP),  # an LDT
    (DATA & ~0x80, 0, 0, NP, SS_FAULT),
    (0xC0F3 & ~0x80, 3, 3, NP, SS_FAULT),
    (0xC0F3 & ~0x80, 0, 3, NP, GP),  # privilege is checked before presence
]


@pytest.mark.parametrize(("attr", "cpl", "rpl", "data_fault", "stack_fault"), LOADS)
@pytest.mark.parametrize("table", [0, 4], ids=["gdt", "ldt"])
def test_protected_loads(
    protected: Any, attr: int, cpl: int, rpl: int, data_fault: int | None, stack_fault: int | None, table: int
) -> None:
    selector = (FREE if not table else 8 | 4) | rpl
    if cpl == 3:
        protected.user()
    protected.descriptor(selector, 0x12345678, 0x1000, attr & ~0x8000)
    for seg, vector in ((DS, data_fault), (GS, data_fault), (SS, stack_fault)):
        before = repr(protected.cpu.segs)
        expected = None if vector is None else (vector, selector & ~3)
        assert load(protected, seg, selector) == expected
        if vector is None:
            wanted = Segment(selector, 0x12345678, 0x1000, attr & ~0x8000)
            assert protected.cpu.segs[seg] == wanted
        else:
            assert repr(protected.cpu.segs) == before


def test_granularity_and_base(protected: Any) -> None:
    protected.descriptor(FREE, 0xFEDCBA98, 0x12345FFF, 0xC092)
    assert load(protected, ES, FREE) is None
    assert protected.cpu.segs[ES] == Segment(FREE, 0xFEDCBA98, 0x12345FFF, 0xC093)


def test_load_sets_the_accessed_bit(protected: Any) -> None:
    protected.descriptor(FREE, 0, LIMIT, 0xC092)
    protected.step("8e d8".replace("d8", "c0"))  # mov es, ax (a null selector): touches nothing
    assert protected.memory.read(0x1000 + FREE + 5, 1) == 0x92
    load_segment(protected.cpu, FS, FREE)
    assert protected.memory.read(0x1000 + FREE + 5, 1) == 0x93


@pytest.mark.parametrize("selector", [0, 1, 2, 3])
def test_null_selectors(protected: Any, selector: int) -> None:
    assert load(protected, DS, selector) is None
    assert protected.cpu.segs[DS] == Segment(selector, 0, 0, 0)
    assert load(protected, SS, selector) == (GP, 0)
    with pytest.raises(GuestFault) as caught:
        protected.cpu.load(DS, 0, 1)
    assert (caught.value.vector, caught.value.error) == (GP, 0)


def test_null_stack_in_64_bit_mode(long: Any) -> None:
    assert load(long, SS, 0) is None
    assert load(long, SS, 1) == (GP, 0)
    long.user(0x28)
    assert load(long, SS, 3) == (GP, 0)
    assert load(long, SS, 0x23) is None


def test_beyond_the_tables(protected: Any) -> None:
    assert load(protected, DS, 0x80) == (GP, 0x80)
    assert load(protected, SS, 0xFFFB) == (GP, 0xFFF8)
    assert load(protected, DS, 0x44) == (GP, 0x44)  # LDT limit 0x3F
    protected.cpu.gdtr.limit = FREE + 6
    assert load(protected, DS, FREE) == (GP, FREE)
    protected.cpu.ldtr = Segment(0, 0, 0, 0)
    assert load(protected, DS, 0xC) == (GP, 0xC)


def test_real_mode_load_keeps_limits(real: Any) -> None:
    assert load(real, DS, 0x1234) is None
    assert real.cpu.segs[DS] == Segment(0x1234, 0x12340, 0xFFFF, 0x93)
    real.cpu.segs[ES] = Segment(0x10, 0, LIMIT, 0xC093)  # left over from protected mode
    load_segment(real.cpu, ES, 0x20)
    assert real.cpu.segs[ES] == Segment(0x20, 0x200, LIMIT, 0xC093)
    assert linearize(real.cpu, ES, 0x100000, 4, True) == 0x100200
    real.cpu.segs[FS] = Segment(0, 0, 0, 0)
    load_segment(real.cpu, FS, 0x20)
    assert real.cpu.segs[FS] == Segment(0x20, 0x200, 0xFFFF, 0x93)


def test_vm86_load(protected: Any) -> None:
    protected.vm86()
    assert load(protected, SS, 0x1234) is None
    assert protected.cpu.segs[SS] == Segment(0x1234, 0x12340, 0xFFFF, 0xF3)
    assert (protected.cpu.cpl, protected.cpu.mode) == (3, 16)


# -- accesses -----------------------------------------------------------------------------------------------------


def access(machine: Any, seg: int, offset: int, size: int, write: bool) -> int | tuple[int, int | None]:
    try:
        return linearize(machine.cpu, seg, offset, size, write)
    except GuestFault as fault:
        return fault.vector, fault.error


def test_real_mode_limit(real: Any) -> None:
    assert access(real, CS, 0xFFFF, 1, True) == 0x1FFFF  # CS may be written in real mode
    assert access(real, DS, 0xFFFF, 2, False) == (GP, 0)
    assert access(real, SS, 0xFFFF, 2, True) == (SS_FAULT, 0)


# (attributes, limit, offset, size, reading allowed, writing allowed)
ACCESSES = [
    (0x4093, 0xFFF, 0xFFF, 1, True, True),
    (0x4093, 0xFFF, 0xFFF, 2, False, False),
    (0x4093, 0xFFF, 0x1000, 1, False, False),
    (0x4091, 0xFFF, 0, 4, True, False),
    (0x409B, 0xFFF, 0, 4, True, False),
    (0x4099, 0xFFF, 0, 4, False, False),
    (0x4097, 0xFFF, 0xFFF, 1, False, False),  # expand-down: above the limit only
    (0x4097, 0xFFF, 0x1000, 4, True, True),
    (0x4097, 0xFFF, 0xFFFFFFFC, 4, True, True),
    (0x4097, 0xFFF, 0xFFFFFFFD, 4, False, False),
    (0x0097, 0xFFF, 0xFFFC, 4, True, True),  # a 16-bit one ends at 64 KiB
    (0x0097, 0xFFF, 0xFFFD, 4, False, False),
    (0x4095, 0xFFF, 0x1000, 4, True, False),
    (0, 0, 0, 1, False, False),
]


@pytest.mark.parametrize(("attr", "limit", "offset", "size", "readable", "writable"), ACCESSES)
def test_protected_accesses(
    protected: Any, attr: int, limit: int, offset: int, size: int, readable: bool, writable: bool
) -> None:
    for seg, vector in ((DS, GP), (SS, SS_FAULT)):
        protected.cpu.segs[seg] = Segment(FREE, 0x100, limit, attr)
        for write, allowed in ((False, readable), (True, writable)):
            expected = 0x100 + offset & 0xFFFFFFFF if allowed else (vector, 0)
            assert access(protected, seg, offset, size, write) == expected


def test_64_bit_addresses(long: Any) -> None:
    cpu = long.cpu
    cpu.segs[DS] = Segment(0, 0x5000, 0, 0)  # neither base, limit nor type count
    cpu.segs[GS] = Segment(0, 0xFFFF_8000_0000_0000, 0, 0)
    assert access(long, DS, 0x1234, 8, True) == 0x1234
    assert access(long, GS, 0x10, 8, True) == 0xFFFF_8000_0000_0010
    assert access(long, GS, (1 << 64) - 0x10, 8, True) == (GP, 0)
    assert access(long, DS, 0x7FFF_FFFF_FFFF, 1, True) == 0x7FFF_FFFF_FFFF
    assert access(long, DS, 0x7FFF_FFFF_FFFF, 2, True) == (GP, 0)
    assert access(long, SS, 0x8000_0000_0000, 8, False) == (SS_FAULT, 0)
    assert access(long, DS, (1 << 64) - 4, 8, False) == (1 << 64) - 4  # wraps to 0, which is canonical


# -- mode ---------------------------------------------------------------------------------------------------------


def test_mode_follows_cs(long: Any) -> None:
    cpu = long.cpu
    assert cpu.mode == 64
    for attr, mode in ((0xC09B, 32), (0x809B, 16), (0xA09B, 64)):
        cpu.segs[CS] = Segment(8, 0, LIMIT, attr)
        update_mode(cpu)
        assert cpu.mode == mode
    cpu.efer = 0
    update_mode(cpu)
    assert cpu.mode == 16  # outside IA-32e mode the L bit means nothing


def test_setting_pe_does_not_take_cpl_from_a_real_mode_selector(real: Any) -> None:
    real.cpu.segs[CS] = Segment(0xF003, 0xF0030, 0xFFFF, 0x9B)
    real.cpu.segs[SS] = Segment(0x1003, 0x10030, 0xFFFF, 0x93)
    real.cpu.cr0 |= CR0_PE
    update_mode(real.cpu)
    assert (real.cpu.mode, real.cpu.cpl) == (16, 0)


def test_check_target(long: Any) -> None:
    wide, narrow = Segment(8, 0, 0, 0xA09B), Segment(8, 0, 0xFFF, 0x409B)
    assert check_target(long.cpu, wide, 0xFFFF_8000_0000_0000) == 0xFFFF_8000_0000_0000
    assert check_target(long.cpu, narrow, 0x1_0000_0FFF) == 0xFFF
    for segment, rip in ((wide, 1 << 47), (narrow, 0x1000)):
        with pytest.raises(GuestFault) as caught:
            check_target(long.cpu, segment, rip)
        assert (caught.value.vector, caught.value.error) == (GP, 0)


def test_drop_privileged_data(long: Any) -> None:
    cpu = long.cpu
    cpu.segs[DS] = Segment(0x10, 0, LIMIT, 0xC093)
    cpu.segs[ES] = Segment(0x23, 0, LIMIT, 0xC0F3)
    cpu.segs[FS] = Segment(0x50, 0, LIMIT, 0xC09F)  # conforming code
    cpu.segs[GS] = Segment(0, 0x1234, 0, 0)  # null, with a base from an MSR
    drop_privileged_data(cpu, 3)
    assert cpu.segs[DS] == Segment(0, 0, 0, 0)
    assert cpu.segs[ES].selector == 0x23
    assert cpu.segs[FS].selector == 0x50
    assert cpu.segs[GS].base == 0x1234
