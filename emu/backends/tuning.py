"""Tunes a fresh Unicorn: it shall stop between its blocks only, and have a TLB that holds a working set and keeps it.

Unicorn 2.1 looks for a requested stop behind every memory access, by a call that doubles the cost of the access, and
leaves there with the access made and the instruction not finished: executing it again would make it twice. A flag of
its own, which it uses for Thumb's IT blocks, leaves these checks out. No interface sets the flag, so its place is read
from the function that tests it, and its effect is proved before it is relied on.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from emu.backends.base import Trap, View
from isa.x86.state import RAX, RCX, RSI

if TYPE_CHECKING:
    from emu.backends.unicorn import UnicornBackend

_CHECKER: Final = "check_exit_request_x86_64"  # the function of Unicorn's that tests the flag
_CMP_BYTE_ZERO: Final = re.compile(rb"\x80[\xb8-\xbf](.{4})\x00", re.DOTALL)  # cmp byte [reg + disp32], 0
_FLUSHER: Final = "tcg_flush_softmmu_tlb_x86_64"  # the function of Unicorn's that takes the engine, and flushes ...
_PAGE_FLUSHER: Final = "tlb_flush_page_x86_64"  # ... its processor's TLB, as this one does for a page
_LOAD_RDI: Final = b"\x48\x8b\xbf"  # mov rdi, [rdi + disp32]
_LOOK_AT: Final = 64  # bytes of the function in which the test must stand
_ENGINE_SIZE: Final = 0x4000  # upper bound of the flag's place in the engine's structure

_READ: Final = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)

_PAGE: Final = 0x1000
_FLUSH: Final = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64)
_LINEAR: Final = 0x4000_0000  # where the probes map their pages
_TLB_ENTRIES: Final = 4096  # 16 MiB of guest memory
_TLB_START: Final = 256  # entries Unicorn begins with; it doubles them when it is flushed while well filled


def _code(library: ctypes.CDLL, name: str, size: int) -> bytes:
    """The first bytes of a function of the library; none where there is no such function, or for another processor."""
    function = getattr(library, name, None)
    if function is None or platform.machine() not in ("x86_64", "AMD64"):
        return b""
    return ctypes.string_at(ctypes.cast(function, ctypes.c_void_p).value or 0, size)


def drop_checks_behind_accesses(library: ctypes.CDLL, engine: int) -> bool:
    """Set the flag in the structure at `engine`, before anything is translated; False where its place is unknown."""
    found = _CMP_BYTE_ZERO.search(_code(library, _CHECKER, _LOOK_AT))
    if found is None:
        return False
    offset = int.from_bytes(found[1], "little", signed=True)
    flag = ctypes.c_uint8.from_address(engine + offset) if 0 < offset < _ENGINE_SIZE else None
    if flag is None or flag.value != 0:
        return False
    flag.value = 1
    return True


def _leave(_trap: Trap) -> int:
    return -1


def stops_between_blocks(library: ctypes.CDLL, engine: int, backend: UnicornBackend, physical: int, at: int) -> bool:
    """True where a stop asked for during a load is heard only at the block's end; `at`: room in the code cache.

    The page at `physical`, which must be free, serves as a device that asks for the stop. It is not mapped by Unicorn's
    Python interface, whose callbacks would keep the engine in memory until Python looks for circles.
    """

    def device(_engine: int, _offset: int, _size: int, _data: int) -> int:
        backend.stop()
        return 0

    read = _READ(device)
    handle, place, size = ctypes.c_void_p(engine), ctypes.c_uint64(physical), ctypes.c_size_t(_PAGE)
    library.uc_mmio_map(handle, place, size, read, None, None, None)
    backend.fixed.map(_LINEAR, physical, writable=False, user=False)
    load_and_jump = b"\x48\x8b\x06\xeb\x00"  # mov rax, [rsi]; jmp to the next instruction
    backend.install(at, load_and_jump + backend.layout.leave)
    regs = [0] * 16
    regs[RSI] = _LINEAR
    backend.set_view(View(64, 1, True, (0, 0, 0, 0, 0, 0)))
    backend.push(regs, 2)
    stopped = backend.run(at, _leave)
    backend.fixed.unmap(_LINEAR)
    backend.forget(at, at + 16)
    library.uc_mem_unmap(handle, place, size)
    return stopped == at + len(load_and_jump)


def widen_tlb(backend: UnicornBackend, physical: int, at: int) -> None:
    """Make the TLBs (of CPL 1 without and with SMAP, and of CPL 3) grow; for that they read the memory at `physical`.

    `at`: room in the code cache.
    """
    size = _TLB_ENTRIES // 2 * _PAGE
    # again: mov al, [rsi]; add rsi, 1000h; dec ecx; jnz again
    backend.install(at, bytes.fromhex("8a064881c600100000ffc975f3") + backend.layout.leave)
    for level, smap in ((1, False), (1, True), (3, False)):
        backend.fixed.fix(_LINEAR, physical, size, writable=False, executable=False, user=level == 3)
        backend.set_view(View(64, level, True, (0, 0, 0, 0, 0, 0), smap))
        entries = _TLB_START
        while entries < _TLB_ENTRIES:
            regs = [0] * 16
            regs[RSI], regs[RCX] = _LINEAR, entries
            backend.push(regs, 2)
            backend.run(at, _leave)
            backend.flush_tlb()
            entries *= 2
    backend.fixed.unfix(_LINEAR, size)
    backend.forget(at, at + 16)


def page_flush(library: ctypes.CDLL, engine: int, backend: UnicornBackend, at: int) -> Callable[[int], None] | None:
    """What has the TLB forget one page, for which Unicorn has no interface; None where that cannot be relied on.

    `at`: room in the code cache.
    """
    code = _code(library, _FLUSHER, len(_LOAD_RDI) + 4)
    offset = int.from_bytes(code[-4:], "little", signed=True)
    if not code.startswith(_LOAD_RDI) or not 0 < offset < _ENGINE_SIZE or not hasattr(library, _PAGE_FLUSHER):
        return None
    processor = ctypes.c_uint64.from_address(engine + offset).value
    if not processor:
        return None
    flush = _FLUSH((_PAGE_FLUSHER, library))

    def forget(linear: int) -> None:
        flush(processor, linear)

    # again, as the machine may have its TLB grow meanwhile, which flushes it
    return forget if any(_forgets_one_page(backend, forget, at) for _ in range(3)) else None


def _forgets_one_page(backend: UnicornBackend, forget: Callable[[int], None], at: int) -> bool:
    """True where of two pages, mapped elsewhere since they were used, the one forgotten is looked up anew."""
    data = backend.data_physical
    backend.install(at, b"\x8a\x06" + backend.layout.leave)  # mov al, [rsi]
    backend.set_view(View(64, 1, True, (0, 0, 0, 0, 0, 0)))

    def remap(page: int) -> None:
        for linear in (_LINEAR, _LINEAR + _PAGE):
            backend.fixed.map(linear, data + page * _PAGE, writable=False, user=False)

    def load(linear: int) -> int:
        regs = [0] * 16
        regs[RSI] = linear
        backend.push(regs, 2)
        backend.run(at, _leave)
        backend.pull(regs)
        return regs[RAX]

    backend.data[0], backend.data[_PAGE] = 1, 2
    backend.flush_tlb()
    remap(0)
    seen = [load(_LINEAR), load(_LINEAR + _PAGE)]
    remap(1)
    seen.append(load(_LINEAR))
    forget(_LINEAR)
    seen += [load(_LINEAR), load(_LINEAR + _PAGE)]
    backend.data[0] = backend.data[_PAGE] = 0
    backend.fixed.unmap(_LINEAR)
    backend.forget(at, at + 16)
    backend.flush_tlb()
    return seen == [1, 1, 1, 2, 1]
