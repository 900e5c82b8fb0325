"""Loads Linux kernels, and what boots like one, by the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst).

A bzImage is a boot stub around a packed ELF kernel. The kernel is unpacked here and placed by its program headers, so
that the guest starts where the stub would have jumped to; it lies where it was linked to lie, hence without KASLR. The
stub itself runs where that is asked for and where nothing is packed in the image (memtest86+).

10000  boot_params ("zero page"), or the real-mode code      11000  random seed      20000  command line
100000  boot stub, or at its preferred address
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from emu.errors import UsageError
from emu.loader import elf, zeropage
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions, check_fits, place
from emu.loader.payload import unpack
from emu.loader.symbols import SymbolTable
from emu.loader.tables import GDT_LINUX_32, GDT_LINUX_64, start_long, start_protected, start_real
from emu.memory import MIB, GuestMemory
from isa.x86.state import DS, FS, GS, RSI, SS, X86State

ENTRY_64: Final = 0x200  # the 64-bit entry, counted from the start of the protected-mode kernel

_SECTOR: Final = 512
_BOOT_MAGIC: Final = b"\x55\xaa"
_MAGIC: Final = b"HdrS"
_OLDEST: Final = 0x206  # the first protocol that says how long a command line may be
_RELOCATABLE_SINCE, _PAYLOAD_SINCE, _PREFERRED_SINCE, _FLAGS_64_SINCE = 0x205, 0x208, 0x20A, 0x20C
_LOADED_HIGH: Final = 1 << 0
_CAN_USE_HEAP: Final = 1 << 7
_REAL_MODE: Final = 0x10000  # where the real-mode code is put
_HEAP_END: Final = 0xE000  # end of its stack, counted from there, and the least room for that
_LEAST_HEAP: Final = 0x1000
_XLF_KERNEL_64: Final = 1 << 0
_BANNER: Final = re.compile(rb"Linux version \d+\.\d+")

# Offsets of setup-header fields.
_HEADER_LENGTH: Final = 0x201  # length of what follows the magic's jump, counted from 202h
_SETUP_SECTS, _SYSSIZE, _BOOT_FLAG, _MAGIC_AT, _VERSION, _LOADFLAGS = 0x1F1, 0x1F4, 0x1FE, 0x202, 0x206, 0x211
_TYPE_OF_LOADER, _HEAP_END_PTR, _CMD_LINE_PTR = 0x210, 0x224, 0x228
_INITRD_ADDR_MAX, _KERNEL_ALIGNMENT, _RELOCATABLE, _XLOADFLAGS, _CMDLINE_SIZE = 0x22C, 0x230, 0x234, 0x236, 0x238
_PAYLOAD_OFFSET, _PAYLOAD_LENGTH, _PREF_ADDRESS, _INIT_SIZE = 0x248, 0x24C, 0x258, 0x260
_LAST_FIELD_SINCE: Final = ((_PREFERRED_SINCE, 0x264), (_PAYLOAD_SINCE, 0x250), (_OLDEST, 0x23C))

# What a kernel without a setup header would say in it (arch/x86/boot/header.S; COMMAND_LINE_SIZE less its zero).
_BARE_VERSION: Final = 0x20C
_BARE_COMMAND_LINE: Final = 2047
_BARE_INITRD_MAX: Final = {32: 0x37FF_FFFF, 64: 0x7FFF_FFFF}


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """The setup-header fields that decide how a kernel is loaded; addresses and sizes in bytes."""

    version: int
    stub: int  # file offset of the protected-mode kernel
    load_address: int
    memory_needed: int  # from load_address on, before the kernel has read the memory map
    has_64bit_entry: bool
    initrd_max: int  # highest address an initrd may occupy
    command_line_max: int
    payload: int  # file offset of the packed kernel
    payload_length: int  # 0 where nothing is packed

    def protocol(self) -> str:
        return f"Linux boot protocol {self.version >> 8}.{self.version & 0xFF:02}"


def is_linux(data: bytes) -> bool:
    """True where the setup header's magic and the boot flag stand in their places."""
    return data[_MAGIC_AT:_VERSION] == _MAGIC and data[_BOOT_FLAG : _BOOT_FLAG + 2] == _BOOT_MAGIC


def is_linux_elf(data: bytes) -> bool:
    """True for an ELF file with a note of Linux's own (build salt, release), or with its banner: Linux before 4.20."""
    if not data.startswith(elf.MAGIC):
        return False
    return any(note.owner == "Linux" for note in elf.notes(data)) or _BANNER.search(data) is not None


