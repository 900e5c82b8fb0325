"""Executes single x87, MMX and SSE instructions inside the machine that runs the translated code, on its own registers.

Every distinct instruction gets a place of its own in the code cache, because telling the machine that code was changed
costs more than executing it.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from emu.backends.base import LEAVE, Trap, View
from isa.base import NativeResult
from isa.x86.state import ARITH, XM

if TYPE_CHECKING:
    from emu.backends.base import Backend

SCRATCH: Final = 1024  # bytes there are for a memory operand; FXSAVE needs 512
PLACE: Final = 32  # bytes of one instruction with the exit behind it
_VIEW: Final = View(64, 1, True, (0, 0, 0, 0, 0, 0))
_FXSAVE, _FXRSTOR = b"\x48\x0f\xae\x05\0\0\0\0", b"\x48\x0f\xae\x0d\0\0\0\0"
_DISP_AT: Final = 4
_APPROXIMATION: Final = re.compile(
    rb"\xf3?[\x40-\x4f]?\x0f[\x52\x53]"
)  # RSQRTPS, RCPPS: they raise nothing (SDM vol. 2)
_ROUNDING: Final = re.compile(rb"\x66[\x40-\x4f]?\x0f\x3a[\x08-\x0b]")  # ROUNDPS and its like, silent where told so
_PRECISION: Final = 0x20
_BEFORE: Final = 0x05  # x87 exceptions of which a result is not stored: invalid, division by zero (SDM vol. 1, 8.5)
_DISP: Final = struct.Struct("<i")
# Opcode and pointers of the last x87 instruction in the image: they name places in the code cache, and read as zero.
_POINTERS_AT, _POINTERS_END = 6, 24
# State after FNINIT (SDM vol. 1, 8.1.5), SIMD exceptions masked (10.2.3): control word at 0, MXCSR at 24.
_INITIAL: Final = struct.pack("<H22xI484x", 0x37F, 0x1F80)


class CacheUnit:
    """A `NativeUnit` on any backend; not to be used from inside a trap handler, since it runs the machine.

    It owns `code_size` bytes of the code cache at offset `code_at` and SCRATCH bytes of data at offset `data_at`.
    """

    def __init__(self, backend: Backend, code_at: int, code_size: int, data_at: int) -> None:
        self._backend = backend
        self._code_at = code_at
        self._code_end = code_at + code_size // PLACE * PLACE
        self._free = code_at
        self._data_at = data_at
        self._leave = backend.layout.leave
        # displacement that reaches the scratch data from an instruction whose end is at offset 0 of the cache
        self._reach = backend.layout.data_base[64] + data_at - backend.layout.code_base[64]
        self._places: dict[bytes, int] = {}
        self._vector = -1
        self.load(_INITIAL)

    def _place(self, code: bytes, disp_at: int) -> int:
        """Put `code` into the cache, its displacement reaching the scratch data; its offset."""
        placed = bytearray(code + self._leave)
        if len(placed) > PLACE:
            raise ValueError(f"{len(code)} bytes of code do not fit into a place of {PLACE}")
        if self._free == self._code_end:
            self._backend.forget(self._code_at, self._code_end)
            self._places.clear()
            self._free = self._code_at
        at = self._free
        self._free += PLACE
        if disp_at >= 0:
            _DISP.pack_into(placed, disp_at, self._reach - at - len(code))
        self._backend.install(at, bytes(placed))
        self._places[code] = at
        return at

    def execute(self, code: bytes, disp_at: int, memory: bytes, regs: list[int], rflags: int) -> NativeResult:
        """See `isa.base.NativeUnit`; ValueError for more than SCRATCH bytes of memory or too much code."""
        size = len(memory)
        if size > SCRATCH:
            raise ValueError(f"a memory operand of {size} bytes")
        at = self._places.get(code)
        if at is None:
            at = self._place(code, disp_at)
        backend, data_at = self._backend, self._data_at
        backend.data[data_at : data_at + size] = memory
        backend.set_view(_VIEW)
        backend.push(regs, rflags)
        self._vector = -1
        backend.settle_exceptions()
        unmasked_x87, unmasked_sse = backend.unmasked
        before = backend.state() if unmasked_x87 or unmasked_sse else b""
        while at >= 0:  # a stop that somebody asks for meanwhile must not keep the instruction from being executed
            at = backend.run(at, self._trapped)
        approximates = _APPROXIMATION.match(code) is not None
        exact = _ROUNDING.match(code) is not None and bool(code[-1] & 8)
        x87, sse = backend.settle_exceptions(discard=approximates or exact)
        if exact:
            sse &= ~_PRECISION
            backend.raise_flags(0, sse)
        if self._vector < 0 and not approximates and (x87 & unmasked_x87 or sse & unmasked_sse):
            if sse & unmasked_sse:
                backend.restore(before)
                backend.raise_flags(0, sse & _BEFORE if sse & unmasked_sse & _BEFORE else sse)
                return NativeResult(memory, regs, rflags & ARITH, XM)
            if x87 & unmasked_x87 & _BEFORE:
                backend.restore(before)
                backend.raise_flags(x87 & _BEFORE, 0)
                return NativeResult(memory, regs, rflags & ARITH, done=False)
            backend.raise_flags(x87, 0)
        after = [0] * 16
        backend.pull(after)
        flags = backend.flags()
        return NativeResult(bytes(backend.data[data_at : data_at + size]), after, flags & ARITH, self._vector)

    def _trapped(self, trap: Trap) -> int:
        self._vector = -1 if trap.vector == LEAVE else trap.vector
        return -1

    @property
    def unmasked(self) -> int:
        x87, sse = self._backend.unmasked
        return (1 if sse else 0) | (2 if x87 else 0)

    def save(self) -> bytes:
        image = self.execute(_FXSAVE, _DISP_AT, bytes(512), [0] * 16, 2).memory
        return image[:_POINTERS_AT] + bytes(_POINTERS_END - _POINTERS_AT) + image[_POINTERS_END:]

    def load(self, image: bytes) -> None:
        self.execute(_FXRSTOR, _DISP_AT, image, [0] * 16, 2)
