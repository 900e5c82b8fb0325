"""Process-context identifiers: CR4.PCIDE, CR3 with it, and INVPCID."""

from __future__ import annotations

from typing import Any

import pytest

from isa.base import Flow
from isa.x86.decode import Decoder
from isa.x86.segments import update_mode
from isa.x86.state import CR0_ET, CR0_PE, CR4_PAE, CR4_PCIDE, CS, EFER_LME, RAX, RBX, RCX, Segment

GP = 13
CODE64_3 = 0x28
TO_CR0, TO_CR3, TO_CR4 = "0f 22 c0", "0f 22 d8", "0f 22 e0"
INVPCID = "66 0f 38 82 0b"  # type in RCX, descriptor at [RBX]
DESCRIPTOR = 0x6000


def write(machine: Any, text: str, value: int) -> None:
    machine.cpu.regs[RAX] = value
    machine.step(text)


def refused(machine: Any, text: str, value: int) -> tuple[int, int | None]:
    machine.cpu.regs[RAX] = value
    return machine.fault(text)  # type: ignore[no-any-return]  # the machine is a fixture without a type


@pytest.fixture
def pcid(long: Any) -> Any:
    """64-bit mode with CR4.PCIDE, and nothing flushed since."""
    write(long, TO_CR4, CR4_PAE | CR4_PCIDE)
    long.outside.flushes.clear()
    return long


def invalidate(machine: Any, kind: int, pcid: int, linear: int) -> None:
    """Prepare INVPCID's operands."""
    machine.memory.write(DESCRIPTOR, 8, pcid)
    machine.memory.write(DESCRIPTOR + 8, 8, linear)
    machine.cpu.regs[RBX], machine.cpu.regs[RCX] = DESCRIPTOR, kind


# -- CR4.PCIDE and CR3 ----------------------------------------------------------------------------------------------


def test_pcide_needs_ia32e_mode(protected: Any, long: Any) -> None:
    assert refused(protected, TO_CR4, CR4_PCIDE) == (GP, 0)
    assert refused(protected, TO_CR4, CR4_PAE | CR4_PCIDE) == (GP, 0)
    write(long, TO_CR4, CR4_PAE | CR4_PCIDE)
    assert long.cpu.cr4 == CR4_PAE | CR4_PCIDE


def test_pcide_needs_pcid_0(long: Any) -> None:
    cr3 = long.cpu.cr3
    for low in (0x001, 0x018, 0x800):  # with PCIDE clear, bits 3 and 4 are PWT and PCD and the rest is ignored
        long.cpu.cr3 = cr3 | low
        assert refused(long, TO_CR4, CR4_PAE | CR4_PCIDE) == (GP, 0)
    long.cpu.cr3 = cr3
    write(long, TO_CR4, CR4_PAE | CR4_PCIDE)
    long.cpu.cr3 = cr3 | 5
    write(long, TO_CR4, CR4_PAE | CR4_PCIDE)  # only setting it is checked


def test_clearing_pcide_drops_all_translations(pcid: Any) -> None:
    write(pcid, TO_CR4, CR4_PAE | CR4_PCIDE)
    assert pcid.outside.flushes == []
    write(pcid, TO_CR4, CR4_PAE)
    assert pcid.outside.flushes == [None]


def test_paging_stays_on_with_pcide(pcid: Any) -> None:
    cpu = pcid.cpu
    cpu.segs[CS] = Segment(8, 0, 0xFFFFFFFF, 0xC09B)  # compatibility mode, which may clear PG else
    update_mode(cpu)
    assert refused(pcid, TO_CR0, CR0_PE | CR0_ET) == (GP, 0)
    write(pcid, TO_CR4, CR4_PAE)
    write(pcid, TO_CR0, CR0_PE | CR0_ET)
    assert cpu.efer == EFER_LME


def test_cr3_holds_the_pcid_and_not_bit_63(pcid: Any, long: Any) -> None:
    cr3 = pcid.cpu.cr3
    write(pcid, TO_CR3, cr3 | 0x123)
    assert pcid.cpu.cr3 == cr3 | 0x123
    write(pcid, TO_CR3, 1 << 63 | cr3 | 0xFFF)
    assert pcid.cpu.cr3 == cr3 | 0xFFF
    pcid.cpu.flush_tlb(None)
    assert pcid.cpu.load(3, DESCRIPTOR, 4) == 0  # the PCID is no part of the address of the tables
    assert refused(pcid, TO_CR3, 1 << 62 | cr3) == (GP, 0)


