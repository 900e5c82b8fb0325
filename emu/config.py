"""The frozen description of one run, its checks, and how a guest's name becomes its bytes."""

from __future__ import annotations

import math
import os
import random
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from emu.errors import GuestFileError, UsageError
from emu.loader.image import GuestImage
from emu.memory import MAX_SIZE, MIB

if TYPE_CHECKING:
    from guests import Guest

ENGINES: Final = ("translate", "interpret")
FORMATS: Final = ("flat", "boot", "elf", "multiboot", "multiboot2", "linux", "pvh", "firmware")
MODES: Final = (16, 32, 64)
CONSOLES: Final = ("serial", "vga", "virtio")
DISK_INTERFACES: Final = ("ide", "virtio")
DEFAULT_MEMORY: Final = 128 * MIB
MAX_FILE: Final = 1 << 30  # bytes of one guest file: it is held in the monitor's own memory while it is loaded
_SUFFIXES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE: Final = re.compile(r"(0x[0-9a-f]{1,30}|[0-9]{1,30})(?:([kmgt])(?:i?b)?)?", re.IGNORECASE)
_SERIAL_KINDS: Final = ("stdio", "null", "pty")
_FILE: Final = "file:"
_BYTES: Final = "<bytes>"


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What to run and how.

    `guest` is a path, the name of a bundled guest (a plain string that names no file), or the image's own bytes.
    `memory` is in bytes; 0 means what a bundled guest asks for, and 128 MiB for any other. `mode` (16, 32, 64), `org`
    (load address) and `format` override what the image says; a bundled guest's own are filled in. `initrd` and `disk`
    are files; what the guest writes to the disk stays in memory unless `disk_writable`, and `disk_interface` is "ide",
    "virtio" or None for what suits the guest (virtio for Linux kernels). `boot_stub` lets a Linux bzImage unpack its
    kernel itself, which otherwise is done before the start.
    `timeout` is in seconds of host time. The run ends with 0 when `expect` appears on the console, with 10 when
    `fail_on` does, and with 0 when the guest leaves with `success_code`, a status `(value << 1) | 1` of the ISA debug
    exit. `serial` is "stdio", "null", "pty" or "file:PATH". Translations are kept from run to run in the folder
    `cache`, where one is given.
    """

    guest: str | Path | bytes
    engine: str = "translate"
    memory: int = 0
    mode: int | None = None
    org: int | None = None
    format: str | None = None
    initrd: Path | None = None
    append: str = ""
    boot_stub: bool = False
    disk: Path | None = None
    disk_writable: bool = False
    disk_interface: str | None = None
    timeout: float | None = None
    expect: str | None = None
    fail_on: str | None = None
    success_code: int | None = None
    max_instructions: int | None = None
    deterministic: bool = False
    console: str = "serial"
    serial: str = "stdio"
    cache: Path | None = None

    def __post_init__(self) -> None:
        bundled = None if isinstance(self.guest, bytes) else _bundled(self.guest)
        fill = object.__setattr__  # the way a frozen record completes itself
        if self.memory == 0:
            fill(self, "memory", DEFAULT_MEMORY if bundled is None else bundled.memory * MIB)
        if bundled is None or self.format not in (None, bundled.format):
            return
        fill(self, "format", bundled.format)
        if self.mode is None:
            fill(self, "mode", bundled.mode)
        if self.org is None and bundled.format == "flat":  # the other formats carry their address
            fill(self, "org", bundled.org)

    def entropy(self, use: str) -> Callable[[int], bytes]:
        """What gives so many random bytes; for each `use` the same ones in every deterministic run."""
        return random.Random(use).randbytes if self.deterministic else os.urandom

    def validate(self) -> None:
        """Raise UsageError for an absurd option, GuestFileError for an initrd or disk that is no readable file."""
        _one_of("engine", self.engine, ENGINES)
        _one_of("console", self.console, CONSOLES)
        if self.format is not None:
            _one_of("format", self.format, FORMATS)
        if self.mode is not None:
            _one_of("mode", self.mode, MODES)
        if not MIB <= self.memory <= MAX_SIZE or self.memory % MIB:
            raise UsageError(
                f"guest memory of {self.memory} bytes: it must be a whole number of MiB from 1 MiB to "
                f"{MAX_SIZE >> 30} GiB"
            )
        if self.org is not None and not 0 <= self.org < 1 << 32:
            raise UsageError(f"org {self.org:#x}: a guest is loaded between 0 and 0xffffffff")
        if self.timeout is not None and not (math.isfinite(self.timeout) and 0 < self.timeout < 1e9):
            raise UsageError(f"timeout of {self.timeout} seconds: it must be a positive number below 1e9")
        if self.max_instructions is not None and self.max_instructions < 1:
            raise UsageError(f"at most {self.max_instructions} instructions: at least one must run")
        for name, text in (("expect", self.expect), ("fail-on", self.fail_on)):
            if text == "":
                raise UsageError(f"{name}: the text is empty, so every console shows it")
        if self.success_code is not None and (not 0 < self.success_code < 1 << 33 or not self.success_code & 1):
            raise UsageError(
                f"success code {self.success_code}: a guest's status is (value << 1) | 1, an odd number above 0"
            )
        if self.serial not in _SERIAL_KINDS and not (self.serial.startswith(_FILE) and len(self.serial) > len(_FILE)):
            raise UsageError(f"serial {self.serial!r}: it must be stdio, null, pty or file:PATH")
        if self.initrd is not None:
            check_file(self.initrd, "initrd")
        if self.disk is not None:
            check_file(self.disk, "disk image", most=None)
        if self.disk_interface is not None:
            _one_of("disk interface", self.disk_interface, DISK_INTERFACES)

    @property
    def guest_name(self) -> str:
        """The guest as messages name it."""
        return _BYTES if isinstance(self.guest, bytes) else str(self.guest)

    @property
    def serial_file(self) -> Path | None:
        """The PATH of "file:PATH", or None."""
        return Path(self.serial[len(_FILE) :]) if self.serial.startswith(_FILE) else None


def parse_size(text: str) -> int:
    """Bytes from a number with an optional K, M or G (powers of 1024); raises UsageError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"size {text!r}: it must be a whole number, with K, M or G behind it (128M)")
    suffix = (match[2] or "").lower()
    size = int(match[1], 0 if match[1][:2].lower() == "0x" else 10) * _SUFFIXES[suffix]
    if size == 0:
        raise UsageError(f"size {text!r}: it must be more than nothing")
    if size < MIB and not suffix:
        raise UsageError(f"size {text!r} is {size} bytes: K, M or G behind the number make it KiB, MiB or GiB")
    return size


