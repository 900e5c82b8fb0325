"""Start states: the descriptor and page tables a loader writes for its guest, and the registers that go with them.

  500  global descriptor table of a protected-mode or long-mode start
 1000  PML4   2000  page-directory pointers   3000-6FFF  four page directories, 2 MiB pages over 4 GiB (long mode)
9F000  top of the start stack, below the EBDA
"""

from __future__ import annotations

import struct
from typing import Final

from emu.errors import GuestFileError
from emu.loader.image import GuestImage
from emu.memory import GuestMemory
from isa.x86.state import (
    ATTR_DB,
    ATTR_G,
    ATTR_L,
    ATTR_P,
    ATTR_S,
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CR4_PGE,
    CS,
    DS,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    ES,
    FS,
    GS,
    RSP,
    SS,
    Segment,
    Table,
    X86State,
)

GDT: Final = 0x500
PML4: Final = 0x1000
PDPT: Final = 0x2000
DIRECTORIES: Final = 0x3000
TABLES_END: Final = 0x7000
STACK_TOP: Final = 0x9F000

# Segment types (SDM vol. 3, 3.4.5.1) with the accessed bit set, so that loading them writes nothing to the table.
_CODE: Final = ATTR_P | ATTR_S | 0xB
_DATA: Final = ATTR_P | ATTR_S | 0x3
CODE16: Final = _CODE
DATA16: Final = _DATA
CODE32: Final = _CODE | ATTR_DB | ATTR_G
DATA32: Final = _DATA | ATTR_DB | ATTR_G
CODE64: Final = _CODE | ATTR_L | ATTR_G
_FLAT: Final = 0xFFFFFFFF

# Rows of attributes, 0 for an unused row; the selector is 8 times the row.
GDT_32: Final = (0, CODE32, DATA32, CODE64)
GDT_64: Final = (0, CODE64, DATA32)
# The Linux boot protocol fixes __BOOT_CS at 10h and __BOOT_DS at 18h.
GDT_LINUX_32: Final = (0, 0, CODE32, DATA32)
GDT_LINUX_64: Final = (0, 0, CODE64, DATA32)

_PRESENT, _WRITABLE, _LARGE = 1 << 0, 1 << 1, 1 << 7  # SDM vol. 3, 4.5.4
_RESERVED: Final = {
    16: ((0, 0x500, "interrupt vectors and BIOS data"),),
    32: ((GDT, 0x600, "descriptor table"),),
    64: ((GDT, 0x600, "descriptor table"), (PML4, TABLES_END, "page tables")),
}


def check_clear(image: GuestImage, mode: int, gpa: int, length: int, what: str) -> None:
    """Raise GuestFileError if a part of the guest would lie on what its start state needs in low memory."""
    for start, end, kept in _RESERVED[mode]:
        if gpa < end and start < gpa + length:
            raise GuestFileError(
                f"{image.path}: {what} at {gpa:#x}-{gpa + length - 1:#x} overlaps the {kept} that a {mode}-bit start "
                f"keeps at {start:#x}-{end - 1:#x}"
            )


def start_real(state: X86State, cs: int, ip: int, sp: int, data: int = 0) -> None:
    """Real mode at `cs`:`ip`, with `data` in DS and ES and the stack at 0:`sp`; interrupts enabled, as a BIOS does."""
    state.segs[CS] = Segment(cs, cs << 4, 0xFFFF, CODE16)
    for index in (DS, ES):
        state.segs[index] = Segment(data, data << 4, 0xFFFF, DATA16)
    for index in (SS, FS, GS):
        state.segs[index] = Segment(0, 0, 0xFFFF, DATA16)
    state.idtr = Table(0, 0x3FF)
    state.regs[RSP] = sp
    state.rip = ip
    state.rflags = 0x202
    state.cr0 = CR0_ET
    state.mode, state.cpl = 16, 0


def start_protected(memory: GuestMemory, state: X86State, entry: int, gdt: tuple[int, ...] = GDT_32) -> None:
    """32-bit protected mode at `entry`, flat segments, paging and interrupts off (Multiboot 0.6.96, 3.2)."""
    _load_segments(memory, state, gdt, CODE32)
    state.cr0 = CR0_PE | CR0_ET
    state.regs[RSP] = STACK_TOP
    state.rip = entry
    state.rflags = 2
    state.mode, state.cpl = 32, 0


def start_long(memory: GuestMemory, state: X86State, entry: int, gdt: tuple[int, ...] = GDT_64) -> None:
    """64-bit mode at `entry` with the first 4 GiB mapped to themselves; interrupts off."""
    _load_segments(memory, state, gdt, CODE64)
    table = _PRESENT | _WRITABLE
    memory.write_bytes(PML4, struct.pack("<Q", PDPT | table))
    memory.write_bytes(PDPT, struct.pack("<4Q", *(DIRECTORIES + (i << 12) | table for i in range(4))))
    memory.write_bytes(DIRECTORIES, struct.pack("<2048Q", *(i << 21 | table | _LARGE for i in range(2048))))
    state.cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP
    state.cr3 = PML4
    state.cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT
    state.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE
    state.regs[RSP] = STACK_TOP
    state.rip = entry
    state.rflags = 2
    state.mode, state.cpl = 64, 0


def _descriptor(attr: int) -> int:
    """The 8 bytes of a flat segment descriptor with attributes `attr` (SDM vol. 3, figure 3-8)."""
    if not attr:
        return 0
    return 0xFFFF | attr << 40 | 0xF << 48


def _load_segments(memory: GuestMemory, state: X86State, gdt: tuple[int, ...], code: int) -> None:
    """Write `gdt`; load CS with its row `code` and all others with its first data row. The IDT is left empty."""
    memory.write_bytes(GDT, struct.pack(f"<{len(gdt)}Q", *map(_descriptor, gdt)))
    state.gdtr = Table(GDT, len(gdt) * 8 - 1)
    state.idtr = Table(0, 0)
    data = gdt.index(DATA32) * 8
    state.segs[CS] = Segment(gdt.index(code) * 8, 0, _FLAT, code)
    for index in (DS, ES, SS, FS, GS):
        state.segs[index] = Segment(data, 0, _FLAT, DATA32)
