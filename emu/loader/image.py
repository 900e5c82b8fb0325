"""What every loader is given and gives back: the image with bounds-checked reads, the options, the loaded guest."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from emu.errors import GuestFileError
from emu.loader.symbols import SymbolTable
from emu.memory import PAGE, GuestMemory

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A guest file: its path, for messages, and its bytes. Reads outside the bytes raise GuestFileError."""

    path: str
    data: bytes = field(repr=False)

    def error(self, problem: str) -> GuestFileError:
        """A GuestFileError that names this file."""
        return GuestFileError(f"{self.path}: {problem}")

    def take(self, offset: int, length: int, what: str) -> bytes:
        """`length` bytes at `offset`; `what` names them should the file end before."""
        if offset < 0 or length < 0 or offset + length > len(self.data):
            raise self.error(
                f"truncated: {what} needs {length} bytes at file offset {offset:#x}, but the file has {len(self.data)}"
            )
        return self.data[offset : offset + length]

    def u16(self, offset: int, what: str) -> int:
        value: int = _U16.unpack(self.take(offset, 2, what))[0]
        return value

    def u32(self, offset: int, what: str) -> int:
        value: int = _U32.unpack(self.take(offset, 4, what))[0]
        return value

    def u64(self, offset: int, what: str) -> int:
        value: int = _U64.unpack(self.take(offset, 8, what))[0]
        return value


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the user said about the guest; None and empty mean the format's default.

    `mode` is 16, 32 or 64; `org` the address of a flat binary; `append` the command line; `initrd` the first module.
    `boot_stub` lets a bzImage unpack its kernel itself. `rsdp` is the guest-physical address of the ACPI tables' root,
    0 where there are none. `seed` is what the guest's random generator starts from, where it can be told.
    """

    format: str | None = None
    mode: int | None = None
    org: int | None = None
    append: str = ""
    initrd: bytes | None = field(default=None, repr=False)
    boot_stub: bool = False
    rsdp: int = 0
    seed: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class LoadedGuest:
    """A guest placed in memory, its start state set: `entry` is linear, `bios` asks for the BIOS services.

    `description` is one clause for the summary ("ELF32 executable, 3 segments").
    """

    format: str
    entry: int
    symbols: SymbolTable
    description: str
    bios: bool = False


def check_fits(image: GuestImage, memory: GuestMemory, gpa: int, length: int, what: str) -> None:
    """Raise GuestFileError, with the sizes, unless [gpa, gpa+length) is RAM."""
    if not memory.holds(gpa, length):
        raise image.error(
            f"{what} of {length} bytes at guest-physical {gpa:#x} does not fit the guest's RAM of {memory.size} bytes"
        )


def place(image: GuestImage, memory: GuestMemory, gpa: int, data: bytes, what: str) -> None:
    """Copy `data` to `gpa`; GuestFileError where there is not enough RAM."""
    check_fits(image, memory, gpa, len(data), what)
    memory.write_bytes(gpa, data, force=True)


def place_high(image: GuestImage, memory: GuestMemory, data: bytes, floor: int, top: int, what: str) -> int:
    """Copy `data` to the highest page from which it ends below `top` and the RAM's end, not below `floor`."""
    top = min(memory.low_top, top)
    start = (top - len(data)) & ~(PAGE - 1)
    if start < floor:
        raise image.error(
            f"{what} of {len(data)} bytes does not fit between the kernel's end at {floor:#x} and {top:#x}, "
            f"with {memory.size} bytes of RAM"
        )
    place(image, memory, start, data, what)
    return start
