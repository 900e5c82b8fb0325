"""Control and debug registers: reserved bits, mode switches, flushes."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86 import control
from isa.x86.state import (
    CR0_CD,
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_DE,
    CR4_PAE,
    CR4_PGE,
    CR4_SMAP,
    CR4_SMEP,
    CR4_UMIP,
    EFER_LMA,
    EFER_LME,
    RAX,
    RBX,
    Segment,
)

GP, UD, DB = 13, 6, 1
CODE = 0x10000
TO_CR0, TO_CR2, TO_CR3, TO_CR4, FROM_CR0 = "0f 22 c0", "0f 22 d0", "0f 22 d8", "0f 22 e0", "0f 20 c0"
CR0 = CR0_PE | CR0_ET


def write(machine: Any, text: str, value: int) -> None:
    machine.cpu.regs[RAX] = value
    machine.step(text)


def refused(machine: Any, text: str, value: int) -> tuple[int, int | None]:
    machine.cpu.regs[RAX] = value
    return machine.fault(text)  # type: ignore[no-any-return]


def test_privilege_and_names(protected: Any, long: Any) -> None:
    assert protected.fault("0f 22 c8") == (UD, None)  # CR1
    assert refused(long, "44 0f 22 c8", 0) == (UD, None)  # CR9
    protected.user()
    for text in (
        TO_CR0,
        FROM_CR0,
        TO_CR3,
        "0f 20 d8",
        "0f 23 c0",
        "0f 21 c0",
        "0f 06",
        "0f 01 f0",
        "0f 01 38",
        "0f 09",
    ):
        assert protected.fault(text) == (GP, 0)


@pytest.mark.parametrize("value", [CR0 | CR0_NW, CR0_PG | CR0_ET])
def test_cr0_combinations(protected: Any, value: int) -> None:
    assert refused(protected, TO_CR0, value) == (GP, 0)


def test_cr0_reserved_bits(protected: Any, long: Any) -> None:
    write(protected, TO_CR0, CR0 | CR0_CD | CR0_NW | 1 << 20 & ~CR0_ET)
    assert protected.cpu.cr0 == CR0 | CR0_CD | CR0_NW  # reserved bits are ignored, ET is fixed
    assert refused(long, TO_CR0, long.cpu.cr0 | 1 << 32) == (GP, 0)


def test_reads_follow_the_operand_size_of_the_mode(protected: Any, long: Any) -> None:
    protected.step(FROM_CR0)
    assert protected.cpu.regs[RAX] == CR0
    write(long, TO_CR2, 0xFFFF_8000_0000_1234)
    long.step("0f 20 d3")
    assert long.cpu.regs[RBX] == 0xFFFF_8000_0000_1234


def test_flushes(protected: Any) -> None:
    flushes = protected.outside.flushes
    write(protected, TO_CR0, CR0 | CR0_TS)
    assert flushes == []
    write(protected, TO_CR0, CR0 | CR0_WP)
    write(protected, TO_CR3, 0x8000)
    write(protected, TO_CR4, CR4_PGE)
    write(protected, TO_CR4, CR4_PGE | CR4_DE)
    assert flushes == [None, None, None]
    protected.cpu.segs[3] = Segment(0x10, 0x5000, 0xFFFFFFFF, 0xC093)
    protected.cpu.regs[RAX] = 0x1234
    protected.step("0f 01 38")  # invlpg [eax]
    assert flushes[3:] == [0x6234]


def test_invlpg_of_a_non_canonical_address_does_nothing(long: Any) -> None:
    long.cpu.regs[RAX] = 1 << 47
    long.step("0f 01 38")
    assert long.outside.flushes == []


def test_cr4_reserved_bits(protected: Any, long: Any) -> None:
    for bit in (0, 1, 11, 12, 13, 14, 17, 18, 20, 21, 22, 63):
        machine = long if bit == 63 else protected
        allowed = 1 << bit & (CR4_UMIP | CR4_SMEP | CR4_SMAP)
        if allowed:
            write(machine, TO_CR4, allowed)
        else:
            assert refused(machine, TO_CR4, machine.cpu.cr4 | 1 << bit) == (GP, 0)
    assert refused(long, TO_CR4, 0) == (GP, 0)  # PAE must stay in IA-32e mode


def test_cr3_and_cr8_limits(long: Any) -> None:
    write(long, TO_CR3, long.cpu.cr3)
    assert refused(long, TO_CR3, 1 << 40) == (GP, 0)
    write(long, "44 0f 22 c0", 15)
    assert long.outside.task_priority == 15
    long.step("44 0f 20 c3")
    assert long.cpu.regs[RBX] == 15
    assert refused(long, "44 0f 22 c0", 16) == (GP, 0)


def test_long_mode_is_entered_and_left(protected: Any) -> None:
    cpu = protected.cpu
    cpu.efer = EFER_LME
    assert refused(protected, TO_CR0, CR0 | CR0_PG) == (GP, 0)  # needs PAE
    write(protected, TO_CR4, CR4_PAE)
    cpu.tr = Segment(0x30, 0x3000, 0x67, 0x83)
    assert refused(protected, TO_CR0, CR0 | CR0_PG) == (GP, 0)  # a 16-bit TSS
    cpu.tr = Segment(0x30, 0x3000, 0x67, 0x8B)
    cpu.segs[1].attr = 0xE09B
    assert refused(protected, TO_CR0, CR0 | CR0_PG) == (GP, 0)  # CS.L already set
    cpu.segs[1].attr = 0xC09B
    write(protected, TO_CR0, CR0 | CR0_PG)
    assert (cpu.efer, cpu.mode) == (EFER_LME | EFER_LMA, 32)  # compatibility mode
    write(protected, TO_CR0, CR0)
    assert (cpu.efer, cpu.mode, cpu.cr0) == (EFER_LME, 32, CR0)


def test_paging_cannot_be_turned_off_in_64_bit_mode(long: Any) -> None:
    assert refused(long, TO_CR0, CR0) == (GP, 0)


def test_pae_loads_check_the_pdptes(protected: Any) -> None:
    write(protected, TO_CR4, CR4_PAE)
    write(protected, TO_CR3, 0x9000)
    protected.memory.write(0x9008, 8, 0xA003)  # R/W is reserved in a PDPTE
    assert refused(protected, TO_CR0, CR0 | CR0_PG) == (GP, 0)
    protected.memory.write(0x9008, 8, 0xA001)
    write(protected, TO_CR0, CR0 | CR0_PG)
    protected.memory.write(0x9020, 8, 0x8000_0000_0000_A001)
    assert refused(protected, TO_CR3, 0x9020) == (GP, 0)


def test_leaving_protected_mode(protected: Any) -> None:
    write(protected, TO_CR0, CR0_ET)
    assert (protected.cpu.mode, protected.cpu.cpl) == (32, 0)  # CS keeps its size until it is loaded
    protected.step("ea 00 00 00 00 00 10")
    assert protected.cpu.segs[1].base == 0x10000


def test_lmsw_smsw_clts(protected: Any) -> None:
    cpu = protected.cpu
    write(protected, "0f 01 f0", 0xFFFE)  # lmsw ax: PE cannot be cleared, nothing above bit 3 set
    assert cpu.cr0 == CR0 | 0xE
    protected.step("0f 01 e3")  # smsw ebx
    assert cpu.regs[RBX] == CR0 | 0xE
    cpu.regs[RBX] = 0xFFFF_FFFF
    protected.step("66 0f 01 e3")
    assert cpu.regs[RBX] == 0xFFFF_0000 | CR0 | 0xE
    cpu.regs[RAX] = 0x6000
    protected.memory.write(0x6000, 4, 0xFFFF_FFFF)
    protected.step("0f 01 20")
    assert protected.memory.read(0x6000, 4) == 0xFFFF_0000 | CR0 | 0xE
    protected.step("0f 06")
    assert cpu.cr0 == CR0 | 6
    protected.user()
    protected.step("0f 01 e3")  # smsw is not privileged
    cpu.cr4 = CR4_UMIP
    assert protected.fault("0f 01 e3") == (GP, 0)


# -- debug registers ----------------------------------------------------------------------------------------------


def test_debug_registers(long: Any) -> None:
    cpu = long.cpu
    write(long, "0f 23 c8", 0x1234_5678_9ABC_DEF0)
    assert cpu.dr[1] == 0x1234_5678_9ABC_DEF0
    write(long, "0f 23 f0", 0)
    write(long, "0f 23 f8", 0xFFFF_FFFF & ~0x2000)
    assert (cpu.dr[6], cpu.dr[7]) == (0xFFFF_0FF0, 0xFFFF_07FF)
    long.step("0f 21 fb")
    assert cpu.regs[RBX] == 0xFFFF_07FF
    assert refused(long, "0f 23 f8", 1 << 32) == (GP, 0)
    assert refused(long, "44 0f 23 c0", 0) == (UD, None)


def test_dr4_and_dr5_are_aliases_without_de(protected: Any) -> None:
    write(protected, "0f 23 e8", 0x55)
    assert protected.cpu.dr[7] == 0x455
    protected.step("0f 21 e3")
    assert protected.cpu.regs[RBX] == 0xFFFF0FF0
    protected.cpu.cr4 = CR4_DE
    for text in ("0f 23 e8", "0f 21 e3"):
        assert protected.fault(text) == (UD, None)


def test_general_detect(protected: Any) -> None:
    write(protected, "0f 23 f8", 0x2000)
    assert protected.fault("0f 21 c0") == (DB, None)
    assert protected.cpu.dr[6] & 1 << 13


def test_cr4_bits_follow_cpuid() -> None:
    assert control.CR4_BITS & 1 << 18 == 0  # OSXSAVE
    assert control.CR4_BITS & (CR4_SMEP | CR4_SMAP | CR4_UMIP | 1 << 16) == CR4_SMEP | CR4_SMAP | CR4_UMIP | 1 << 16
