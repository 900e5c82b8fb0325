"""The multiprocessor table as a kernel without ACPI finds and reads it (MultiProcessor Specification 1.4, 4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emu.bus import Bus
from emu.loader import acpi, mptable
from emu.memory import MIB, GuestMemory

_LENGTHS = (20, 8, 8, 8, 8)  # of entries, by type


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    made = GuestMemory(4 * MIB, Bus("memory"))
    acpi.place(made)
    mptable.place(made)
    yield made
    made.close()


def table(memory: GuestMemory) -> bytes:
    """The search of 4: on 16-byte boundaries of the first KiB of the extended BIOS data."""
    for at in range(0x9FC00, 0xA0000, 16):
        pointer = memory.read_bytes(at, 16)
        if pointer.startswith(b"_MP_"):
            assert sum(pointer) & 0xFF == 0
            assert pointer[8:11] == bytes((1, 4, pointer[10]))
            assert not any(pointer[11:])  # a table is there, and the APICs are reached through virtual wires
            address = int.from_bytes(pointer[4:8], "little")
            return memory.read_bytes(address, memory.read(address + 4, 2))
    raise AssertionError("no pointer")


def entries(data: bytes) -> list[bytes]:
    at, found = 44, []
    while at < len(data):
        length = _LENGTHS[data[at]]
        found.append(data[at : at + length])
        at += length
    return found


def test_the_header(memory: GuestMemory) -> None:
    data = table(memory)
    assert data.startswith(b"PCMP")
    assert sum(data) & 0xFF == 0
    assert data[8:28] == b"VEMU    VEMUPC      "
    count, local_apic = struct.unpack_from("<HI", data, 34)
    assert (count, local_apic) == (len(entries(data)), 0xFEE00000)


def test_one_processor_two_buses_and_an_io_apic(memory: GuestMemory) -> None:
    found = entries(table(memory))
    processor = next(entry for entry in found if entry[0] == 0)
    assert processor[1] == 0
    assert processor[3] == 3  # enabled, and the one that boots
    assert int.from_bytes(processor[8:12], "little") & 1 << 9  # it has an APIC
    assert {entry[1]: entry[2:8] for entry in found if entry[0] == 1} == {0: b"PCI   ", 1: b"ISA   "}
    assert [entry[1:] for entry in found if entry[0] == 2] == [bytes((0, 0x11, 1)) + (0xFEC00000).to_bytes(4, "little")]


def test_each_interrupt_reaches_the_input_that_acpi_names(memory: GuestMemory) -> None:
    wires = {(entry[4], entry[5]): (entry[7], entry[2]) for entry in entries(table(memory)) if entry[0] == 3}
    assert wires[1, 0] == (2, 0)
    assert wires[1, 4] == (4, 0)
    assert (1, 2) not in wires  # the cascade
    level_high = 0xD
    assert [wires[0, 3 << 2 | pin] for pin in range(4)] == [(irq, level_high) for irq in (11, 11, 10, 10)]
    assert len(wires) == 31 * 4 + 13


def test_the_local_inputs(memory: GuestMemory) -> None:
    found = [entry for entry in entries(table(memory)) if entry[0] == 4]
    assert [(entry[1], entry[6], entry[7]) for entry in found] == [(3, 0xFF, 0), (1, 0xFF, 1)]  # ExtINT, NMI
