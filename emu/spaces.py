"""The guest's address spaces: a root of shadow tables for each of its CR3 values, and the tables that hang on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Final

from emu.backends.base import Backend
from emu.entries import GuestEntries, differs
from emu.memory import PAGE, GuestMemory
from emu.pagetables import OPEN, USER, WORDS, WRITE
from emu.shadow import ROOT, UPPER, CodeKey, ShadowTables, Table, TablesFull
from emu.tabletrace import TableTraces
from emu.window import LowWindow
from isa.x86 import paging
from isa.x86.cpu import Cpu

FRAME: Final = {8: (1 << paging.PHYSICAL_BITS) - PAGE, 4: 0xFFFF_F000}  # by width of an entry
_SPACES: Final = 128  # address spaces kept
_PAGES: Final = 8  # pages that are forgotten one by one
_UPPER: Final = WORDS // 2  # the first slot of a 4-level root for the upper half of addresses
_GIB: Final = 1 << 30
_LOW, _LOW_DIRECTORY = "low", "low directory"  # the tables on the way to the monitor's window for 32-bit code


class Space:
    """One address space: the CR3 value of its root, its topmost table, and the code pages looked up in it.

    No `number` is given twice, and none is 0.
    """

    def __init__(self, number: int, root: int, top: Table, heads: list[int]) -> None:
        self.number, self.root, self.top, self.heads = number, root, top, heads
        self.code_pages: dict[CodeKey, int] = {}  # -> physical page number


class AddressSpaces:
    """The address spaces kept, and which of them is the machine's: `present`."""

    present: Space

    def __init__(
        self,
        cpu: Cpu,
        memory: GuestMemory,
        backend: Backend,
        window: LowWindow,
        tables: ShadowTables,
        entries: GuestEntries,
        traces: TableTraces,
    ) -> None:
        self._cpu, self._memory, self._backend, self._window = cpu, memory, backend, window
        self._host = backend.tables
        self._tables, self._entries, self._traces = tables, entries, traces
        self._spaces: OrderedDict[int, Space] = OrderedDict()  # by the guest-physical address of the root
        self._opened = 0

    def __len__(self) -> int:
        return len(self._spaces)

    def base(self) -> int:
        """The guest-physical address of the root that CR3 names."""
        cpu, width = self._cpu, self._entries.width
        if not width:
            return 0
        if width == 4:
            return cpu.cr3 & 0xFFFF_F000
        return cpu.cr3 & FRAME[8] if cpu.long_mode else cpu.cr3 & 0xFFFF_FFE0

    def find(self, base: int) -> Space | None:
        return self._spaces.get(base)

    def enter(self, base: int, pages: Collection[int] | None = None) -> None:
        """Make the address space at guest-physical `base` the machine's; TablesFull where memory lacks for it.

        `pages` are what `remembered` told of the present one, before its tables were brought up to date.
        """
        space = self._spaces.get(base)
        if space is None:
            if len(self._spaces) >= _SPACES:
                self._close(self._spaces.popitem(last=False)[1])
            space = self._spaces[base] = self._open(base)
            pages = None
        else:
            self._spaces.move_to_end(base)
            if pages is not None and (not self._same_above(self.present.top, space.top) or self._tables.stale & UPPER):
                pages = None
        self.present = space
        self._backend.set_root(space.root, pages)

    def remembered(self) -> list[int] | None:
        """The pages of the lower half that the machine may remember: it remembers none where it enters a space.

        None where they are many, or where the roots are none of 4-level paging.
        """
        top = self.present.top
        return self._tables.lower_pages(top, _PAGES) if top.shift == ROOT else None

    def _same_above(self, one: Table, other: Table) -> bool:
        """True where two roots lead to the same tables in the upper half; where the guest's do they are made to."""
        words = self._tables.words
        first, second = (words[table.at + _UPPER : table.at + WORDS] for table in (one, other))
        if bytes(first) == bytes(second):
            return True
        slots = enumerate(zip(first, second, strict=True), _UPPER)
        return all(ours == theirs or self._share(one, other, slot) for slot, (ours, theirs) in slots)

    def _share(self, one: Table, other: Table, slot: int) -> bool:
        """Have the root that has no table at a slot use the other's, where the guest's entries are the same."""
        words, entries = self._tables.words, self._entries
        if words[one.at + slot]:
            one, other = other, one
        child = other.children.get(slot)
        if words[one.at + slot] or child is None or one.gpa < 0:
            return False
        entry, model = entries.now(one, slot), entries.now(other, slot)
        for table, now in ((one, entry), (other, model)):
            if entries.keep(table, slot, now):
                self._tables.lose(table, (slot,))
        if not entry & paging.PTE_A or differs(model, entry) or other.children.get(slot) is not child:
            return False
        self.compare_below(child)
        self._tables.refer(one, slot, child)
        return True

    def compare_below(self, table: Table) -> None:
        """A table that is known comes to serve another table: what it was changed to meanwhile needed no flush.

        A CPU remembers tables by the addresses they serve; for those it never saw this one (SDM vol. 3, 4.10.2).
        """
        if table.gpa >= 0 and (table.used or table.code):
            self._tables.lose(table, self._entries.compare(table))
            for child in list(table.children.values()):
                self.compare_below(child)

    def close_all(self) -> None:
        """Give all tables back."""
        for space in self._spaces.values():
            self._close(space)
        self._spaces.clear()
        for table in list(self._tables.tables.values()):  # made when memory ran out, so that nothing came to name them
            self._tables.release(table)

    def forget_code(self, lost: set[CodeKey]) -> None:
        """These code pages may be mapped elsewhere, in any address space."""
        for space in self._spaces.values():
            for key in lost & space.code_pages.keys():
                del space.code_pages[key]

    def _open(self, base: int) -> Space:
        """A new address space; TablesFull where there is no memory for its first tables.

        Where its root is not in RAM nothing is shadowed, so that every access is emulated.
        """
        width = self._entries.width
        if width and self._memory.ram_offset(base) < 0:
            base = -1
        if width and self._cpu.long_mode:
            top = self.table(base, 39, WRITE | USER, _LOW)
            heads: list[int] = []
        elif width == 4:
            top = self.table(base, 22, WRITE | USER, _LOW_DIRECTORY)
            heads = [self._head(), self._head()]
            for number in range(4):
                self._host.words[heads[1] + number] = self._host.address(top.at) + number * PAGE | OPEN
        else:
            top = self.table(base if width else -1, 30, WRITE | USER, _LOW)
            heads = [self._head()]
        top.refs += 1
        top.half = UPPER
        root = heads[0] if heads else top.at
        if heads:
            for slot, entry in self._fixed(39).items():
                self._host.words[root + slot] = entry
            self._host.words[root] = self._host.address(heads[1] if len(heads) > 1 else top.at) | OPEN
        self._opened += 1
        return Space(self._opened, self._host.address(root), top, heads)

    def _head(self) -> int:
        at = self._host.allocate()
        if at < 0:
            raise TablesFull
        return at

    def _close(self, space: Space) -> None:
        self._tables.release(space.top)
        for at in space.heads:
            self._host.release(at)

    # -- tables ------------------------------------------------------------------------------------------------

    def _fixed(self, shift: int) -> Mapping[int, int]:
        """The entries that the tables on the way to the monitor hold for it."""
        if self._window.base is not None:
            return self._backend.windows[shift]
        return {slot: entry for slot, entry in self._backend.windows[39].items() if slot} if shift == 39 else {}

    def _preset(self, shift: int, role: str) -> Mapping[int, int]:
        """The monitor's entries in a table."""
        if shift == 39 or (shift == 30 and role == _LOW):
            return self._fixed(shift)
        if role == _LOW_DIRECTORY:
            first = (self._window.base or 0) // _GIB * 512 if shift == 22 else 0
            return {first + slot: entry for slot, entry in self._fixed(21).items()}
        return {}

    def table(self, gpa: int, shift: int, rights: int, role: str = "", frame: int = 0) -> Table:
        """The shadow of a guest table, or with `gpa` -1 that of a part of a larger page, from `frame` on."""
        key = (gpa, frame, shift, rights, role)
        found = self._tables.tables.get(key)
        if found is not None:
            return found
        pages = 4 if shift == 22 else 2 if self._entries.width == 4 and gpa >= 0 else 1
        table = self._tables.make(key, pages, shift, rights, gpa, frame, self._preset(shift, role))
        if gpa >= 0:
            self._traces.add(table, 32 if shift == 30 and not self._cpu.long_mode else PAGE)
        return table

    def role(self, table: Table, linear: int) -> str:
        """What the next table below `table` is to the monitor's window for 32-bit code."""
        if table.shift == 39:
            return _LOW if not linear >> 39 else ""
        base = self._window.base
        return _LOW_DIRECTORY if base is not None and linear >> 30 == base >> 30 else ""
