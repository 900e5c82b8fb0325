"""Recognises a guest's format from its bytes, and loads it with that format's loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.errors import UsageError
from emu.loader import multiboot2
from emu.loader.boot import SECTOR, is_boot, load_boot
from emu.loader.elf import MAGIC as ELF_MAGIC
from emu.loader.elf import load_elf
from emu.loader.firmware import load_firmware
from emu.loader.flat import load_flat
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions
from emu.loader.linux import is_linux, is_linux_elf, load_linux
from emu.loader.multiboot import find_header, load_multiboot
from emu.loader.multiboot2 import load_multiboot2
from emu.loader.pvh import is_pvh, load_pvh
from emu.memory import GuestMemory
from isa.x86.state import X86State

Loader = Callable[[GuestImage, GuestMemory, X86State, LoadOptions], LoadedGuest]

LOADERS: Final[dict[str, Loader]] = {
    "flat": load_flat,
    "boot": load_boot,
    "elf": load_elf,
    "multiboot": load_multiboot,
    "multiboot2": load_multiboot2,
    "linux": load_linux,
    "pvh": load_pvh,
    "firmware": load_firmware,
}
FORMATS: Final = tuple(LOADERS)
# Which formats start in which modes, and which take a command line and an initial RAM disk.
_MODES: Final = {
    "flat": (16, 32, 64),
    "boot": (16,),
    "elf": (32, 64),
    "multiboot": (32,),
    "multiboot2": (32,),
    "linux": (16, 32, 64),
    "pvh": (32,),
    "firmware": (16,),
}
_WITH_COMMAND_LINE: Final = frozenset(("multiboot", "multiboot2", "linux", "pvh"))


def detect(data: bytes) -> str:
    """The name of the format of `data`, one of FORMATS; what nothing else fits is flat.

    A Linux image also carries a boot-sector signature and a multiboot kernel is mostly an ELF file too, so the
    narrower formats are asked first.
    """
    if is_linux(data):
        return "linux"
    header = find_header(data)
    if header is not None and not (is_boot(data) and header.offset >= SECTOR):  # else a disk with a boot loader
        return "multiboot"
    if multiboot2.find_header(data) is not None:
        return "multiboot2"
    if data.startswith(ELF_MAGIC):
        if is_pvh(data):
            return "pvh"
        return "linux" if is_linux_elf(data) else "elf"
    if is_boot(data):
        return "boot"
    return "flat"


def load(image: GuestImage, memory: GuestMemory, state: X86State, options: LoadOptions) -> LoadedGuest:
    """Place `image` in `memory` and set `state` to its start.

    Raises GuestFileError where the content is damaged, does not fit RAM or is not of `options.format`, and UsageError
    where an option has no meaning for the format.
    """
    found = options.format or detect(image.data)
    if found not in LOADERS:
        raise UsageError(f"--format {found}: known are {', '.join(FORMATS)}")
    said = f"{image.path} is loaded as '{found}'"
    if options.mode is not None and options.mode not in _MODES[found]:
        fits = " or ".join(map(str, _MODES[found]))
        raise UsageError(f"--mode {options.mode}: {said}, which starts in mode {fits}; --format overrides")
    if options.org is not None and found != "flat":
        raise UsageError(f"--org {options.org:#x}: {said}, and only a flat binary takes an address; --format overrides")
    if options.boot_stub and found != "linux":
        raise UsageError(f"--boot-stub: {said}, and only a Linux bzImage has a boot stub; --format overrides")
    if found not in _WITH_COMMAND_LINE:
        if options.append:
            raise UsageError(f"--append: {said}, which takes no command line")
        if options.initrd is not None:
            raise UsageError(f"--initrd: {said}, which takes no initial RAM disk")
    return LOADERS[found](image, memory, state, options)
