"""The floating-point unit inside the bare machine."""

from __future__ import annotations

import struct

import pytest

from emu.backends.unicorn import UnicornBackend
from emu.backends.unit import SCRATCH
from isa.base import NativeUnit

ZERO = [0] * 16


@pytest.fixture
def unit() -> NativeUnit:
    return UnicornBackend().native


def run(unit: NativeUnit, code: str, memory: bytes = b"", regs: list[int] = ZERO, flags: int = 2) -> bytes:
    """Execute code whose displacement, if it has memory, is its last four bytes."""
    raw = bytes.fromhex(code)
    result = (
        unit.execute(raw + bytes(4), len(raw), memory, regs, flags)
        if memory
        else unit.execute(raw, -1, b"", regs, flags)
    )
    assert result.vector == -1
    return result.memory


def test_starts_as_after_fninit(unit: NativeUnit) -> None:
    image = unit.save()
    assert struct.unpack_from("<HHB", image) == (0x37F, 0, 0)
    assert struct.unpack_from("<I", image, 24) == (0x1F80,)


def test_keeps_sse_and_x87_state_between_instructions(unit: NativeUnit) -> None:
    run(unit, "f20f1005", struct.pack("<d", 1.5))  # movsd xmm0, m64
    run(unit, "dd05", struct.pack("<d", 2.25))  # fld m64
    run(unit, "f20f5805", struct.pack("<d", 2.0))  # addsd xmm0, m64
    assert run(unit, "f20f1105", bytes(8)) == struct.pack("<d", 3.5)
    assert run(unit, "dd1d", bytes(8)) == struct.pack("<d", 2.25)


def test_units_are_apart(unit: NativeUnit) -> None:
    other = UnicornBackend().native
    run(unit, "f20f1005", struct.pack("<d", 1.5))
    assert other.save()[160:176] == bytes(16)


def test_image_goes_round(unit: NativeUnit) -> None:
    run(unit, "f3440f6f3d", bytes(range(16)))  # movdqu xmm15, m128
    run(unit, "d9e8")  # fld1
    image = unit.save()
    run(unit, "dbe3")
    run(unit, "66450fefff")  # pxor xmm15, xmm15
    assert unit.save() != image
    unit.load(image)
    assert unit.save()[:416] == image[:416]
    assert image[400:416] == bytes(range(16))


def test_registers_and_flags_go_in_and_out(unit: NativeUnit) -> None:
    regs = [n * 0x0101_0101_0101_0101 | 1 << 63 for n in range(16)]
    result = unit.execute(bytes.fromhex("66490f6ec7"), -1, b"", regs, 0x8D7)  # movq xmm0, r15
    assert (result.regs, result.rflags) == (regs, 0x8D5)
    result = unit.execute(bytes.fromhex("66480f7ec0"), -1, b"", ZERO, 2)  # movq rax, xmm0
    assert (result.regs, result.rflags) == ([regs[15], *ZERO[1:]], 0)
    result = unit.execute(bytes.fromhex("660f2fc0"), -1, b"", ZERO, 0x8D7)  # comisd xmm0, xmm0
    assert result.rflags in (0x40, 0x45)


def test_undefined_instructions(unit: NativeUnit) -> None:
    assert unit.execute(b"\x0f\x0b", -1, b"", ZERO, 2).vector == 6
    run(unit, "d9e8")  # goes on


def test_pending_exception_is_raised_by_wait(unit: NativeUnit) -> None:
    run(unit, "d92d", struct.pack("<H", 0x37B))  # fldcw: division by zero unmasked
    for code in ("d9e8", "d9ee", "def9"):  # fld1, fldz, fdivp
        run(unit, code)
    assert unit.execute(b"\x9b\xd9\xe8", -1, b"", ZERO, 2).vector == 16
    assert unit.execute(b"\x9b", -1, b"", ZERO, 2).vector == 16  # still, and as itself
    run(unit, "dbe2")  # fnclex
    run(unit, "9b")


def test_more_instructions_than_places(unit: NativeUnit) -> None:
    for n in range(2100):  # mov eax, n
        result = unit.execute(b"\xb8" + n.to_bytes(4, "little"), -1, b"", ZERO, 2)
        assert result.regs[0] == n
    assert run(unit, "0fae1d", bytes(4)) == struct.pack("<I", 0x1F80)  # stmxcsr


def test_refuses_what_does_not_fit(unit: NativeUnit) -> None:
    with pytest.raises(ValueError, match="1025 bytes"):
        unit.execute(b"\x90", -1, bytes(SCRATCH + 1), ZERO, 2)
    with pytest.raises(ValueError, match="place"):
        unit.execute(bytes(32), -1, b"", ZERO, 2)
