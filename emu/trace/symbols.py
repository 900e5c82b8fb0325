"""Symbols beyond the guest's own: from an ELF file, a System.map, or the text of /proc/kallsyms."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from emu.errors import GuestFileError

# Address (absent of undefined names), type as nm has it, name; kallsyms adds the module in brackets.
_MAP_LINE: Final = re.compile(rb"(?:([0-9A-Fa-f]{1,16})| +) ([A-Za-z?]) (\S+)(?:\s+\[\S+\])?\s*")
_NO_ADDRESS: Final = frozenset(b"aAuU")  # absolute values (among them offsets of per-CPU data) and undefined names
_ELF_TYPES: Final = frozenset(("STT_NOTYPE", "STT_OBJECT", "STT_FUNC", "STT_GNU_IFUNC"))
_FARTHEST: Final = 1 << 20  # bytes that a symbol without a size covers at most: behind the last one lies something else

Row = tuple[int, int, str]  # address, size (0: up to the next one), name


class SymbolSource(Protocol):
    """What knows names of addresses, as `emu.loader.symbols.SymbolTable` does for the guest's own file."""

    def lookup(self, address: int) -> tuple[str, int] | None: ...


class SymbolFile:
    """Symbols of one file, for linear addresses as the file has them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Of several names for one address, one with a size is taken, else the last by name."""
        self._rows = sorted(rows)
        self._starts = [row[0] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, address: int) -> tuple[str, int] | None:
        """The symbol that covers `address`, and the distance from its start."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        start, size, name = self._rows[at]
        if address >= start + (size or _FARTHEST):
            return None
        return name, address - start


class MergedSymbols:
    """Several sources as one: the first that knows an address names it."""

    def __init__(self, sources: Sequence[SymbolSource]) -> None:
        self._sources = tuple(sources)

    def lookup(self, address: int) -> tuple[str, int] | None:
        """The symbol that covers `address` in the first source that has one."""
        for source in self._sources:
            found = source.lookup(address)
            if found is not None:
                return found
        return None


def read_symbols(path: Path) -> SymbolFile:
    """The symbols of an ELF file, a System.map or a copy of kallsyms; GuestFileError where there are none to use."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise GuestFileError(f"--symbols {path}: cannot read it: {reason}") from error
    rows = _from_elf(path, data) if data.startswith(b"\x7fELF") else _from_map(path, data)
    if not rows:
        raise GuestFileError(f"--symbols {path}: it has no symbols")
    return SymbolFile(rows)


def _from_elf(path: Path, data: bytes) -> list[Row]:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    rows = []
    try:
        elf: Any = ELFFile(io.BytesIO(data))
        for section in elf.iter_sections():  # .symtab, and .dynsym of a stripped file
            if not isinstance(section, SymbolTableSection):
                continue
            for symbol in section.iter_symbols():
                entry = symbol.entry
                placed = entry.st_shndx not in ("SHN_UNDEF", "SHN_ABS")
                if symbol.name and placed and entry.st_info.type in _ELF_TYPES:
                    rows.append((int(entry.st_value), int(entry.st_size), str(symbol.name)))
    except Exception as error:  # pyelftools lets whatever its parser met on damaged data escape, from AttributeError on
        raise GuestFileError(f"--symbols {path}: its ELF symbol table is damaged") from error
    return list(dict.fromkeys(rows))


def _from_map(path: Path, data: bytes) -> list[Row]:
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        found = _MAP_LINE.fullmatch(line)
        if found is None:
            raise GuestFileError(
                f"--symbols {path}: neither ELF nor a symbol map: line {number} is not 'address type name'"
            )
        address, kind, name = found.groups()
        if address is not None and kind[0] not in _NO_ADDRESS:
            rows.append((int(address, 16), 0, name.decode("utf-8", "replace")))
    if rows and all(address == 0 for address, _, _ in rows):
        raise GuestFileError(
            f"--symbols {path}: all its addresses are 0: kallsyms hides them (kernel.kptr_restrict); read it as root"
        )
    return rows
