"""Small synthetic guest images of every format, and a way to load one."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emu.bus import Bus
from emu.loader.detect import load
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions
from emu.memory import MIB, GuestMemory
from isa.x86.state import X86State

CODE = b"\xf4\xeb\xfd"  # hlt; jmp back


class Samples:
    """Builders of images, with the knobs the tests turn."""

    def boot(self, sectors: int = 2) -> bytes:
        return CODE.ljust(510, b"\0") + b"\x55\xaa" + bytes(512 * (sectors - 1))

    def elf(
        self,
        bits: int = 64,
        virtual: int = 0x100000,
        physical: int = 0x100000,
        entry: int | None = None,
        code: bytes = CODE,
        memory_size: int = 0x100,
        notes: bytes = b"",
        **header: int,
    ) -> bytes:
        """One segment, and a symbol table with `start` (3 bytes) and `tail` (no size, at +16); `notes` as `note` makes
        them."""
        wide = bits == 64
        fields: dict[str, Any] = {
            "type": 2, "machine": 62 if wide else 3, "entry": virtual if entry is None else entry,
            "phentsize": 56 if wide else 32, "phnum": 2 if notes else 1,
        } | header  # fmt: skip
        header_size, ph_size, sh_size = (64, 56, 64) if wide else (52, 32, 40)
        at = header_size + (2 * ph_size if notes else ph_size)
        code_at, at = at, at + len(code)
        notes_at, at = at, at + len(notes)
        strings = b"\0start\0tail\0.symtab\0.strtab\0"
        strings_at, at = at, at + len(strings)
        symbol = "<IBBHQQ" if wide else "<IIIBBH"

        def row(name: int, value: int, size: int, info: int, index: int) -> bytes:
            if wide:
                return struct.pack(symbol, name, info, 0, index, value, size)
            return struct.pack(symbol, name, value, size, info, 0, index)

        symbols = row(0, 0, 0, 0, 0) + row(1, virtual, 3, 2, 1) + row(7, virtual + 16, 0, 0, 1)
        symbols_at, at = at, at + len(symbols)
        section = "<IIQQQQIIQQ" if wide else "<10I"
        sections = bytes(sh_size)
        entry_size = struct.calcsize(symbol)
        sections += struct.pack(section, 12, 2, 0, 0, symbols_at, len(symbols), 2, 1, 8, entry_size)
        sections += struct.pack(section, 20, 3, 0, 0, strings_at, len(strings), 0, 0, 1, 0)
        ident = b"\x7fELF" + bytes((2 if wide else 1, 1, 1)) + bytes(9)
        made = ident + struct.pack(
            "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH",
            fields["type"], fields["machine"], 1, fields["entry"], header_size, at, 0,
            header_size, fields["phentsize"], fields["phnum"], sh_size, 3, 2,
        )  # fmt: skip

        def program_header(kind: int, at: int, place: int, lies: int, size: int, takes: int) -> bytes:
            if wide:
                return struct.pack("<IIQQQQQQ", kind, 5, at, place, lies, size, takes, 0x1000)
            return struct.pack("<8I", kind, at, place, lies, size, takes, 5, 0x1000)

        made += program_header(1, code_at, virtual, physical, len(code), memory_size)
        if notes:
            made += program_header(4, notes_at, 0, 0, len(notes), len(notes))
        return made + code + notes + strings + symbols + sections

    def note(self, owner: bytes, kind: int, content: bytes) -> bytes:
        def padded(data: bytes) -> bytes:
            return data + bytes(-len(data) % 4)

        return struct.pack("<III", len(owner) + 1, len(content), kind) + padded(owner + b"\0") + padded(content)

    def pvh(self, bits: int = 64, entry: int = 0x200001, **fields: Any) -> bytes:
        """An ELF kernel at 2 MiB with a PVH note behind one of Linux's."""
        notes = self.note(b"Linux", 0x101, b"6.1.0\0") + self.note(b"Xen", 18, entry.to_bytes(bits // 8, "little"))
        return self.elf(bits, physical=0x200000, virtual=0x200000, notes=notes, **fields)

    def vmlinux(self, bits: int = 64, **fields: Any) -> bytes:
        """An ELF kernel at 2 MiB with a note of Linux's and no PVH entry."""
        notes = self.note(b"Linux", 0x101, b"6.1.0\0")
        return self.elf(bits, physical=0x200000, virtual=0xC0200000, notes=notes, **fields)

    def multiboot_header(self, flags: int = 0) -> bytes:
        return struct.pack("<3I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)

    def multiboot(
        self, flags: int = 1 << 16, load: int = 0x100000, load_end: int = 0, bss_end: int = 0x100400
    ) -> bytes:
        """A kernel by address fields: 16 filler bytes, the header, code; the filler is not loaded."""
        header = self.multiboot_header(flags)
        header += struct.pack("<5I", load, load, load_end, bss_end, load + 48) + struct.pack("<4I", 1, 80, 25, 0)
        return b"\x90" * 16 + header + CODE

    def linux(self, setup_sects: int = 1, payload: int = 0x240, packed: bytes = b"", **fields: int) -> bytes:
        """A bzImage whose boot stub counts its bytes; a kernel `packed` within follows 80h bytes behind the stub."""
        data = bytearray((setup_sects + 1) * 512)
        data[0x1F1] = setup_sects
        struct.pack_into("<I", data, 0x1F4, -(-payload // 16))
        data[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
        struct.pack_into("<H", data, 0x206, fields.get("version", 0x20C))
        data[0x211] = 1
        struct.pack_into("<I", data, 0x214, 0x100000)
        struct.pack_into("<I", data, 0x22C, fields.get("initrd_max", 0x7FFFFFFF))
        struct.pack_into("<I", data, 0x230, fields.get("alignment", 0x1000))
        data[0x234] = fields.get("relocatable", 0)
        struct.pack_into("<H", data, 0x236, fields.get("xloadflags", 1))
        struct.pack_into("<I", data, 0x238, fields.get("cmdline_size", 255))
        struct.pack_into("<Q", data, 0x258, fields.get("pref_address", 0x200000))
        struct.pack_into("<I", data, 0x260, fields.get("init_size", 0x4000))
        if packed:
            struct.pack_into("<II", data, 0x248, payload + 0x80, fields.get("payload_length", len(packed)))
        return bytes(data) + bytes(i & 0xFF for i in range(payload)) + (bytes(0x80) + packed if packed else b"")

    def all(self) -> dict[str, bytes]:
        return {
            "boot": self.boot(1),
            "elf": self.elf(),
            "elf32": self.elf(32),
            "multiboot": self.multiboot(),
            "multiboot-elf": self.elf(32, code=self.multiboot_header() + CODE),
            "linux": self.linux(),
            "linux32": self.linux(xloadflags=0, relocatable=1),
            "bzimage": self.linux(packed=gzip.compress(self.vmlinux(), mtime=0)),
            "vmlinux": self.vmlinux(),
            "vmlinux32": self.vmlinux(32),
            "pvh": self.pvh(),
        }


@pytest.fixture(scope="session")
def samples() -> Samples:
    return Samples()


class Loaded:
    """A loaded guest with the memory and state it was loaded into."""

    def __init__(self, data: bytes, megabytes: int, options: LoadOptions) -> None:
        self.memory = GuestMemory(megabytes * MIB, Bus("memory"))
        self.state = X86State()
        self.guest: LoadedGuest = load(GuestImage("guest.img", data), self.memory, self.state, options)


@pytest.fixture
def loading() -> Iterator[Callable[..., Loaded]]:
    """`loading(data, megabytes=8, **options)` loads an image into fresh memory."""
    made: list[Loaded] = []

    def run(data: bytes, megabytes: int = 8, **options: Any) -> Loaded:
        made.append(Loaded(data, megabytes, LoadOptions(**options)))
        return made[-1]

    yield run
    for one in made:
        one.memory.close()
