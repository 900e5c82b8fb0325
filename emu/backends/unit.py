"""Executes single x87 and SSE instructions inside the machine that runs the translated code, on its own registers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.backends.base import LEAVE, Trap, View
from isa.base import NativeResult
from isa.x86.state import ARITH

if TYPE_CHECKING:
    from emu.backends.base import Backend

_SPACE = 1024  # bytes of scratch for a memory operand (FXSAVE needs 512)
_VIEW = View(64, 1, True, (0, 0, 0, 0, 0, 0))
_FXSAVE, _FXRSTOR = b"\x0f\xae\x05\0\0\0\0", b"\x0f\xae\x0d\0\0\0\0"


class CacheUnit:
    """A `NativeUnit` on any backend; not to be used from inside a trap handler, since it runs the machine."""

    def __init__(self, backend: Backend, code_at: int, data_at: int) -> None:
        self._backend = backend
        self._code_at = code_at
        self._data_at = data_at
        self._vector = -1

    def execute(self, code: bytes, disp_at: int, memory: bytes, regs: list[int], rflags: int) -> NativeResult:
        backend, layout = self._backend, self._backend.layout
        if disp_at >= 0:
            data = layout.data_base[64] + self._data_at
            behind = layout.code_base[64] + self._code_at + len(code)
            code = code[:disp_at] + struct.pack("<i", data - behind) + code[disp_at + 4 :]
            backend.data[self._data_at : self._data_at + len(memory)] = memory
        backend.patch(self._code_at, code + layout.leave)
        backend.set_view(_VIEW)
        backend.push(regs, rflags)
        self._vector = -1
        backend.run(self._code_at, self._trapped)
        out = [0] * 16
        flags = backend.pull(out)
        memory = bytes(backend.data[self._data_at : self._data_at + len(memory)])
        return NativeResult(memory, out, flags & ARITH, self._vector)

    def _trapped(self, trap: Trap) -> int:
        self._vector = -1 if trap.vector == LEAVE else trap.vector
        return -1

    def save(self) -> bytes:
        return self.execute(_FXSAVE, 3, bytes(512), [0] * 16, 2).memory

    def load(self, image: bytes) -> None:
        self.execute(_FXRSTOR, 3, image, [0] * 16, 2)
