"""The virtual CPU the interpreter runs: architectural state, a software TLB, memory accesses and lazy flags."""

from __future__ import annotations

import struct
from typing import Final, Protocol

from isa.base import Access, GuestFault, NativeUnit, Outside, PhysicalMemory
from isa.x86 import debug, paging, segments
from isa.x86.state import (
    AC,
    AC_FAULT,
    AF,
    ARITH,
    CF,
    CR0_AM,
    CR4_SMAP,
    CS,
    FS,
    OF,
    PF,
    SF,
    ZF,
    X86State,
)

MASK32: Final = 0xFFFF_FFFF
MASK64: Final = 0xFFFF_FFFF_FFFF_FFFF
MASKS: Final = {1: 0xFF, 2: 0xFFFF, 4: MASK32, 8: MASK64}
PARITY: Final = tuple(0 if bin(byte).count("1") & 1 else PF for byte in range(256))

# A segment that needs no more than a limit check, for reads as for writes: present (P), not a system segment (S),
# data (type bit 3 clear), expand-up (bit 2 clear), writable (bit 1); SDM vol. 3, 3.4.5.1.
_PLAIN_MASK: Final = 0x9E
_PLAIN: Final = 0x92

_LARGE_PAGES: Final = (0x200, 0x400, 0x40000)  # sizes in pages of 4 KiB: 2 MiB, 4 MiB, 1 GiB
_TLB_LIMIT: Final = 1 << 16  # pages a TLB remembers before it starts afresh
_UNPACK: Final = {
    2: struct.Struct("<H").unpack_from,
    4: struct.Struct("<I").unpack_from,
    8: struct.Struct("<Q").unpack_from,
}
_PACK: Final = {
    1: struct.Struct("<B").pack_into,
    2: struct.Struct("<H").pack_into,
    4: struct.Struct("<I").pack_into,
    8: struct.Struct("<Q").pack_into,
}
_ROOM: Final = tuple(0x1000 - size for size in range(9))  # highest page offset at which `size` bytes still fit

Tlb = dict[int, int]  # linear page number -> what to add to a linear address for its offset in `memory.ram`


def _walk_key(linear: int, access: Access, user: bool) -> int:
    return linear >> 12 << 3 | (0 if access is Access.READ else 2 if access is Access.WRITE else 4) | user


class TracedMemory(PhysicalMemory, Protocol):
    """Physical memory that can trace writes to the pages code was decoded from."""

    def watch(self, page: int) -> None:
        """Report writes to page number `page` (GPA >> 12), and answer True for it in `watched`."""
        ...

    def unwatch(self, page: int) -> None: ...


