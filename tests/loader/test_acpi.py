"""The ACPI tables as a kernel reads them, by a reader of their own; and as Intel's disassembler reads them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emu.bus import Bus
from emu.clock import Clock
from emu.devices.pm import PowerManagement, SmiCommand
from emu.irq import IrqLine
from emu.loader import acpi
from emu.memory import LOW_TOP, MIB, GuestMemory

SIZE = 64 * MIB


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    made = GuestMemory(SIZE, Bus("memory"))
    assert acpi.place(made) == 0xE0000
    yield made
    made.close()


def find_rsdp(memory: GuestMemory) -> int:
    """The search of section 5.2.5.1: 16-byte boundaries of the BIOS area, and the first checksum."""
    for at in range(0xE0000, 0x100000, 16):
        if memory.read_bytes(at, 8) == b"RSD PTR " and sum(memory.read_bytes(at, 20)) & 0xFF == 0:
            return at
    raise AssertionError("no RSDP")


def read_table(memory: GuestMemory, at: int) -> bytes:
    table = memory.read_bytes(at, memory.read(at + 4, 4))
    assert sum(table) & 0xFF == 0, f"checksum of {table[:4]!r}"
    return table


def tables(memory: GuestMemory) -> dict[str, bytes]:
    """Every table by signature, found through the XSDT and the FADT."""
    xsdt = read_table(memory, memory.read(find_rsdp(memory) + 24, 8))
    found = {"XSDT": xsdt}
    for (at,) in struct.iter_unpack("<Q", xsdt[36:]):
        table = read_table(memory, at)
        found[table[:4].decode()] = table
    (facs_at,) = struct.unpack_from("<I", found["FACP"], 36)
    found["FACS"] = memory.read_bytes(facs_at, memory.read(facs_at + 4, 4))
    found["DSDT"] = read_table(memory, struct.unpack_from("<Q", found["FACP"], 140)[0])
    return found


# -- the tables --------------------------------------------------------------------------------------------------------


def test_root_pointer_has_both_checksums_and_revision_2(memory: GuestMemory) -> None:
    rsdp = memory.read_bytes(find_rsdp(memory), 36)
    assert sum(rsdp) & 0xFF == 0
    assert rsdp[15] == 2
    assert struct.unpack_from("<I", rsdp, 20) == (36,)


def test_old_and_new_root_tables_list_the_same(memory: GuestMemory) -> None:
    at = find_rsdp(memory)
    rsdt, xsdt = read_table(memory, memory.read(at + 16, 4)), read_table(memory, memory.read(at + 24, 8))
    assert (rsdt[:4], rsdt[8], xsdt[:4], xsdt[8]) == (b"RSDT", 1, b"XSDT", 1)
    listed = [at for (at,) in struct.iter_unpack("<I", rsdt[36:])]
    assert listed == [at for (at,) in struct.iter_unpack("<Q", xsdt[36:])]
    assert [memory.read_bytes(at, 4) for at in listed] == [b"FACP", b"APIC"]


def test_everything_lies_in_writable_memory_below_the_rom(memory: GuestMemory) -> None:
    built = acpi.build(SIZE, acpi.TABLES)
    assert acpi.TABLES + len(built) <= acpi.TABLES_END == 0xF0000
    assert not any(memory.write_protected(at) for at in range(acpi.TABLES, acpi.TABLES_END, 0x1000))


def test_fadt_describes_the_fixed_hardware(memory: GuestMemory) -> None:
    fadt = tables(memory)["FACP"]
    assert (len(fadt), fadt[8]) == (244, 3)

    def field(at: int, form: str) -> int:
        value: int = struct.unpack_from("<" + form, fadt, at)[0]
        return value

    assert field(46, "H") == 9  # SCI_INT
    assert (field(48, "I"), field(52, "B"), field(53, "B")) == (0xB2, 0xF1, 0xF0)
    assert (field(56, "I"), field(64, "I"), field(76, "I")) == (0x600, 0x604, 0x608)
    assert [field(at, "I") for at in (60, 68, 72, 80, 84)] == [0] * 5
    assert list(fadt[88:95]) == [4, 2, 0, 4, 0, 0, 0]
    assert field(96, "H") > 100  # no C2
    assert field(98, "H") > 1000  # no C3
    assert field(108, "B") == 0x32
    assert field(109, "H") == 3
    flags = field(112, "I")
    assert flags & 1 << 10, "reset register"
    assert not flags & 1 << 4, "a fixed power button"
    assert not flags & 1 << 8, "24-bit timer"
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0xCF9, 6)
    assert field(40, "I") == field(140, "Q")  # both DSDT addresses
    extended = {at: struct.unpack_from("<BBBBQ", fadt, at) for at in range(148, 244, 12)}
    assert extended.pop(148) == (1, 32, 0, 2, 0x600)
    assert extended.pop(172) == (1, 16, 0, 2, 0x604)
    assert extended.pop(208) == (1, 32, 0, 3, 0x608)
    assert all(value == (0, 0, 0, 0, 0) for value in extended.values())


def test_facs_is_aligned_and_unlocked(memory: GuestMemory) -> None:
    found = tables(memory)
    assert struct.unpack_from("<I", found["FACP"], 36)[0] % 64 == 0
    assert found["FACS"] == b"FACS" + struct.pack("<I", 64) + bytes(24) + b"\x01" + bytes(31)


def test_madt_lists_processor_io_apic_overrides_and_nmi(memory: GuestMemory) -> None:
    madt = tables(memory)["APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    entries, at = [], 44
    while at < len(madt):
        entries.append(madt[at : at + madt[at + 1]])
        at += madt[at + 1]
    assert at == len(madt)
    assert entries[0] == struct.pack("<BBBBI", 0, 8, 0, 0, 1)
    assert entries[1] == struct.pack("<BBBBII", 1, 12, 0, 0, 0xFEC00000, 0)
    assert entries[-1] == struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)
    overrides = {e[3]: struct.unpack_from("<IH", e, 4) for e in entries[2:-1] if e[0] == 2 and e[2] == 0}
    assert overrides == {0: (2, 0), 9: (9, 0xD), 10: (10, 0xD), 11: (11, 0xD)}
    assert len(entries) == 3 + len(overrides)


def test_the_platform_decides_what_the_tables_say(memory: GuestMemory) -> None:
    memory.fill(acpi.TABLES, 0x10000)
    platform = acpi.Platform(pm_base=0xB000, sci=11, io_apic_id=1, local_apic_id=3, links=(5, 5, 5, 5), soft_off=7)
    assert acpi.place(memory, platform) == acpi.TABLES
    found = tables(memory)
    assert struct.unpack_from("<H", found["FACP"], 46) == (11,)
    assert struct.unpack_from("<I", found["FACP"], 64) == (0xB004,)
    assert found["APIC"][44 + 3] == 3
    assert found["APIC"][44 + 8 + 2] == 1
    names = Aml(found["DSDT"]).names
    assert names["_S5_"] == [7, 7, 0, 0]
    assert ("ports", 0xB000, 0x40) in names["_SB_.PCI0.ISA_.SYSR._CRS"]
    assert names["_SB_.LNKC._CRS"] == [("interrupt", 0x09, 5)]


def test_tables_are_not_put_over_a_guest(memory: GuestMemory) -> None:
    memory.fill(acpi.TABLES, 0x10000)
    memory.write(0xEFFFF, 1, 0x90)
    assert acpi.place(memory) is None
    assert not any(memory.read_bytes(acpi.TABLES, 0xFFFF))


def test_an_unaligned_address_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of 64"):
        acpi.build(SIZE, 0xE0010)


def test_tables_can_lie_elsewhere() -> None:
    low, high = acpi.build(SIZE, 0xE0000), acpi.build(SIZE, 0x3F00000)
    assert len(low) == len(high)
    assert struct.unpack_from("<I", high, 16)[0] - struct.unpack_from("<I", low, 16)[0] == 0x3F00000 - 0xE0000


# -- the DSDT ----------------------------------------------------------------------------------------------------------


class Aml:
    """Reads a DSDT's terms into `names`, by path; fails where a length and what it counts disagree."""

    def __init__(self, table: bytes) -> None:
        self.code = table
        self.at = 36
        self.names: dict[str, Any] = {}
        self.terms(len(table), "")

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.code)
        return self.code[self.at - count : self.at]

    def length(self) -> int:
        """A PkgLength; where what it counts ends."""
        start, lead = self.at, self.take(1)[0]
        more = lead >> 6
        if not more:
            return start + lead
        assert not lead & 0x30, "reserved bits"
        return start + (lead & 15) + (int.from_bytes(self.take(more), "little") << 4)

    def segment(self) -> str:
        return self.take(4).decode()

    def terms(self, end: int, path: str) -> None:
        while self.at < end:
            self.term(path)
        assert self.at == end

    def term(self, path: str) -> None:
        operation = self.take(1)
        if operation == b"\x5b":
            operation += self.take(1)
        if operation == b"\x08":
            where = path + self.segment()
            assert where not in self.names
            self.names[where] = self.data()
            return
        end = self.length()
        where = path + self.segment()
        if operation in (b"\x10", b"\x5b\x82"):
            self.terms(end, where + ".")
        elif operation == b"\x5b\x83":
            self.names[where] = ("processor", *struct.unpack("<BIB", self.take(6)))
        elif operation == b"\x14":
            self.names[where] = ("method", self.take(1)[0] & 7)
        else:
            raise AssertionError(f"unknown term {operation!r} at {self.at:#x}")
        assert self.at == end

    def data(self) -> Any:
        lead = self.take(1)[0]
        if lead in (0, 1):
            return lead
        if lead in (0x0A, 0x0B, 0x0C):
            return int.from_bytes(self.take(1 << lead - 0x0A), "little")
        if lead == 0x12:
            end, count = self.length(), self.take(1)[0]
            elements = [self.data() for _ in range(count)]
            assert self.at == end
            return elements
        if lead == 0x11:
            end = self.length()
            size = self.data()
            assert self.at + size == end
            return list(descriptors(self.take(size)))
        self.at -= 1
        return self.segment()


