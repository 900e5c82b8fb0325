"""Translations by guest address and bytes, apart from where they are placed: found again when the same code comes back.

Code comes back when a page is mapped or loaded anew, when a patch is undone, and above all in the next run of the same
guest: a store can be kept in a file (`emu.saved_code`). A translation is only ever used where the guest's bytes are the
ones that it was made from.
"""

from __future__ import annotations

import marshal
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Final, NamedTuple

from isa.x86.code import UNDEFINED, Code, SiteKind
from isa.x86.rewrite import BlockMode

_MODE_FIELDS: Final = tuple(field.name for field in fields(BlockMode) if field.name != "plain")
_OUTLINE: Final = struct.Struct("=7H")
_IDLE: Final = 4  # runs in a row that a saved translation may go without being used
_MOST: Final = 256 << 20  # bytes of what is kept in memory: of code, the guest's and the host's ...
_RECORD: Final = 4096  # ... and of each translation's records, about

LINK_SIZE: Final = 16  # bytes of a direct exit in `Translation.links`
NONE: Final = 0xFFFF  # in an outline: the block has no entry for jumps through a table

ModeKey = tuple[int, ...]
Record = tuple[int, bytes, bytes, bytes, bytes, bytes, bytes, tuple[int, ...], int]


class Outline(NamedTuple):
    """What placing a block takes: counts of guest bytes and instructions, and offsets of its code (see `Code`)."""

    size: int
    instructions: int
    start: int
    entry: int
    indirect_entry: int  # or NONE
    end: int
    falls_through: int  # 1 or 0


class Translation:
    """A run of rewritten blocks: `host` is its code for offset 0 of the code cache.

    `pc` is the offset in CS of its first instruction, `raw` are the guest's bytes. `marks` has a 1 for the first byte
    of each 4-byte displacement from the code to the monitor's data. `entered` are the numbers of the blocks that jumps
    through a table reached. What placing it takes is listed apart: the blocks' `outlines` and their direct exits
    (`links`); their records are `packed`, and unpacked when they are needed.
    """

    __slots__ = (
        "_codes", "ends_in_nothing", "entered", "host", "idle", "kept", "key", "links", "marks", "outline", "packed",
        "pc", "place", "placed", "raw",
    )  # fmt: skip

    def __init__(self, key: ModeKey, record: Record) -> None:
        self.key = key
        self.pc, self.raw, self.host, self.marks, self.outline, self.links, self.packed, entered, self.idle = record
        self.entered = set(entered)
        self.ends_in_nothing = False  # its last instruction is none
        self.place = -1  # in the order in which the last run needed it
        self.placed = False
        self.kept = False  # by a store
        self._codes: tuple[Code, ...] = ()

    @classmethod
    def of(cls, key: ModeKey, host: bytes, fixups: Iterable[int], codes: tuple[Code, ...]) -> Translation:
        """What the rewriter made; `fixups` are the places of displacements to the monitor's data."""
        marks = bytearray(len(host))
        for place in fixups:
            marks[place] = 1
        outline = array("H")
        for code in codes:
            indirect = NONE if code.indirect_entry < 0 else code.indirect_entry
            words = (len(code.raw), len(code.sizes), code.start, code.entry, indirect, code.end, code.falls_through)
            outline.extend(words)
        direct = int(SiteKind.LINK)
        links = array(
            "Q",
            [
                word
                for number, code in enumerate(codes)
                for behind, kind, index, target, patch_at, _ in code.exits
                if kind == direct
                for word in (behind | patch_at << 16 | index << 32 | number << 48, target)
            ],
        )
        raw = b"".join([code.raw for code in codes])
        made = cls(key, (codes[0].pc, raw, host, bytes(marks), outline.tobytes(), links.tobytes(), b"", (), 0))
        made._codes = codes
        made.ends_in_nothing = bool(codes[-1].reasons) and codes[-1].reasons[-1][1] == UNDEFINED
        return made

    @property
    def codes(self) -> tuple[Code, ...]:
        if not self._codes:
            self._codes = tuple(map(Code._make, marshal.loads(self.packed)))
        return self._codes

    def outlines(self) -> Iterator[tuple[int, int, int, int, int, int, int]]:
        """The outlines of all blocks."""
        words = iter(memoryview(self.outline).cast("H").tolist())
        return zip(words, words, words, words, words, words, words, strict=True)

    def outline_of(self, number: int) -> Outline:
        """The outline of one block."""
        return Outline(*_OUTLINE.unpack_from(self.outline, number * _OUTLINE.size))

    def direct_exits(self) -> Iterator[tuple[int, int]]:
        """For each direct exit a number of four parts of 16 bits, and its target.

        The parts are the offset that identifies it, that of its displacement, the instruction's number in its block,
        and the block's.
        """
        words = iter(memoryview(self.links).cast("Q").tolist())
        return zip(words, words, strict=True)

    def moved(self, at: int) -> bytearray:
        """The code for offset `at`.

        All displacements are made smaller at once. None of them borrows from the bytes behind it: what it leads to
        is on the same side of the code, wherever the code lies.
        """
        code = int.from_bytes(self.host, "little") - at * int.from_bytes(self.marks, "little")
        return bytearray(code.to_bytes(len(self.host), "little"))

    def record(self) -> Record:
        """What is saved of it, beside its key."""
        if not self.packed:
            self.packed = marshal.dumps(tuple(tuple(code) for code in self._codes))
        return (
            self.pc, self.raw, self.host, self.marks, self.outline, self.links, self.packed, tuple(self.entered),
            self.idle,
        )  # fmt: skip


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
        self._bytes += len(translation.raw) + len(translation.host) + _RECORD
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
