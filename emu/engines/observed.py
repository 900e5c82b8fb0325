"""The translating engine with a window on how full its memory is."""

from __future__ import annotations

from emu.engines.base import Occupancy
from emu.engines.translate import TranslateEngine
from emu.pagetables import WORDS


class ObservedTranslateEngine(TranslateEngine):
    """`TranslateEngine` that tells its occupancy, between two runs."""

    def occupancy(self) -> Occupancy:
        tables, memory = self._finder.mmu.tables, self._backend.tables
        return Occupancy(
            self.cache.used,
            self._backend.layout.code_size,
            len(self.cache.blocks()),
            len(tables.tables),
            sum(table.pages for table in tables.tables.values()),
            memory.used,
            len(memory.words) // WORDS,
            self._finder.mmu.kept_spaces,
        )
