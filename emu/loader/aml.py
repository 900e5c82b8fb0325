"""Encodes ACPI Machine Language: the terms and resource descriptors that the board's description of itself needs.

Every function gives the bytes of one term, so that terms nest as they do in source: `device("COM1", name("_UID",
integer(1)))`. Sections are those of the ACPI specification 6.4: the grammar in 20.2, descriptors in 6.4.2 and 6.4.3.
"""

from __future__ import annotations

import struct
from typing import Final

_ROOT, _DUAL_NAME, _MULTI_NAME = b"\\", b"\x2e", b"\x2f"  # 20.2.2
_BYTE, _WORD, _DWORD, _STRING = b"\x0a", b"\x0b", b"\x0c", b"\x0d"  # 20.2.3
_NAME, _SCOPE, _BUFFER, _PACKAGE, _METHOD = b"\x08", b"\x10", b"\x11", b"\x12", b"\x14"  # 20.2.5
_DEVICE, _PROCESSOR = b"\x5b\x82", b"\x5b\x83"

_IO_PORT, _IRQ, _END_TAG = 0x47, 0x22, 0x79  # small resource tags with their lengths (6.4.2)
_DWORD_SPACE, _WORD_SPACE, _EXTENDED_INTERRUPT = 0x87, 0x88, 0x89  # large resource tags (6.4.3)
_MEMORY, _IO, _BUS = 0, 1, 2  # kinds of address space
_FIXED: Final = 0x0C  # both ends of an address space are fixed; it is produced, decoded positively
_ENTIRE_RANGE: Final = 3  # an I/O window takes ISA and other addresses alike
_READ_WRITE, _CACHEABLE = 1, 1 << 1
_CONSUMER, _LEVEL_HIGH_SHARED = 1, 1 << 3  # bits 1 and 2 clear: level-triggered, active-high


# -- names and data ----------------------------------------------------------------------------------------------------


def name_string(path: str) -> bytes:
    """A name such as `_CRS` or `\\_SB.PCI0`; segments have up to 4 characters and are padded with underscores."""
    root, segments = path.startswith("\\"), path.lstrip("\\").split(".")
    if not all(1 <= len(segment) <= 4 for segment in segments):
        raise ValueError(f"AML name {path!r}: a segment must have 1 to 4 characters")
    joined = "".join(segment.ljust(4, "_") for segment in segments).encode("ascii")
    count = len(segments)
    prefix = {1: b"", 2: _DUAL_NAME}.get(count, _MULTI_NAME + bytes((count,)))
    return (_ROOT if root else b"") + prefix + joined


def integer(value: int) -> bytes:
    """An unsigned integer of up to 32 bits in its shortest form; ZeroOp and OneOp are the numbers themselves."""
    if not 0 <= value < 1 << 32:
        raise ValueError(f"AML integer {value:#x}: it must have at most 32 bits")
    if value < 2:
        return bytes((value,))
    if value < 1 << 8:
        return _BYTE + struct.pack("<B", value)
    if value < 1 << 16:
        return _WORD + struct.pack("<H", value)
    return _DWORD + struct.pack("<I", value)


def eisa_id(text: str) -> bytes:
    """An identifier such as `PNP0A03`: three letters of 5 bits, four hexadecimal digits, high byte first (19.6.36)."""
    maker, product = text[:3], text[3:]
    letters = 0
    for letter in maker:
        letters = letters << 5 | ord(letter) - ord("@")
    return integer(int.from_bytes(struct.pack(">HH", letters, int(product, 16)), "little"))


def buffer(data: bytes) -> bytes:
    return _BUFFER + _with_length(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    """A package of up to 255 data objects or names."""
    return _PACKAGE + _with_length(bytes((len(elements),)) + b"".join(elements))


def _with_length(body: bytes) -> bytes:
    """`body` behind a PkgLength, which counts its own bytes as well (20.2.4)."""
    if len(body) + 1 < 1 << 6:
        return bytes((len(body) + 1,)) + body
    for more in (1, 2, 3):
        total = len(body) + 1 + more
        if total < 1 << 4 + 8 * more:
            return bytes((more << 6 | total & 0xF,)) + (total >> 4).to_bytes(more, "little") + body
    raise ValueError(f"AML term of {len(body)} bytes: it must be shorter than 256 MiB")


# -- objects -----------------------------------------------------------------------------------------------------------


def name(path: str, value: bytes) -> bytes:
    """Name (path, value)."""
    return _NAME + name_string(path) + value


def scope(path: str, *body: bytes) -> bytes:
    """Scope (path) { body }."""
    return _SCOPE + _with_length(name_string(path) + b"".join(body))


def device(path: str, *body: bytes) -> bytes:
    """Device (path) { body }."""
    return _DEVICE + _with_length(name_string(path) + b"".join(body))


def method(path: str, arguments: int, *body: bytes) -> bytes:
    """Method (path, arguments, NotSerialized) { body }."""
    return _METHOD + _with_length(name_string(path) + bytes((arguments,)) + b"".join(body))


def processor(path: str, identifier: int, block: int = 0, length: int = 0) -> bytes:
    """Processor (path, identifier, block, length) {}: no register block where `length` is 0."""
    return _PROCESSOR + _with_length(name_string(path) + struct.pack("<BIB", identifier, block, length))


# -- resource descriptors ----------------------------------------------------------------------------------------------


def resources(*descriptors: bytes) -> bytes:
    """A buffer of resource descriptors; a checksum of 0 in the end tag stands for none (6.4.2.9)."""
    return buffer(b"".join(descriptors) + bytes((_END_TAG, 0)))


def ports(start: int, length: int) -> bytes:
    """Fixed I/O ports, all 16 address lines decoded (6.4.2.5)."""
    return struct.pack("<BBHHBB", _IO_PORT, 1, start, start, 1, length)


def isa_irq(number: int) -> bytes:
    """An interrupt as on the ISA bus: edge-triggered, active-high, exclusive (6.4.2.1)."""
    return struct.pack("<BH", _IRQ, 1 << number)


def level_interrupt(number: int) -> bytes:
    """A global system interrupt, level-triggered, active-high, shared (6.4.3.6)."""
    return struct.pack("<BHBBI", _EXTENDED_INTERRUPT, 6, _CONSUMER | _LEVEL_HIGH_SHARED, 1, number)


def bus_numbers(first: int, last: int) -> bytes:
    """The PCI buses behind a bridge (6.4.3.5.3)."""
    return _word_space(_BUS, 0, first, last)


def port_window(first: int, last: int) -> bytes:
    """I/O ports a bridge passes on (6.4.3.5.3)."""
    return _word_space(_IO, _ENTIRE_RANGE, first, last)


def memory_window(first: int, last: int, cacheable: bool = False) -> bytes:
    """Memory below 4 GiB a bridge passes on (6.4.3.5.2)."""
    flags = _READ_WRITE | (_CACHEABLE if cacheable else 0)
    head = struct.pack("<BHBBB", _DWORD_SPACE, 23, _MEMORY, _FIXED, flags)
    return head + struct.pack("<5I", 0, first, last, 0, last - first + 1)


def _word_space(kind: int, flags: int, first: int, last: int) -> bytes:
    head = struct.pack("<BHBBB", _WORD_SPACE, 13, kind, _FIXED, flags)
    return head + struct.pack("<5H", 0, first, last, 0, last - first + 1)
