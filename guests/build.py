"""Rebuilds the bundled guests' images from their sources, or checks that the committed images are these bytes."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from guests import Guest, catalogue, linux_programs
from guests.assembler import AssemblyError, Program, assemble

SECTOR = 512
DISK_SECTORS = 64  # size of a boot guest's image
_PAGE = 0x1000
_EM_386, _EM_X86_64 = 3, 62
_ENTRY = "_start"


def build_program(guest: Guest) -> Program:
    """The assembled source of `guest`, not yet wrapped in its file format. Raises AssemblyError."""
    folder = guest.source.parent
    return assemble(guest.source.name, lambda name: (folder / name).read_text(encoding="ascii"), guest.org, guest.mode)


def build(guest: Guest) -> bytes:
    """The image of `guest`. Raises AssemblyError."""
    program = build_program(guest)
    if guest.container == "elf":
        return wrap_elf(program, guest.mode)
    if guest.container == "disk":
        return program.image.ljust(DISK_SECTORS * SECTOR, b"\0")
    return program.image


def wrap_elf(program: Program, bits: int) -> bytes:
    """An ELF executable with one loaded segment and a symbol table (System V ABI, chapters 4 and 5)."""
    wide = bits == 64
    header_size, ph_size, sh_size = (64, 56, 64) if wide else (52, 32, 40)
    names, symbols = b"\0", struct.pack("<IBBHQQ" if wide else "<IIIBBH", *[0] * 6)
    for name, address in sorted(program.symbols.items(), key=lambda item: (item[1], item[0])):
        at = len(names)
        names += name.encode("ascii") + b"\0"
        info = 0x10  # STB_GLOBAL, STT_NOTYPE; section 1 is .text
        if wide:
            symbols += struct.pack("<IBBHQQ", at, info, 0, 1, address, 0)
        else:
            symbols += struct.pack("<IIIBBH", at, address, 0, info, 0, 1)
    section_names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    text_at = _PAGE  # the segment's file offset and address must agree modulo the page size
    symbols_at = -(-(text_at + len(program.image)) // 16) * 16
    names_at = symbols_at + len(symbols)
    section_names_at = names_at + len(names)
    sections_at = -(-(section_names_at + len(section_names)) // 16) * 16
    entry, size = program.symbols[_ENTRY], len(program.image)

    out = bytearray(sections_at)
    out[:16] = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    word = "Q" if wide else "I"
    struct.pack_into(
        f"<HHI{word}{word}{word}IHHHHHH", out, 16, 2, _EM_X86_64 if wide else _EM_386, 1, entry, header_size,
        sections_at, 0, header_size, ph_size, 1, sh_size, 5, 4,
    )  # fmt: skip
    flags = 7  # PF_R, PF_W, PF_X: code and data share the one segment
    if wide:
        segment = struct.pack("<IIQQQQQQ", 1, flags, text_at, program.origin, program.origin, size, size, _PAGE)
    else:
        segment = struct.pack("<IIIIIIII", 1, text_at, program.origin, program.origin, size, size, flags, _PAGE)
    out[header_size : header_size + len(segment)] = segment
    out[text_at : text_at + size] = program.image
    out[symbols_at:names_at] = symbols
    out[names_at:section_names_at] = names
    out[section_names_at : section_names_at + len(section_names)] = section_names
    entry_size = len(symbols) // (len(program.symbols) + 1)
    for row in (
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (section_names.index(b".text"), 1, 7, program.origin, text_at, size, 0, 0, 16, 0),
        (section_names.index(b".symtab"), 2, 0, 0, symbols_at, len(symbols), 3, 1, 8, entry_size),
        (section_names.index(b".strtab"), 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
        (section_names.index(b".shstrtab"), 3, 0, 0, section_names_at, len(section_names), 0, 0, 1, 0),
    ):
        out += struct.pack(f"<II{word * 4}II{word * 2}", *row)
    return bytes(out)


def main(arguments: list[str]) -> int:
    """`python -m guests.build [--check] [NAME ...]`: 0 when all is built or equal, 1 on a difference, 2 on misuse."""
    check = "--check" in arguments
    known = catalogue() | linux_programs()
    names = [a for a in arguments if a != "--check"] or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no bundled guest is called {unknown[0]!r}", file=sys.stderr)
        return 2
    status = 0
    for name in names:
        guest = known[name]
        try:
            image = build(guest)
        except AssemblyError as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        if not check:
            guest.path.parent.mkdir(exist_ok=True)
            guest.path.write_bytes(image)
            print(f"{name}: {len(image)} bytes")
        elif not same_bytes(guest.path, image):
            status = 1
    return status


def same_bytes(path: Path, image: bytes) -> bool:
    """True where the file holds exactly `image`; else the first difference is reported on standard error."""
    if not path.exists():
        print(f"{path.name}: not built", file=sys.stderr)
        return False
    old = path.read_bytes()
    if old == image:
        return True
    at = next((i for i, (a, b) in enumerate(zip(old, image, strict=False)) if a != b), min(len(old), len(image)))
    sizes = f"{len(old)} and {len(image)} bytes"
    print(f"{path.name}: differs from its source at offset {at:#x} ({sizes})", file=sys.stderr)
    return False


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
