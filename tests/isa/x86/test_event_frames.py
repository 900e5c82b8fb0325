"""Frames and tables that the CPU reads and writes at once where it knows their pages, and the TLBs of EFLAGS.AC."""

from __future__ import annotations

from typing import Any

import pytest

from isa.base import Access, GuestFault
from isa.x86.frames import Frame
from isa.x86.interrupts import Event, deliver
from isa.x86.state import AC, CR4_SMAP, CS, IF, RSP, SS, Segment

CODE0, DATA0, CODE64_3, TSS_SELECTOR, DATA3 = 0x08, 0x10, 0x28, 0x30, 0x20
GDT, IDT, TSS, STACK0, STACK, HANDLER, CODE, TARGET = 0x1000, 0x2000, 0x3000, 0x8000, 0x7000, 0x12345, 0x10000, 0x11000
GP, NP, SS_FAULT, PF = 13, 11, 12, 14
INT_GATE, IRETQ, HARDWARE = 0x8E, "48 cf", Event.HARDWARE
READ, WRITE = Access.READ, Access.WRITE
USER_PAGE = 0x20_0000  # of the large page behind that of the tables


def event(machine: Any, vector: int = 0x20, error: int | None = None) -> None:
    deliver(machine.cpu, vector, error, HARDWARE if error is None else Event.EXCEPTION)


def there_and_back(machine: Any) -> None:
    """An interrupt and its IRETQ, so that every page on the way is known."""
    machine.gate(0x20, CODE0, HANDLER, INT_GATE)
    event(machine)
    machine.step(IRETQ)
    assert machine.cpu.rip == CODE


# -- tables that change in place ------------------------------------------------------------------------------------


def test_a_gate_that_changes_in_place(long: Any) -> None:
    there_and_back(long)
    long.gate(0x20, CODE0, HANDLER + 0x10_0000_0000, INT_GATE)
    event(long)
    assert long.cpu.rip == HANDLER + 0x10_0000_0000
    long.gate(0x20, CODE0, HANDLER, INT_GATE & ~0x80)
    assert long.raises(lambda: event(long)) == (NP, 0x20 * 8 + 3)


@pytest.mark.parametrize(
    ("attr", "fault"),
    [(0xA01B, NP), (0xA093, GP), (0xC09B, GP), (0xA0FB, GP)],
    ids=["absent", "data", "32-bit", "DPL 3"],
)
def test_a_code_descriptor_that_changes_in_place(long: Any, attr: int, fault: int) -> None:
    there_and_back(long)
    event(long)
    long.descriptor(CODE0, 0, 0xFFFFFFFF, attr)
    assert long.raises(lambda: event(long)) == (fault, CODE0 | 1)
    if attr != 0xC09B:  # IRETQ may go to 32-bit code
        assert long.fault(IRETQ) == (fault, CODE0)


def test_the_accessed_bit_is_set_whenever_it_is_clear(long: Any) -> None:
    there_and_back(long)
    for action in (lambda: event(long), lambda: long.step(IRETQ)):
        long.descriptor(CODE0, 0, 0xFFFFFFFF, 0xA09A)
        action()
        assert long.memory.read(GDT + CODE0 + 5, 1) == 0x9B
        assert long.cpu.segs[CS] == Segment(CODE0, 0, 0xFFFFFFFF, 0xA09B)


def test_a_tss_stack_that_changes_in_place(long: Any) -> None:
    there_and_back(long)
    for top in (STACK0, STACK0 - 0x800):
        long.user(CODE64_3)
        long.memory.write(TSS + 4, 8, top)
        event(long)
        assert long.cpu.regs[RSP] == top - 40
        assert long.stack(5, 8) == [long.memory.read(top - 40, 8), CODE64_3 | 3, long.cpu.rflags, STACK, DATA3 | 3]


# -- frames -----------------------------------------------------------------------------------------------------------