def descriptors(data: bytes) -> Iterator[tuple[Any, ...]]:
    """Resource descriptors of sections 6.4.2 and 6.4.3."""
    at = 0
    while data[at] != 0x79:
        tag = data[at]
        if tag & 0x80:
            body = data[at + 3 : at + 3 + int.from_bytes(data[at + 1 : at + 3], "little")]
            at += 3 + len(body)
        else:
            body = data[at + 1 : at + 1 + (tag & 7)]
            at += 1 + len(body)
        if tag == 0x47:
            decode, first, last, align, length = struct.unpack("<BHHBB", body)
            assert (decode, last, align) == (1, first, 1)
            yield ("ports", first, length)
        elif tag == 0x22:
            yield ("irq", struct.unpack("<H", body)[0].bit_length() - 1)
        elif tag == 0x89:
            flags, count, number = struct.unpack("<BBI", body)
            assert count == 1
            yield ("interrupt", flags, number)
        elif tag in (0x87, 0x88):
            kind, flags, _, granularity, first, last, translation, length = struct.unpack(
                "<BBB5I" if tag == 0x87 else "<BBB5H", body
            )
            assert (flags, granularity, translation, length) == (0x0C, 0, 0, last - first + 1)
            yield (("memory", "window", "buses")[kind], first, last)
        else:
            raise AssertionError(f"unknown descriptor {tag:#x}")
    assert data[at:] == b"\x79\x00"


