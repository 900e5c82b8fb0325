"""Descriptors of the GDT and LDT: reading them, their fields, and the faults that name a selector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from isa.base import GuestFault
from isa.x86.state import ATTR_DB, ATTR_DPL, ATTR_G, ATTR_L, ATTR_P, ATTR_S, GP, Segment

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

M32: Final = 0xFFFF_FFFF
M64: Final = 0xFFFF_FFFF_FFFF_FFFF

# System descriptor types (SDM vol. 3, table 3-2); bit 3 makes the 32-bit (in IA-32e mode: 64-bit) kind.
LDT, TASK_GATE = 2, 5
TSS16, TSS16_BUSY, CALL_GATE16, INTERRUPT_GATE16, TRAP_GATE16 = 1, 3, 4, 6, 7
TSS, TSS_BUSY, CALL_GATE, INTERRUPT_GATE, TRAP_GATE = 9, 11, 12, 14, 15


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor; `raw` is its first 8 bytes, `high` the other 8 of a system descriptor in IA-32e mode.

    `address` is linear. Segment fields follow SDM vol. 3, 3.4.5, gate fields 5.8.3 and 6.11.
    """

    selector: int
    address: int
    raw: int
    high: int = 0

    @property
    def attr(self) -> int:
        return self.raw >> 40 & 0xF0FF

    @property
    def type(self) -> int:
        return self.raw >> 40 & 0xF

    @property
    def system(self) -> bool:
        return not self.attr & ATTR_S

    @property
    def dpl(self) -> int:
        return (self.attr & ATTR_DPL) >> 5

    @property
    def present(self) -> bool:
        return bool(self.attr & ATTR_P)

    @property
    def code(self) -> bool:
        return self.attr & (ATTR_S | 8) == ATTR_S | 8

    @property
    def conforming(self) -> bool:
        """Meaningful for code segments only."""
        return bool(self.type & 4)

    @property
    def writable(self) -> bool:
        """A writable data segment."""
        return self.attr & (ATTR_S | 0xA) == ATTR_S | 2

    @property
    def readable(self) -> bool:
        """A data segment, or a code segment that may be read."""
        return bool(self.attr & ATTR_S) and self.type & 0xA != 8

    @property
    def long(self) -> bool:
        return bool(self.attr & ATTR_L)

    @property
    def big(self) -> bool:
        return bool(self.attr & ATTR_DB)

    @property
    def base(self) -> int:
        return (self.high & M32) << 32 | self.raw >> 32 & 0xFF00_0000 | self.raw >> 16 & 0xFF_FFFF

    @property
    def limit(self) -> int:
        """In bytes."""
        limit = self.raw >> 32 & 0xF_0000 | self.raw & 0xFFFF
        return limit << 12 | 0xFFF if self.attr & ATTR_G else limit

    @property
    def gate_selector(self) -> int:
        return self.raw >> 16 & 0xFFFF

    @property
    def gate_offset(self) -> int:
        return (self.high & M32) << 32 | self.raw >> 32 & 0xFFFF_0000 | self.raw & 0xFFFF

    def segment(self, selector: int) -> Segment:
        """What a segment register loaded with it holds."""
        return Segment(selector, self.base, self.limit, self.attr)


def null(selector: int) -> bool:
    return not selector & 0xFFFC


def selector_fault(vector: int, selector: int, why: str, ext: int = 0) -> GuestFault:
    """The fault whose error code names `selector`; `ext` is 1 while an external event is delivered (SDM vol. 3, 6.13)."""
    return GuestFault(vector, selector & 0xFFFC | ext, note=f"selector {selector:#06x}: {why}")


def system_linear(cpu: Cpu, address: int) -> int:
    """A linear address computed from a table register, wrapped as the mode does."""
    return address & (M64 if cpu.long_mode else M32)


def fetch(cpu: Cpu, selector: int, vector: int = GP, ext: int = 0) -> Descriptor:
    """The 8-byte descriptor of a selector that is not null; raises `vector` with the selector beyond the table."""
    return Descriptor(selector, *_read(cpu, selector, 8, vector, ext))


def fetch_system(cpu: Cpu, selector: int, vector: int = GP, ext: int = 0) -> Descriptor:
    """As `fetch`, but a system descriptor in IA-32e mode is read in all its 16 bytes (SDM vol. 3, 3.5.2, 5.8.3.1)."""
    descriptor = fetch(cpu, selector, vector, ext)
    if not cpu.long_mode or not descriptor.system:
        return descriptor
    address, raw = _read(cpu, selector, 16, vector, ext)
    high = cpu.load_linear(system_linear(cpu, address + 8), 8, False)
    if high >> 40 & 0x1F:  # the type field of the upper half must be 0, so that it is no descriptor itself
        raise selector_fault(vector, selector, "upper half of the 16-byte descriptor has a type", ext)
    return Descriptor(selector, address, raw, high)


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
    return Descriptor(descriptor.selector, descriptor.address, raw, descriptor.high)
