"""Executes single x87, MMX and SSE instructions on a private Unicorn that holds nothing but their state.

Every distinct instruction gets a place of its own in the code page, because Unicorn does not notice that bytes it has
translated were changed; the registers travel as one saved context, in which their place is measured at start-up.
Unicorn itself falls short of processors in two ways: it neither reports nor raises SIMD floating-point exceptions, and
x87 exceptions are raised only by WAIT (so the interpreter puts one in front of instructions that wait).
"""

from __future__ import annotations

import ctypes
import struct
from typing import Final

import unicorn
from unicorn import unicorn_const as uco
from unicorn import x86_const as ux

from emu.backends.probe import find_words
from emu.errors import VemuError
from isa.base import NativeResult
from isa.x86.state import ARITH, CR0_EM, CR0_MP, CR0_NE, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT, UD

SCRATCH: Final = 1024  # bytes there are for a memory operand; FXSAVE needs 512
_CODE, _CODE_SIZE, _SLOT = 0x10000, 0x10000, 32
_DATA, _DATA_SIZE = 0x20000, 0x1000
_HLT: Final = b"\xf4"
_FXSAVE, _FXRSTOR = b"\x48\x0f\xae\x05\0\0\0\0", b"\x48\x0f\xae\x0d\0\0\0\0"
_DISP_AT: Final = 4
_REGS: Final = struct.Struct("<16Q")
_DISP: Final = struct.Struct("<i")
_REG_NAMES: Final = (
    ux.UC_X86_REG_RAX, ux.UC_X86_REG_RCX, ux.UC_X86_REG_RDX, ux.UC_X86_REG_RBX,
    ux.UC_X86_REG_RSP, ux.UC_X86_REG_RBP, ux.UC_X86_REG_RSI, ux.UC_X86_REG_RDI,
    *range(ux.UC_X86_REG_R8, ux.UC_X86_REG_R8 + 8),
)  # fmt: skip


class UnicornFpu:
    """A `NativeUnit`; its state after construction is that of FNINIT, with all SIMD exceptions masked."""

    def __init__(self) -> None:
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_cpu_model(ux.UC_CPU_X86_BROADWELL)  # SSE4.2, POPCNT, MOVBE, BMI, ADX
        self._memory = ctypes.create_string_buffer(_CODE_SIZE + _DATA_SIZE + 0x1000)
        start = ctypes.addressof(self._memory) + 0xFFF & -0x1000
        view = memoryview(self._memory).cast("B")[start - ctypes.addressof(self._memory) :]
        self._code, self._data = view[:_CODE_SIZE], view[_CODE_SIZE : _CODE_SIZE + _DATA_SIZE]
        self._uc.mem_map_ptr(_CODE, _CODE_SIZE, unicorn.UC_PROT_ALL, start)
        self._uc.mem_map_ptr(_DATA, _DATA_SIZE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE, start + _CODE_SIZE)
        uc = self._uc
        cr0 = uc.reg_read(ux.UC_X86_REG_CR0) & ~(CR0_EM | CR0_TS) | CR0_MP | CR0_NE
        uc.reg_write(ux.UC_X86_REG_CR0, cr0)
        uc.reg_write(ux.UC_X86_REG_CR4, uc.reg_read(ux.UC_X86_REG_CR4) | CR4_OSFXSR | CR4_OSXMMEXCPT)
        uc.hook_add(uco.UC_HOOK_INTR, self._interrupted)
        self._vector = -1
        self._places: dict[bytes, int] = {}
        self._open_context()
        self.execute(b"\xdb\xe3", -1, b"", [0] * 16, 2)  # fninit
        self.execute(b"\x0f\xae\x15\0\0\0\0", 3, (0x1F80).to_bytes(4, "little"), [0] * 16, 2)  # ldmxcsr

    def _open_context(self) -> None:
        """Make one context for all transfers of registers and find the general registers in it."""
        lib = ctypes.CDLL(unicorn.unicorn_py3.unicorn.uclib._name)
        self._handle = ctypes.c_void_p(self._uc._uch.value)
        self._save, self._restore = lib.uc_context_save, lib.uc_context_restore
        self._save.argtypes = self._restore.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._context = ctypes.c_void_p()
        status = lib.uc_context_alloc(self._handle, ctypes.byref(self._context))
        if status or self._context.value is None:
            raise VemuError(f"Unicorn gives no context for the floating-point unit: {unicorn.UcError(status)}")
        size = lib.uc_context_size(self._handle)
        self._buffer = memoryview((ctypes.c_char * size).from_address(self._context.value)).cast("B")
        values = [0x5EED_0000_0000_0001 + (n << 32) for n in range(16)]
        for name, value in zip(_REG_NAMES, values, strict=True):
            self._uc.reg_write(name, value)
        self._transfer(self._save)
        self._regs_at = find_words(bytes(self._buffer), values, "the general registers")

    def _transfer(self, function: ctypes._NamedFuncPointer) -> None:
        status = function(self._handle, self._context)
        if status:
            raise VemuError(f"Unicorn does not transfer its registers: {unicorn.UcError(status)}")

    def _interrupted(self, uc: unicorn.Uc, vector: int, _: object) -> None:
        self._vector = vector
        uc.emu_stop()

    def _place(self, code: bytes, disp_at: int) -> int:
        """Address at which `code` stands, its displacement pointing at the scratch data."""
        at = self._places.get(code)
        if at is None:
            if len(code) >= _SLOT:
                raise ValueError(f"{len(code)} bytes of code do not fit into a slot of {_SLOT}")
            if len(self._places) == _CODE_SIZE // _SLOT:
                self._places.clear()
                self._uc.ctl_flush_tb()
            at = self._places[code] = _CODE + len(self._places) * _SLOT
            placed = bytearray(code + _HLT)
            if disp_at >= 0:
                _DISP.pack_into(placed, disp_at, _DATA - at - len(code))
            self._code[at - _CODE : at - _CODE + len(placed)] = placed
        return at

    # -- NativeUnit ---------------------------------------------------------------------------------------------

    def execute(self, code: bytes, disp_at: int, memory: bytes, regs: list[int], rflags: int) -> NativeResult:
        """See `isa.base.NativeUnit`; ValueError for more than SCRATCH bytes of memory or 31 of code."""
        if len(memory) > SCRATCH:
            raise ValueError(f"a memory operand of {len(memory)} bytes")
        at, size = self._place(code, disp_at), len(memory)
        self._data[:size] = memory
        uc = self._uc
        self._transfer(self._save)
        _REGS.pack_into(self._buffer, self._regs_at, *regs)
        self._transfer(self._restore)
        uc.reg_write(ux.UC_X86_REG_EFLAGS, rflags & ARITH | 2)
        self._vector = -1
        try:
            uc.emu_start(at, 0)
        except unicorn.UcError as error:
            if error.errno != unicorn.UC_ERR_INSN_INVALID:
                raise VemuError(f"Unicorn cannot execute {code.hex()}: {error}") from error
            self._vector = UD
        flags = uc.reg_read(ux.UC_X86_REG_EFLAGS) & ARITH
        self._transfer(self._save)
        after = list(_REGS.unpack_from(self._buffer, self._regs_at))
        return NativeResult(bytes(self._data[:size]), after, flags, self._vector)

    def save(self) -> bytes:
        return self.execute(_FXSAVE, _DISP_AT, bytes(512), [0] * 16, 2).memory

    def load(self, image: bytes) -> None:
        self.execute(_FXRSTOR, _DISP_AT, image, [0] * 16, 2)
