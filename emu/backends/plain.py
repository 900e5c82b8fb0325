"""Plain Unicorn in its own system mode, as a second opinion on what a guest computes: no monitor, no translation.

It executes the guest as it stands, at CPL 0, from the state a loader left. Ports and MMIO are answered by the board of
the machine it is given. Unicorn itself delivers no exception and no interrupt through a guest's table and waits for
nothing in HLT, so a guest ends there (`Stop`).
"""

from __future__ import annotations

import ctypes
import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import unicorn
from unicorn import x86_const as ux

from isa.base import Flow, GuestFault
from isa.x86 import cpuid, msr, paging
from isa.x86.decode import Decoder
from isa.x86.segments import update_mode
from isa.x86.state import CR0_PE, CR4_TSD, EFER_LMA, FS, GS, RAX, RBX, RCX, RDX, UD, Segment

if TYPE_CHECKING:
    from emu.memory import GuestMemory
    from isa.x86.cpu import Cpu

_T = TypeVar("_T")
RECENT: Final = 32  # instructions whose addresses are remembered
_HIGH_BASE: Final = 0x1_0000_0000
_TSC: Final = 0x10
_RDTSC, _RDTSCP, _RDMSR, _WRMSR = b"\x0f\x31", b"\x0f\x01\xf9", b"\x0f\x32", b"\x0f\x30"
_SERIALIZE: Final = b"\x0f\x01\xe8"  # newer than Unicorn, which raises #UD
_ASKING: Final = frozenset((_RDTSC, _RDTSCP, _RDMSR, _WRMSR))
_ASKING_SIZES: Final = frozenset(len(code) for code in _ASKING)
# MSRs that are part of what Unicorn executes: SYSENTER's, EFER, SYSCALL's, the bases of FS and GS, TSC_AUX.
_OWN_MSRS: Final = frozenset((0x174, 0x175, 0x176, *range(0xC000_0080, 0xC000_0085), *range(0xC000_0100, 0xC000_0104)))
_EFER: Final = 0xC000_0080
_M32: Final = 0xFFFF_FFFF

_GENERAL: Final = (
    ux.UC_X86_REG_RAX, ux.UC_X86_REG_RCX, ux.UC_X86_REG_RDX, ux.UC_X86_REG_RBX,
    ux.UC_X86_REG_RSP, ux.UC_X86_REG_RBP, ux.UC_X86_REG_RSI, ux.UC_X86_REG_RDI,
    *range(ux.UC_X86_REG_R8, ux.UC_X86_REG_R8 + 8),
)  # fmt: skip
_GENERAL32: Final = (
    ux.UC_X86_REG_EAX, ux.UC_X86_REG_ECX, ux.UC_X86_REG_EDX, ux.UC_X86_REG_EBX,
    ux.UC_X86_REG_ESP, ux.UC_X86_REG_EBP, ux.UC_X86_REG_ESI, ux.UC_X86_REG_EDI,
)  # fmt: skip
_SEGMENTS: Final = (
    ux.UC_X86_REG_ES, ux.UC_X86_REG_CS, ux.UC_X86_REG_SS, ux.UC_X86_REG_DS, ux.UC_X86_REG_FS, ux.UC_X86_REG_GS,
)  # fmt: skip
_CONTROL: Final = (ux.UC_X86_REG_CR0, ux.UC_X86_REG_CR2, ux.UC_X86_REG_CR3, ux.UC_X86_REG_CR4)
_XMM: Final = tuple(range(ux.UC_X86_REG_XMM0, ux.UC_X86_REG_XMM0 + 16))


class Why(enum.Enum):
    """Why plain Unicorn did not go on."""

    EVENT = "event"  # it raised an exception or met a software interrupt; it delivers neither
    HALT = "halt"
    CALL = "call"  # SYSCALL or SYSENTER, of which Unicorn does nothing but tell
    ASK = "ask"  # an instruction about the processor, which `run_to` answers: Unicorn has no hook for it
    BOARD = "board"  # a device wants attention: perhaps the machine's end
    MODE = "mode"  # a wider mode than Unicorn was opened for, whose registers it does not show
    ERROR = "error"  # Unicorn gave up


@dataclass(frozen=True, slots=True)
class Stop:
    """`vector` is that of an event, else -1; `text` says what Unicorn said."""

    why: Why
    vector: int = -1
    text: str = ""