def eisa(text: str) -> int:
    """The number of an identifier, as the compiler's manual draws it: 5-bit letters and digits, bytes swapped."""
    a, b, c = (ord(letter) - 64 for letter in text[:3])
    return int.from_bytes(struct.pack(">I", a << 26 | b << 21 | c << 16 | int(text[3:], 16)), "little")


@pytest.fixture
def names(memory: GuestMemory) -> dict[str, Any]:
    return Aml(tables(memory)["DSDT"]).names


def test_a_kernel_without_an_interpreter_finds_the_sleep_type(memory: GuestMemory) -> None:
    """Small kernels look for the bytes of _S5_ behind a NameOp, and take the package's first element."""
    dsdt = tables(memory)["DSDT"]
    at = dsdt.index(b"_S5_")
    assert dsdt.count(b"_S5_") == 1
    assert dsdt[at - 1] == 0x08
    assert dsdt[at + 4] == 0x12
    at += 5
    at += (dsdt[at] >> 6) + 2
    if dsdt[at] == 0x0A:
        at += 1
    assert dsdt[at] << 10 | 1 << 13 == 0x2000


def test_sleep_state_and_processor(memory: GuestMemory, names: dict[str, Any]) -> None:
    assert names["_S5_"] == [0, 0, 0, 0]
    assert names["_SB_.C000"] == ("processor", tables(memory)["APIC"][44 + 2], 0, 0)