def load_linux(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place kernel, initrd, command line and boot_params; enter the kernel proper, or its boot stub.

    The stub runs with `options.boot_stub`, and with an `options.mode` that is not the kernel's own. With mode 16 it is
    entered by its real-mode code, as are images older than the field that says what is packed: boot programs such as
    iPXE, which need it to have run.
    """
    if image.data.startswith(elf.MAGIC):
        return _load_bare(image, memory, state, options)
    header = parse(image)
    if options.mode == 16 or (options.mode is None and header.version < _PAYLOAD_SINCE):
        return _start_setup(image, header, memory, state, options)
    if header.payload_length and not options.boot_stub:
        packed = unpack(image, header.payload, header.payload_length)
        executable = elf.parse(packed.image)
        if options.mode in (None, executable.bits):
            params = zeropage.build(memory, _setup(image), header.load_address, options.rsdp)
            about = f"{header.protocol()}, {executable.bits}-bit kernel unpacked from {packed.method}"
            limits = (header.initrd_max, header.command_line_max)
            return _start_kernel(packed.image, executable, memory, state, options, params, limits, about)
    return _start_stub(image, header, memory, state, options)


def parse(image: GuestImage) -> SetupHeader:
    """Read and check the setup header."""
    if image.take(_BOOT_FLAG, 2, "the boot flag") != _BOOT_MAGIC:
        raise image.error(f"no boot flag 55 aa at file offset {_BOOT_FLAG:#x}")
    if image.take(_MAGIC_AT, 4, "the setup header's magic") != _MAGIC:
        raise image.error("no setup header: expected 'HdrS' at file offset 0x202")
    version = image.u16(_VERSION, "the boot protocol version")
    if version < _OLDEST:
        raise image.error(f"boot protocol {version:#x} at file offset {_VERSION:#x}: expected {_OLDEST:#x} or newer")
    last = next(end for since, end in _LAST_FIELD_SINCE if version >= since)
    image.take(zeropage.SETUP, last - zeropage.SETUP, "the setup header")
    if not image.data[_LOADFLAGS] & _LOADED_HIGH:
        raise image.error(f"LOADED_HIGH is clear at file offset {_LOADFLAGS:#x}: expected a bzImage")
    stub = (1 + (image.data[_SETUP_SECTS] or 4)) * _SECTOR  # 0 means 4, for old images
    paragraphs = image.u32(_SYSSIZE, "syssize")
    # syssize counts 16-byte paragraphs, rounded up; a signature may follow the kernel
    image.take(stub, max(1, paragraphs * 16 - 15), "the protected-mode kernel")
    length = len(image.data) - stub
    preferred = version >= _PREFERRED_SINCE
    relocatable = version >= _RELOCATABLE_SINCE and image.data[_RELOCATABLE] != 0
    packed = version >= _PAYLOAD_SINCE
    return SetupHeader(
        version,
        stub,
        _aligned_preference(image) if relocatable and preferred else MIB,
        max(length, image.u32(_INIT_SIZE, "init_size")) if preferred else length,
        version >= _FLAGS_64_SINCE and bool(image.u16(_XLOADFLAGS, "xloadflags") & _XLF_KERNEL_64),
        image.u32(_INITRD_ADDR_MAX, "initrd_addr_max"),
        image.u32(_CMDLINE_SIZE, "cmdline_size"),
        stub + image.u32(_PAYLOAD_OFFSET, "payload_offset") if packed else 0,
        image.u32(_PAYLOAD_LENGTH, "payload_length") if packed else 0,
    )


def _aligned_preference(image: GuestImage) -> int:
    """A relocatable kernel's preferred address, at least 1 MiB and a multiple of its alignment."""
    preference = image.u64(_PREF_ADDRESS, "pref_address")
    alignment = image.u32(_KERNEL_ALIGNMENT, "kernel_alignment")
    if alignment & (alignment - 1) or alignment == 0:
        raise image.error(f"kernel_alignment {alignment:#x} at file offset {_KERNEL_ALIGNMENT:#x} is no power of two")
    if preference >= 1 << 32:
        raise image.error(f"pref_address {preference:#x} at file offset {_PREF_ADDRESS:#x} lies above 4 GiB")
    return -(-max(preference, MIB) // alignment) * alignment


def _setup(image: GuestImage) -> bytes:
    """The setup header as boot_params takes it over."""
    end = min(_MAGIC_AT + image.data[_HEADER_LENGTH], zeropage.SETUP_LIMIT, len(image.data))
    return image.data[zeropage.SETUP : end]


def _start_stub(
    image: GuestImage, header: SetupHeader, memory: GuestMemory, state: X86State, options: LoadOptions
) -> LoadedGuest:
    """Enter the protected-mode kernel by its 64-bit entry if there is one, which `options.mode` 32 overrides."""
    bits = options.mode or (64 if header.has_64bit_entry else 32)
    if bits == 64 and not header.has_64bit_entry:
        raise image.error("no 64-bit entry: XLF_KERNEL_64 is clear at file offset 0x236")
    check_fits(image, memory, header.load_address, header.memory_needed, "the kernel with its working memory")
    place(image, memory, header.load_address, image.data[header.stub :], "the kernel")
    params = zeropage.build(memory, _setup(image), header.load_address, options.rsdp)
    floor = header.load_address + header.memory_needed
    zeropage.place_initrd(image, memory, params, options.initrd, floor, header.initrd_max)
    zero_page = zeropage.finish(image, memory, params, options, header.command_line_max)
    entry = header.load_address + (ENTRY_64 if bits == 64 else 0)
    _enter(memory, state, bits, entry, zero_page)
    return LoadedGuest("linux", entry, SymbolTable(), f"{header.protocol()}, {bits}-bit entry")


def _start_setup(
    image: GuestImage, header: SetupHeader, memory: GuestMemory, state: X86State, options: LoadOptions
) -> LoadedGuest:
    """Enter the real-mode code (boot.rst, "Running the Kernel"): code, heap and command line share one segment."""
    setup = bytearray(image.data[: header.stub])
    if header.stub > _HEAP_END - _LEAST_HEAP:
        raise image.error(f"real-mode code of {header.stub} bytes: at most {_HEAP_END - _LEAST_HEAP} have room")
    place(image, memory, MIB, image.data[header.stub :], "the kernel")
    zeropage.place_initrd(image, memory, setup, options.initrd, MIB + header.memory_needed, header.initrd_max)
    setup[_TYPE_OF_LOADER] = zeropage.UNKNOWN_LOADER
    setup[_LOADFLAGS] |= _CAN_USE_HEAP
    struct.pack_into("<H", setup, _HEAP_END_PTR, _HEAP_END - _SECTOR)
    line = zeropage.place_command_line(image, memory, options.append, header.command_line_max)
    struct.pack_into("<I", setup, _CMD_LINE_PTR, line)
    memory.write_bytes(_REAL_MODE, setup)
    segment = _REAL_MODE >> 4
    start_real(state, segment + (_SECTOR >> 4), 0, _HEAP_END, segment)
    for register in (SS, FS, GS):
        state.segs[register] = state.segs[DS]
    state.rflags = 2  # interrupts off
    entry = _REAL_MODE + _SECTOR
    return LoadedGuest("linux", entry, SymbolTable(), f"{header.protocol()}, 16-bit entry", bios=True)


def _load_bare(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """A kernel's ELF file by itself: boot_params get the setup header that its bzImage would have."""
    if options.boot_stub:
        raise UsageError(f"--boot-stub: {image.path} is a bare ELF kernel, which has none")
    executable = elf.parse(image)
    if not is_linux_elf(image.data):
        raise image.error("an ELF file, but no Linux kernel: neither a note nor a version string says so")
    if options.mode not in (None, executable.bits):
        raise image.error(f"an ELF{executable.bits} kernel does not start in {options.mode}-bit mode")
    setup = bytearray(_LAST_FIELD_SINCE[0][1] - zeropage.SETUP)
    struct.pack_into("<2s", setup, _BOOT_FLAG - zeropage.SETUP, _BOOT_MAGIC)
    struct.pack_into("<4sH", setup, _MAGIC_AT - zeropage.SETUP, _MAGIC, _BARE_VERSION)
    setup[_LOADFLAGS - zeropage.SETUP] = _LOADED_HIGH
    params = zeropage.build(memory, bytes(setup), executable.entry, options.rsdp)
    limits = (_BARE_INITRD_MAX[executable.bits], _BARE_COMMAND_LINE)
    about = f"{executable.bits}-bit Linux ELF kernel"
    return _start_kernel(image, executable, memory, state, options, params, limits, about)


def _start_kernel(
    image: GuestImage,
    executable: elf.Executable,
    memory: GuestMemory,
    state: X86State,
    options: LoadOptions,
    params: bytearray,
    limits: tuple[int, int],
    about: str,
) -> LoadedGuest:
    """Place an ELF kernel and enter it as its boot stub would; `limits` are of initrd address and command line."""
    initrd_max, command_line_max = limits
    elf.place_segments(image, memory, executable, executable.bits, lowest=MIB)
    zeropage.place_initrd(image, memory, params, options.initrd, executable.end(), initrd_max)
    zero_page = zeropage.finish(image, memory, params, options, command_line_max)
    _enter(memory, state, executable.bits, executable.entry, zero_page)
    return LoadedGuest("linux", executable.entry, executable.symbols(image.data), about)


def _enter(memory: GuestMemory, state: X86State, bits: int, entry: int, zero_page: int) -> None:
    """The state that boot.rst asks for at a 32-bit or 64-bit entry."""
    if bits == 64:
        start_long(memory, state, entry, GDT_LINUX_64)
    else:
        start_protected(memory, state, entry, GDT_LINUX_32)
    state.regs[RSI] = zero_page