def test_a_frame_across_two_pages_that_lie_apart(long: Any) -> None:
    cpu = long.cpu
    there_and_back(long)
    long.map_4k(0x6000, 0x3_0003)
    for _ in range(2):  # the second time the pages are known
        cpu.rip, cpu.regs[RSP], cpu.rflags = CODE, STACK + 0x10, 2 | IF
        event(long)
        assert cpu.regs[RSP] == STACK - 0x18
        assert [long.memory.read(0x3_0FE8 + n * 8, 8) for n in range(3)] == [CODE, CODE0, 2 | IF]
        assert [long.memory.read(STACK + n * 8, 8) for n in range(2)] == [STACK + 0x10, DATA0]
        long.step(IRETQ)
        assert (cpu.rip, cpu.regs[RSP], cpu.rflags) == (CODE, STACK + 0x10, 2 | IF)


def test_a_frame_that_a_stack_pointer_cuts_within_a_value(long: Any) -> None:
    """IRETQ reads a frame that crosses a page anywhere; events align theirs."""
    long.map_4k(0x6000, 0x3_0003)
    cpu = long.cpu
    frame = b"".join(value.to_bytes(8, "little") for value in (TARGET, CODE0, 2 | IF, 0x5008, DATA0))
    for top in range(STACK - 36, STACK, 4):
        cpu.regs[RSP] = top
        split = STACK - top
        long.memory.write_bytes(0x3_1000 - split, frame[:split])
        long.memory.write_bytes(STACK, frame[split:])
        long.step(IRETQ)
        assert (cpu.rip, cpu.regs[RSP], cpu.rflags) == (TARGET, 0x5008, 2 | IF)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_values_are_cut_to_their_size(long: Any, size: int) -> None:
    frame = Frame(long.cpu, None, STACK, size, False)
    frame.push(0x1122_3344_5566_7788, 1)
    frame.commit()
    assert (frame.sp, frame.push(), frame.sp) == (STACK - 2 * size, None, STACK - 2 * size)
    written = long.memory.read(STACK - size, size)
    assert written == 0x1122_3344_5566_7788 & (1 << size * 8) - 1
    assert long.memory.read(STACK - 2 * size, size) == 1
    assert long.memory.read(STACK, 8) == 0


@pytest.mark.parametrize("sp", [0x8000_0000_0008, 8, 0xFFFF_8000_0000_0008])
def test_pushes_at_the_ends_of_the_canonical_halves(long: Any, sp: int) -> None:
    frame = Frame(long.cpu, None, sp, 8, False, 1)
    if sp == 8:
        frame.push(1, 2)
        assert frame.sp == 0xFFFF_FFFF_FFFF_FFF8
        return
    with pytest.raises(GuestFault) as caught:
        frame.push(1, 2)
    assert (caught.value.vector, caught.value.error) == (SS_FAULT, 1)


def test_a_32_bit_frame_that_wraps_around_its_segment(protected: Any) -> None:
    cpu = protected.cpu
    protected.gate(0x20, CODE0, HANDLER, INT_GATE)
    cpu.segs[SS] = Segment(DATA0, 0x4000, 0xFFFF, 0x93)
    for _ in range(2):
        cpu.rip, cpu.regs[RSP] = CODE, 8
        event(protected)
        assert cpu.regs[RSP] == 0xFFFC
        assert protected.memory.read(0x4004, 4) == 2
        assert protected.memory.read(0x4000, 4) == CODE0
        assert protected.memory.read(0x13FFC, 4) == CODE