def test_root_bridge_has_its_windows(names: dict[str, Any]) -> None:
    assert names["_SB_.PCI0._HID"] == eisa("PNP0A03") == 0x030AD041
    assert names["_SB_.PCI0._CRS"] == [
        ("buses", 0, 255),
        ("ports", 0xCF8, 8),
        ("window", 0, 0xCF7),
        ("window", 0xD00, 0xFFFF),
        ("memory", 0xA0000, 0xBFFFF),
        ("memory", SIZE, 0xFEBFFFFF),
    ]


def test_the_memory_window_starts_above_the_ram() -> None:
    for top in (MIB, LOW_TOP):
        built = acpi.build(top, acpi.TABLES)
        at = next(at for at in range(0, len(built), 64) if built[at : at + 4] == b"DSDT")
        assert ("memory", top, 0xFEBFFFFF) in Aml(built[at:]).names["_SB_.PCI0._CRS"]


def test_interrupt_pins_reach_the_links_in_turn(names: dict[str, Any]) -> None:
    routing = {(row[0], row[1]): row[2:] for row in names["_SB_.PCI0._PRT"]}
    assert len(routing) == len(names["_SB_.PCI0._PRT"]) == 31 * 4
    assert [routing[0x1FFFF, pin] for pin in range(4)] == [[link, 0] for link in ("LNKA", "LNKB", "LNKC", "LNKD")]
    assert [routing[slot << 16 | 0xFFFF, 0][0] for slot in (2, 3, 4, 5)] == ["LNKB", "LNKC", "LNKD", "LNKA"]
    for link, number in (("LNKA", 10), ("LNKB", 10), ("LNKC", 11), ("LNKD", 11)):
        where = f"_SB_.{link}."
        assert names[where + "_HID"] == eisa("PNP0C0F")
        assert names[where + "_CRS"] == names[where + "_PRS"] == [("interrupt", 0x09, number)]
        assert names[where + "_SRS"] == ("method", 1)
        assert names[where + "_DIS"] == ("method", 0)
    assert sorted(names[f"_SB_.LNK{letter}._UID"] for letter in "ABCD") == [1, 2, 3, 4]


def test_isa_devices(names: dict[str, Any]) -> None:
    bridge = "_SB_.PCI0.ISA_."
    assert names[bridge + "_ADR"] == 0x10000
    expected = {
        "COM1": ("PNP0501", [("ports", 0x3F8, 8), ("irq", 4)]),
        "KBD_": ("PNP0303", [("ports", 0x60, 1), ("ports", 0x64, 1), ("irq", 1)]),
        "RTC_": ("PNP0B00", [("ports", 0x70, 2), ("irq", 8)]),
        "TIMR": ("PNP0100", [("ports", 0x40, 4), ("irq", 0)]),
        "PIC_": ("PNP0000", [("ports", 0x20, 2), ("ports", 0xA0, 2), ("ports", 0x4D0, 2), ("irq", 2)]),
        "SYSR": ("PNP0C02", [("ports", 0x61, 1), ("ports", 0x600, 0x40), ("ports", 0xB2, 2)]),
    }
    for device, (identifier, settings) in expected.items():
        assert names[f"{bridge}{device}._HID"] == eisa(identifier)
        assert names[f"{bridge}{device}._CRS"] == settings
    assert sum(path.startswith(bridge) and path.endswith("_HID") for path in names) == len(expected)