def test_bit_63_is_reserved_without_pcide(long: Any) -> None:
    assert refused(long, TO_CR3, 1 << 63 | long.cpu.cr3) == (GP, 0)


# -- INVPCID --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "named", "flushed"),
    [(0, 0, 0x1234), (0, 7, None), (1, 0, None), (1, 7, None), (2, 0, None), (3, 0, None), (2, 0xFFF, None)],
)
def test_what_invpcid_drops(pcid: Any, kind: int, named: int, flushed: int | None) -> None:
    invalidate(pcid, kind, named, 0x1234)
    before = pcid.cpu.flushes
    pcid.step(INVPCID)
    assert pcid.outside.flushes == [flushed]
    assert pcid.cpu.flushes == before + 1


def test_invpcid_knows_the_current_pcid(pcid: Any) -> None:
    write(pcid, TO_CR3, pcid.cpu.cr3 | 7)
    pcid.outside.flushes.clear()
    invalidate(pcid, 0, 7, 0x1234)
    pcid.step(INVPCID)
    invalidate(pcid, 0, 0, 0x1234)
    pcid.step(INVPCID)
    assert pcid.outside.flushes == [0x1234, None]


def test_a_dropped_translation_is_read_anew(pcid: Any) -> None:
    pcid.map_4k(0x20_0000, 0x5007)
    pcid.memory.write(0x5000, 4, 0x1111)
    pcid.memory.write(DESCRIPTOR, 4, 0x2222)
    assert pcid.cpu.load(3, 0x20_0000, 4) == 0x1111
    pcid.memory.write(0x30_4000, 8, DESCRIPTOR | 7)  # the same page-table entry, behind the TLB's back
    assert pcid.cpu.load(3, 0x20_0000, 4) == 0x1111
    invalidate(pcid, 0, 0, 0x20_0000)
    pcid.step(INVPCID)
    pcid.memory.write(DESCRIPTOR, 4, 0x3333)
    assert pcid.cpu.load(3, 0x20_0000, 4) == 0x3333


@pytest.mark.parametrize(
    ("kind", "named", "linear"),
    [(4, 0, 0), (1 << 32, 0, 0), (0, 0x1000, 0), (2, 1 << 63, 0), (3, 0x1000, 0), (0, 0, 1 << 47)],
)
def test_invpcid_refuses(pcid: Any, kind: int, named: int, linear: int) -> None:
    invalidate(pcid, kind, named, linear)
    assert pcid.fault(INVPCID) == (GP, 0)
    assert pcid.outside.flushes == []


def test_only_type_0_wants_a_canonical_address(pcid: Any) -> None:
    for kind in (1, 2, 3):
        invalidate(pcid, kind, 0, 1 << 47)
        pcid.step(INVPCID)


def test_without_pcide_only_pcid_0_exists(long: Any) -> None:
    for kind in (0, 1):
        invalidate(long, kind, 1, 0)
        assert long.fault(INVPCID) == (GP, 0)
        invalidate(long, kind, 0, 0)
        long.step(INVPCID)
    for kind in (2, 3):
        invalidate(long, kind, 1, 0)
        long.step(INVPCID)


def test_the_type_has_32_bits_outside_64_bit_mode(protected: Any) -> None:
    invalidate(protected, 1 << 32 | 2, 0, 0)
    protected.step(INVPCID)
    assert protected.outside.flushes == [None]


def test_invpcid_is_privileged(pcid: Any, protected: Any) -> None:
    invalidate(pcid, 2, 0, 0)
    pcid.user(CODE64_3)
    assert pcid.fault(INVPCID) == (GP, 0)
    protected.vm86(3)
    assert protected.fault("66 0f 38 82 0f") == (GP, 0)


def test_invpcid_faults_as_a_load(pcid: Any, protected: Any) -> None:
    pcid.cpu.regs[RBX], pcid.cpu.regs[RCX] = 1 << 47, 2
    assert pcid.fault(INVPCID) == (GP, 0)
    protected.cpu.segs[3] = Segment(0x10, 0, DESCRIPTOR + 14, 0x4093)  # one byte short
    invalidate(protected, 2, 0, 0)
    assert protected.fault(INVPCID) == (GP, 0)


@pytest.mark.parametrize("text", ["0f 38 82 0b", "f2 66 0f 38 82 0b", "f3 66 0f 38 82 0b", "66 0f 38 82 cb"])
def test_other_forms_are_undefined(text: str) -> None:
    insn = Decoder(64).decode(bytes.fromhex(text).ljust(15, b"\x90"))
    assert insn is not None
    assert insn.flow is Flow.INVALID  # which is #UD