def test_a_frame_on_a_page_with_a_write_trace(long: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there_and_back(long)
    written: list[tuple[int, int]] = []
    monkeypatch.setattr(long.memory, "watched", lambda gpa: gpa >> 12 == (STACK >> 12) - 1)
    plain = long.memory.write
    monkeypatch.setattr(
        long.memory, "write", lambda at, size, value: (written.append((at, size)), plain(at, size, value))
    )
    long.cpu.page_watched((STACK >> 12) - 1)
    event(long)
    assert written == [(STACK - 8 * n, 8) for n in range(1, 6)]


# -- EFLAGS.AC and SMAP -----------------------------------------------------------------------------------------------


@pytest.fixture
def smap(long: Any) -> Any:
    """A supervisor with SMAP, its own pages supervisor pages, and a user page."""
    for page in range(0, 0x20_0000, 0x1000):
        if page in (0, 0x1000, 0x2000, 0x3000, 0x6000, 0x7000):
            long.map_4k(page, page | 3)
    long.cpu.cr4 |= CR4_SMAP
    long.cpu.flush_tlb(None)
    return long


def allowed(machine: Any, access: Access = READ) -> bool:
    cpu = machine.cpu
    try:
        cpu.load(3, USER_PAGE, 8) if access is READ else cpu.store(3, USER_PAGE, 8, 1)
    except GuestFault as fault:
        return (fault.vector, fault.cr2) != (PF, USER_PAGE)
    return True


@pytest.mark.parametrize("access", [READ, WRITE])
def test_ac_decides_each_time(smap: Any, access: Access) -> None:
    cpu = smap.cpu
    for _ in range(3):
        cpu.rflags = 2 | AC
        assert allowed(smap, access)
        cpu.rflags = 2
        assert not allowed(smap, access)
        cpu.set_ac(AC)
        assert allowed(smap, access)
        cpu.set_ac(0)
        assert not allowed(smap, access)


def test_what_is_known_with_one_ac_is_kept_for_its_return(smap: Any) -> None:
    cpu = smap.cpu
    assert cpu.load(3, 0x7000, 8) == 0
    cpu.rflags |= AC
    assert 7 not in cpu.read_tlb
    allowed(smap)
    cpu.rflags &= ~AC
    assert 7 in cpu.read_tlb
    assert USER_PAGE >> 12 not in cpu.read_tlb
    cpu.rflags |= AC
    assert USER_PAGE >> 12 in cpu.read_tlb


@pytest.mark.parametrize("linear", [None, USER_PAGE], ids=["all", "one"])
@pytest.mark.parametrize("access", [READ, WRITE])
def test_a_flush_reaches_both(smap: Any, linear: int | None, access: Access) -> None:
    cpu = smap.cpu
    cpu.rflags |= AC
    assert allowed(smap, access)
    cpu.rflags &= ~AC
    smap.memory.write(0x30_2008, 8, 0)  # the entry of the large page
    cpu.flush_tlb(linear)
    cpu.rflags |= AC
    assert not allowed(smap, access)


def test_a_write_trace_reaches_both(smap: Any) -> None:
    cpu = smap.cpu
    cpu.rflags |= AC
    assert allowed(smap, WRITE)
    cpu.rflags &= ~AC
    cpu.page_watched(USER_PAGE >> 12)
    cpu.rflags |= AC
    assert USER_PAGE >> 12 not in cpu.write_tlb


def test_a_breakpoint_reaches_both(smap: Any) -> None:
    cpu = smap.cpu
    cpu.rflags |= AC
    assert allowed(smap)
    assert allowed(smap, WRITE)
    cpu.rflags &= ~AC
    cpu.dr[0], cpu.dr[7] = USER_PAGE, 0x1_0002 | 0x400  # a write of one byte
    cpu.debug_changed()
    cpu.rflags |= AC
    allowed(smap, WRITE)
    assert cpu.debug_pending == 1


def test_events_with_ac_set(smap: Any) -> None:
    """Delivery clears no AC, whose TLBs the handler goes on with; IRETQ brings back that of the interrupted program."""
    cpu = smap.cpu
    smap.gate(0x20, CODE0, HANDLER, INT_GATE)
    cpu.rflags = 2 | AC | IF
    event(smap)
    assert cpu.rflags == 2 | AC
    assert allowed(smap)
    cpu.set_ac(0)
    assert not allowed(smap)
    smap.step(IRETQ)
    assert cpu.rflags == 2 | AC | IF
    assert allowed(smap)