def resolve_guest(config: MachineConfig) -> GuestImage:
    """The guest's bytes; raises GuestFileError where they cannot be read."""
    guest = config.guest
    if isinstance(guest, bytes):
        return GuestImage(_BYTES, guest)
    bundled = _bundled(guest)
    if bundled is not None:
        return GuestImage(str(bundled.path), read_file(bundled.path, "bundled guest"))
    if guest == "":
        raise GuestFileError("the guest's name is empty: it must be a file or a bundled guest ('vemu guests')")
    if isinstance(guest, str) and _absent(guest):
        raise GuestFileError(f"{guest}: no such file, and no bundled guest of that name ({_hint(guest)})")
    return GuestImage(str(guest), read_file(Path(guest), "guest"))


def _absent(path: str) -> bool:
    """Whether there is no such file; one in a folder that may not be entered is no absent one."""
    try:
        os.lstat(path)
    except PermissionError:
        return False
    except (OSError, ValueError):
        return True
    return False


def parse_disk(text: str) -> tuple[Path, bool, str | None]:
    """Path, whether writes go to the file, and interface, from "PATH[,rw][,ide|virtio]" (UsageError without a path)."""
    path, writable, interface = text, False, None
    while (parts := path.rpartition(","))[2] in ("rw", *DISK_INTERFACES) and parts[1]:
        path, option = parts[0], parts[2]
        if option == "rw":
            writable = True
        else:
            interface = option
    if not path:
        raise UsageError(f"disk {text!r}: there is no file in front of the options")
    return Path(path), writable, interface


def check_file(path: Path, what: str, most: int | None = MAX_FILE) -> int:
    """Size in bytes of a file that `read_file` would read (0 for a pipe); raises GuestFileError like it.

    With `most` None it is a file that is only opened: of any size, and it may be a block device.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise GuestFileError(f"{what} {path}: {_reason(error)}") from error
    if stat.S_ISDIR(found.st_mode):
        raise GuestFileError(f"{what} {path}: it is a directory")
    device = stat.S_ISBLK(found.st_mode) and most is not None
    if stat.S_ISCHR(found.st_mode) or device or stat.S_ISSOCK(found.st_mode):
        raise GuestFileError(f"{what} {path}: it is no regular file")
    if most is not None and found.st_size > most:
        raise GuestFileError(f"{what} {path}: {found.st_size} bytes are more than the {most} that vemu loads")
    return found.st_size


def read_file(path: Path, what: str) -> bytes:
    """All bytes of a regular file or pipe of at most MAX_FILE bytes; raises GuestFileError, `what` naming its role."""
    size = check_file(path, what)
    try:
        with path.open("rb") as file:
            data = file.read(size + 1) if size else file.read(MAX_FILE + 1)
    except (OSError, ValueError, MemoryError) as error:
        raise GuestFileError(f"{what} {path}: {_reason(error)}") from error
    if len(data) > MAX_FILE:
        raise GuestFileError(f"{what} {path}: more than the {MAX_FILE} bytes that vemu loads")
    return data


def _one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} {value!r}: known are {', '.join(map(str, known))}")


def _bundled(guest: str | Path) -> Guest | None:
    """The bundled guest of that name; a file of the same name goes before it, a folder does not."""
    if not isinstance(guest, str) or os.sep in guest or (os.path.exists(guest) and not os.path.isdir(guest)):
        return None
    from guests import catalogue  # reads two dozen small files: only where a name is looked for

    return catalogue().get(guest)


def _hint(name: str) -> str:
    from difflib import get_close_matches

    from guests import catalogue

    near = get_close_matches(name.lower(), catalogue(), n=1)
    return f"did you mean {near[0]}?" if near else "'vemu guests' lists them"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the host has not enough memory to read it" if isinstance(error, MemoryError) else str(error)
