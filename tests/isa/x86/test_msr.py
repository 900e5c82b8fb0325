"""RDMSR, WRMSR and the time-stamp counter."""

from __future__ import annotations

from typing import Any

import pytest

from isa.x86.state import CR4_PCE, CR4_TSD, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, FS, GS, RAX, RCX, RDX

GP = 13
EFER, M64 = 0xC000_0080, (1 << 64) - 1


def write(machine: Any, index: int, value: int) -> None:
    prepare(machine, index, value)
    machine.step("0f 30")


def prepare(machine: Any, index: int, value: int = 0) -> None:
    regs = machine.cpu.regs
    regs[RCX], regs[RDX], regs[RAX] = 0xAAAA_0000_0000_0000 | index, 0xBBBB_0000_0000 | value >> 32, value


def refused(machine: Any, index: int, value: int) -> tuple[int, int | None]:
    prepare(machine, index, value)
    return machine.fault("0f 30")  # type: ignore[no-any-return]


def read(machine: Any, index: int) -> int:
    prepare(machine, index)
    machine.step("0f 32")
    assert machine.cpu.regs[RAX] >> 32 == machine.cpu.regs[RDX] >> 32 == 0
    return machine.cpu.regs[RDX] << 32 | machine.cpu.regs[RAX]  # type: ignore[no-any-return]


HIGH = 0xFFFF_8000_0000_1000
# (MSR, a value it takes, values it refuses)
REGISTERS = [
    (0x174, 8, ()), (0x175, HIGH, (1 << 47,)), (0x176, HIGH, (1 << 47,)),
    (0xC000_0081, 0x0023_0010_0000_0000, ()), (0xC000_0082, HIGH, (1 << 47,)), (0xC000_0083, HIGH, (1 << 47,)),
    (0xC000_0084, 0x4_7700, (1 << 32,)), (0xC000_0100, HIGH, (1 << 47,)), (0xC000_0101, HIGH, (1 << 47,)),
    (0xC000_0102, HIGH, (1 << 47,)), (0xC000_0103, 5, (1 << 32,)),
    (0x277, 0x0407_0105_0007_0406, (0x0207_0406_0007_0406, 0x0307_0406_0007_0406, 8)),
    (0x2FF, 0xC06, (0x1000, 2)), (0x250, 0x0606_0606_0606_0606, (0x0206_0606_0606_0606,)),
    (0x200, 0xC000_0006, (1 << 40, 0x102, 3)), (0x201, 0xFF_C000_0800, (1 << 40, 1)),
    (0x20F, 0xFF_C000_0800, ()), (0x26F, 6, ()), (0x8B, 0, ()), (0x17A, 0, (1,)),
]  # fmt: skip


@pytest.mark.parametrize(("index", "value", "bad"), REGISTERS)
def test_registers(long: Any, index: int, value: int, bad: tuple[int, ...]) -> None:
    write(long, index, value)
    assert read(long, index) == value
    for other in bad:
        assert refused(long, index, other) == (GP, 0)
    assert read(long, index) == value


def test_state_behind_the_registers(long: Any) -> None:
    cpu = long.cpu
    write(long, 0xC000_0100, 0x1111)
    write(long, 0xC000_0101, 0x2222)
    write(long, 0xC000_0102, 0x3333)
    write(long, 0xC000_0082, 0x4444)
    assert (cpu.segs[FS].base, cpu.segs[GS].base, cpu.kernel_gs_base, cpu.lstar) == (0x1111, 0x2222, 0x3333, 0x4444)


@pytest.mark.parametrize(("index", "value"), [(0xFE, 0x508), (0x17, 0), (0x179, 0)])
def test_read_only(long: Any, index: int, value: int) -> None:
    assert read(long, index) == value
    assert refused(long, index, value) == (GP, 0)


