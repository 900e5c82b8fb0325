"""The multiprocessor table: what kernels without ACPI know of the board's APICs (MultiProcessor Specification 1.4, 4).

EF000  configuration table, behind the ACPI tables      9FFF0  pointer to it, in the first KiB of the extended BIOS data
"""

from __future__ import annotations

import struct
from typing import Final

from emu.loader.acpi import PC, TABLES_END, Platform, checksum
from emu.loader.dsdt import PINS, SLOTS, link_of
from emu.memory import EBDA, GuestMemory
from isa.x86 import cpuid

TABLE: Final = TABLES_END - 0x1000
POINTER: Final = EBDA + 0x3F0

_REVISION: Final = 4
_POINTER_CHECKSUM_AT, _CHECKSUM_AT = 10, 7
_OEM, _PRODUCT = b"VEMU    ", b"VEMUPC      "
_PROCESSOR, _BUS, _IO_APIC, _INTERRUPT, _LOCAL_INTERRUPT = range(5)  # entries (4.3)
_ENABLED, _BOOTSTRAP = 1, 2
_APIC_VERSION: Final = 0x14
_IO_APIC_VERSION: Final = 0x11
_VECTORED, _NMI, _EXTINT = 0, 1, 3  # kinds of interrupt
_AS_ON_BUS, _LEVEL_HIGH = 0x0, 0xD  # polarity in bits 0-1, trigger mode in bits 2-3
_PCI_BUS, _ISA_BUS = 0, 1
_CASCADE: Final = 2
_ALL_APICS: Final = 0xFF


def place(memory: GuestMemory, platform: Platform = PC) -> None:
    """Write the table and the pointer to guest memory, both of which the guest must have left alone."""
    memory.write_bytes(TABLE, build(platform))
    pointer = bytearray(struct.pack("<4sIBBBB4x", b"_MP_", TABLE, 1, _REVISION, 0, 0))
    pointer[_POINTER_CHECKSUM_AT] = checksum(pointer)
    memory.write_bytes(POINTER, pointer)


def build(platform: Platform = PC) -> bytes:
    """The configuration table: one processor, PCI and ISA bus, the I/O APIC and what is wired to it."""
    signature, features = cpuid.identity()
    entries = [
        struct.pack(
            "<BBBBII8x", _PROCESSOR, platform.local_apic_id, _APIC_VERSION, _ENABLED | _BOOTSTRAP, signature, features
        ),
        struct.pack("<BB6s", _BUS, _PCI_BUS, b"PCI   "),
        struct.pack("<BB6s", _BUS, _ISA_BUS, b"ISA   "),
        struct.pack("<BBBBI", _IO_APIC, platform.io_apic_id, _IO_APIC_VERSION, _ENABLED, platform.io_apic),
    ]
    wires = [
        (_PCI_BUS, slot << 2 | pin, platform.links[link_of(slot, pin)], _LEVEL_HIGH)
        for slot in SLOTS
        for pin in range(PINS)
    ]
    wires += [
        (_ISA_BUS, irq, platform.timer_input if irq == 0 else irq, _AS_ON_BUS)
        for irq in range(16)
        if irq != _CASCADE and irq not in platform.links
    ]
    for bus, source, target, flags in wires:
        kind = _INTERRUPT, _VECTORED, flags, bus, source, platform.io_apic_id, target
        entries.append(struct.pack("<BBHBBBB", *kind))
    for line, what in enumerate((_EXTINT, _NMI)):
        entries.append(struct.pack("<BBHBBBB", _LOCAL_INTERRUPT, what, _AS_ON_BUS, _ISA_BUS, 0, _ALL_APICS, line))
    body = b"".join(entries)
    head = struct.Struct("<4sHBB8s12sIHHIHBx")
    table = bytearray(
        head.pack(
            b"PCMP", head.size + len(body), _REVISION, 0, _OEM, _PRODUCT, 0, 0, len(entries), platform.local_apic, 0, 0
        )
        + body
    )
    table[_CHECKSUM_AT] = checksum(table)
    return bytes(table)
