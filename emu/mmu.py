"""Fills shadow tables on demand as the guest's own tables allow, and keeps them true to what the guest flushes.

A hidden page fault is answered here; a true one is the guest's. A page is mapped writable only once the guest's D bit
is set and no write trace lies on it, so that dirty bits stay exact and writes to translated code are seen. Nothing is
thrown away when the guest loads CR3: the entries that shadow tables were made from are compared with what they are
now, and only what changed is made anew.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from emu.backends.base import Backend
from emu.memory import GuestMemory
from emu.pagetables import LARGE, OPEN, USER, WRITE
from emu.shadow import LEAF, REGION, CodeKey, ShadowTables, Table, TablesFull
from emu.window import LowWindow
from isa.base import Access
from isa.x86 import paging
from isa.x86.cpu import Cpu
from isa.x86.paging import PTE_A, PTE_D, PTE_P, PTE_PS
from isa.x86.state import CR0_WP, CR4_PAE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_NXE

_PAGE: Final = 0x1000
_GROUP: Final = 8  # entries of a guest table looked at together: what is there and was used before is mapped as well
_RUN: Final = 32  # pages of a larger page mapped together
_SPACES: Final = 128  # address spaces kept
_ACCESSED_DIRTY: Final = PTE_A | PTE_D
_FRAME: Final = {8: (1 << paging.PHYSICAL_BITS) - _PAGE, 4: 0xFFFF_F000}  # by width of an entry
_ENTRY: Final = {8: struct.Struct("<Q"), 4: struct.Struct("<I")}
_ENTRIES: Final = {8: struct.Struct(f"<{_GROUP}Q"), 4: struct.Struct(f"<{_GROUP}I")}
_CHUNK: Final = 256  # bytes of a table compared at a time, to find what changed
_GIB: Final = 1 << 30
_LOW, _LOW_DIRECTORY = "low", "low directory"  # the tables on the way to the monitor's window for 32-bit code


class Space:
    """One address space: the CR3 value of its root, its topmost table, and the code pages looked up in it.

    No `number` is given twice, and none is 0.
    """

    def __init__(self, number: int, root: int, top: Table, heads: list[int]) -> None:
        self.number, self.root, self.top, self.heads = number, root, top, heads
        self.code_pages: dict[CodeKey, int] = {}  # -> physical page number


class ShadowMmu:
    """Keeps the backend's mappings within what the guest's page tables say."""

    def __init__(self, cpu: Cpu, memory: GuestMemory, backend: Backend, move_window: Callable[[int], None]) -> None:
        """`move_window(base)` is called when the window for 16- and 32-bit code must move, before roots are made."""
        self._cpu, self._memory, self._backend = cpu, memory, backend
        self.window = LowWindow(cpu, memory, backend.window_size)
        self._move_window = move_window
        self._host = backend.tables
        self.tables = ShadowTables(self._host)
        self._guards = Counter(page >> REGION - 12 for page in memory.guarded())
        memory.on_watch_change.append(self._watch_changed)
        self._config: tuple[object, ...] = ()
        self._width = 0  # bytes of a guest's page-table entry; 0 without paging
        self._spaces: OrderedDict[int, Space] = OrderedDict()
        self._opened = 0
        self.space: Space
        self.changed_everywhere = True  # code pages of any address may be others than before
        self.refresh()

    @property
    def kept_spaces(self) -> int:
        """Address spaces whose shadow tables are kept."""
        return len(self._spaces)

    # -- what the guest flushes --------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """The guest flushed all translations, as by loading CR3; True where the address space is another one now."""
        cpu = self._cpu
        cr4 = cpu.cr4 & (CR4_PAE | CR4_PSE | CR4_SMEP | CR4_SMAP)
        config = (cpu.paging, cpu.long_mode, cr4, cpu.cr0 & CR0_WP, cpu.efer & EFER_NXE, cpu.address_mask)
        if config != self._config:
            self._config = config
            self._width = 0 if not cpu.paging else 8 if cpu.long_mode or cpu.cr4 & CR4_PAE else 4
            self._place_window()
            self._drop_all()
            return True
        for table in list(self.tables.tables.values()):
            if table.gpa >= 0 and (table.live or table.code):
                self._compare(table)
        base = self._base()
        space = self._spaces.get(base)
        switched = space is not self.space
        if (switched or self.window.touched) and self._place_window():
            self._drop_all()
            return True
        if switched:
            try:
                self._enter(base)
            except TablesFull:
                self._drop_all()
        elif self.tables.stale:
            self._backend.flush_tlb()
        self.tables.stale = False
        return switched

    def want_window(self) -> None:
        """Code of 16 or 32 bits is about to run in 64-bit mode."""
        self.window.wanted = True
        if self._place_window():
            self._drop_all()

    def _place_window(self) -> bool:
        moved = self.window.place()
        if moved and self.window.base is not None:
            self._move_window(self.window.base)
        return moved

    def _fixed(self, shift: int) -> Mapping[int, int]:
        """The entries that the tables on the way to the monitor hold for it."""
        if self.window.base is not None:
            return self._backend.windows[shift]
        return {slot: entry for slot, entry in self._backend.windows[39].items() if slot} if shift == 39 else {}

    def forget(self, linear: int) -> None:
        """The guest flushed the translation of one page."""
        if not self._width:
            return
        table: Table | None = self.space.top
        while table is not None and table.gpa >= 0:
            slot = self._slot(table, linear)
            old, new = self._kept(table, slot), self._entry(table, slot)
            if self._differs(old, new):
                self._keep(table, slot, new)
                self.tables.lose(table, (slot,))
                break
            table = table.children.get(self._word(table, linear))
        self._flush_stale()

    def take_lost(self) -> set[CodeKey]:
        """The code pages that may be mapped elsewhere since the last call, in any address space."""
        lost, self.tables.lost = self.tables.lost, set()
        if lost:
            for space in self._spaces.values():
                for key in lost & space.code_pages.keys():
                    del space.code_pages[key]
        return lost

    def top_entry(self, linear: int) -> int:
        """The guest's topmost entry for an address, without the bits that the CPU sets; 0 without paging."""
        if not self._width or self.space.top.gpa < 0:
            return 0
        return self._entry(self.space.top, self._slot(self.space.top, linear)) & ~_ACCESSED_DIRTY

    def _compare_below(self, table: Table) -> None:
        """A table that is known comes to serve another table: what it was changed to meanwhile needed no flush.

        A CPU remembers tables by the addresses they serve; for those it never saw this one (SDM vol. 3, 4.10.2).
        """
        if table.gpa >= 0 and (table.live or table.code):
            self._compare(table)
            for child in list(table.children.values()):
                self._compare_below(child)

    @staticmethod
    def _differs(old: int, new: int) -> bool:
        """True where an entry changed; that the CPU set A or D changes nothing."""
        return bool((old ^ new) & ~_ACCESSED_DIRTY or old & ~new)

    def _compare(self, table: Table) -> None:
        """Void what came from entries that the guest changed; that the CPU set A or D changes nothing."""
        start = self._memory.ram_offset(table.gpa) + (table.gpa & 0xFFF)
        kept = table.entries
        now = bytes(self._memory.ram[start : start + len(kept)])
        if now == kept:
            return
        unpack, width = _ENTRY[self._width].unpack_from, self._width
        changed = []
        for chunk in range(0, len(kept), _CHUNK):
            if now[chunk : chunk + _CHUNK] != kept[chunk : chunk + _CHUNK]:
                for at in range(chunk, min(chunk + _CHUNK, len(kept)), width):
                    old, new = unpack(kept, at)[0], unpack(now, at)[0]
                    if self._differs(old, new):
                        changed.append(at // width)
        table.entries[:] = now
        self.tables.lose(table, changed)

    # -- address spaces ----------------------------------------------------------------------------------------

    def _base(self) -> int:
        cpu = self._cpu
        if not self._width:
            return 0
        if self._width == 4:
            return cpu.cr3 & 0xFFFF_F000
        return cpu.cr3 & _FRAME[8] if cpu.long_mode else cpu.cr3 & 0xFFFF_FFE0

    def _drop_all(self) -> None:
        for space in self._spaces.values():
            self._close(space)
        self._spaces.clear()
        for table in list(self.tables.tables.values()):  # made when memory ran out, so that nothing came to name them
            self.tables.release(table)
        self.tables.lost.clear()
        self.changed_everywhere = True
        self._enter(self._base())
        self.tables.stale = False

    def _enter(self, base: int) -> None:
        """Make the address space at guest-physical `base` the machine's."""
        space = self._spaces.get(base)
        if space is None:
            if len(self._spaces) >= _SPACES:
                self._close(self._spaces.popitem(last=False)[1])
            space = self._spaces[base] = self._open(base)
        else:
            self._spaces.move_to_end(base)
        self.space = space
        self._backend.set_root(space.root)

    def _open(self, base: int) -> Space:
        """A new address space; TablesFull where there is no memory for its first tables.

        Where its root is not in RAM nothing is shadowed, so that every access is emulated.
        """
        if self._width and self._memory.ram_offset(base) < 0:
            base = -1
        if self._width and self._cpu.long_mode:
            top = self._table(base, 39, WRITE | USER, _LOW)
            heads: list[int] = []
        elif self._width == 4:
            top = self._table(base, 22, WRITE | USER, _LOW_DIRECTORY)
            heads = [self._head(), self._head()]
            for number in range(4):
                self._host.words[heads[1] + number] = self._host.address(top.at) + number * _PAGE | OPEN
        else:
            top = self._table(base if self._width else -1, 30, WRITE | USER, _LOW)
            heads = [self._head()]
        top.refs += 1
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
        self.tables.release(space.top)
        for at in space.heads:
            self._host.release(at)

    # -- tables ------------------------------------------------------------------------------------------------

    def _preset(self, shift: int, role: str) -> Mapping[int, int]:
        """The monitor's entries in a table."""
        if shift == 39 or (shift == 30 and role == _LOW):
            return self._fixed(shift)
        if role == _LOW_DIRECTORY:
            first = (self.window.base or 0) // _GIB * 512 if shift == 22 else 0
            return {first + slot: entry for slot, entry in self._fixed(21).items()}
        return {}

    def _table(self, gpa: int, shift: int, rights: int, role: str = "", frame: int = 0) -> Table:
        """The shadow of a guest table, or with `gpa` -1 that of a part of a larger page, from `frame` on."""
        key = (gpa, frame, shift, rights, role)
        found = self.tables.tables.get(key)
        if found is not None:
            return found
        pages = 4 if shift == 22 else 2 if self._width == 4 and gpa >= 0 else 1
        table = self.tables.make(key, pages, shift, rights, gpa, frame, self._preset(shift, role))
        if gpa >= 0:
            length = 32 if shift == 30 and not self._cpu.long_mode else _PAGE
            start = self._memory.ram_offset(gpa) + (gpa & 0xFFF)
            table.entries = bytearray(self._memory.ram[start : start + length])
        return table

    def _slot(self, table: Table, linear: int) -> int:
        """The guest's slot for an address."""
        return linear >> table.shift & (len(table.entries) // self._width - 1)

    def _word(self, table: Table, linear: int) -> int:
        """The word for an address within a table."""
        if table.shift == 22:
            return linear >> REGION & 2047
        return linear >> table.shift & (1023 if self._width == 4 and table.gpa >= 0 else 511)

    def _entry(self, table: Table, slot: int) -> int:
        """The guest's entry as it is now."""
        start = self._memory.ram_offset(table.gpa) + (table.gpa & 0xFFF)
        entry: int = _ENTRY[self._width].unpack_from(self._memory.ram, start + slot * self._width)[0]
        return entry

    def _kept(self, table: Table, slot: int) -> int:
        entry: int = _ENTRY[self._width].unpack_from(table.entries, slot * self._width)[0]
        return entry

    def _keep(self, table: Table, slot: int, entry: int) -> None:
        _ENTRY[self._width].pack_into(table.entries, slot * self._width, entry)

    def _descend(self, linear: int) -> tuple[Table, int] | None:
        """The table whose entry is the leaf for an address that is mapped, and its guest slot.

        None where a table of the guest's is not in RAM.
        """
        table = self.space.top
        if table.gpa < 0:
            return None
        small_only = self._width == 4 and not self._cpu.cr4 & CR4_PSE
        while True:
            slot = self._slot(table, linear)
            entry = self._entry(table, slot)
            if self._differs(self._kept(table, slot), entry):
                self.tables.lose(table, (slot,))
            self._keep(table, slot, entry)
            if table.shift == 12 or (entry & PTE_PS and table.shift != 39 and not small_only):
                return table, slot
            # the PDPTEs of PAE paging grant everything
            rights = table.rights if table.shift == 30 and not self._cpu.long_mode else table.rights & entry
            gpa = entry & _FRAME[self._width]
            if self._memory.ram_offset(gpa) < 0:
                return None
            word = self._word(table, linear)
            shift, role = (12, "") if table.shift in (21, 22) else (table.shift - 9, self._role(table, linear))
            child = self._table(gpa, shift, rights, role)
            if table.children.get(word) is not child:
                self._compare_below(child)
            if table.shift == 22:
                word &= -2
                self._refer(table, word + 1, child, 1)
            self._refer(table, word, child)
            table = child

    def _refer(self, table: Table, word: int, child: Table, page: int = 0) -> None:
        """Have a word point to a table, where the monitor leaves it to the guest."""
        if table.shift > 22 or word not in table.preset:
            self.tables.refer(table, word, child, page)

    def _role(self, table: Table, linear: int) -> str:
        """What the next table below `table` is to the monitor's window for 32-bit code."""
        if table.shift == 39:
            return _LOW if not linear >> 39 else ""
        base = self.window.base
        return _LOW_DIRECTORY if base is not None and linear >> 30 == base >> 30 else ""

    # -- filling -----------------------------------------------------------------------------------------------

    def resolve(self, linear: int, write: bool, user: bool) -> bool:
        """Answer a fault of translated code at `linear`.

        Returns True where the page is now mapped and the access can be retried, False where the instruction must be
        emulated (MMIO, a write to a traced or read-only page, or an address that the monitor uses itself). Raises the
        GuestFault of a true page fault.
        """
        memory, access = self._memory, Access.WRITE if write else Access.READ
        known = self._cpu.walked(linear, access, user)
        if known >= 0 and (memory.ram_offset(known) < 0 or (write and memory.watched(known))):
            return False  # the same walk again would find what the interpreter goes by anyway
        mapping = paging.translate(self._cpu, linear, access, user)
        if memory.ram_offset(mapping.gpa) < 0 or (write and memory.watched(mapping.gpa)):
            return False
        if self._backend.owns(linear) and (linear >> 32 or self.window.base is not None):
            return False
        rights = (WRITE if mapping.writable else 0) | (USER if mapping.user else 0)
        if not (user or mapping.writable or self._cpu.cr0 & CR0_WP):
            if mapping.user and self._cpu.smap:
                return False  # ... as long as EFLAGS.AC allows
            rights = WRITE  # a supervisor writes to read-only pages then, and such a mapping must not serve the user
        if not mapping.dirty:
            rights &= ~WRITE
        try:
            done = self._fill(linear, mapping, rights)
        except TablesFull:
            self._drop_all()
            done = self._fill(linear, mapping, rights)
        self._flush_stale()
        return done

    def _flush_stale(self) -> None:
        if self.tables.stale:
            self._backend.flush_tlb()
            self.tables.stale = False

    def _fill(self, linear: int, mapping: paging.Mapping, rights: int) -> bool:
        if not self._width:
            self._fill_larger(self.space.top, linear, linear, rights)
            return True
        found = self._descend(linear)
        if found is None:
            return False
        table, slot = found
        if table.shift != 12:
            self._fill_larger(table, linear, mapping.gpa, rights)
            return True
        self._put_page(table, slot, mapping.gpa & -_PAGE, rights)
        self._fill_neighbours(table, slot)
        return True

    def _put_page(self, table: Table, slot: int, page: int, rights: int) -> None:
        if rights & WRITE and self._memory.watched(page):
            rights &= ~WRITE
        self.tables.put(table, slot, page | LEAF | rights)

    def _fill_neighbours(self, table: Table, slot: int) -> None:
        """Map what the guest used before, from the entries around `slot`."""
        memory, words, width = self._memory, self.tables.words, self._width
        first = slot & -_GROUP
        start = memory.ram_offset(table.gpa) + first * width
        mask = self._cpu.address_mask
        reserved = 0 if width == 4 else paging.reserved_bits(self._cpu)
        for number, entry in enumerate(_ENTRIES[width].unpack_from(memory.ram, start), first):
            if entry & (PTE_P | PTE_A) != PTE_P | PTE_A or words[table.at + number] or entry & reserved:
                continue
            page = entry & _FRAME[width] & mask
            if memory.ram_offset(page) >= 0:
                rights = table.rights & entry & (WRITE | USER)
                self._keep(table, number, entry)
                self._put_page(table, number, page, rights if entry & PTE_D else rights & ~WRITE)

    def _fill_larger(self, table: Table, linear: int, gpa: int, rights: int) -> None:
        """Map what surrounds `linear`, which a larger page (or none) puts at `gpa`, from `table` on down."""
        word = self._word(table, linear)
        if table.shift == 30:
            role = self._role(table, linear)
            child = self._table(-1, 21, rights, role, gpa & -(1 << 30))
            self._refer(table, word, child)
            table, word = child, linear >> REGION & 511
        frame = gpa & -(1 << REGION)
        guarded = bool(self._guards[gpa >> REGION])
        if self._cpu.address_mask == -1 and self._memory.holds(frame, 1 << REGION) and not (rights & WRITE and guarded):
            self.tables.put(table, word, frame | LEAF | LARGE | rights)
            return
        pages = self._table(-1, 12, rights, "", frame)
        self._refer(table, word, pages)
        first = linear >> 12 & 511 & -_RUN
        for number in range(first, first + _RUN):
            page = frame + number * _PAGE & self._cpu.address_mask
            if self._memory.ram_offset(page) >= 0:
                self._put_page(pages, number, page, rights)

    def _watch_changed(self, page: int, watched: bool) -> None:
        region = page >> REGION - 12
        self._guards[region] += 1 if watched else -1
        if watched:
            self.tables.guard(page)
            self._flush_stale()

    # -- code --------------------------------------------------------------------------------------------------

    def _code_key(self, linear: int, user: bool) -> CodeKey:
        return linear >> 12, self.space.number if user else 0

    def code_page(self, linear: int, user: bool) -> int:
        """Physical page number of the code at `linear`; raises the GuestFault of fetching it."""
        key = self._code_key(linear, user)
        page = self.space.code_pages.get(key)
        if page is None:
            page = paging.translate(self._cpu, linear, Access.EXECUTE, user).gpa >> 12
            try:
                known = self._register(linear, key)
            except TablesFull:
                self._drop_all()
                key = self._code_key(linear, user)
                known = self._register(linear, key)
            if known:
                self.space.code_pages[key] = page
            self._flush_stale()
        return page

    def used_code_page(self, linear: int, user: bool) -> int:
        """As `code_page`, but -1 where the fetch would fault or set an A bit."""
        page = self.space.code_pages.get(self._code_key(linear, user))
        if page is not None:
            return page
        return self.code_page(linear, user) if paging.fetched_before(self._cpu, linear, user) else -1

    def _register(self, linear: int, key: CodeKey) -> bool:
        """Have every table on the way to a page of code know of it."""
        if not self._width:
            return True
        if self._descend(linear) is None:
            return False
        table: Table | None = self.space.top
        while table is not None and table.gpa >= 0:
            table.code.setdefault(self._slot(table, linear), set()).add(key)
            table = table.children.get(self._word(table, linear))
        return True