class Cpu(X86State):
    """One vCPU with its access to memory, ports and the floating-point unit.

    `rflags` is always exact. Between two instructions the arithmetic flags live in four fields that the integer
    families write directly (see `isa.x86.flags`): `fz` is zero where ZF is set; `fr` is the last result, from which SF
    (its bit `fs` - 1) and PF (its low byte) follow; `fs` is the width of that result in bits; bit n of `fc` is the
    carry or borrow into bit n, so CF is bit `fs`, AF bit 4 and OF the difference of bits `fs` and `fs` - 1.
    `system_flags` holds all other flags and may be read, or written for IF and DF, at any time.

    `transferred` is set by a system instruction that chose the next RIP itself although it equals its own address.
    `stop_requested` makes `Interpreter.run` return at the end of the current block; whoever asked clears it.
    `flushes` counts TLB flushes: whoever caches linear addresses compares it.
    `debug_pending` holds DR6 bits of debug exceptions that wait for the end of the instruction (SDM vol. 3, 24.4.2).
    `nmi` tells that a non-maskable interrupt waits, `nmi_blocked` that one is served, until IRET (SDM vol. 3, 6.7.1).
    `stack_shadow` tells that `shadow`, while it is set, comes from loading SS and holds debug exceptions off as well.
    """

    __slots__ = (
        "_cpl", "_exec_s", "_exec_u", "_large", "_none", "_other_ac", "_read_s", "_read_u", "_walked", "_watched",
        "_watches", "_write_s", "_write_u", "debug_pending", "exec_tlb", "fc", "flushes", "fr", "fs", "fz", "memory",
        "native", "nmi", "nmi_blocked", "outside", "ram", "read_tlb", "retired", "stack_shadow", "stop_requested",
        "system_flags", "transferred", "write_tlb",
    )  # fmt: skip

    def __init__(self, memory: TracedMemory, outside: Outside, native: NativeUnit | None) -> None:
        self.memory, self.outside, self.native = memory, outside, native
        self.ram = memory.ram
        self.retired = 0
        self.transferred = self.stop_requested = self.nmi = self.nmi_blocked = False
        self.fz, self.fr, self.fc, self.fs = 1, 1, 0, 32
        self.system_flags = 2
        self.flushes = self.debug_pending = 0
        self.stack_shadow = False
        self._watches: tuple[debug.Watch, ...] = ()
        self._watched: frozenset[int] = frozenset()  # linear pages with data breakpoints, which the TLBs leave out
        # One TLB per kind of access and privilege: U (user) and S (supervisor); the three public ones serve CPL.
        self._read_u: Tlb = {}
        self._read_s: Tlb = {}
        self._write_u: Tlb = {}
        self._write_s: Tlb = {}
        self._exec_u: Tlb = {}
        self._exec_s: Tlb = {}
        # All translations since the last flush, also those of MMIO and of watched pages, which the TLBs leave out.
        self._walked: dict[int, int] = {}
        # With SMAP what supervisor code may reach depends on EFLAGS.AC: reads, writes and walks with the other AC.
        self._other_ac: tuple[Tlb, Tlb, dict[int, int]] = ({}, {}, {})
        self._large: dict[int, int] = {}  # first linear page of each larger page in the TLBs -> its size in pages
        self._none: Tlb = {}  # stays empty: sends every access through the checks of the slow path
        self.read_tlb, self.write_tlb, self.exec_tlb = self._read_s, self._write_s, self._exec_s
        self._cpl = 0
        self.cr0 = 0
        super().__init__()

    # -- flags and privilege ------------------------------------------------------------------------------------

    @property
    def rflags(self) -> int:
        fr, sign = self.fr, self.fs - 1
        carries = self.fc >> sign  # bit 1: CF, bits 0 and 1 differ: OF
        return (
            self.system_flags
            | carries >> 1 & 1
            | PARITY[fr & 0xFF]
            | self.fc & AF
            | (0 if self.fz else ZF)
            | (fr >> sign & 1) << 7
            | ((carries ^ carries >> 1) & 1) << 11
        )

    @rflags.setter
    def rflags(self, value: int) -> None:
        changed = self.system_flags ^ value
        self.system_flags = value & ~ARITH | 2
        carry = value & CF
        self.fz = ~value & ZF
        self.fr = (value & SF) << 24 | (0 if value & PF else 1)
        self.fc = carry << 32 | (carry ^ (value & OF) >> 11) << 31 | value & AF
        self.fs = 32
        if changed & AC:
            self._ac_changed()

    @property
    def cpl(self) -> int:
        return self._cpl

    @cpl.setter
    def cpl(self, value: int) -> None:
        self._cpl = value
        self._select()

    @property
    def smap(self) -> bool:
        """True where EFLAGS.AC decides whether supervisor code reaches user pages (SDM vol. 3, 4.6.1)."""
        return bool(self.cr4 & CR4_SMAP) and self.paging

    def set_ac(self, flags: int) -> None:
        """Take EFLAGS.AC, and nothing else, from `flags`."""
        if (self.system_flags ^ flags) & AC:
            self.system_flags ^= AC
            self._ac_changed()

    def _ac_changed(self) -> None:
        """EFLAGS.AC lets supervisor code reach user pages under SMAP (SDM vol. 3, 4.6.1): each AC has its TLBs."""
        if self.cr4 & CR4_SMAP:
            other = self._other_ac
            self._other_ac = self._read_s, self._write_s, self._walked
            self._read_s, self._write_s, self._walked = other
        self._select()

    def _select(self) -> None:
        """Choose the TLBs of the current privilege level."""
        if self._cpl != 3:
            self.read_tlb, self.write_tlb, self.exec_tlb = self._read_s, self._write_s, self._exec_s
            return
        self.read_tlb, self.write_tlb, self.exec_tlb = self._read_u, self._write_u, self._exec_u
        if self.aligning:
            self.read_tlb = self.write_tlb = self._none

    @property
    def aligning(self) -> bool:
        """True where misaligned accesses fault (SDM vol. 3, 6.15, #AC)."""
        return self._cpl == 3 and bool(self.system_flags & AC) and bool(self.cr0 & CR0_AM)

    # -- breakpoints --------------------------------------------------------------------------------------------

    @property
    def watching(self) -> bool:
        """True where every instruction must be executed by `Interpreter.step`, because of a breakpoint.

        Either DR7 enables one, or a debug exception waits for the next instruction boundary.
        """
        return bool(self.dr[7] & debug.DR7_ENABLES or self.debug_pending)

    def debug_changed(self) -> None:
        """DR0 to DR3 or DR7 changed: accesses to pages with data breakpoints take the slow path, which looks."""
        watches = debug.data_watches(self.dr)
        if watches != self._watches:
            self._watches = watches
            self._watched = frozenset(watch.first >> 12 for watch in watches)
            for tlb in (self._read_u, self._read_s, self._write_u, self._write_s, *self._other_ac[:2]):
                tlb.clear()

    def touched(self, linear: int, size: int, write: bool) -> None:
        """The guest's program accessed memory: remember the data breakpoints that this met."""
        for watch in self._watches:
            if linear <= watch.last and watch.first < linear + size and (write or not watch.writes_only):
                self.debug_pending |= watch.bit

    # -- the TLB ------------------------------------------------------------------------------------------------

    def flush_tlb(self, linear: int | None) -> None:
        """Forget the translation of the page of `linear`, or of all pages (after a change of CR0, CR3, CR4 or EFER).

        All of a large page is forgotten, since an address within any part of it names it (SDM vol. 3, 4.10.4.1).
        """
        self.flushes += 1
        pages = range(0) if linear is None else self._translated_with(linear >> 12)
        reads, writes, walked = self._other_ac
        tlbs = (self._read_u, self._read_s, self._write_u, self._write_s, self._exec_u, self._exec_s, reads, writes)
        for tlb in tlbs:
            if linear is None or len(pages) > len(tlb):
                tlb.clear()
            else:
                for page in pages:
                    tlb.pop(page, None)
        if linear is None:
            self._large.clear()
        self._walked.clear()
        walked.clear()
        self._select()

    def _translated_with(self, page: int) -> range:
        """The linear pages whose translation may have come from the same page-table entry as that of `page`."""
        for count in _LARGE_PAGES:
            first = page & -count
            if self._large.get(first) == count:
                return range(first, first + count)
        return range(page, page + 1)

    def page_watched(self, page: int, watched: bool = True) -> None:
        """Guest-physical page number `page` became watched (or no longer is): writes to it must find their way anew."""
        if watched:
            self._write_u.clear()
            self._write_s.clear()
            self._other_ac[1].clear()

    def tlb(self, access: Access, user: bool) -> Tlb:
        """Where the pages are that need no further check for an access; `physical` adds to it."""
        if access is Access.READ:
            return self._read_u if user else self._read_s
        if access is Access.WRITE:
            return self._write_u if user else self._write_s
        return self._exec_u if user else self._exec_s

    def physical(self, linear: int, access: Access, user: bool) -> int:
        """Guest-physical address of `linear`, remembered where it is plain RAM; raises GuestFault 14."""
        key = _walk_key(linear, access, user)
        page = self._walked.get(key)
        if page is None:
            mapping = paging.translate(self, linear, access, user)
            page = mapping.gpa & ~0xFFF
            if mapping.size > 0x1000:
                self._large[(linear & -mapping.size) >> 12] = mapping.size >> 12
            if len(self._walked) >= _TLB_LIMIT:
                self._walked.clear()
            self._walked[key] = page
        gpa = page | linear & 0xFFF
        offset = self.memory.ram_offset(gpa)
        open_ = access is not Access.WRITE or not self.memory.watched(gpa)
        if offset >= 0 and open_ and (access is Access.EXECUTE or linear >> 12 not in self._watched):
            tlb = self.tlb(access, user)
            if len(tlb) >= _TLB_LIMIT:
                tlb.clear()
            tlb[linear >> 12] = offset - (linear & ~0xFFF)
        return gpa

    def walked(self, linear: int, access: Access, user: bool) -> int:
        """Guest-physical address of the page of `linear` as `physical` found it last, or -1 where that is forgotten."""
        return self._walked.get(_walk_key(linear, access, user), -1)

    def _pieces(self, linear: int, size: int, access: Access, user: bool) -> list[tuple[int, int]]:
        """(guest-physical address, length) of each page an access touches, all of them checked."""
        wrap = MASK64 if self.long_mode else MASK32
        if 0 < size <= 0x1000 - (linear & 0xFFF):
            return [(self.physical(linear & wrap, access, user), size)]
        pieces, done = [], 0
        while done < size:
            at = linear + done & wrap
            length = min(size - done, 0x1000 - (at & 0xFFF))
            pieces.append((self.physical(at, access, user), length))
            done += length
        return pieces

    # -- accesses through a segment -----------------------------------------------------------------------------

    def load(self, seg: int, offset: int, size: int) -> int:
        """Read `size` (1..8) bytes at `offset` in segment register `seg`, zero-extended; raises GuestFault."""
        if self.mode == 64:
            linear = offset if seg < FS else offset + self.segs[seg].base & MASK64
        else:
            segment = self.segs[seg]
            if segment.attr & _PLAIN_MASK != _PLAIN or offset + size - 1 > segment.limit:
                linear = segments.linearize(self, seg, offset, size, False)
            else:
                linear = segment.base + offset & MASK32
        delta = self.read_tlb.get(linear >> 12)
        if delta is None or linear & 0xFFF > _ROOM[size]:
            return self._load(segments.linearize(self, seg, offset, size, False), size)
        if size == 1:
            return self.ram[linear + delta]
        unpack = _UNPACK.get(size)
        if unpack is None:
            return int.from_bytes(self.ram[linear + delta : linear + delta + size], "little")
        value: int = unpack(self.ram, linear + delta)[0]
        return value

    def store(self, seg: int, offset: int, size: int, value: int) -> None:
        """Write the low `size` (1..8) bytes of `value` at `offset` in `seg`; on a GuestFault nothing is written."""
        if self.mode == 64:
            linear = offset if seg < FS else offset + self.segs[seg].base & MASK64
        else:
            segment = self.segs[seg]
            if segment.attr & _PLAIN_MASK != _PLAIN or offset + size - 1 > segment.limit:
                linear = segments.linearize(self, seg, offset, size, True)
            else:
                linear = segment.base + offset & MASK32
        delta = self.write_tlb.get(linear >> 12)
        if delta is None or linear & 0xFFF > _ROOM[size]:
            return self._store(segments.linearize(self, seg, offset, size, True), size, value)
        mask = MASKS.get(size)
        if mask is not None:
            _PACK[size](self.ram, linear + delta, value & mask)
        else:
            at = linear + delta
            self.ram[at : at + size] = (value & (1 << size * 8) - 1).to_bytes(size, "little")
        return None

    def load_rmw(self, seg: int, offset: int, size: int) -> int:
        """Read what the instruction is about to write back: faults as a write would, so that the store cannot."""
        if self.mode == 64:
            linear = offset if seg < FS else offset + self.segs[seg].base & MASK64
        else:
            segment = self.segs[seg]
            if segment.attr & _PLAIN_MASK != _PLAIN or offset + size - 1 > segment.limit:
                linear = segments.linearize(self, seg, offset, size, True)
            else:
                linear = segment.base + offset & MASK32
        delta = self.write_tlb.get(linear >> 12)
        if delta is None or linear & 0xFFF > _ROOM[size]:
            return self._load_rmw(segments.linearize(self, seg, offset, size, True), size)
        return int.from_bytes(self.ram[linear + delta : linear + delta + size], "little")

    def load_bytes(self, seg: int, offset: int, n: int) -> bytes:
        """Read `n` bytes (any number) at `offset` in `seg`; raises GuestFault."""
        linear = segments.linearize(self, seg, offset, n, False)
        pieces = self._pieces(linear, n, Access.READ, self._cpl == 3)
        self.touched(linear, n, False)
        return b"".join(self._read_piece(gpa, length) for gpa, length in pieces)

    def store_bytes(self, seg: int, offset: int, data: bytes) -> None:
        """Write `data` (any length) at `offset` in `seg`; on a GuestFault nothing is written."""
        linear = segments.linearize(self, seg, offset, len(data), True)
        done = 0
        pieces = self._pieces(linear, len(data), Access.WRITE, self._cpl == 3)
        self.touched(linear, len(data), True)
        for gpa, length in pieces:
            for at in range(0, length, 8):
                part = data[done + at : done + min(at + 8, length)]
                self._scatter([(gpa + at, len(part))], int.from_bytes(part, "little"))
            done += length

    # -- accesses by linear address -----------------------------------------------------------------------------

    def load_linear(self, linear: int, size: int, user: bool | None = None) -> int:
        """Read 1..8 bytes at a linear address; `user` False is a system access (GDT, TSS, IDT), None goes by CPL."""
        as_user = self._cpl == 3 if user is None else user
        delta = (self._read_u if as_user else self._read_s).get(linear >> 12)
        if delta is None or linear & 0xFFF > _ROOM[size]:
            return self._gather(self._pieces(linear, size, Access.READ, as_user))
        unpack = _UNPACK.get(size)
        if unpack is None:
            return int.from_bytes(self.ram[linear + delta : linear + delta + size], "little")
        value: int = unpack(self.ram, linear + delta)[0]
        return value

    def store_linear(self, linear: int, size: int, value: int, user: bool | None = None) -> None:
        """Write 1..8 bytes at a linear address; `user` as for `load_linear`."""
        as_user = self._cpl == 3 if user is None else user
        self._scatter(self._pieces(linear, size, Access.WRITE, as_user), value)

    def traced_page(self, linear: int) -> int:
        """Guest-physical address for a write at `linear` to RAM with a write trace, or -1 where that needs more care.

        Raises the GuestFault of the write.
        """
        if linear >> 12 in self._watched or self.aligning:
            return -1
        gpa = self.physical(linear, Access.WRITE, self._cpl == 3)
        return gpa if self.memory.ram_offset(gpa) >= 0 and self.memory.watched(gpa) else -1

    def reach_linear(self, linear: int, size: int, access: Access) -> None:
        """Raise the page fault of a system access to any number of bytes, if there is one."""
        self._pieces(linear, size, access, False)

    def fetch(self, linear: int) -> bytes:
        """Up to 15 bytes of code at `linear`, fewer where the next page is not executable; GuestFault for the first."""
        user = self._cpl == 3
        delta = self.exec_tlb.get(linear >> 12)
        if delta is not None and linear & 0xFFF <= 0x1000 - 15:
            return bytes(self.ram[linear + delta : linear + delta + 15])
        first = min(15, 0x1000 - (linear & 0xFFF))
        code = self._read_piece(self.physical(linear, Access.EXECUTE, user), first)
        if first < 15:
            following = linear + first & (MASK64 if self.long_mode else MASK32)
            try:
                code += self._read_piece(self.physical(following, Access.EXECUTE, user), 15 - first)
            except GuestFault:
                return code  # matters only if the instruction reaches that far: `fetch_check` raises it then
        return code

    def fetch_check(self, linear: int) -> int:
        """Guest-physical address of the code at `linear`; raises the GuestFault of fetching there."""
        return self.physical(linear, Access.EXECUTE, self._cpl == 3)

    # -- slow paths ---------------------------------------------------------------------------------------------

    def check_alignment(self, linear: int, size: int) -> None:
        """Raise #AC for an access that wants alignment to `size` bytes, where such accesses are checked."""
        if size in MASKS and linear & size - 1 and self.aligning:
            raise GuestFault(AC_FAULT, 0)

    def _load(self, linear: int, size: int) -> int:
        self.check_alignment(linear, size)
        pieces = self._pieces(linear, size, Access.READ, self._cpl == 3)
        if self._watches:
            self.touched(linear, size, False)
        return self._gather(pieces)

    def _load_rmw(self, linear: int, size: int) -> int:
        self.check_alignment(linear, size)
        pieces = self._pieces(linear, size, Access.WRITE, self._cpl == 3)
        if self._watches:
            self.touched(linear, size, False)
        return self._gather(pieces)

    def _store(self, linear: int, size: int, value: int) -> None:
        self.check_alignment(linear, size)
        pieces = self._pieces(linear, size, Access.WRITE, self._cpl == 3)
        if self._watches:
            self.touched(linear, size, True)
        self._scatter(pieces, value)

    def _gather(self, pieces: list[tuple[int, int]]) -> int:
        value = done = 0
        for gpa, length in pieces:
            value |= self.memory.read(gpa, length) << done
            done += length * 8
        return value

    def _scatter(self, pieces: list[tuple[int, int]], value: int) -> None:
        for gpa, length in pieces:
            self.memory.write(gpa, length, value & (1 << length * 8) - 1)
            value >>= length * 8

    def _read_piece(self, gpa: int, length: int) -> bytes:
        """Bytes inside one physical page."""
        offset = self.memory.ram_offset(gpa)
        if offset >= 0:
            at = offset + (gpa & 0xFFF)
            return bytes(self.ram[at : at + length])
        parts = [(gpa + at, min(8, length - at)) for at in range(0, length, 8)]
        return b"".join(self.memory.read(at, size).to_bytes(size, "little") for at, size in parts)

    def code_linear(self, pc: int) -> int:
        """Linear address of offset `pc` in the code segment."""
        return pc & MASK64 if self.mode == 64 else self.segs[CS].base + pc & MASK32
