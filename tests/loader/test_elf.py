"""ELF executables: placement, entry, symbols, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from emu.errors import GuestFileError

Loading = Callable[..., Any]


@pytest.mark.parametrize("bits", [32, 64])
def test_an_executable_starts_in_its_own_mode(loading: Loading, samples: Any, bits: int) -> None:
    one = loading(samples.elf(bits))
    assert one.guest.format == "elf"
    assert one.guest.description == f"ELF{bits} executable, 1 segments"
    assert (one.state.mode, one.state.rip, one.guest.entry) == (bits, 0x100000, 0x100000)
    assert one.memory.read_bytes(0x100000, 4) == b"\xf4\xeb\xfd\0"


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("offset", [0, 2])
def test_a_high_kernel_is_entered_at_its_physical_address(
    loading: Loading, samples: Any, bits: int, offset: int
) -> None:
    high = 0xC0100000 if bits == 32 else 0xFFFFFFFF80100000
    one = loading(samples.elf(bits, virtual=high, physical=0x200000, entry=high + offset))
    assert one.state.rip == 0x200000 + offset
    assert loading(samples.elf(bits, virtual=high, physical=0x200000, entry=0x200001)).state.rip == 0x200001
    assert one.guest.symbols.lookup(high + 1) == ("start", 1)
    assert one.guest.symbols.lookup(0x200002) == ("start", 2)


def test_symbols_end_where_their_size_or_segment_ends(loading: Loading, samples: Any) -> None:
    symbols = loading(samples.elf()).guest.symbols
    assert symbols.lookup(0x100000) == ("start", 0)
    assert symbols.lookup(0x100003) is None  # `start` has 3 bytes
    assert symbols.lookup(0x1000FF) == ("tail", 0xEF)  # without a size: to the end of the segment
    assert symbols.lookup(0x100100) is None
    assert symbols.lookup(0xFFFFF) is None


def test_a_damaged_symbol_table_counts_as_absent(loading: Loading, samples: Any) -> None:
    data = bytearray(samples.elf())
    data[-64 - 64 + 24 : -64 - 64 + 32] = b"\xff" * 8  # the file offset of .symtab
    assert loading(bytes(data)).guest.symbols.lookup(0x100000) is None


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"type": 3}, "ET_DYN at file offset 0x10"),
        ({"machine": 40}, "EM_ARM at file offset 0x12"),
        ({"bits": 32, "machine": 62}, "an ELF32 guest is EM_386"),
        ({"phnum": 0}, "nothing to load"),
        ({"phnum": 999}, "truncated: the program header table"),
        ({"phentsize": 32}, "program headers of 32 bytes"),
        ({"entry": 0x200000}, "entry 0x200000 .* no loaded segment"),
        ({"memory_size": 2}, "3 bytes in the file, 2 in memory"),
        ({"memory_size": 8 << 20}, "8388608 bytes at guest-physical 0x100000 does not fit .* 8388608 bytes"),
        ({"physical": 0x2000}, "page tables"),
        ({"physical": 1 << 60}, "does not fit"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(
    loading: Loading, samples: Any, knobs: dict[str, int], told: str
) -> None:
    with pytest.raises(GuestFileError, match=f"guest.img: .*{told}"):
        loading(samples.elf(**knobs))


def test_forced_elf_format_checks_the_magic(loading: Loading) -> None:
    with pytest.raises(GuestFileError, match="7f 45 4c 46"):
        loading(bytes(100), format="elf")
    with pytest.raises(GuestFileError, match="little-endian"):
        loading(b"\x7fELF\x02\x02" + bytes(100))
