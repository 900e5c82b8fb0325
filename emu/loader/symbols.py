"""Names for guest addresses, read from an ELF symbol table when the first name is asked for."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

_NAMED_TYPES: Final = frozenset(("STT_NOTYPE", "STT_OBJECT", "STT_FUNC"))


@dataclass(frozen=True, slots=True)
class Extent:
    """Where one segment is linked (`virtual`), where it was loaded (`physical`), and its bytes in memory."""

    virtual: int
    physical: int
    length: int


class SymbolTable:
    """Address to name. Symbols are a help, not a need: a damaged table counts as an absent one."""

    def __init__(self, elf: bytes = b"", extents: Iterable[Extent] = ()) -> None:
        """`elf` is an ELF file, or empty for a guest without symbols; addresses outside `extents` have no name."""
        self._elf = elf
        self._extents = tuple(extents)
        self._rows: list[tuple[int, int, str]] | None = None  # address, size, name
        self._starts: list[int] = []

    def lookup(self, address: int) -> tuple[str, int] | None:
        """The symbol that covers `address` and the distance from its start; physical load addresses are known too.

        A symbol without a size reaches to the next one.
        """
        linked = self._linked(address)
        if linked is None:
            return None
        if self._rows is None:
            self._rows = _read(self._elf)
            self._starts = [row[0] for row in self._rows]
        at = bisect_right(self._starts, linked) - 1
        if at < 0:
            return None
        start, size, name = self._rows[at]
        if size and linked >= start + size:
            return None
        return name, linked - start

    def _linked(self, address: int) -> int | None:
        for extent in self._extents:
            if extent.virtual <= address < extent.virtual + extent.length:
                return address
        for extent in self._extents:
            if extent.physical <= address < extent.physical + extent.length:
                return address - extent.physical + extent.virtual
        return None


def _read(elf: bytes) -> list[tuple[int, int, str]]:
    """Rows of .symtab, ascending; of several names for one address, one with a size comes last and so is found."""
    if not elf:
        return []
    from elftools.elf.elffile import ELFFile

    rows = []
    try:
        section: Any = ELFFile(io.BytesIO(elf)).get_section_by_name(".symtab")
        for symbol in section.iter_symbols() if section is not None else ():
            entry = symbol.entry
            if symbol.name and entry.st_shndx not in ("SHN_UNDEF", "SHN_ABS") and entry.st_info.type in _NAMED_TYPES:
                rows.append((entry.st_value, entry.st_size, symbol.name))
    except Exception:  # pyelftools lets whatever its parser met on damaged data escape, from AttributeError on
        return []
    return sorted(rows)
