"""Unicorn as the bare machine: monitor-owned page tables and privilege levels, reached through its C interface.

Unicorn's Python calls cost microseconds, so the hot ones go to its shared library directly, and registers travel as
one saved context whose layout is measured at start-up (`emu.backends.probe`). Translated code runs at CPL 1 or 3 over
page tables in which guest memory is never executable: an executable page would put every store to it on the
engine's slow path.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

import unicorn
from unicorn import unicorn_const as uco
from unicorn import x86_const as ux

from emu.backends.base import LEAVE, Layout, Trap, TrapHandler, View
from emu.backends.probe import ContextLayout, ProbeError, find_series, find_words
from emu.backends.tuning import drop_checks_behind_accesses, page_flush, stops_between_blocks, widen_tlb
from emu.backends.unit import CacheUnit
from emu.errors import VemuError
from emu.pagetables import MonitorTables, TableMemory
from isa.base import NativeUnit
from isa.x86.state import AC, ARITH, CR4_FSGSBASE, CR4_SMAP, DF, DS, ES, FS, GS, ID, IF, NT, SS

PHYSICAL: Final = 0x80_0000_0000  # where the monitor's own memory sits in the bare machine: 512 GiB, above all RAM
CODE_SIZE: Final = 16 << 20
_DATA_PAGES = 16 << 20
# The data starts off the place in Unicorn's TLB (pages modulo 256) that round guest addresses use.
_SKEW = 0xB7_000
_DATA_AT = CODE_SIZE + _SKEW
DATA_SIZE: Final = _DATA_PAGES - _SKEW
# Code at CPL 3 has its own mapping of the data: what is open to it is closed to code at CPL 1 under SMAP.
_USER_DATA = _DATA_PAGES
_VOID_AT = CODE_SIZE + _DATA_PAGES + _USER_DATA
TABLES_SIZE: Final = 48 << 20
BASE32: Final = 0xD000_0000  # between the RAM below the hole at 3 GiB and the devices below 4 GiB
BASE64: Final = 0xFFFF_8400_0000_0000
WINDOW_SIZE: Final = _VOID_AT + (2 << 20)
LEAVE_VECTOR: Final = 0xF0
_GDT = DATA_SIZE - 0x1000  # offsets in the monitor's data
_STACK = DATA_SIZE - 0x2000
_LANDING = 32  # offset in the code cache of what the world-switch stub at 0 returns to
_PLACES = 0x100  # the native unit's part of the code cache
_CODE_START = 0x4100

if TYPE_CHECKING:
    from emu.memory import GuestMemory

_REGS = struct.Struct("<16Q")
_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_u64 = ctypes.c_uint64
# Requests of uc_ctl: what is asked for, the number of arguments and the direction, as unicorn.h packs them.
_FLUSH_TLB = ctypes.c_uint32(uco.UC_CTL_TLB_FLUSH | uco.UC_CTL_IO_WRITE << 30)
_REMOVE_CACHE = ctypes.c_uint32(uco.UC_CTL_TB_REMOVE_CACHE | 2 << 26 | uco.UC_CTL_IO_WRITE << 30)
_WORD = struct.Struct("<Q")
_DATA_SEGMENTS = (ES, SS, DS, FS, GS)
_INT = struct.Struct("<i")
_NO_TRAP = -2
_NOTED = 0x3D  # exceptions as Unicorn notes them, in the bits of the registers; it tells no denormal operands
_FREE_FLAGS = ARITH | DF | NT | AC | ID  # flags guest code may hold in the machine's own register
_FORCED_FLAGS = 2 | IF  # the machine's interrupt flag is the monitor's; the guest's is virtual


class UnicornError(VemuError):
    """Unicorn did something this backend cannot work with."""


def descriptor(base: int, limit: int, attr: int) -> int:
    """Pack a segment descriptor (SDM vol. 3, 3.4.5); `limit` as the 20-bit field, `attr` as descriptor bits 40-55."""
    return (
        (limit & 0xFFFF)
        | (base & 0xFFFFFF) << 16
        | (attr & 0xFF) << 40
        | (limit >> 16 & 0xF) << 48
        | (attr >> 12 & 0xF) << 52
        | (base >> 24 & 0xFF) << 56
    )


class UnicornBackend:
    """One bare machine on Unicorn; see `emu.backends.base.Backend`."""

    name = "unicorn"

    def __init__(self, memory: GuestMemory | None = None) -> None:
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_cpu_model(ux.UC_CPU_X86_BROADWELL)
        self._lib = ctypes.CDLL(unicorn.unicorn_py3.unicorn.uclib._name)
        self._handle = ctypes.c_void_p(self._uc._uch.value)
        assert self._handle.value is not None
        untold = drop_checks_behind_accesses(self._lib, self._handle.value)
        self._anchors: list[object] = []  # ctypes views that keep mapped memory alive
        self._monitor = mmap.mmap(-1, TABLES_SIZE + CODE_SIZE + _DATA_PAGES)
        view = memoryview(self._monitor)
        self._map_host(PHYSICAL, view)
        self.code = view[TABLES_SIZE : TABLES_SIZE + CODE_SIZE]
        self.data = view[TABLES_SIZE + _DATA_AT :]
        self.data_physical = PHYSICAL + TABLES_SIZE + _DATA_AT
        self.tables = TableMemory(view[:TABLES_SIZE].cast("Q"), PHYSICAL)
        self.fixed = MonitorTables(self.tables)
        self._fix(BASE64)
        self._fix(BASE32)
        self._low = BASE32
        self.layout = self._lay_out()
        self.windows = self._find_windows()
        self._tlb_stale = False
        self._flush_page: Callable[[int], None] | None = None
        self._born = time.monotonic()
        self._grows = self._born  # when the TLB gets its next chance to grow
        self._stop = False
        self._handler: TrapHandler = _leave
        self._failure: BaseException | None = None
        self._flags: int | None = None  # flags to load before going on, or None: the machine's are right
        self._base = BASE64
        self._views: dict[tuple[int, int, bool, bool, bool], bytes] = {}
        self._view: View | None = None
        if memory is not None:
            for region in memory.regions():
                self._map_host(region.gpa, memory.ram[region.offset : region.offset + region.length])
        self._setup()
        self._measure()
        spare = PHYSICAL + TABLES_SIZE + CODE_SIZE + _DATA_PAGES
        self.stops_whole = untold and stops_between_blocks(self._lib, self._handle.value, self, spare, _PLACES)
        widen_tlb(self, PHYSICAL, _PLACES)
        self._flush_page = page_flush(self._lib, self._handle.value, self, _PLACES)
        self.native: NativeUnit = CacheUnit(self, _PLACES, _CODE_START - _PLACES, DATA_SIZE - 0x4000)

    # -- set-up ------------------------------------------------------------------------------------------------

    def _fix(self, base: int) -> None:
        """Map a window: code, data, and what no access ever reaches."""
        code, data = PHYSICAL + TABLES_SIZE, PHYSICAL + TABLES_SIZE + CODE_SIZE
        self.fixed.fix(base, code, CODE_SIZE, writable=False, executable=True, user=True)
        for user in (False, True):
            at = base + CODE_SIZE + (_USER_DATA if user else 0)
            self.fixed.fix(at, data, _DATA_PAGES, writable=True, executable=False, user=user)
        self.fixed.bar(base + _VOID_AT)

    def _lay_out(self) -> Layout:
        low = self._low
        return Layout(
            code_base={16: low, 32: low, 64: BASE64},
            data_base={16: low + _DATA_AT, 32: low + _DATA_AT, 64: BASE64 + _DATA_AT},
            user_data=_USER_DATA,
            code_start=_CODE_START,
            code_size=CODE_SIZE,
            data_size=DATA_SIZE - 0x4000,
            leave=bytes((0xCD, LEAVE_VECTOR)),
            void={16: low + _VOID_AT, 32: low + _VOID_AT, 64: BASE64 + _VOID_AT},
        )

    def _find_windows(self) -> Mapping[int, Mapping[int, int]]:
        return {shift: self.fixed.entries(shift, self._low) for shift in (39, 30, 21)}

    window_size = WINDOW_SIZE

    def move_window(self, base: int) -> None:
        self.forget(_LANDING, _CODE_START)
        self.fixed.unfix(self._low, WINDOW_SIZE)
        self._low = base
        self._fix(base)
        self.layout, self.windows, self._view = self._lay_out(), self._find_windows(), None

    def _check(self, status: int, what: str) -> None:
        if status:
            raise UnicornError(f"{what}: {unicorn.UcError(status)}")

    def _map_host(self, physical: int, view: memoryview) -> None:
        anchor = (ctypes.c_char * len(view)).from_buffer(view)
        self._anchors.append(anchor)
        self._uc.mem_map_ptr(physical, len(view), unicorn.UC_PROT_ALL, ctypes.addressof(anchor))

    def _setup(self) -> None:
        """Enter long mode at CPL 0 (SDM vol. 3, 9.8.5) and hook its exceptions."""
        uc, lib = self._uc, self._lib
        self._start = lib.uc_emu_start
        self._start.argtypes = [ctypes.c_void_p, _u64, _u64, _u64, ctypes.c_size_t]
        # Giving the interpreter's lock away for less than a microsecond costs as much again: only the run itself does.
        quick = ctypes.PyDLL(lib._name)
        self._save, self._restore = quick.uc_context_save, quick.uc_context_restore
        self._save.argtypes = self._restore.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._read, self._write, self._control = quick.uc_reg_read, quick.uc_reg_write, quick.uc_ctl
        self._read.argtypes = self._write.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        self._context = ctypes.c_void_p()
        self._check(lib.uc_context_alloc(self._handle, ctypes.byref(self._context)), "uc_context_alloc")
        assert self._context.value is not None
        self._bytes = (ctypes.c_char * lib.uc_context_size(self._handle)).from_address(self._context.value)
        self._buffer = memoryview(self._bytes).cast("B")
        self._word = ctypes.c_uint64()
        self._word_at = ctypes.byref(self._word)
        for slot, attr in ((1, 0xA09B), (2, 0xC093)):
            struct.pack_into("<Q", self.data, _GDT + 8 * slot, descriptor(0, 0xFFFFF, attr))
        uc.reg_write(ux.UC_X86_REG_GDTR, (0, BASE64 + _DATA_AT + _GDT, 0xFFF, 0))
        uc.reg_write(ux.UC_X86_REG_CR4, 1 << 5 | 1 << 9 | 1 << 10 | CR4_FSGSBASE)  # PAE, OSFXSR, OSXMMEXCPT
        uc.msr_write(0xC0000080, 1 << 11 | 1 << 10 | 1 << 8)  # EFER: NXE, LMA, LME
        uc.reg_write(ux.UC_X86_REG_CR3, self.fixed.root)
        uc.reg_write(ux.UC_X86_REG_CR0, 0x8001_0033)  # PG, WP, NE, ET, MP, PE
        uc.reg_write(ux.UC_X86_REG_CS, 0x08)
        uc.reg_write(ux.UC_X86_REG_SS, 0x10)
        self._callback = _HOOK(self._on_interrupt)
        hook = ctypes.c_void_p()
        status = lib.uc_hook_add(
            self._handle, ctypes.byref(hook), ctypes.c_int(uco.UC_HOOK_INTR),
            self._callback, None, _u64(1), _u64(0),
        )  # fmt: skip
        self._check(status, "uc_hook_add")
        self.install(0, bytes.fromhex("8ec08ed98ee28eeb48cf"))  # mov es,eax; mov ds,ecx; mov fs,edx; mov gs,ebx; iretq
        self.install(_LANDING, self.layout.leave)

    def _measure(self) -> None:
        """Find the fields of a saved context (`emu.backends.probe`)."""
        uc = self._uc
        regs = [0x5EED_0000_0000_0001 + (n << 32) for n in range(16)]
        names = (
            ux.UC_X86_REG_RAX, ux.UC_X86_REG_RCX, ux.UC_X86_REG_RDX, ux.UC_X86_REG_RBX,
            ux.UC_X86_REG_RSP, ux.UC_X86_REG_RBP, ux.UC_X86_REG_RSI, ux.UC_X86_REG_RDI,
            *range(ux.UC_X86_REG_R8, ux.UC_X86_REG_R8 + 8),
        )  # fmt: skip
        for name, value in zip(names, regs, strict=True):
            uc.reg_write(name, value)
        uc.reg_write(ux.UC_X86_REG_RIP, 0x7EED_1234_5678)
        self._save(self._handle, self._context)
        self._kernel = bytes(self._buffer)
        self._read(self._handle, ux.UC_X86_REG_CR4, self._word_at)
        uc.reg_write(ux.UC_X86_REG_CR4, self._word.value | CR4_SMAP)
        self._save(self._handle, self._context)
        self._smap_kernel = bytes(self._buffer)
        at_regs = find_words(self._kernel, regs, "the general registers")
        at_rip = find_words(self._kernel, [0x7EED_1234_5678], "the instruction pointer")
        at_root = find_words(self._kernel, [self.fixed.root], "CR3")
        self._at = ContextLayout(at_regs, at_rip, at_root, 0, 0, (), 0, 0, 0, 0, 0, 0, 0)
        landings = [self._land(16, 1, True, True, slot) for slot in (8, 16)]
        segments = []
        for number in range(6):
            wanted = [slot + number << 3 | (1 if number in (1, 2) else 3) for slot in (8, 16)]
            segments.append(find_series(landings, wanted, 4, at_rip, f"segment register {number}"))
        start, end = segments[0] - 8, segments[5] + (segments[5] - segments[4])
        user = self._land(16, 3, True, True, 8)
        if user[start : start + 4] == landings[0][start : start + 4]:
            raise ProbeError("Unicorn keeps its mode flags elsewhere than before the segment registers")
        clean = self._land(64, 1, True, False, 8)
        faults = []
        # the last one is known for what SMAP does: it replaces the mode flags only, as `set_view` will
        smap = clean[:start] + self._land(64, 1, True, False, smap=True)[start:end] + clean[end:]
        user_page = BASE64 + _DATA_AT + _USER_DATA
        for state, code, address in (
            (clean, b"\x48\x8b\x06", 0x1000),  # mov rax, [rsi]
            (clean, b"\x48\x89\x06", 0x1000),  # mov [rsi], rax
            (clean, b"\x48\x89\x06", BASE64),
            (smap, b"\x48\x8b\x06", user_page),
        ):
            self.patch(_LANDING + 8, code)
            self._buffer[:] = state
            struct.pack_into("<Q", self._buffer, at_regs + 8 * 6, address)
            self._restore(self._handle, self._context)
            self._check(self._start(self._handle, BASE64 + _LANDING + 8, 0, 0, 0), "provoking a page fault")
            faults.append(bytes(self._buffer))
        error = find_series(faults, (0, 2, 3, 1), 4, end, "the error code of a fault")
        old = find_series([clean, *faults], (-1, 14, 14, 14, 14), 4, end, "the pending exception")
        floating = self._measure_floating(clean, end)
        self._at = ContextLayout(at_regs, at_rip, at_root, start, end, tuple(segments), error, old, *floating)
        self._bases = struct.Struct(f"<Q{segments[GS] - segments[FS] - 8}xQ")
        self._buffer[:] = clean
        self._flags = 0x202

    def _measure_floating(self, clean: bytes, start: int) -> tuple[int, int, int, int, int]:
        """Find x87 control and status word, MXCSR, and the exceptions noted of x87 and of SSE instructions."""
        one, third = 0x3F800000, 0x40400000  # 1.0 and 3.0
        after = []
        for control, mxcsr, code, divisor in (
            (0x37F, 0x1F80, "", 0),
            (0xF7F, 0x5F80, "f30f5ec1", third),  # divss xmm0, xmm1: inexact
            (0x37F, 0x3F80, "f30f5ec1", 0),  # a division by zero
            (0x77F, 0x1F80, "d9e8d9ebdef9", 0),  # fld1, fldpi, fdivp: inexact
            (0x37F, 0x1F80, "d9e8d9eedef9", 0),  # fld1, fldz, fdivp: a division by zero, which Unicorn tells at once
        ):
            load = bytes.fromhex("dbe3 d96e04 0fae16 f30f104608 f30f104e0c")  # fninit, fldcw, ldmxcsr, movss twice
            struct.pack_into("<IIII", self.data, _STACK - 64, mxcsr, control, one, divisor)
            self.patch(_LANDING + 8, load + bytes.fromhex(code) + self.layout.leave)
            self._buffer[:] = clean
            struct.pack_into("<Q", self._buffer, self._at.regs + 8 * 6, BASE64 + _DATA_AT + _STACK - 64)
            self._restore(self._handle, self._context)
            self._check(self._start(self._handle, BASE64 + _LANDING + 8, 0, 0, 0), "measuring the x87 and SSE state")
            after.append(bytes(self._buffer))
        return (
            find_series(after, (0x37F, 0xF7F, 0x37F, 0x77F, 0x37F), 2, start, "the x87 control word", 2),
            find_series(after, (0, 0, 0, 0, 4), 2, start, "the x87 status word", 2),
            find_series(after, (0x1F80, 0x5F80, 0x3F80, 0x1F80, 0x1F80), 4, start, "MXCSR"),
            find_series(after, (0, 0, 0, 0x20, 4), 1, start, "the exceptions of x87", 1),
            find_series(after, (0, 0x20, 4, 0, 0), 1, start, "the exceptions of SSE", 1),
        )

    def _land(self, mode: int, cpl: int, stack32: bool, based: bool, slot: int = 8, *, smap: bool = False) -> bytes:
        """The context after a real world switch to `mode` at `cpl`; `based` gives the data segments a non-zero base."""
        base = 0x10 if based else 0
        for number in range(6):
            attr = 0xC0F3
            if number == 1:
                attr = {16: 0x809B, 32: 0xC09B, 64: 0xA09B}[mode] | cpl << 5
            elif number == 2:
                attr = 0x8093 | cpl << 5 | (0x4000 if stack32 else 0)
            struct.pack_into(
                "<Q", self.data, _GDT + 8 * (slot + number), descriptor(0 if number == 1 else base, 0xFFFFF, attr)
            )
        selectors = [slot + n << 3 | (cpl if n in (1, 2) else 3) for n in range(6)]
        landing = self.layout.code_base[mode] + _LANDING
        struct.pack_into("<5Q", self.data, _STACK, landing, selectors[1], 0x202, 0x8000, selectors[2])
        self._buffer[:] = self._smap_kernel if smap else self._kernel
        regs = [0] * 16
        regs[0], regs[1], regs[2], regs[3] = selectors[0], selectors[3], selectors[4], selectors[5]
        regs[4] = BASE64 + _DATA_AT + _STACK
        _REGS.pack_into(self._buffer, self._at.regs, *regs)
        kept, self._handler = self._handler, _leave
        self._pc = _NO_TRAP
        while self._pc == _NO_TRAP:  # again where somebody asked for a stop meanwhile
            self._restore(self._handle, self._context)
            self._check(self._start(self._handle, BASE64, 0, 0, 0), "entering the guest's privilege level")
        self._handler = kept
        self._save(self._handle, self._context)
        return bytes(self._buffer)

    # -- code and mappings -------------------------------------------------------------------------------------

    def install(self, offset: int, code: bytes) -> None:
        self.code[offset : offset + len(code)] = code

    def patch(self, offset: int, code: bytes) -> None:
        self.code[offset : offset + len(code)] = code
        self.forget(offset, offset + len(code))

    def forget(self, start: int, end: int) -> None:
        if start == end:
            return  # Unicorn refuses an empty range
        # by the window that every root has: what was made at the other one is found by its physical address
        status = self._control(self._handle, _REMOVE_CACHE, _u64(BASE64 + start), _u64(BASE64 + end))
        self._check(status, f"dropping what was made of cache offsets {start:#x} to {end:#x}")

    def owns(self, linear: int) -> bool:
        low = self._low
        return low <= linear < low + WINDOW_SIZE or BASE64 <= linear < BASE64 + WINDOW_SIZE

    def set_root(self, physical: int, pages: Collection[int] | None = None) -> None:
        _WORD.pack_into(self._buffer, self._at.root, physical)
        if pages is not None and self._flush_page is not None:
            for linear in pages:
                self._flush_page(linear)
            return
        # At once: when code is patched the machine looks for it by its present tables, and the old ones may be gone.
        self._word.value = physical
        self._write(self._handle, ux.UC_X86_REG_CR3, self._word_at)  # which flushes the TLB
        self._tlb_stale = False

    def flush_tlb(self) -> None:
        self._tlb_stale = True

    # -- registers ---------------------------------------------------------------------------------------------

    def set_view(self, view: View) -> None:
        if view == self._view and (view.mode != 64 or self.bases() == view.bases[FS:]):
            return
        self._view = view
        self._base = self.layout.code_base[view.mode]
        bases = view.bases
        based = view.mode != 64 and bool(bases[0] or bases[2] or bases[3])
        key = (view.mode, view.cpl, view.stack32, based, view.smap)
        at = self._at
        image = self._views.get(key)
        if image is None:
            kept = bytes(self._buffer)
            image = self._views[key] = self._land(*key[:4], smap=view.smap)[at.mode : at.mode_end]
            self._buffer[:] = kept
        self._buffer[at.mode : at.mode_end] = image
        for number in _DATA_SEGMENTS if based else (FS, GS):  # the others' bases are 0 in the image, as is CS's
            _WORD.pack_into(self._buffer, at.segments[number] + 8, bases[number])

    def pull(self, regs: list[int]) -> None:
        regs[:] = _REGS.unpack_from(self._buffer, self._at.regs)

    def bases(self) -> tuple[int, int]:
        fs, gs = self._bases.unpack_from(self._buffer, self._at.segments[FS] + 8)
        return fs, gs

    def flags(self) -> int:
        if self._flags is not None:
            return self._flags
        self._read(self._handle, ux.UC_X86_REG_EFLAGS, self._word_at)
        return self._word.value & 0xFFFF_FFFF  # Unicorn writes four bytes

    def settle_exceptions(self, *, discard: bool = False) -> tuple[int, int]:
        at, buffer = self._at, self._buffer
        x87, sse = buffer[at.x87_noted] & _NOTED, buffer[at.sse_noted] & _NOTED
        buffer[at.x87_noted] = buffer[at.sse_noted] = 0
        if not discard:
            buffer[at.status] |= x87
            buffer[at.mxcsr] |= sse
        return x87, sse

    @property
    def unmasked(self) -> tuple[int, int]:
        at, buffer = self._at, self._buffer
        return ~buffer[at.control] & 0x3F, ~(buffer[at.mxcsr] >> 7 | buffer[at.mxcsr + 1] << 1) & 0x3F

    def state(self) -> bytes:
        return bytes(self._buffer)

    def restore(self, state: bytes) -> None:
        self._buffer[:] = state

    def raise_flags(self, x87: int, sse: int) -> None:
        at, buffer = self._at, self._buffer
        buffer[at.status] |= x87 | (0x80 if x87 else 0)  # summary, and in the upper byte busy
        buffer[at.status + 1] |= 0x80 if x87 else 0
        buffer[at.mxcsr] |= sse

    def set_register(self, number: int, value: int) -> None:
        _WORD.pack_into(self._buffer, self._at.regs + 8 * number, value)

    def push(self, regs: list[int], flags: int | None) -> None:
        _REGS.pack_into(self._buffer, self._at.regs, *regs)
        if flags is not None:
            self._flags = flags & _FREE_FLAGS | _FORCED_FLAGS

    # -- running -----------------------------------------------------------------------------------------------

    def _load(self, pc: int) -> None:
        """Make the machine go on at code-cache offset `pc` with the registers of the buffer."""
        at = self._at
        _WORD.pack_into(self._buffer, at.rip, self._base + pc)
        # Unicorn keeps a delivered exception pending and would double-fault on the next one.
        _INT.pack_into(self._buffer, at.old_exception, -1)
        self._restore(self._handle, self._context)
        if self._flags is not None:
            self._word.value = self._flags
            self._write(self._handle, ux.UC_X86_REG_EFLAGS, self._word_at)
            self._flags = None
        if self._tlb_stale:
            self._control(self._handle, _FLUSH_TLB)
            self._tlb_stale = False

    def _capture(self) -> None:
        """Bring the buffer up to date after the machine stopped."""
        self._save(self._handle, self._context)
        self._flags = None

    def _settle(self) -> None:
        """Fix the flags before the machine's lazily kept ones are lost."""
        if self._flags is None:
            self._read(self._handle, ux.UC_X86_REG_EFLAGS, self._word_at)
            self._flags = self._word.value & 0xFFFF_FFFF

    def _dispatch(self, vector: int) -> int:
        """Tell the handler of a trap; the offset to go on at, or -1."""
        (rip,) = _WORD.unpack_from(self._buffer, self._at.rip)
        trap = Trap(vector, rip - self._base)
        if vector == LEAVE_VECTOR:
            trap.vector = LEAVE
        else:
            (trap.error,) = _INT.unpack_from(self._buffer, self._at.error)
            if vector == 14:
                self._read(self._handle, ux.UC_X86_REG_CR2, self._word_at)
                trap.cr2 = self._word.value
        return self._handler(trap)

    def _on_interrupt(self, _engine: int, vector: int, _data: int) -> None:
        # An exception must not cross the C frames between here and emu_start: keep it for run() to raise.
        try:
            self._capture()
            self._pc = self._dispatch(vector)
            if self._pc >= 0 and not self._stop:
                self._load(self._pc)
                self._pc = _NO_TRAP  # from here on only the machine knows where it is
                return
            self._settle()
        except BaseException as error:
            self._failure = error
        self._lib.uc_emu_stop(self._handle)

    @property
    def goes_on(self) -> bool:
        """Behind a trap: whether the machine executes on by itself."""
        return self._pc == _NO_TRAP and self._failure is None

    def run(self, pc: int, on_trap: TrapHandler) -> int:
        self._handler = on_trap
        now = time.monotonic()
        if now >= self._grows:
            # It doubles only when it is flushed while well filled; a flush costs, so each comes at twice the age.
            self._grows, self._tlb_stale = now + (now - self._born), True
        while not self._stop:
            self._load(pc)
            self._pc = _NO_TRAP
            status = self._start(self._handle, self._base + pc, 0, 0, 0)
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if status == uco.UC_ERR_INSN_INVALID:
                self._capture()
                self._settle()
                self._pc = self._dispatch(6)
            elif status:
                self._check(status, f"running translated code at offset {pc:#x}")
            if self._pc == _NO_TRAP:  # stop() was heard between two blocks
                self._capture()
                self._settle()
                (rip,) = _WORD.unpack_from(self._buffer, self._at.rip)
                pc = rip - self._base
                break
            if self._pc < 0:
                self._stop = False
                return -1
            pc = self._pc
        self._stop = False
        return pc

    def step(self, pc: int) -> int:
        self._load(pc)
        self._handler = _leave
        self._pc = _NO_TRAP
        self._uc.ctl_flush_tb()  # code already translated would run on without counting
        self._check(self._start(self._handle, self._base + pc, 0, 0, 1), f"stepping at offset {pc:#x}")
        self._uc.ctl_flush_tb()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._pc != _NO_TRAP:
            return -1
        self._capture()
        self._settle()
        (rip,) = _WORD.unpack_from(self._buffer, self._at.rip)
        return int(rip) - self._base

    def stop(self) -> None:
        self._stop = True
        self._lib.uc_emu_stop(self._handle)

    def close(self) -> None:
        if self._uc is None:
            return
        self._lib.uc_context_free(self._context)
        self._uc = None
        self._anchors.clear()
        self._monitor.madvise(mmap.MADV_DONTNEED)  # whoever still knows this machine need not keep its memory


def _leave(_trap: Trap) -> int:
    return -1
