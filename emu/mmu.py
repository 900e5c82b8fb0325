"""Shadow page tables: maps guest-linear pages into the backend on demand, as the guest's own tables allow.

A hidden page fault is answered here; a true one is the guest's. A page is mapped writable only once the guest's D bit
is set and no write trace lies on it, so that dirty bits stay exact and writes to translated code are seen.
"""

from __future__ import annotations

from emu.backends.base import Backend
from emu.memory import GuestMemory
from isa.base import Access
from isa.x86 import paging
from isa.x86.cpu import Cpu

PAGE = 0x1000
_GROUP = 32  # pages mapped at once where one guest entry, or none, covers them all


class ShadowMmu:
    """Keeps the backend's mappings within what the guest's page tables say."""

    def __init__(self, cpu: Cpu, memory: GuestMemory, backend: Backend) -> None:
        self._cpu, self._memory, self._backend = cpu, memory, backend
        self._writers: dict[int, set[int]] = {}  # physical page -> linear pages mapped writable
        memory.on_watch_change.append(self._watch_changed)
        self._large = False  # pages of a larger guest page are mapped: INVLPG drops all of it (SDM vol. 3, 4.10.4.1)
        self.filled = 0
        self.flushes = 0

    def resolve(self, linear: int, write: bool, user: bool) -> bool:
        """Answer a fault of translated code at `linear`.

        Returns True where the page is now mapped and the access can be retried, False where the instruction must be
        emulated (MMIO, a write to a traced or read-only page, or an address that the monitor uses itself). Raises the
        GuestFault of a true page fault.
        """
        memory = self._memory
        mapping = paging.translate(self._cpu, linear, Access.WRITE if write else Access.READ, user)
        if memory.ram_offset(mapping.gpa) < 0 or (write and memory.watched(mapping.gpa)):
            return False
        writable = mapping.dirty and (mapping.writable or write)
        # With CR0.WP clear a supervisor writes to read-only pages: such a mapping must not serve the user.
        visible = mapping.user and (mapping.writable or not write)
        first, gpa, count = linear & -PAGE, mapping.gpa & -PAGE, 1
        if mapping.size > PAGE:
            self._large = True
            first = linear & -(PAGE * _GROUP)
            gpa += first - (linear & -PAGE)
            count = _GROUP
        return self._fill(first, gpa, count, writable, visible)

    def _fill(self, linear: int, gpa: int, count: int, writable: bool, user: bool) -> bool:
        memory = self._memory
        plain: list[int] = []
        traced: list[int] = []
        for number in range(count):
            page = gpa + number * PAGE
            there = memory.ram_offset(page) >= 0
            open_ = there and writable and not memory.watched(page)
            plain.append(page if open_ else -1)
            traced.append(page if there and not open_ else -1)
            if open_:
                self._writers.setdefault(page >> 12, set()).add(linear + number * PAGE)
        self.filled += count
        return self._backend.map_pages(linear, plain, True, user) and self._backend.map_pages(
            linear, traced, False, user
        )

    def _watch_changed(self, page: int, watched: bool) -> None:
        if watched:
            for linear in self._writers.pop(page, ()):
                self._backend.unmap_page(linear)

    def forget(self, linear: int | None) -> None:
        """The guest flushed one translation, or all."""
        if linear is not None and not self._large:
            self._backend.unmap_page(linear & -PAGE)
            return
        self._backend.unmap_all()
        self._writers.clear()
        self._large = False
        self.flushes += 1