class PlainUnicorn:
    """One guest on plain Unicorn. `cpu` gives the state at the start, and receives Unicorn's by `pull`.

    `cpu.retired` is kept exact for devices that count time in instructions; `attend` is called before each access to a
    device. `recent` holds linear addresses of the last instructions. REP counts as one instruction.
    """

    def __init__(self, cpu: Cpu, memory: GuestMemory, attend: Callable[[], None]) -> None:
        self._cpu, self._memory, self._attend = cpu, memory, attend
        bits = 64 if cpu.long_mode else 32 if cpu.protected else 16
        mode = {16: unicorn.UC_MODE_16, 32: unicorn.UC_MODE_32, 64: unicorn.UC_MODE_64}[bits]
        self._bits = bits
        self._general = _GENERAL if bits == 64 else _GENERAL32
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        self._uc.ctl_set_cpu_model(ux.UC_CPU_X86_BROADWELL)
        # An end address is looked up after every run, and the page fault of doing so would count as the guest's.
        self._uc.ctl_exits_enabled(True)
        self._anchors: list[object] = []
        self._goal = 0
        self._last = self._size = -1
        self._paused = False
        self._stop: Stop | None = None
        self._decoder = Decoder(bits)
        self._asking_at: dict[int, bytes] = {}
        self._repeats_at: dict[tuple[int, int], bool] = {}
        self.recent: deque[int] = deque(maxlen=RECENT)
        self._map()
        self._load()
        self._hook()

    # -- set-up ------------------------------------------------------------------------------------------------

    def _map(self) -> None:
        """RAM as the machine holds it; what lies between goes to the machine's devices."""
        end = 0
        for region in sorted(self._memory.regions(), key=lambda region: region.gpa):
            if region.gpa > end:
                self._map_devices(end, region.gpa)
            view = self._memory.ram[region.offset : region.offset + region.length]
            anchor = (ctypes.c_char * region.length).from_buffer(view)
            self._anchors.append(anchor)
            self._uc.mem_map_ptr(region.gpa, region.length, unicorn.UC_PROT_ALL, ctypes.addressof(anchor))
            end = region.gpa + region.length
        if end < _HIGH_BASE:
            self._map_devices(end, _HIGH_BASE)

    def _map_devices(self, start: int, end: int) -> None:
        def read(_uc: unicorn.Uc, offset: int, size: int, _data: object) -> int:
            return self._device(lambda: self._memory.read(start + offset, size))

        def write(_uc: unicorn.Uc, offset: int, size: int, value: int, _data: object) -> None:
            self._device(lambda: self._memory.write(start + offset, size, value & (1 << size * 8) - 1))

        self._uc.mmio_map(start, end - start, read, None, write, None)

    def _load(self) -> None:
        """The state the loader left; descriptor caches come from the guest's own table."""
        cpu, write = self._cpu, self._uc.reg_write
        if cpu.protected:
            write(ux.UC_X86_REG_GDTR, (0, cpu.gdtr.base, cpu.gdtr.limit, 0))
            write(ux.UC_X86_REG_IDTR, (0, cpu.idtr.base, cpu.idtr.limit, 0))
        write(ux.UC_X86_REG_CR4, cpu.cr4)
        self._uc.msr_write(_EFER, cpu.efer)
        write(ux.UC_X86_REG_CR3, cpu.cr3)
        write(ux.UC_X86_REG_CR0, cpu.cr0)
        for name, segment in zip(_SEGMENTS, cpu.segs, strict=True):
            write(name, segment.selector)
        for name, value in zip(self._general, cpu.regs, strict=False):
            write(name, value)
        write(ux.UC_X86_REG_EFLAGS, cpu.rflags)
        self._write_rip(cpu.rip)

    def _write_rip(self, rip: int) -> None:
        self._uc.reg_write(ux.UC_X86_REG_RIP if self._bits == 64 else ux.UC_X86_REG_EIP, rip)

    def _hook(self) -> None:
        add = self._uc.hook_add
        add(unicorn.UC_HOOK_CODE, self._on_code)
        add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        add(unicorn.UC_HOOK_INSN, self._on_in, None, 1, 0, ux.UC_X86_INS_IN)
        add(unicorn.UC_HOOK_INSN, self._on_out, None, 1, 0, ux.UC_X86_INS_OUT)
        add(unicorn.UC_HOOK_INSN, self._on_cpuid, None, 1, 0, ux.UC_X86_INS_CPUID)
        for call in (ux.UC_X86_INS_SYSCALL, ux.UC_X86_INS_SYSENTER):
            add(unicorn.UC_HOOK_INSN, self._on_call, None, 1, 0, call)

    # -- hooks: what they raise, Unicorn's Python interface keeps for `emu_start` to raise ----------------------

    def _on_code(self, uc: unicorn.Uc, address: int, size: int, _data: object) -> None:
        if address == self._last and self._repeats(address, size):
            return  # Unicorn comes here for every round of REP, and again where a store changed the code around it
        if self._stop is not None or self._cpu.retired >= self._goal:
            self._paused = True  # a stop asked for while OUT executes is heard only here
            uc.emu_stop()
            return
        self._cpu.retired += 1
        self._last, self._size = address, size
        self.recent.append(address)
        if size in _ASKING_SIZES:
            code = self._asking_at.get(address)
            if code is None:
                code = self._asking_at[address] = self.code(address, size)
            if code in _ASKING and self._may_ask(code):
                self._stop = Stop(Why.ASK)
                uc.emu_stop()

    def _may_ask(self, code: bytes) -> bool:
        """False where Unicorn can do it itself, the fault of a lack of privilege included."""
        read = self._uc.reg_read
        user = self._bits != 16 and read(ux.UC_X86_REG_CS) & 3
        if code in (_RDTSC, _RDTSCP):
            return not (user and read(ux.UC_X86_REG_CR4) & CR4_TSD)
        return not user and read(ux.UC_X86_REG_ECX) & _M32 not in _OWN_MSRS

    def _repeats(self, address: int, size: int) -> bool:
        found = self._repeats_at.get((address, size))
        if found is None:
            insn = self._decoder.decode(self.code(address, size))
            found = self._repeats_at[address, size] = insn is not None and insn.flow is Flow.NEXT
        return found

    def code(self, address: int, size: int) -> bytes:
        """Bytes of code at a linear address; fewer where they are not mapped."""
        cpu = self._cpu
        cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4 = (self._uc.reg_read(name) for name in _CONTROL)
        out = bytearray()
        for at in range(address, address + size):
            mapping = paging.probe(cpu, at)
            if mapping is None:
                break
            out.append(self._memory.read(mapping.gpa, 1))
        return bytes(out)

    def _on_interrupt(self, uc: unicorn.Uc, vector: int, _data: object) -> None:
        self._stop = Stop(Why.EVENT, vector)
        uc.emu_stop()

    def _device(self, work: Callable[[], _T]) -> _T:
        """An access to a device by the current instruction, which has not retired yet."""
        self._cpu.retired -= 1
        try:
            self._attend()
            return work()
        finally:
            self._cpu.retired += 1

    def _on_in(self, _uc: unicorn.Uc, port: int, size: int, _data: object) -> int:
        return self._device(lambda: self._cpu.outside.port_in(port, size))

    def _on_out(self, uc: unicorn.Uc, port: int, size: int, value: int, _data: object) -> None:
        self._device(lambda: self._cpu.outside.port_out(port, size, value & (1 << size * 8) - 1))
        if self._cpu.stop_requested:
            self._stop = Stop(Why.BOARD)
            uc.emu_stop()

    def _on_call(self, uc: unicorn.Uc, _data: object) -> None:
        self._stop = Stop(Why.CALL)
        uc.emu_stop()

    def _on_cpuid(self, uc: unicorn.Uc, _data: object) -> int:
        """Answer as the guest's processor: Unicorn's own model is another one. True: done."""
        leaf, sub = uc.reg_read(ux.UC_X86_REG_EAX), uc.reg_read(ux.UC_X86_REG_ECX)
        for name, value in zip((RAX, RBX, RCX, RDX), cpuid.cpuid(self._cpu, leaf, sub), strict=True):
            uc.reg_write(self._general[name], value)
        return 1

    # -- running -----------------------------------------------------------------------------------------------

    def run_to(self, retired: int) -> Stop | None:
        """Run until `retired` instructions have retired and the next one is about to; None, or why not so far.

        At a stop but for BOARD and MODE the instruction that led to it has not retired, and RIP is on it.
        """
        self._goal = retired
        self._cpu.stop_requested = False
        while self._cpu.retired < retired:
            stop = self._start()
            if stop is not None and stop.why is Why.ASK:
                stop = self._answer()
                if stop is None:
                    continue
            return stop
        return None

    def _start(self) -> Stop | None:
        self._paused, self._stop = False, None
        text, rip = "", self._rip()
        if self._bits == 16:  # where to start is a linear address then, for CS as of real mode
            rip += self._uc.reg_read(ux.UC_X86_REG_CS) << 4
        try:
            self._uc.emu_start(rip, 0)  # the second is unused
        except unicorn.UcError as error:
            text = str(error)
            invalid = error.errno == unicorn.UC_ERR_INSN_INVALID
            self._stop = Stop(Why.EVENT, UD, text) if invalid else Stop(Why.ERROR, -1, text)
            if invalid and self.code(self._last, len(_SERIALIZE)) == _SERIALIZE:
                self._stop, self._size = Stop(Why.ASK), len(_SERIALIZE)
                self._asking_at[self._last] = _SERIALIZE
        if self._wider():
            return Stop(Why.MODE)
        if self._stop is None and not self._paused:
            self._stop = Stop(Why.HALT)
        if self._stop is not None and self._stop.why is Why.BOARD:
            self._write_rip(self._last + self._size - self._base())
        elif self._stop is not None:
            self._cpu.retired -= 1
            self.recent.pop()
            self._write_rip(self._last - self._base())
        return self._stop

    def _wider(self) -> bool:
        """True in a mode that Unicorn was not opened for."""
        if self._bits == 16:
            return bool(self._uc.reg_read(ux.UC_X86_REG_CR0) & CR0_PE)
        return self._bits == 32 and bool(self._uc.msr_read(_EFER) & EFER_LMA)

    def _answer(self) -> Stop | None:
        """Carry out the instruction in front of which Unicorn stands by the machine's clock and MSRs."""
        code, read, write = self._asking_at[self._last], self._uc.reg_read, self._uc.reg_write
        index = read(ux.UC_X86_REG_ECX) & _M32 if code in (_RDMSR, _WRMSR) else _TSC
        try:
            if code == _SERIALIZE:
                pass
            elif code == _WRMSR:
                msr.write(self._cpu, index, (read(ux.UC_X86_REG_EDX) & _M32) << 32 | read(ux.UC_X86_REG_EAX) & _M32)
            else:
                value = msr.read(self._cpu, index)
                write(self._general[RAX], value & _M32)
                write(self._general[RDX], value >> 32)
        except GuestFault as fault:
            return Stop(Why.EVENT, fault.vector)
        if code == _RDTSCP:
            write(self._general[RCX], self._cpu.tsc_aux)
        self._write_rip(self._last + self._size - self._base())
        self._cpu.retired += 1
        self.recent.append(self._last)
        self._last = -1
        return None

    def _base(self) -> int:
        """Base of CS, which RIP is relative to and the addresses of hooks are not."""
        if self._bits == 64:
            return 0
        selector = self._uc.reg_read(ux.UC_X86_REG_CS)
        if self._bits == 16:
            return int(selector) << 4
        raw = int.from_bytes(self.code(self._uc.reg_read(ux.UC_X86_REG_GDTR)[1] + (selector & 0xFFF8), 8), "little")
        return raw >> 16 & 0xFF_FFFF | raw >> 56 << 24

    def _rip(self) -> int:
        return int(self._uc.reg_read(ux.UC_X86_REG_RIP if self._bits == 64 else ux.UC_X86_REG_EIP))

    def pull(self) -> None:
        """Bring `cpu` up to date; the hidden parts of segment registers stay what they were."""
        cpu, read = self._cpu, self._uc.reg_read
        for number, name in enumerate(self._general):
            cpu.regs[number] = read(name)
        cpu.rip = self._rip()
        cpu.rflags = read(ux.UC_X86_REG_EFLAGS) & _M32 | 2
        for number, name in enumerate(_SEGMENTS):
            held = cpu.segs[number]
            cpu.segs[number] = Segment(read(name), held.base, held.limit, held.attr)
        if cpu.mode == 64:
            cpu.segs[FS].base, cpu.segs[GS].base = read(ux.UC_X86_REG_FS_BASE), read(ux.UC_X86_REG_GS_BASE)
        cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4 = (read(name) for name in _CONTROL)
        cpu.efer = self._uc.msr_read(_EFER)
        update_mode(cpu)

    def vectors(self) -> list[int]:
        """XMM0 to XMM15 as numbers."""
        return [int(self._uc.reg_read(name)) for name in _XMM[: len(self._general)]]

    def close(self) -> None:
        self._uc = None
        self._anchors.clear()
