"""Derives from a CPU's state the mode that translated code is keyed by."""

from __future__ import annotations

from isa.x86.cpu import Cpu
from isa.x86.rewrite import BlockMode
from isa.x86.state import (
    AC,
    ATTR_DB,
    ATTR_P,
    CR0_AM,
    CR0_EM,
    CR0_TS,
    CR4_FSGSBASE,
    CR4_OSFXSR,
    CS,
    DS,
    ES,
    FS,
    GS,
    IOPL,
    SS,
    Segment,
)

_FLAT_LIMIT = 0xFFFFFFFF
_REAL_LIMIT = 0xFFFF


def _plain(segment: Segment, real: bool) -> bool:
    """True where no access through the segment can violate it: writable data, all of 4 GiB (in real mode: 64 KiB)."""
    if not segment.attr & ATTR_P or segment.attr & 0x1A != 0x12 or segment.attr & 4:
        return False
    return segment.limit == _FLAT_LIMIT or (real and segment.limit == _REAL_LIMIT)


class Modes:
    """Interns block modes, so that they compare by identity."""

    def __init__(self, exact: bool) -> None:
        self._exact = exact
        self._known: dict[tuple[object, ...], BlockMode] = {}
        self._long: dict[tuple[int, ...], BlockMode] = {}  # of 64-bit code, by the bits that it depends on

    @staticmethod
    def unmasked(cpu: Cpu) -> int:
        return 0 if cpu.native is None else cpu.native.unmasked

    def mode(self, cpu: Cpu) -> BlockMode:
        """The mode of code about to run on `cpu`."""
        if cpu.mode != 64:
            return self._find(cpu)
        flags = cpu.system_flags & (IOPL | AC)
        controls = cpu.cr0 & (CR0_TS | CR0_EM | CR0_AM), cpu.cr4 & (CR4_OSFXSR | CR4_FSGSBASE)
        key = (cpu.cpl, flags, *controls, self.unmasked(cpu))
        found = self._long.get(key)
        if found is None:
            found = self._long[key] = self._find(cpu)
        return found

    def _find(self, cpu: Cpu) -> BlockMode:
        iopl = (cpu.system_flags & IOPL) >> 12
        fpu_traps = bool(cpu.cr0 & (CR0_TS | CR0_EM))
        no_sse = not cpu.cr4 & CR4_OSFXSR  # SSE is undefined then (SDM vol. 3, 13.1.4)
        aligning = cpu.aligning
        unmasked = self.unmasked(cpu)
        if cpu.mode == 64:
            fsgsbase = bool(cpu.cr4 & CR4_FSGSBASE)
            key: tuple[object, ...] = (64, cpu.cpl, iopl, fpu_traps, no_sse, aligning, unmasked, fsgsbase)
        else:
            # 64 KiB segments need no checks where offsets have 16 bits: the rewriter checks 32-bit ones itself
            sixteen = cpu.mode == 16
            checked = unlimited = 0
            for number in (ES, SS, DS, FS, GS):
                segment = cpu.segs[number]
                if not _plain(segment, sixteen):
                    checked |= 1 << number
                elif sixteen and segment.limit == _FLAT_LIMIT:
                    unlimited |= 1 << number
            ds = cpu.segs[DS]
            flat = ds.base == 0 and ds.limit == _FLAT_LIMIT and not checked & 1 << DS
            ss = cpu.segs[SS]
            flat_stack = ss.base == 0 and ss.limit == _FLAT_LIMIT and bool(ss.attr & ATTR_DB) and not checked & 1 << SS
            key = (
                cpu.mode,
                cpu.cpl,
                iopl,
                fpu_traps,
                not flat,
                checked,
                bool(ss.attr & ATTR_DB),
                cpu.segs[CS].base,
                no_sse,
                flat_stack,
                aligning,
                unlimited,
                unmasked,
            )
        found = self._known.get(key)
        if found is None:
            if cpu.mode == 64:
                found = BlockMode(
                    64, cpu.cpl, iopl, fpu_traps, False, 0, True, 0, self._exact, no_sse, True, aligning, 0, unmasked,
                    fsgsbase,
                )  # fmt: skip
            else:
                stack32, base = bool(ss.attr & ATTR_DB), cpu.segs[CS].base
                found = BlockMode(
                    cpu.mode, cpu.cpl, iopl, fpu_traps, not flat, checked, stack32, base, self._exact, no_sse,
                    cpu.mode == 32 and flat_stack, aligning, unlimited, unmasked,
                )  # fmt: skip
            self._known[key] = found
        return found
