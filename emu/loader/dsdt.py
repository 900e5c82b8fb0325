"""The board's DSDT in AML: its sleep state, its processor, the PCI root with its interrupts, and the ISA devices.

\\_S5              soft off
\\_SB.C000         the processor
\\_SB.PCI0         host bridge: windows, and which link each slot's interrupt pins reach
\\_SB.PCI0.ISA     the bridge in slot 1, with COM1, KBD, RTC, TIMR, PIC, and SYSR for the ports of no device
\\_SB.LNKA-LNKD    the four PCI interrupt links
"""

from __future__ import annotations

from typing import Final

from emu.loader import aml

LINKS: Final = ("LNKA", "LNKB", "LNKC", "LNKD")

SLOTS: Final = range(1, 32)  # slot 0 is the host bridge itself
PINS: Final = 4
_ISA_ADDRESS: Final = 1 << 16  # _ADR of a PCI function: slot in the high word, function in the low one (table 6-2)
_ALL_FUNCTIONS: Final = 0xFFFF
_CONFIG_PORTS: Final = 0xCF8
_VGA_MEMORY: Final = (0xA0000, 0xBFFFF)
_PCI_TOP: Final = 0xFEBF_FFFF  # the I/O APIC follows


def link_of(slot: int, pin: int) -> int:
    """The number of the PIRQ that a slot's pin (0 to 3) reaches, as the slots of an i440FX board are wired."""
    return (slot + pin - 1) % len(LINKS)


def build(memory_top: int, pm_base: int, smi_command: int, sleep_type: int, links: tuple[int, ...]) -> bytes:
    """The AML of the DSDT, without its table header.

    `memory_top` is where RAM below 4 GiB ends and the PCI window starts; `links` are the interrupts of PIRQA to PIRQD.
    """
    return b"".join(
        (
            # SLP_TYP for PM1a and PM1b control, and two reserved elements (7.4.2)
            aml.name("_S5", aml.package(*map(aml.integer, (sleep_type, sleep_type, 0, 0)))),
            aml.scope(
                "_SB",
                aml.processor("C000", 0),
                _root_bridge(memory_top, pm_base, smi_command),
                *(_link(number, interrupt) for number, interrupt in enumerate(links)),
            ),
        )
    )


def _root_bridge(memory_top: int, pm_base: int, smi_command: int) -> bytes:
    windows = aml.resources(
        aml.bus_numbers(0, 0xFF),
        aml.ports(_CONFIG_PORTS, 8),
        aml.port_window(0, _CONFIG_PORTS - 1),
        aml.port_window(_CONFIG_PORTS + 8, 0xFFFF),
        aml.memory_window(*_VGA_MEMORY, cacheable=True),
        aml.memory_window(memory_top, _PCI_TOP),
    )
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", windows),
        aml.name("_PRT", _routing()),
        aml.device("ISA", aml.name("_ADR", aml.integer(_ISA_ADDRESS)), *_isa_devices(pm_base, smi_command)),
    )


def _isa_devices(pm_base: int, smi_command: int) -> tuple[bytes, ...]:
    return (
        _isa("COM1", "PNP0501", 1, aml.ports(0x3F8, 8), aml.isa_irq(4)),
        _isa("KBD", "PNP0303", 0, aml.ports(0x60, 1), aml.ports(0x64, 1), aml.isa_irq(1)),
        _isa("RTC", "PNP0B00", 0, aml.ports(0x70, 2), aml.isa_irq(8)),
        _isa("TIMR", "PNP0100", 0, aml.ports(0x40, 4), aml.isa_irq(0)),
        _isa("PIC", "PNP0000", 0, aml.ports(0x20, 2), aml.ports(0xA0, 2), aml.ports(0x4D0, 2), aml.isa_irq(2)),
        _isa("SYSR", "PNP0C02", 0, aml.ports(0x61, 1), aml.ports(pm_base, 0x40), aml.ports(smi_command, 2)),
    )


def _isa(path: str, identifier: str, unique: int, *descriptors: bytes) -> bytes:
    return aml.device(
        path,
        aml.name("_HID", aml.eisa_id(identifier)),
        aml.name("_UID", aml.integer(unique)),
        aml.name("_CRS", aml.resources(*descriptors)),
    )


def _routing() -> bytes:
    """_PRT (6.2.13)."""
    rows = (
        aml.package(
            aml.integer(slot << 16 | _ALL_FUNCTIONS),
            aml.integer(pin),
            aml.name_string(LINKS[link_of(slot, pin)]),
            aml.integer(0),
        )
        for slot in SLOTS
        for pin in range(PINS)
    )
    return aml.package(*rows)


def _link(number: int, interrupt: int) -> bytes:
    """A PCI interrupt link that has one setting only, so that setting and disabling it do nothing (6.2.12-6.2.16)."""
    setting = aml.resources(aml.level_interrupt(interrupt))
    return aml.device(
        LINKS[number],
        aml.name("_HID", aml.eisa_id("PNP0C0F")),
        aml.name("_UID", aml.integer(number + 1)),
        aml.name("_PRS", setting),
        aml.name("_CRS", setting),
        aml.method("_SRS", 1),
        aml.method("_DIS", 0),
    )
