"""The ACPI tables of the board `pc`, as its firmware leaves them in memory (ACPI specification 6.4, chapter 5.2).

E0000  RSDP, where kernels search on 16-byte boundaries; then FACS, RSDT, XSDT, FADT, MADT, DSDT

The older descriptions are all there: a kernel that knows ACPI 1.0 only reads the first 20 bytes of the RSDP and the
RSDT. The tables lie in RAM, not in the ROM above, because a kernel writes to the FACS.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from emu.loader import dsdt
from emu.memory import GuestMemory

TABLES: Final = 0xE0000  # 64 KiB up to the BIOS ROM, all in the area an RSDP is looked for in (5.2.5.1)
TABLES_END: Final = 0xF0000

_ALIGNMENT: Final = 64  # what the FACS asks for; plenty for the others
_OEM, _OEM_TABLE, _CREATOR, _VERSION = b"VEMU  ", b"VEMUPC  ", b"VEMU", 1
_RSDP_OLD_LENGTH: Final = 20  # the part ACPI 1.0 knows, with a checksum of its own
_HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")  # 5.2.6
_CHECKSUM_AT: Final = 9
_SYSTEM_IO: Final = 1  # address space of a generic address structure (5.2.3.2)
_BYTE, _WORD, _DWORD = 1, 2, 3  # its access sizes
_RESET_PORT, _RESET_VALUE = 0xCF9, 6
_CENTURY: Final = 0x32  # CMOS index

# MADT entries (5.2.12)
_LOCAL_APIC, _IO_APIC, _OVERRIDE, _LOCAL_NMI = 0, 1, 2, 4
_ENABLED, _PCAT_COMPAT = 1, 1
_AS_ON_BUS, _LEVEL_HIGH = 0x0, 0xD  # MPS INTI flags: polarity in bits 0-1, trigger mode in bits 2-3
_ALL_PROCESSORS, _LINT1 = 0xFF, 1


@dataclass(frozen=True, slots=True)
class Platform:
    """What the tables say of the board: port and memory addresses, interrupt numbers, APIC ids."""

    pm_base: int = 0x600  # PM1 event block; control 4 and timer 8 bytes on
    smi_command: int = 0xB2
    acpi_enable: int = 0xF1
    acpi_disable: int = 0xF0
    soft_off: int = 0  # SLP_TYP of S5
    sci: int = 9
    local_apic: int = 0xFEE0_0000
    local_apic_id: int = 0
    io_apic: int = 0xFEC0_0000
    io_apic_id: int = 0
    timer_input: int = 2  # I/O APIC input of ISA IRQ 0
    links: tuple[int, ...] = (10, 10, 11, 11)  # interrupts of PIRQA to PIRQD


PC: Final = Platform()


def place(memory: GuestMemory, platform: Platform = PC) -> int | None:
    """Write the tables to guest memory; the address of the RSDP, or None where the guest itself lies there."""
    if any(memory.read_bytes(TABLES, TABLES_END - TABLES)):
        return None
    memory.write_bytes(TABLES, build(memory.low_top, TABLES, platform))
    return TABLES


def build(memory_top: int, at: int, platform: Platform = PC) -> bytes:
    """All tables for address `at` (a multiple of 64, ValueError), the RSDP first.

    `memory_top` is the end of RAM below 4 GiB, from where on PCI devices may be given memory.
    """
    if at % _ALIGNMENT:
        raise ValueError(f"ACPI tables at {at:#x}: not a multiple of {_ALIGNMENT}")
    facs_at = at + _ALIGNMENT
    rsdt_at = facs_at + _ALIGNMENT
    xsdt_at = rsdt_at + _ALIGNMENT
    fadt_at = xsdt_at + _ALIGNMENT
    madt = _madt(platform)
    madt_at = fadt_at + 4 * _ALIGNMENT
    dsdt_at = madt_at + _round_up(len(madt))
    code = dsdt.build(
        memory_top, platform.pm_base, platform.smi_command, platform.soft_off, platform.links
    )  # one processor of identifier 0, which the MADT repeats
    parts = {
        at: _rsdp(rsdt_at, xsdt_at),
        facs_at: _facs(),
        rsdt_at: _table(b"RSDT", 1, struct.pack("<2I", fadt_at, madt_at)),
        xsdt_at: _table(b"XSDT", 1, struct.pack("<2Q", fadt_at, madt_at)),
        fadt_at: _fadt(platform, facs_at, dsdt_at),
        madt_at: madt,
        dsdt_at: _table(b"DSDT", 2, code),
    }
    tables = bytearray(dsdt_at - at)
    for where, part in parts.items():
        tables[where - at : where - at + len(part)] = part
    return bytes(tables)


def _round_up(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes 0."""
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table with the header that all but RSDP and FACS have."""
    length = _HEADER.size + len(body)
    head = _HEADER.pack(signature, length, revision, 0, _OEM, _OEM_TABLE, _VERSION, _CREATOR, _VERSION)
    table = bytearray(head + body)
    table[_CHECKSUM_AT] = checksum(table)
    return bytes(table)


def _rsdp(rsdt_at: int, xsdt_at: int) -> bytes:
    """Root pointer of revision 2, with both checksums (5.2.5.3)."""
    rsdp = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM, 2, rsdt_at, 36, xsdt_at, 0))
    rsdp[8] = checksum(rsdp[:_RSDP_OLD_LENGTH])
    rsdp[32] = checksum(rsdp)
    return bytes(rsdp)


def _facs() -> bytes:
    """Firmware control structure of version 1: no waking vector, the global lock free (5.2.10)."""
    return struct.pack("<4sI4xI4xIQB31x", b"FACS", 64, 0, 0, 0, 1)


def _register(address: int, length: int, access: int) -> bytes:
    """A generic address structure for `length` bytes of I/O ports; all zero for a register that is not there."""
    if not address:
        return bytes(12)
    return struct.pack("<BBBBQ", _SYSTEM_IO, length * 8, 0, access, address)


def _fadt(platform: Platform, facs_at: int, dsdt_at: int) -> bytes:
    """Fixed description table of revision 3 (5.2.9): fixed hardware of a PIIX4 without general-purpose events."""
    events, control, timer = platform.pm_base, platform.pm_base + 4, platform.pm_base + 8
    legacy_devices, keyboard_controller = 1 << 0, 1 << 1  # IAPC_BOOT_ARCH, table 5-11
    # Table 5-10. A power button is there and a sleep button is not; an alarm of the clock sets no PM1 status; the PM
    # timer has 24 bits.
    wbinvd, halt_state, no_sleep_button, no_clock_status, reset_register = 1 << 0, 1 << 2, 1 << 5, 1 << 6, 1 << 10
    fields = (
        struct.pack("<II", facs_at, dsdt_at),
        struct.pack("<BBHI", 0, 1, platform.sci, platform.smi_command),  # profile 1: desktop
        struct.pack("<BBBB", platform.acpi_enable, platform.acpi_disable, 0, 0),  # no S4BIOS, no P-state control
        struct.pack("<8I", events, 0, control, 0, 0, timer, 0, 0),  # PM1a/b events, PM1a/b and PM2 control, timer, GPEs
        struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0),  # their lengths: events, PM1, PM2, timer, GPE0, GPE1; no C states
        struct.pack("<HH", 0xFFF, 0xFFF),  # latencies past their limits: neither C2 nor C3
        struct.pack("<HHBB", 0, 0, 0, 0),  # no flush stride, which WBINVD makes needless; no throttling
        struct.pack("<BBB", 0, 0, _CENTURY),  # the clock has no day and month alarm
        struct.pack("<HB", legacy_devices | keyboard_controller, 0),
        struct.pack("<I", wbinvd | halt_state | no_sleep_button | no_clock_status | reset_register),
        _register(_RESET_PORT, 1, _BYTE),
        struct.pack("<B3x", _RESET_VALUE),
        struct.pack("<QQ", 0, dsdt_at),  # of the two FACS addresses only one may be given
        _register(events, 4, _WORD),
        _register(0, 0, 0),
        _register(control, 2, _WORD),
        _register(0, 0, 0),
        _register(0, 0, 0),
        _register(timer, 4, _DWORD),
        _register(0, 0, 0),
        _register(0, 0, 0),
    )
    return _table(b"FACP", 3, b"".join(fields))


def _madt(platform: Platform) -> bytes:
    """Interrupt controllers (5.2.12): one processor, one I/O APIC, and what differs from ISA interrupts 0-15."""
    overrides = {0: (platform.timer_input, _AS_ON_BUS)}
    for interrupt in sorted({platform.sci, *platform.links}):
        overrides[interrupt] = (interrupt, _LEVEL_HIGH)
    entries = (
        struct.pack("<BBBBI", _LOCAL_APIC, 8, 0, platform.local_apic_id, _ENABLED),
        struct.pack("<BBBBII", _IO_APIC, 12, platform.io_apic_id, 0, platform.io_apic, 0),
        *(
            struct.pack("<BBBBIH", _OVERRIDE, 10, 0, source, target, flags)
            for source, (target, flags) in overrides.items()
        ),
        struct.pack("<BBBHB", _LOCAL_NMI, 6, _ALL_PROCESSORS, _AS_ON_BUS, _LINT1),
    )
    head = struct.pack("<II", platform.local_apic, _PCAT_COMPAT)
    return _table(b"APIC", 1, head + b"".join(entries))
