"""Jump tables: where returns, indirect jumps and user code's branches to other pages find their targets."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable

from emu.backends.base import Backend
from emu.dbt.block import Block
from isa.x86.emit import TABLE_BYTES, TABLE_SLOTS, TABLES, USER_TABLE
from isa.x86.rewrite import BlockMode

_WORD = struct.Struct("<Q")
_PAGE_SHIFT = 12
_USER_TABLES = 8  # jump tables of user code at most
_MOST_SALTS = (1 << 14) - 1


def _shared(mode: BlockMode) -> BlockMode | None:
    """What a jump table belongs to: a mode, or None for all modes of 16-bit code."""
    return None if mode.mode == 16 else mode


class JumpTable:
    """A table from guest targets to host addresses, searched by translated code (`isa.x86.incache`).

    Kernel code has one for each mode, user code one for each mode and address space; but all modes of 16-bit code share
    one, because they have 64 KiB of targets each, which are told apart by a number that is added (`JumpTables.salt`).
    """

    def __init__(self, data: memoryview, offset: int) -> None:
        self.offset = offset
        self.pages: set[int] = set()  # linear pages of user code of which all that was known is here
        self._tags = data[offset : offset + TABLE_SLOTS * 8].cast("Q")
        self._hosts = data[offset + TABLE_SLOTS * 8 : offset + TABLE_BYTES].cast("Q")
        self._filled: dict[int, int] = {}  # slot -> target
        self._targets: dict[int, int] = {}  # all targets, also those whose slot another one took -> host address
        self._tags[0] = 1  # an empty slot holds 0, which would match the target 0

    def put(self, pc: int, host: int) -> None:
        """Have jumps to `pc` find `host`; another target with the same place is found by `fetch` only from now on."""
        self._targets[pc] = host
        slot = pc % TABLE_SLOTS
        self._tags[slot] = -pc & 0xFFFFFFFFFFFFFFFF  # of which 32-bit code compares the lower half
        self._hosts[slot] = host
        self._filled[slot] = pc

    def fetch(self, pc: int) -> bool:
        """Let a target take its place again, which another one took; False where it was never put here."""
        host = self._targets.get(pc)
        if host is not None:
            self.put(pc, host)
        return host is not None

    def taken(self, pc: int) -> bool:
        return pc % TABLE_SLOTS in self._filled

    def drop(self, pc: int) -> None:
        slot = pc % TABLE_SLOTS
        if self._targets.pop(pc, None) is not None and self._filled.get(slot) == pc:
            self._tags[slot] = 0 if slot else 1
            del self._filled[slot]

    def clear(self) -> None:
        for slot in self._filled:
            self._tags[slot] = 0
        self._tags[0] = 1
        self._filled.clear()
        self._targets.clear()
        self.pages.clear()

    def wanted(self, place: int, difference: int, wide: bool) -> int:
        """The target of a lookup that failed at offset `place` of the monitor's data, by its `difference` from that of
        the target there."""
        tag: int = self._tags[(place - self.offset) // 8]
        return difference - tag & (0xFFFFFFFFFFFFFFFF if wide else 0xFFFFFFFF)


class JumpTables:
    """All jump tables in a backend's data, the present address space's among them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._tables: dict[BlockMode | None, JumpTable] = {}  # of kernel code
        self._user_tables: OrderedDict[tuple[BlockMode | None, int], JumpTable] = OrderedDict()  # used last comes last
        self._free = self._all_tables()
        self._space = 0  # the number of the present address space
        self._salts: dict[BlockMode, int] = {}  # of 16-bit code

    def table(self, mode: BlockMode) -> JumpTable | None:
        """The jump table of a mode, made at first use; None where all are taken (flush, then ask again)."""
        if mode.mode == 16 and mode not in self._salts:
            if len(self._salts) == _MOST_SALTS:
                return None
            self._salts[mode] = (len(self._salts) + 1 << 17) + (mode.cs_base & 0xFFFF)
        if mode.user:
            return self._user_table(mode)
        key = _shared(mode)
        found = self._tables.get(key)
        if found is None:
            if len(self._free) + len(self._user_tables) < 2:  # the last one is user code's
                return None
            if not self._free:
                self._free.append(self._oldest_user_table().offset)
            found = self._tables[key] = JumpTable(self._backend.data, self._free.pop())
        return found

    def salt(self, mode: BlockMode) -> int:
        """What is added to a mode's targets in its jump table.

        The low bits spread segments over the table, bits 17 and up are the mode's own: targets have 16 bits.
        """
        return self._salts.get(mode, 0)

    def _user_table(self, mode: BlockMode) -> JumpTable:
        """The table of user code of a mode in the present address space."""
        key = _shared(mode), self._space
        found = self._user_tables.get(key)
        if found is None:
            if len(self._user_tables) < _USER_TABLES and self._free:
                found = JumpTable(self._backend.data, self._free.pop())
            else:
                found = self._oldest_user_table()
            self._user_tables[key] = found
        else:
            self._user_tables.move_to_end(key)
        return found

    def _oldest_user_table(self) -> JumpTable:
        """Take the table that was not used for longest from its address space."""
        _, table = self._user_tables.popitem(last=False)
        table.clear()
        return table

    def _all_tables(self) -> list[int]:
        """The offsets of all tables there is room for, the first one last."""
        size = self._backend.layout.data_size
        return list(range(TABLES, size - TABLE_BYTES + 1, TABLE_BYTES))[::-1]

    def enter(self, space: int) -> None:
        """The guest's address space is another one now, which has this number."""
        self._space = space

    def select(self, mode: BlockMode) -> None:
        """User code of a mode is about to run: let it find the table of its address space."""
        layout = self._backend.layout
        address = layout.data_base[mode.mode] + layout.user_data + self._user_table(mode).offset
        _WORD.pack_into(self._backend.data, USER_TABLE, address)

    def publish(self, block: Block, beside: Iterable[Block]) -> None:
        """Let indirect jumps of the block's mode find it; `beside` are the blocks of its page of memory."""
        if block.indirect_entry < 0 or (block.mode.mode == 16 and block.pc >> 16):
            return
        mode, salt = block.mode, self.salt(block.mode)
        base = self._backend.layout.code_base[mode.mode]
        if not mode.user:
            table = self._tables.get(_shared(mode))
            if table is not None:
                table.put(block.pc + salt, base + block.indirect_entry)
            return
        table = self._user_table(mode)
        table.put(block.pc + salt, base + block.indirect_entry)
        page = block.linear >> _PAGE_SHIFT
        if page in table.pages or block.split:
            return
        # what other address spaces found there will be wanted in this one too
        table.pages.add(page)
        for other in beside:
            known = other.indirect_entry >= 0 and not other.split
            if known and other.mode is mode and other.linear >> _PAGE_SHIFT == page:
                table.put(other.pc + salt, base + other.indirect_entry)

    def taken(self, block: Block) -> bool:
        """True where another block has the place in the jump table that `publish` would give this one."""
        mode = block.mode
        table = self._user_table(mode) if mode.user else self._tables.get(_shared(mode))
        return table is not None and table.taken(block.pc + self.salt(mode))

    def wanted(self, mode: BlockMode, place: int, difference: int) -> int:
        """The target of a lookup by code of a mode that failed, with its `salt`.

        `place` is the host address that it looked at, and `difference` what it found there (`isa.x86.incache`).
        """
        layout = self._backend.layout
        place -= layout.data_base[mode.mode] + (layout.user_data if mode.user else 0)
        return self._present(mode).wanted(place, difference, mode.mode == 64)

    def fetch(self, mode: BlockMode, target: int) -> bool:
        """Let code of a mode find a target again that lost its place; False where it was never put there."""
        return self._present(mode).fetch(target)

    def _present(self, mode: BlockMode) -> JumpTable:
        """The table that code of a mode looks at, which has run."""
        return self._user_table(mode) if mode.user else self._tables[_shared(mode)]

    def forget_user_targets(self, spaces: set[int] | None = None) -> None:
        """Empty the jump tables of user code, all of them or those of some address spaces."""
        for (_, space), table in self._user_tables.items():
            if spaces is None or space in spaces:
                table.clear()

    def drop(self, block: Block) -> None:
        """Have no jump find a block."""
        key, target = _shared(block.mode), block.pc + self.salt(block.mode)
        if block.mode.user:
            for (mode, _), table in self._user_tables.items():
                if mode is key:
                    table.drop(target)
        elif key in self._tables:
            self._tables[key].drop(target)

    def clear(self) -> None:
        """The code cache was flushed: no table is anybody's."""
        for table in (*self._tables.values(), *self._user_tables.values()):
            table.clear()
        self._tables.clear()
        self._user_tables.clear()
        self._free = self._all_tables()
        self._salts.clear()
