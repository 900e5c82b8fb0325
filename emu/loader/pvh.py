"""Starts ELF kernels by their PVH entry, as Xen and small monitors do (Xen, docs/misc/pvh.pandoc).

The entry stands in a note; the machine is described by a start-info structure (Xen, start_info.h, version 1), whose
address is in EBX.

10000  start info, module list, memory map      20000  command line; the module lies as high as it can
"""

from __future__ import annotations

import struct
from typing import Final

from emu.loader import elf
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions, place_high
from emu.loader.tables import start_protected
from emu.loader.zeropage import COMMAND_LINE_LIMIT, place_command_line
from emu.memory import MIB, GuestMemory
from isa.x86.state import RBX, Segment, X86State

START_INFO: Final = 0x10000
MAGIC: Final = 0x336E_C578
_OWNER, _PHYS32_ENTRY = "Xen", 18  # XEN_ELFNOTE_PHYS32_ENTRY (Xen, elfnote.h)
_VERSION: Final = 1
_INFO: Final = struct.Struct("<IIIIQQQQII")
_MODULE: Final = struct.Struct("<QQQQ")
_MODULES_AT: Final = START_INFO + 0x40
_MAP_ROW: Final = struct.Struct("<QQII")
_MAP_AT: Final = START_INFO + 0x80
_HIGHEST_MODULE: Final = 0x7FFF_FFFF  # as for an initrd by Linux's own protocol
_TSS: Final = Segment(0, 0, 0x67, 0x8B)  # "must be a 32-bit TSS (active) with a base of 0 and a limit of 67h"


def is_pvh(data: bytes) -> bool:
    """True for an ELF file with the note that names a PVH entry."""
    return _entry(data) is not None


def load_pvh(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place the kernel, its module and the start info; enter in 32-bit protected mode, paging off."""
    executable = elf.parse(image)
    entry = _entry(image.data)
    if entry is None:
        raise image.error(f"no PVH entry: there is no note of type {_PHYS32_ENTRY} owned by {_OWNER!r}")
    if not any(part.physical <= entry < part.physical + part.size for part in executable.segments):
        raise image.error(f"PVH entry {entry:#x} lies in no loaded segment")
    elf.place_segments(image, memory, executable, 32, lowest=MIB)
    modules = 0
    if options.initrd:
        start = place_high(image, memory, options.initrd, executable.end(), _HIGHEST_MODULE + 1, "its initrd")
        memory.write_bytes(_MODULES_AT, _MODULE.pack(start, len(options.initrd), 0, 0))
        modules = 1
    rows = memory.e820()  # the same type numbers
    memory.write_bytes(_MAP_AT, b"".join(_MAP_ROW.pack(*row, 0) for row in rows))
    line = place_command_line(image, memory, options.append, COMMAND_LINE_LIMIT)
    info = _INFO.pack(
        MAGIC, _VERSION, 0, modules, _MODULES_AT if modules else 0, line, options.rsdp, _MAP_AT, len(rows), 0
    )
    memory.write_bytes(START_INFO, info)
    start_protected(memory, state, entry)
    state.tr = _TSS
    state.regs[RBX] = START_INFO
    about = f"PVH kernel, ELF{executable.bits}, {len(executable.segments)} segments"
    return LoadedGuest("pvh", entry, executable.symbols(image.data), about)


def _entry(data: bytes) -> int | None:
    """The physical entry in the note, which has 4 or 8 bytes by the kernel's own word size."""
    for note in elf.notes(data):
        if note.owner == _OWNER and note.kind == _PHYS32_ENTRY and len(note.content) in (4, 8):
            return int.from_bytes(note.content, "little")
    return None
