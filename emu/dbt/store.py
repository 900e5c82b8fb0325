"""Translations by guest address and bytes, apart from where they are placed: found again when the same code comes back.

Code comes back when a page is mapped or loaded anew, when a patch is undone, and above all in the next run of the same
guest: a store can be kept in a file (`emu.saved_code`). A translation is only ever used where the guest's bytes are the
ones that it was made from.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Final

from isa.x86.code import Code
from isa.x86.rewrite import BlockMode

_MODE_FIELDS: Final = tuple(field.name for field in fields(BlockMode) if field.name != "plain")
_IDLE: Final = 4  # runs in a row that a saved translation may go without being used
_MOST: Final = 96 << 20  # bytes of code kept in memory, the guest's and the host's

ModeKey = tuple[int, ...]


class Translation:
    """A run of rewritten blocks: `host` is its code for offset 0 of the code cache.

    `pc` is the offset in CS of its first instruction, `raw` are the guest's bytes, `fixups` the places (16 bits each)
    of 4-byte displacements from the code to the monitor's data. `entered` are the numbers of the blocks that jumps
    through a table reached. `packed` are the blocks' records, unpacked when they are needed.
    """

    __slots__ = ("_codes", "entered", "fixups", "host", "idle", "kept", "key", "packed", "pc", "place", "placed", "raw")

    def __init__(
        self, key: ModeKey, pc: int, raw: bytes, host: bytes, fixups: bytes, packed: bytes, entered: Iterable[int] = ()
    ) -> None:
        self.key, self.pc, self.raw, self.host, self.fixups, self.packed = key, pc, raw, host, fixups, packed
        self.entered = set(entered)
        self.idle = 0
        self.place = -1  # in the order in which the last run needed it
        self.placed = False
        self.kept = False  # by a store
        self._codes: tuple[Code, ...] = ()

    @classmethod
    def of(cls, key: ModeKey, pc: int, raw: bytes, host: bytes, fixups: bytes, codes: tuple[Code, ...]) -> Translation:
        made = cls(key, pc, raw, host, fixups, b"")
        made._codes = codes
        return made

    @property
    def codes(self) -> tuple[Code, ...]:
        if not self._codes:
            self._codes = tuple(map(Code._make, marshal.loads(self.packed)))
        return self._codes

    def record(self) -> tuple[int, bytes, bytes, bytes, bytes, tuple[int, ...], int]:
        """What is saved of it, beside its key."""
        if not self.packed:
            self.packed = marshal.dumps(tuple(tuple(code) for code in self._codes))
        return self.pc, self.raw, self.host, self.fixups, self.packed, tuple(self.entered), self.idle


def key_of(mode: BlockMode, data: int, table: int) -> ModeKey:
    """What the translations for a mode depend on besides the guest's bytes: also the places of the monitor's data."""
    return *(getattr(mode, name) for name in _MODE_FIELDS), data, table


class TranslationStore:
    """All translations made in this run, and those that were loaded."""

    def __init__(self, loaded: list[Translation] | None = None) -> None:
        self._by_pc: dict[tuple[ModeKey, int], list[Translation]] = {}
        self.ordered = loaded or []  # as the last run needed them
        self._used: list[Translation] = []  # as this run does
        self.loaded = len(self.ordered)
        self.made = 0
        self._bytes = 0
        for place, translation in enumerate(self.ordered):
            translation.place, translation.kept = place, True
            self._by_pc.setdefault((translation.key, translation.pc), []).append(translation)

    def find(self, key: ModeKey, pc: int, code: bytes) -> Translation | None:
        """The translation of the code at `pc`, which is `code` up to the end of its page, or None."""
        for translation in self._by_pc.get((key, pc), ()):
            if code.startswith(translation.raw):
                return translation
        return None

    def add(self, translation: Translation) -> None:
        self._bytes += len(translation.raw) + len(translation.host)
        if self._bytes > _MOST:
            return
        self._by_pc.setdefault((translation.key, translation.pc), []).append(translation)
        translation.kept = True
        self.made += 1

    def use(self, translation: Translation) -> None:
        """Note that a translation is being placed."""
        if not translation.kept:
            return
        if translation.idle >= 0:
            translation.idle = -1
            self._used.append(translation)
        translation.placed = True

    def behind(self, translation: Translation, count: int) -> Iterator[Translation]:
        """Those of the next `count` that the last run needed behind `translation` which are not placed."""
        if translation.place < 0:
            return
        for found in self.ordered[translation.place + 1 : translation.place + 1 + count]:
            if not found.placed:
                yield found

    def flushed(self) -> None:
        """Nothing is placed any more."""
        for translation in self._used:
            translation.placed = False

    def to_save(self) -> list[Translation]:
        """What the next run may need, in the order in which this one did, without what several runs did not need."""
        used = [(translation, 0) for translation in self._used]
        rest = [(translation, translation.idle + 1) for translation in self.ordered if translation.idle >= 0]
        out = []
        for translation, idle in (*used, *rest):
            if idle < _IDLE:
                translation.idle = idle
                out.append(translation)
        return out

    def forget(self) -> None:
        """Give the memory back."""
        self._by_pc.clear()
        self.ordered, self._used = [], []