@pytest.mark.parametrize("index", [0, 0x3A, 0x210, 0x400, 0xC000_0010, 0x4B56_4D00, 0xFFFF_FFFF])
def test_unknown(long: Any, index: int) -> None:
    prepare(long, index)
    assert long.fault("0f 32") == (GP, 0)
    assert long.caught.note == f"RDMSR of unknown MSR {index:#x}"
    assert long.fault("0f 30") == (GP, 0)


def test_privilege(long: Any) -> None:
    long.user(0x28)
    prepare(long, 0xC000_0100)
    assert long.fault("0f 32") == (GP, 0)
    assert long.fault("0f 30") == (GP, 0)


def test_misc_enable_keeps_what_it_does_not_have(long: Any) -> None:
    assert read(long, 0x1A0) == 0x1801
    write(long, 0x1A0, M64 & ~1)
    assert read(long, 0x1A0) == 0x1800


def test_efer(long: Any, protected: Any) -> None:
    cpu = long.cpu
    write(long, EFER, EFER_LME | EFER_SCE | EFER_NXE)  # LMA is kept although written as 0
    assert cpu.efer == EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE
    assert long.outside.flushes == [None]
    assert refused(long, EFER, EFER_SCE) == (GP, 0)  # LME cannot change while paging is on
    assert refused(long, EFER, EFER_LME | 1 << 12) == (GP, 0)
    write(protected, EFER, EFER_LME | EFER_LMA)
    assert protected.cpu.efer == EFER_LME  # LMA is not written


def test_apic_base(long: Any) -> None:
    cpu = long.cpu
    assert read(long, 0x1B) == 0xFEE0_0900
    write(long, 0x1B, 0xFED0_0900)
    assert long.outside.apic == [0xFED0_0900]
    assert refused(long, 0x1B, 0xFEE0_0D00) == (GP, 0)  # no x2APIC
    assert refused(long, 0x1B, 1 << 40) == (GP, 0)
    cpu.apic_base = 0
    prepare(long, 0x1B)
    assert long.fault("0f 32") == (GP, 0)
    assert refused(long, 0x1B, 0xFEE0_0900) == (GP, 0)


# -- the time-stamp counter ---------------------------------------------------------------------------------------


def test_time_stamp_counter(long: Any) -> None:
    cpu = long.cpu
    long.step("0f 31")
    assert (cpu.regs[RDX], cpu.regs[RAX]) == (1, 0x2345_6789)
    write(long, 0x10, 0x1_0000_0000_0000)
    long.outside.now += 5
    cpu.tsc_aux = 7
    long.step("0f 01 f9")
    assert (cpu.regs[RDX], cpu.regs[RAX], cpu.regs[RCX]) == (0x10000, 5, 7)
    assert read(long, 0x10) == 0x1_0000_0000_0005


def test_the_tsc_and_its_adjustment_move_each_other(long: Any) -> None:
    now = read(long, 0x10)
    assert read(long, 0x3B) == 0
    write(long, 0x3B, 1 << 40)
    assert read(long, 0x10) == now + (1 << 40)
    write(long, 0x10, 0)
    assert read(long, 0x3B) == -now & M64


@pytest.mark.parametrize("index", [0x10, 0x3B])
def test_a_moved_tsc_moves_the_deadline(long: Any, monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    outside, armed = long.cpu.outside, []
    monkeypatch.setattr(outside, "set_tsc_deadline", armed.append)
    write(long, index, 100)
    assert armed == []
    outside.tsc_deadline = 5000
    write(long, index, 200)
    assert armed == [5000]


def test_tsd(long: Any) -> None:
    long.cpu.cr4 |= CR4_TSD
    long.step("0f 31")
    long.user(0x28)
    for text in ("0f 31", "0f 01 f9"):
        assert long.fault(text) == (GP, 0)
    long.cpu.cr4 &= ~CR4_TSD
    long.step("0f 31")


def test_no_performance_counters(long: Any) -> None:
    assert long.fault("0f 33") == (GP, 0)
    assert long.caught.note == "no such performance counter"
    long.cpu.cr4 |= CR4_PCE
    long.user(0x28)
    assert long.fault("0f 33") == (GP, 0)
