"""AML encodings against the byte strings that the ACPI specification and Intel's compiler give for them."""

from __future__ import annotations

import pytest

from emu.loader import aml


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"), (1, "01"), (2, "0a02"), (0xFF, "0aff"), (0x100, "0b0001"), (0xFFFF, "0bffff"),
        (0x10000, "0c00000100"), (0xFFFFFFFF, "0cffffffff"),
    ],
)  # fmt: skip
def test_integers_take_their_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_wider_integers_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="at most 32 bits"):
        aml.integer(value)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("_S5", b"_S5_"),
        ("\\_SB", b"\\_SB_"),
        ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"),
        ("_SB.PCI0.ISA", b"\x2f\x03_SB_PCI0ISA_"),
    ],
)
def test_names_are_padded_and_counted(path: str, encoded: bytes) -> None:
    assert aml.name_string(path) == encoded


@pytest.mark.parametrize("path", ["", "\\", "TOOLONG", "_SB..PCI0"])
def test_names_with_other_segments_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="1 to 4 characters"):
        aml.name_string(path)


@pytest.mark.parametrize(
    ("length", "prefix"),
    [
        # Of a package of `length` bytes behind its element count: what PkgLength says counts itself and the count.
        (61, "3f"),
        (62, "4104"),
        (4092, "4fff"),
        (4093, "810001"),
        (0xFFFFF - 4, "8fffff"),
        (0xFFFFF - 3, "c1000001"),
    ],
)
def test_package_lengths_grow_with_what_they_count(length: int, prefix: str) -> None:
    encoded = aml.package(bytes(length))
    assert encoded[1:-length].hex() == prefix + "01"


def test_a_term_longer_than_a_package_length_can_say_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 28

    with pytest.raises(ValueError, match="shorter than 256 MiB"):
        aml._with_length(Huge())


@pytest.mark.parametrize(
    ("text", "encoded"), [("PNP0A03", "0c41d00a03"), ("PNP0C0F", "0c41d00c0f"), ("PNP0000", "0b41d0")]
)
def test_identifiers_are_compressed(text: str, encoded: str) -> None:
    assert aml.eisa_id(text).hex() == encoded


def test_a_resource_buffer_says_its_length_and_ends_with_a_tag() -> None:
    assert aml.resources(aml.isa_irq(4)).hex() == "1108" + "0a05" + "221000" + "7900"


def test_descriptors() -> None:
    assert aml.ports(0x3F8, 8).hex() == "4701f803f8030108"
    assert aml.isa_irq(8).hex() == "220001"
    assert aml.level_interrupt(10).hex() == "89060009010a000000"
    assert aml.bus_numbers(0, 0xFF).hex() == "880d00020c00" + "00000000ff0000000001"
    assert aml.port_window(0xD00, 0xFFFF).hex() == "880d00010c03" + "0000000dffff000000f3"
    assert aml.memory_window(0xA0000, 0xBFFFF, cacheable=True).hex() == (
        "871700000c03" + "0000000000000a00ffff0b000000000000000200"
    )
