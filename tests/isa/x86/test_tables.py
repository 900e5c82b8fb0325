"""Descriptor-table registers, LAR and LSL over every descriptor type, VERR, VERW and ARPL."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86.state import CR4_UMIP, RAX, RBX, ZF, Segment, Table

GP, NP, UD = 13, 11, 6
FREE, TSS_SELECTOR, LDT_SELECTOR, CODE0, DATA0 = 0x50, 0x30, 0x40, 0x08, 0x10
GDT = 0x1000


# -- GDTR and IDTR ------------------------------------------------------------------------------------------------


def test_lgdt_and_lidt(protected: Any, long: Any, real: Any) -> None:
    for machine, prefix, base, wanted in (
        (protected, "", 0x1234_5678, 0x1234_5678),
        (protected, "66 ", 0x1234_5678, 0x34_5678),
        (long, "", 0xFFFF_8000_1234_5678, 0xFFFF_8000_1234_5678),
        (long, "66 ", 0xFFFF_8000_1234_5678, 0xFFFF_8000_1234_5678),
    ):
        machine.cpu.regs[RBX], machine.cpu.lidt_executed = 0x6000, False
        machine.memory.write(0x6000, 2, 0x7FF)
        machine.memory.write(0x6002, 8, base)
        machine.step(prefix + "0f 01 1b")
        assert machine.cpu.idtr == Table(wanted, 0x7FF)
        assert machine.cpu.lidt_executed
        machine.step(prefix + "0f 01 13")
        assert machine.cpu.gdtr == Table(wanted, 0x7FF)
    real.memory.write(0x6000, 8, 0xFF12_3456_0027)
    real.cpu.regs[RBX] = 0x6000
    real.step("0f 01 17")  # lgdt [bx] takes 24 bits
    assert real.cpu.gdtr == Table(0x12_3456, 0x27)
    real.step("66 0f 01 17")
    assert real.cpu.gdtr == Table(0xFF12_3456, 0x27)


def test_table_register_faults(protected: Any, long: Any) -> None:
    long.cpu.regs[RBX] = 0x6000
    long.memory.write(0x6002, 8, 0x8000_0000_0000)
    assert long.fault("0f 01 13") == (GP, 0)
    protected.user()
    for text in ("0f 01 13", "0f 01 1b"):
        assert protected.fault(text) == (GP, 0)


def test_sgdt_and_sidt(protected: Any, long: Any) -> None:
    protected.cpu.regs[RBX] = long.cpu.regs[RBX] = 0x6000
    protected.cpu.gdtr = Table(0x1234_5678, 0x7F)
    protected.user()
    protected.step("0f 01 03")
    assert protected.memory.read(0x6000, 8) == 0x1234_5678_007F
    protected.cpu.cr4 = CR4_UMIP
    for text in ("0f 01 03", "0f 01 0b"):
        assert protected.fault(text) == (GP, 0)
    long.cpu.idtr = Table(0xFFFF_8000_0000_1000, 0xFFF)
    long.step("0f 01 0b")
    assert (long.memory.read(0x6000, 2), long.memory.read(0x6002, 8)) == (0xFFF, 0xFFFF_8000_0000_1000)


def test_sidt_that_faults_half_way_stores_nothing(long: Any) -> None:
    long.map_4k(0x6000, 0)
    long.cpu.regs[RBX] = 0x5FFC
    assert long.fault("0f 01 0b") == (14, 2)


# -- LDTR and TR --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0f 00 d0", "0f 00 d8", "0f 00 c0", "0f 00 c8", "0f 02 c3", "0f 03 c3", "0f 00 e0"])
def test_undefined_without_protection(real: Any, protected: Any, text: str) -> None:
    assert real.fault(text) == (UD, None)
    protected.vm86(iopl=3)
    assert protected.fault(text) == (UD, None)


def test_ltr(protected: Any) -> None:
    cpu = protected.cpu
    protected.descriptor(FREE, 0x12345678, 0x67, 0x89)
    cpu.regs[RAX] = FREE
    protected.step("0f 00 d8")
    assert cpu.tr == Segment(FREE, 0x12345678, 0x67, 0x8B)
    assert protected.memory.read(GDT + FREE + 5, 1) == 0x8B
    assert protected.fault("0f 00 d8") == (GP, FREE)  # busy now
    protected.step("0f 00 cb")  # str ebx
    assert cpu.regs[RBX] == FREE


# (selector, attributes of FREE, fault of LTR, fault of LLDT)
SYSTEM = [
    (0, 0x89, (GP, 0), None),
    (FREE, 0x89, None, (GP, FREE)),
    (FREE, 0x81, None, (GP, FREE)),
    (FREE, 0x82, (GP, FREE), None),
    (FREE, 0x8B, (GP, FREE), (GP, FREE)),
    (FREE, 0x93, (GP, FREE), (GP, FREE)),
    (FREE, 0x09, (NP, FREE), (GP, FREE)),
    (FREE, 0x02, (GP, FREE), (NP, FREE)),
    (FREE | 4, 0x89, (GP, FREE | 4), (GP, FREE | 4)),
    (0x80, 0x89, (GP, 0x80), (GP, 0x80)),
]


@pytest.mark.parametrize(("selector", "attr", "ltr", "lldt"), SYSTEM)
def test_system_segment_checks(protected: Any, selector: int, attr: int, ltr: Any, lldt: Any) -> None:
    protected.descriptor(FREE, 0x1000, 0x67, attr)
    protected.cpu.regs[RAX] = selector
    for text, fault in (("0f 00 d0", lldt), ("0f 00 d8", ltr)):
        if fault is None:
            protected.step(text)
        else:
            assert protected.fault(text) == fault
    protected.user()
    assert protected.fault("0f 00 d0") == (GP, 0)
    assert protected.fault("0f 00 d8") == (GP, 0)


def test_null_ldt(protected: Any) -> None:
    protected.cpu.regs[RAX] = 3
    protected.step("0f 00 d0")
    assert protected.cpu.ldtr == Segment(3, 0, 0, 0)
    protected.step("0f 00 c3")  # sldt ebx
    assert protected.cpu.regs[RBX] == 3


def test_long_mode_descriptors_have_16_bytes(long: Any) -> None:
    cpu = long.cpu
    long.descriptor(FREE, 0x12345678, 0x67, 0x89, high=0xFFFF_8000)
    cpu.regs[RAX] = FREE
    long.step("0f 00 d8")
    assert cpu.tr == Segment(FREE, 0xFFFF_8000_1234_5678, 0x67, 0x8B)
    long.descriptor(FREE, 0x12345678, 0x67, 0x89, high=1 << 40)
    assert long.fault("0f 00 d8") == (GP, FREE)
    long.descriptor(FREE, 0, 0x67, 0x81, high=0)
    long.memory.write(GDT + FREE + 8, 8, 0)
    assert long.fault("0f 00 d8") == (GP, FREE)  # no 16-bit TSS
    long.descriptor(0x78, 0, 0x67, 0x89)
    cpu.regs[RAX] = 0x78
    assert long.fault("0f 00 d8") == (GP, 0x78)  # the second half is beyond the limit


def test_store_sizes(long: Any) -> None:
    cpu = long.cpu
    for text, wanted in (("66 0f 00 cb", 0xFFFF_FFFF_FFFF_0030), ("0f 00 cb", 0x30), ("48 0f 00 cb", 0x30)):
        cpu.regs[RBX] = (1 << 64) - 1
        long.step(text)
        assert cpu.regs[RBX] == wanted
    cpu.regs[RBX] = 0x6000
    long.memory.write(0x6000, 8, (1 << 64) - 1)
    long.step("48 0f 00 0b")
    assert long.memory.read(0x6000, 8) == (1 << 64) - 0x10000 | 0x30
    long.user(0x28)
    cpu.cr4 |= CR4_UMIP
    for text in ("0f 00 cb", "0f 00 c3"):
        assert long.fault(text) == (GP, 0)


# -- questions ----------------------------------------------------------------------------------------------------

# (attributes of FREE, selector RPL, CPL 3?, LAR, LSL, VERR, VERW succeed) in legacy mode
VISIBLE = [
    (0xC093, 0, False, True, True, True, True),
    (0xC013, 0, False, True, True, True, True),  # presence does not matter
    (0xC091, 0, False, True, True, True, False),
    (0xC09B, 0, False, True, True, True, False),
    (0xC099, 0, False, True, True, False, False),
    (0xC093, 3, False, False, False, False, False),
    (0xC093, 0, True, False, False, False, False),
    (0xC09F, 3, True, True, True, True, False),  # conforming code: whatever the privilege
    (0xC0F3, 3, True, True, True, True, True),
    *((0x80 | kind, 0, False, lar, lsl, False, False) for kind, lar, lsl in (
        (0, False, False), (1, True, True), (2, True, True), (3, True, True), (4, True, False), (5, True, False),
        (6, False, False), (7, False, False), (8, False, False), (9, True, True), (10, False, False), (11, True, True),
        (12, True, False), (13, False, False), (14, False, False), (15, False, False),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("attr", "rpl", "user", "lar", "lsl", "verr", "verw"), VISIBLE)
def test_visibility(
    protected: Any, attr: int, rpl: int, user: bool, lar: bool, lsl: bool, verr: bool, verw: bool
) -> None:
    cpu = protected.cpu
    protected.descriptor(FREE, 0, 0x12345FFF, attr)
    if user:
        protected.user()
    for text, works, value in (
        ("0f 02 d8", lar, (protected.memory.read(GDT + FREE + 4, 4)) & 0xFFFF00),
        ("0f 03 d8", lsl, 0x12345FFF if attr & 0x8000 else 0x5FFF | 0x12340000 & 0xF0000),
        ("0f 00 e0", verr, None),
        ("0f 00 e8", verw, None),
    ):
        cpu.regs[RAX], cpu.regs[RBX] = FREE | rpl, 0x77
        cpu.rflags = 2 | (0 if works else ZF)
        protected.step(text)
        assert cpu.rflags == 2 | (ZF if works else 0), text
        assert cpu.regs[RBX] == (value if works and value is not None else 0x77)


@pytest.mark.parametrize("kind", range(16))
def test_long_mode_types(long: Any, kind: int) -> None:
    long.descriptor(FREE, 0, 0xFFF, 0x80 | kind)
    long.memory.write(GDT + FREE + 8, 8, 0)
    for text, kinds in (("0f 02 d8", (2, 9, 11, 12)), ("0f 03 d8", (2, 9, 11))):
        long.cpu.regs[RAX] = FREE
        long.step(text)
        assert bool(long.cpu.rflags & ZF) == (kind in kinds)


@pytest.mark.parametrize("selector", [0, 3, 0x80, 0x44, 0xFFFF])
def test_selectors_that_name_nothing(protected: Any, selector: int) -> None:
    for text in ("0f 02 d8", "0f 03 d8", "0f 00 e0", "0f 00 e8"):
        protected.cpu.regs[RAX], protected.cpu.rflags = selector, 2 | ZF
        protected.step(text)
        assert protected.cpu.rflags == 2


def test_lar_of_16_bits_keeps_the_rest(protected: Any) -> None:
    protected.cpu.regs[RAX], protected.cpu.regs[RBX] = DATA0, 0x1234_5678
    protected.step("66 0f 02 d8")
    assert protected.cpu.regs[RBX] == 0x1234_9300


def test_lar_from_memory(protected: Any) -> None:
    protected.memory.write(0x6000, 4, 0xFFFF_0000 | CODE0)
    protected.cpu.regs[RAX] = 0x6000
    protected.step("0f 02 18")
    assert protected.cpu.regs[RBX] == 0xCF9B00


def test_page_fault_on_the_table_is_the_guests(long: Any) -> None:
    long.cpu.gdtr = Table(0x40_0000, 0x7F)
    long.cpu.regs[RAX] = DATA0
    assert long.fault("0f 02 d8") == (14, 0)


@pytest.mark.parametrize(("first", "second", "wanted"), [(0x10, 3, 0x13), (0x12, 1, 0x12), (0x11, 1, 0x11)])
def test_arpl(protected: Any, first: int, second: int, wanted: int) -> None:
    cpu = protected.cpu
    changed = ZF if wanted != first else 0
    cpu.regs[RAX], cpu.regs[RBX] = 0xABCD_0000 | first, second
    protected.step("63 d8")  # arpl ax, bx
    assert (cpu.regs[RAX], cpu.rflags & ZF) == (0xABCD_0000 | wanted, changed)
    protected.memory.write(0x6000, 2, first)
    cpu.regs[RAX] = 0x6000
    protected.step("63 18")
    assert (protected.memory.read(0x6000, 2), cpu.rflags & ZF) == (wanted, changed)
