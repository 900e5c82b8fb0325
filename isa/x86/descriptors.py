"""Descriptors of the GDT and LDT: reading them, their fields, and the faults that name a selector."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.state import ATTR_DB, ATTR_DPL, ATTR_G, ATTR_L, ATTR_P, ATTR_S, EFER_LMA, GP, Segment

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

M32: Final = 0xFFFF_FFFF
M64: Final = 0xFFFF_FFFF_FFFF_FFFF

# System descriptor types (SDM vol. 3, table 3-2); bit 3 makes the 32-bit (in IA-32e mode: 64-bit) kind.
LDT, TASK_GATE = 2, 5
TSS16, TSS16_BUSY, CALL_GATE16, INTERRUPT_GATE16, TRAP_GATE16 = 1, 3, 4, 6, 7
TSS, TSS_BUSY, CALL_GATE, INTERRUPT_GATE, TRAP_GATE = 9, 11, 12, 14, 15


class Descriptor:
    """One descriptor, immutable; `raw` is its first 8 bytes, `high` the other 8 of a system descriptor in IA-32e mode.

    `address` is linear, `limit` in bytes. Segment fields follow SDM vol. 3, 3.4.5, gate fields 5.8.3 and 6.11; which of
    them mean something depends on the kind. Made by `describe`, which remembers: tables are read more than changed.
    """

    __slots__ = (
        "address", "attr", "base", "big", "code", "conforming", "dpl", "gate_offset", "gate_selector", "high", "limit",
        "long", "present", "raw", "readable", "selector", "system", "type", "writable",
    )  # fmt: skip

    def __init__(self, selector: int, address: int, raw: int, high: int) -> None:
        self.selector, self.address, self.raw, self.high = selector, address, raw, high
        attr = self.attr = raw >> 40 & 0xF0FF
        self.type = attr & 0xF
        self.dpl = (attr & ATTR_DPL) >> 5
        self.present = bool(attr & ATTR_P)
        self.system = not attr & ATTR_S
        self.code = attr & (ATTR_S | 8) == ATTR_S | 8
        self.conforming = bool(attr & 4)  # of a code segment
        self.writable = attr & (ATTR_S | 0xA) == ATTR_S | 2  # a writable data segment
        self.readable = bool(attr & ATTR_S) and attr & 0xA != 8  # data, or code that may be read
        self.long = bool(attr & ATTR_L)
        self.big = bool(attr & ATTR_DB)
        upper = (high & M32) << 32
        self.base = upper | raw >> 32 & 0xFF00_0000 | raw >> 16 & 0xFF_FFFF
        limit = raw >> 32 & 0xF_0000 | raw & 0xFFFF
        self.limit = limit << 12 | 0xFFF if attr & ATTR_G else limit
        self.gate_selector = raw >> 16 & 0xFFFF
        self.gate_offset = upper | raw >> 32 & 0xFFFF_0000 | raw & 0xFFFF

    def segment(self, selector: int) -> Segment:
        """What a segment register loaded with it holds."""
        return Segment(selector, self.base, self.limit, self.attr)


@functools.lru_cache(maxsize=1024)
def describe(selector: int, address: int, raw: int, high: int = 0) -> Descriptor:
    """The descriptor of `raw` and `high` that `selector` names at linear `address`."""
    return Descriptor(selector, address, raw, high)


def null(selector: int) -> bool:
    return not selector & 0xFFFC


def selector_fault(vector: int, selector: int, why: str, ext: int = 0) -> GuestFault:
    """The fault whose error code names `selector`; `ext` is 1 while an event is delivered (SDM vol. 3, 6.13)."""
    return GuestFault(vector, selector & 0xFFFC | ext, note=f"selector {selector:#06x}: {why}")


def system_linear(cpu: Cpu, address: int) -> int:
    """A linear address computed from a table register, wrapped as the mode does."""
    return address & (M64 if cpu.efer & EFER_LMA else M32)


def fetch(cpu: Cpu, selector: int, vector: int = GP, ext: int = 0) -> Descriptor:
    """The 8-byte descriptor of a selector that is not null; raises `vector` with the selector beyond the table."""
    return describe(selector, *_read(cpu, selector, 8, vector, ext))


def fetch_system(cpu: Cpu, selector: int, vector: int = GP, ext: int = 0) -> Descriptor:
    """As `fetch`, but a system descriptor in IA-32e mode is read in all its 16 bytes (SDM vol. 3, 3.5.2, 5.8.3.1)."""
    descriptor = fetch(cpu, selector, vector, ext)
    if not cpu.long_mode or not descriptor.system:
        return descriptor
    address, raw = _read(cpu, selector, 16, vector, ext)
    high = cpu.load_linear(system_linear(cpu, address + 8), 8, False)
    if high >> 40 & 0x1F:  # the type field of the upper half must be 0, so that it is no descriptor itself
        raise selector_fault(vector, selector, "upper half of the 16-byte descriptor has a type", ext)
    return describe(selector, address, raw, high)


def _read(cpu: Cpu, selector: int, size: int, vector: int, ext: int) -> tuple[int, int]:
    index = selector & 0xFFF8
    if selector & 4:
        if not cpu.ldtr.attr & ATTR_P:
            raise selector_fault(vector, selector, "there is no LDT", ext)
        base, limit, name = cpu.ldtr.base, cpu.ldtr.limit, "LDT"
    else:
        base, limit, name = cpu.gdtr.base, cpu.gdtr.limit, "GDT"
    if index + size - 1 > limit:
        raise selector_fault(vector, selector, f"beyond the {name} limit {limit:#x}", ext)
    address = system_linear(cpu, base + index)
    return address, cpu.load_linear(address, 8, False)


def accessed(cpu: Cpu, descriptor: Descriptor) -> Descriptor:
    """Set the accessed bit of a code or data descriptor in memory; returns it as it is then (SDM vol. 3, 3.4.5.1)."""
    return descriptor if descriptor.type & 1 else _set_type_bit(cpu, descriptor, 1)


def busy(cpu: Cpu, descriptor: Descriptor) -> Descriptor:
    """Set the busy bit of a TSS descriptor in memory; returns it as it is then (SDM vol. 3, 7.2.2)."""
    return _set_type_bit(cpu, descriptor, 2)


def _set_type_bit(cpu: Cpu, descriptor: Descriptor, bit: int) -> Descriptor:
    raw = descriptor.raw | bit << 40
    cpu.store_linear(system_linear(cpu, descriptor.address + 5), 1, raw >> 40 & 0xFF, False)
    return describe(descriptor.selector, descriptor.address, raw, descriptor.high)