# -- together with the device ------------------------------------------------------------------------------------------


def test_what_the_tables_say_works_on_the_registers(memory: GuestMemory) -> None:
    """What a kernel does with them: enable ACPI, wait for SCI_EN, read the timer, enter S5."""
    found = tables(memory)
    fadt = found["FACP"]
    smi, enable, disable = struct.unpack_from("<IBB", fadt, 48)
    control = struct.unpack_from("<I", fadt, 64)[0]
    timer = struct.unpack_from("<I", fadt, 76)[0]

    class Time:
        def now(self) -> int:
            return 1_000_000_000

    ended: list[str] = []
    ports = Bus("port")
    pm = PowerManagement(Clock(Time()), IrqLine(), lambda: ended.append("off"))
    ports.attach(acpi.PC.pm_base, 0x40, pm)
    ports.attach(acpi.PC.smi_command, 2, SmiCommand(pm))
    assert not ports.read(control, 2) & 1
    ports.write(smi, 1, enable)
    assert ports.read(control, 2) & 1
    assert ports.read(timer, 4) == 3_579_545
    ports.write(smi, 1, disable)
    assert not ports.read(control, 2) & 1
    assert not ended
    sleep_type = Aml(found["DSDT"]).names["_S5_"][0]
    ports.write(control, 2, sleep_type << 10 | 1 << 13)
    assert ended == ["off"]


# -- Intel's tools -----------------------------------------------------------------------------------------------------


def iasl(where: Path, *arguments: str) -> str:
    """Run Intel's compiler and disassembler in a directory; what it printed."""
    program = shutil.which("iasl")
    if program is None:
        missing = "iasl is not installed: install the package acpica-tools"
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    done = subprocess.run([program, *arguments], cwd=where, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def complaints(text: str) -> list[str]:
    words = ("error", "warning", "invalid", "incorrect", "unknown", "could not")
    return [line for line in text.splitlines() if any(word in line.lower() for word in words)]


@pytest.mark.parametrize("signature", ["XSDT", "FACP", "FACS", "APIC", "DSDT"])
def test_disassembler_reads_every_table(memory: GuestMemory, tmp_path: Path, signature: str) -> None:
    (tmp_path / "table.dat").write_bytes(tables(memory)[signature])
    assert complaints(iasl(tmp_path, "-d", "table.dat")) == []
    source = (tmp_path / "table.dsl").read_text()
    assert complaints(source) == []
    assert signature in source


def test_disassembler_notices_a_wrong_checksum(memory: GuestMemory, tmp_path: Path) -> None:
    broken = bytearray(tables(memory)["APIC"])
    broken[9] ^= 1
    (tmp_path / "table.dat").write_bytes(broken)
    said = iasl(tmp_path, "-d", "table.dat")
    assert complaints(said + (tmp_path / "table.dsl").read_text())


def test_compiler_makes_the_same_dsdt_from_its_disassembly(memory: GuestMemory, tmp_path: Path) -> None:
    dsdt = tables(memory)["DSDT"]
    (tmp_path / "dsdt.dat").write_bytes(dsdt)
    iasl(tmp_path, "-d", "dsdt.dat")
    # 3168: it would have a processor be a device, which kernels that know ACPI 1.0 to 5.1 do not look for
    said = iasl(tmp_path, "-vw", "3168", "-p", "again", "dsdt.dsl")
    assert "0 Errors, 0 Warnings, 0 Remarks" in said
    assert (tmp_path / "again.aml").read_bytes()[36:] == dsdt[36:]
