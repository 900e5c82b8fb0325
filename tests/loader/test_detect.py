"""Recognition by content, options that fit no format, and damaged images of every format."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus import Bus
from emu.errors import GuestFileError, UsageError
from emu.loader.detect import FORMATS, detect, load
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions
from emu.memory import MIB, GuestMemory
from isa.x86.state import X86State

Loading = Callable[..., Any]
FORMAT_OF = {
    "elf32": "elf", "multiboot-elf": "multiboot", "linux32": "linux", "bzimage": "linux", "vmlinux": "linux",
    "vmlinux32": "linux",
}  # fmt: skip
NAMES = ("boot", "elf", "multiboot", "linux", "pvh", *FORMAT_OF)


def test_every_format_is_recognised(samples: Any) -> None:
    for name, data in samples.all().items():
        assert detect(data) == FORMAT_OF.get(name, name)
    for data in (b"", b"\xf4", bytes(510) + b"\x55\xaa\0", b"\x7fEL"):
        assert detect(data) == "flat"


@pytest.mark.parametrize("name", NAMES)
def test_every_format_may_be_loaded_as_flat(loading: Loading, samples: Any, name: str) -> None:
    one = loading(samples.all()[name], format="flat")
    assert one.guest.format == "flat"
    assert one.memory.read_bytes(0x100000, 16) == samples.all()[name][:16]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("boot", {"mode": 64}),
        ("multiboot", {"mode": 64}),
        ("linux", {"mode": 8}),
        ("elf", {"mode": 16}),
        ("elf", {"org": 0x1000}),
        ("boot", {"append": "x"}),
        ("elf", {"initrd": b"x"}),
        ("elf", {"format": "coff"}),
        ("elf", {"boot_stub": True}),
        ("vmlinux", {"boot_stub": True}),
        ("pvh", {"mode": 64}),
    ],
)
def test_options_that_fit_no_format_are_usage_errors(
    loading: Loading, samples: Any, name: str, options: dict[str, Any]
) -> None:
    option = next(iter(options)).replace("_", "-")
    with pytest.raises(UsageError, match=f"--{option}"):
        loading(samples.all()[name], **options)


def test_an_elf_of_the_other_class_refuses_the_mode(loading: Loading, samples: Any) -> None:
    with pytest.raises(GuestFileError, match=r"ELF32 .* 64-bit mode"):
        loading(samples.elf(32), mode=64)


@pytest.mark.parametrize("name", FORMATS)
def test_a_forced_format_never_shows_a_traceback_on_other_content(samples: Any, name: str) -> None:
    for sample, data in samples.all().items():
        if name not in ("flat", FORMAT_OF.get(sample, sample)):
            attempt(data, LoadOptions(format=name))
    with pytest.raises(GuestFileError):
        load(GuestImage("x", b""), GuestMemory(MIB, Bus("m")), X86State(), LoadOptions(format=name))


def attempt(data: bytes, options: LoadOptions) -> LoadedGuest | None:
    """Load, or fail with the one error that damage may raise; anything else propagates and fails the test."""
    memory = GuestMemory(4 * MIB, Bus("memory"))
    try:
        guest = load(GuestImage("damaged.img", data), memory, X86State(), options)
        guest.symbols.lookup(guest.entry)
        return guest
    except GuestFileError as error:
        told = str(error)
    finally:
        memory.close()
    assert told.startswith("damaged.img: ")
    assert "\n" not in told
    return None


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_is_an_error_or_a_smaller_guest(samples: Any, name: str) -> None:
    data = samples.all()[name]
    forced = LoadOptions(format=FORMAT_OF.get(name, name))
    step = max(1, len(data) // 300)
    for length in [*range(0, len(data), step), *range(max(0, len(data) - 40), len(data))]:
        attempt(data[:length], LoadOptions())
        attempt(data[:length], forced)
    assert attempt(data, forced) is not None


@pytest.mark.parametrize("name", NAMES)
def test_headers_cut_short_are_errors(samples: Any, name: str) -> None:
    for length in range(48):
        assert attempt(samples.all()[name][:length], LoadOptions(format=FORMAT_OF.get(name, name))) is None


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
)
def test_flipped_bytes_never_escape(samples: Any, name: str, flips: list[tuple[int, int]], forced: bool) -> None:
    data = bytearray(samples.all()[name])
    for at, value in flips:
        data[at % len(data)] = value
    attempt(bytes(data), LoadOptions(format=FORMAT_OF.get(name, name) if forced else None))


HEADER_WORDS = {
    "elf": range(0, 120, 4), "elf32": range(0, 84, 4), "multiboot": range(16, 64, 4), "linux": range(0x1F0, 0x268, 4)
}  # fmt: skip


@pytest.mark.parametrize("name", HEADER_WORDS)
@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_extreme_header_words_never_escape(samples: Any, name: str, value: int) -> None:
    for at in HEADER_WORDS[name]:
        data = bytearray(samples.all()[name])
        struct.pack_into("<I", data, at, value)
        attempt(bytes(data), LoadOptions(format=FORMAT_OF.get(name, name)))
