"""Fills shadow tables on demand as the guest's own tables allow, and keeps them true to what the guest flushes.

A hidden page fault is answered here; a true one is the guest's. A page is mapped writable only once the guest's D bit
is set and no write trace lies on it, so that dirty bits stay exact and writes to translated code are seen. Nothing is
thrown away when the guest loads CR3: the entries that shadow tables were made from are compared with what they are
now, and only what changed is made anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from emu.backends.base import Backend
from emu.entries import ACCESSED_DIRTY, GuestEntries
from emu.memory import GuestMemory
from emu.pagetables import LARGE, USER, WRITE
from emu.shadow import LEAF, REGION, CodeKey, ShadowTables, Table, TablesFull
from emu.spaces import FRAME, AddressSpaces, Space
from emu.tabletrace import TableTraces
from emu.window import LowWindow
from isa.base import Access
from isa.x86 import paging
from isa.x86.cpu import Cpu
from isa.x86.paging import PTE_A, PTE_D, PTE_P, PTE_PS
from isa.x86.state import CR0_WP, CR4_PAE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_NXE

_PAGE: Final = 0x1000
_FEW: Final = 2  # entries that changed in a table between two flushes
_RUN: Final = 32  # pages of a larger page mapped together


class ShadowMmu:
    """Keeps the backend's mappings within what the guest's page tables say."""

    def __init__(self, cpu: Cpu, memory: GuestMemory, backend: Backend, move_window: Callable[[int], None]) -> None:
        """`move_window(base)` is called when the window for 16- and 32-bit code must move, before roots are made."""
        self._cpu, self._memory, self._backend = cpu, memory, backend
        self.window = LowWindow(cpu, memory, backend.window_size)
        self._move_window = move_window
        self._entries = GuestEntries(memory)
        self.traces = TableTraces(memory, self._entries)
        self.tables = ShadowTables(backend.tables, self.traces.drop)
        self._spaces = AddressSpaces(cpu, memory, backend, self.window, self.tables, self._entries, self.traces)
        self._guards = Counter(page >> REGION - 12 for page in memory.guarded())
        memory.on_watch_change.append(self._watch_changed)
        self._config: tuple[object, ...] = ()
        self.changed_everywhere = True  # code pages of any address may be others than before
        self.refresh()

    @property
    def space(self) -> Space:
        """The address space that is the machine's."""
        return self._spaces.present

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
            self._entries.width = 0 if not cpu.paging else 8 if cpu.long_mode or cpu.cr4 & CR4_PAE else 4
            self._place_window()
            self._drop_all()
            return True
        base = self._spaces.base()
        switched = self._spaces.find(base) is not self.space
        pages = self._spaces.remembered() if switched and not self.tables.stale else None
        for table, slots in self.traces.changes():
            self.tables.lose(table, slots)
            if table.shift == 12 and len(slots) <= _FEW:  # made to be used at once, as to patch code through
                for slot in slots:
                    if self._entries.now(table, slot) & PTE_P:
                        self._fill_neighbours(table, slot)
        if (switched or self.window.touched) and self._place_window():
            self._drop_all()
            return True
        if switched:
            try:
                self._spaces.enter(base, pages)
            except TablesFull:
                self._drop_all()
        elif self.tables.stale:
            self._backend.flush_tlb()
        self.tables.stale = 0
        return switched

    def written(self, gpa: int, size: int) -> bool:
        """Guest memory within one page was written to, where it is traced; True where `refresh` must follow."""
        self.traces.written(gpa, size)
        self.window.written(gpa >> 12)
        return self.window.touched

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

    def forget(self, linear: int) -> None:
        """The guest flushed the translation of one page."""
        entries = self._entries
        if not entries.width:
            return
        table: Table | None = self.space.top
        while table is not None and table.gpa >= 0:
            slot = entries.slot(table, linear)
            if entries.keep(table, slot, entries.now(table, slot)):
                self.tables.lose(table, (slot,))
                break
            table = table.children.get(self._word(table, linear))
        self._flush_stale()

    def take_lost(self) -> set[CodeKey]:
        """The code pages that may be mapped elsewhere since the last call, in any address space."""
        lost, self.tables.lost = self.tables.lost, set()
        if lost:
            self._spaces.forget_code(lost)
        return lost

    def top_entry(self, linear: int) -> int:
        """The guest's topmost entry for an address, without the bits that the CPU sets; 0 without paging."""
        entries, top = self._entries, self.space.top
        if not entries.width or top.gpa < 0:
            return 0
        return entries.now(top, entries.slot(top, linear)) & ~ACCESSED_DIRTY

    def _drop_all(self) -> None:
        self._spaces.close_all()
        self.tables.lost.clear()
        self.changed_everywhere = True
        self._spaces.enter(self._spaces.base())
        self.tables.stale = 0

    # -- the way to a page -------------------------------------------------------------------------------------

    def _word(self, table: Table, linear: int) -> int:
        """The word for an address within a table."""
        if table.shift == 22:
            return linear >> REGION & 2047
        return linear >> table.shift & (1023 if self._entries.width == 4 and table.gpa >= 0 else 511)

    def _descend(self, linear: int) -> tuple[Table, int] | None:
        """The table whose entry is the leaf for an address that is mapped, and its guest slot.

        None where a table of the guest's is not in RAM.
        """
        table = self.space.top
        if table.gpa < 0:
            return None
        entries = self._entries
        small_only = entries.width == 4 and not self._cpu.cr4 & CR4_PSE
        while True:
            slot = entries.slot(table, linear)
            entry = entries.now(table, slot)
            if entries.keep(table, slot, entry):
                self.tables.lose(table, (slot,))
            if table.shift == 12 or (entry & PTE_PS and table.shift != 39 and not small_only):
                return table, slot
            # the PDPTEs of PAE paging grant everything
            rights = table.rights if table.shift == 30 and not self._cpu.long_mode else table.rights & entry
            gpa = entry & FRAME[entries.width]
            if self._memory.ram_offset(gpa) < 0:
                return None
            word = self._word(table, linear)
            shift, role = (12, "") if table.shift in (21, 22) else (table.shift - 9, self._spaces.role(table, linear))
            child = self._spaces.table(gpa, shift, rights, role)
            if table.children.get(word) is not child:
                self._spaces.compare_below(child)
            if table.shift == 22:
                word &= -2
                self._refer(table, word + 1, child, 1)
            self._refer(table, word, child)
            table = child

    def _refer(self, table: Table, word: int, child: Table, page: int = 0) -> None:
        """Have a word point to a table, where the monitor leaves it to the guest."""
        if table.shift > 22 or word not in table.preset:
            self.tables.refer(table, word, child, page)

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
            self.tables.stale = 0

    def _fill(self, linear: int, mapping: paging.Mapping, rights: int) -> bool:
        if not self._entries.width:
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
        memory, words, entries = self._memory, self.tables.words, self._entries
        mask = self._cpu.address_mask
        reserved = 0 if entries.width == 4 else paging.reserved_bits(self._cpu)
        for number, entry in entries.around(table, slot):
            if entry & (PTE_P | PTE_A) != PTE_P | PTE_A or words[table.at + number] or entry & reserved:
                continue
            page = entry & FRAME[entries.width] & mask
            if memory.ram_offset(page) >= 0:
                rights = table.rights & entry & (WRITE | USER)
                if entries.keep(table, number, entry):
                    self.tables.lose(table, (number,))
                self._put_page(table, number, page, rights if entry & PTE_D else rights & ~WRITE)

    def _fill_larger(self, table: Table, linear: int, gpa: int, rights: int) -> None:
        """Map what surrounds `linear`, which a larger page (or none) puts at `gpa`, from `table` on down."""
        word = self._word(table, linear)
        if table.shift == 30:
            role = self._spaces.role(table, linear)
            child = self._spaces.table(-1, 21, rights, role, gpa & -(1 << 30))
            self._refer(table, word, child)
            table, word = child, linear >> REGION & 511
        frame = gpa & -(1 << REGION)
        guarded = bool(self._guards[gpa >> REGION])
        if self._cpu.address_mask == -1 and self._memory.holds(frame, 1 << REGION) and not (rights & WRITE and guarded):
            self.tables.put(table, word, frame | LEAF | LARGE | rights)
            return
        pages = self._spaces.table(-1, 12, rights, "", frame)
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

    def known_code_page(self, linear: int, user: bool) -> int:
        """As `code_page`, but -1 where that was not asked for before."""
        return self.space.code_pages.get(self._code_key(linear, user), -1)

    def used_code_page(self, linear: int, user: bool) -> int:
        """As `code_page`, but -1 where the fetch would fault or set an A bit."""
        page = self.known_code_page(linear, user)
        if page >= 0:
            return page
        return self.code_page(linear, user) if paging.fetched_before(self._cpu, linear, user) else -1

    def _register(self, linear: int, key: CodeKey) -> bool:
        """Have every table on the way to a page of code know of it."""
        if not self._entries.width:
            return True
        if self._descend(linear) is None:
            return False
        table: Table | None = self.space.top
        while table is not None and table.gpa >= 0:
            table.code.setdefault(self._entries.slot(table, linear), set()).add(key)
            table = table.children.get(self._word(table, linear))
        return True
