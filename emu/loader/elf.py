"""Loads ELF32 and ELF64 executables by the physical addresses of their segments."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from emu.loader.image import GuestImage, LoadedGuest, LoadOptions, check_fits, place
from emu.loader.symbols import Extent, SymbolTable
from emu.loader.tables import check_clear, start_long, start_protected
from emu.memory import GuestMemory
from isa.x86.state import X86State

MAGIC: Final = b"\x7fELF"
_MACHINES: Final = {32: "EM_386", 64: "EM_X86_64"}
_HEADER_SIZE: Final = {32: 52, 64: 64}
_PROGRAM_HEADER_SIZE: Final = {32: 32, 64: 56}
_NOTE: Final = struct.Struct("<III")  # lengths of name and content, type; all padded to 4 bytes on x86


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD segment: its bytes in the file and where they go."""

    offset: int
    file_size: int
    virtual: int
    physical: int
    size: int


@dataclass(frozen=True, slots=True)
class Note:
    """An ELF note: who defined it, its number there, and its content."""

    owner: str
    kind: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Executable:
    """What the headers of an ELF executable say; `entry` is physical."""

    bits: int
    entry: int
    segments: tuple[Segment, ...]

    def symbols(self, data: bytes) -> SymbolTable:
        return SymbolTable(data, (Extent(s.virtual, s.physical, s.size) for s in self.segments))

    def end(self) -> int:
        """First physical address behind all segments."""
        return max(segment.physical + segment.size for segment in self.segments)


def load_elf(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place every PT_LOAD segment and enter at the ELF entry in the class's own mode (32 or 64 bit)."""
    executable = parse(image)
    if options.mode not in (None, executable.bits):
        raise image.error(f"an ELF{executable.bits} executable does not start in {options.mode}-bit mode")
    place_segments(image, memory, executable, executable.bits)
    if executable.bits == 32:
        start_protected(memory, state, executable.entry)
    else:
        start_long(memory, state, executable.entry)
    description = f"ELF{executable.bits} executable, {len(executable.segments)} segments"
    return LoadedGuest("elf", executable.entry, executable.symbols(image.data), description)


def place_segments(image: GuestImage, memory: GuestMemory, executable: Executable, mode: int, lowest: int = 0) -> None:
    """Copy the segments; what they have beyond their file bytes stays the zero that RAM starts with.

    Below `lowest` lies what the loader itself writes for the guest.
    """
    for segment in executable.segments:
        what = f"the segment at file offset {segment.offset:#x}"
        if segment.physical < lowest:
            raise image.error(f"{what} goes to {segment.physical:#x}, but kernels of its kind lie above {lowest:#x}")
        check_clear(image, mode, segment.physical, segment.size, what)
        check_fits(image, memory, segment.physical, segment.size, what)
        place(image, memory, segment.physical, image.take(segment.offset, segment.file_size, what), what)


def parse(image: GuestImage) -> Executable:
    """Read and check the headers; GuestFileError unless this is a static x86 executable with something to load."""
    if image.take(0, 4, "the ELF magic") != MAGIC:
        raise image.error(f"bytes {image.data[:4].hex(' ')} at file offset 0: an ELF file starts with 7f 45 4c 46")
    bits = {1: 32, 2: 64}.get(image.take(4, 1, "the ELF class")[0])
    if bits is None or image.take(5, 1, "the ELF byte order") != b"\x01":
        raise image.error(
            f"bytes {image.data[4:6].hex(' ')} at file offset 0x4: expected a little-endian ELF32 or ELF64"
        )
    image.take(0, _HEADER_SIZE[bits], f"the ELF{bits} header")
    elf = _elf_file(image)
    header = elf.header
    if header.e_machine != _MACHINES[bits]:
        raise image.error(f"machine {header.e_machine} at file offset 0x12: an ELF{bits} guest is {_MACHINES[bits]}")
    if header.e_type != "ET_EXEC":
        raise image.error(f"type {header.e_type} at file offset 0x10: expected a linked executable (ET_EXEC)")
    if header.e_phentsize != _PROGRAM_HEADER_SIZE[bits]:
        raise image.error(f"program headers of {header.e_phentsize} bytes: ELF{bits} has {_PROGRAM_HEADER_SIZE[bits]}")
    image.take(header.e_phoff, header.e_phnum * header.e_phentsize, "the program header table")
    segments = tuple(_segment(image, elf, number) for number in range(header.e_phnum))
    loaded = tuple(segment for segment in segments if segment is not None and segment.size)
    if not loaded:
        raise image.error("nothing to load: the program header table has no PT_LOAD segment with a size")
    return Executable(bits, _physical_entry(image, header.e_entry, loaded), loaded)


def notes(data: bytes) -> list[Note]:
    """All notes in PT_NOTE segments (System V ABI, chapter 5); none where the file is damaged or no ELF file."""
    if not data.startswith(MAGIC):
        return []
    from elftools.elf.elffile import ELFFile

    try:
        segments = [segment.header for segment in ELFFile(io.BytesIO(data)).iter_segments("PT_NOTE")]
        spans = [(header.p_offset, header.p_filesz) for header in segments]
    except Exception:  # as in `_elf_file`; what is wrong with the file, its loader will say
        return []
    return [note for offset, length in spans for note in _notes(data[offset : offset + length])]


def _notes(data: bytes) -> Iterator[Note]:
    at = 0
    while at + _NOTE.size <= len(data):
        name_length, length, kind = _NOTE.unpack_from(data, at)
        name_at = at + _NOTE.size
        content_at = name_at + _padded(name_length)
        at = content_at + _padded(length)
        if content_at + length > len(data):
            return
        owner = data[name_at : name_at + name_length].rstrip(b"\0").decode("latin-1")
        yield Note(owner, kind, data[content_at : content_at + length])


def _padded(length: int) -> int:
    return (length + 3) & ~3


def _elf_file(image: GuestImage) -> Any:
    from elftools.elf.elffile import ELFFile

    try:
        return ELFFile(io.BytesIO(image.data))
    except Exception as error:  # pyelftools lets whatever its parser met on damaged data escape, from KeyError on
        raise image.error(f"damaged ELF headers: {type(error).__name__}: {error}") from error


def _segment(image: GuestImage, elf: Any, number: int) -> Segment | None:
    at = elf.header.e_phoff + number * elf.header.e_phentsize
    raw = image.take(at, elf.header.e_phentsize, "a program header")
    try:
        header = elf.structs.Elf_Phdr.parse(raw)
    except Exception as error:  # as above
        raise image.error(f"damaged program header at file offset {at:#x}: {type(error).__name__}: {error}") from error
    if header.p_type != "PT_LOAD":
        return None
    if header.p_filesz > header.p_memsz:
        raise image.error(
            f"program header at file offset {at:#x}: {header.p_filesz} bytes in the file, {header.p_memsz} in memory"
        )
    image.take(header.p_offset, header.p_filesz, f"the segment of the program header at {at:#x}")
    return Segment(header.p_offset, header.p_filesz, header.p_vaddr, header.p_paddr, header.p_memsz)


def _physical_entry(image: GuestImage, entry: int, segments: tuple[Segment, ...]) -> int:
    """The entry as a physical address: kernels linked high give a virtual one, though paging is off at the start."""
    for segment in segments:
        if segment.virtual <= entry < segment.virtual + segment.size:
            return entry - segment.virtual + segment.physical
    for segment in segments:
        if segment.physical <= entry < segment.physical + segment.size:
            return entry
    raise image.error(f"entry {entry:#x} at file offset 0x18 lies in no loaded segment")
