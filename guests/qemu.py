"""Runs a bundled guest under QEMU's TCG: the judge of what the guest prints on a machine vemu has no part in."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from guests import Guest
from guests.assembler import assemble
from guests.build import build_program

PROGRAM = "qemu-system-x86_64"
_WRAPPER_AT = 0x4000000  # above every guest's memory
_MEMORY_MIB = 128
_HELD_BACK = 16  # characters that SeaBIOS may still hold when the machine ends


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run under QEMU ended: its process status (None: time-out) and what the console showed."""

    status: int | None
    console: str

    def shows(self, guest: Guest, expect: str) -> bool:
        """True where the guest ended as it should and printed exactly `expect`.

        A boot sector's text comes after the firmware's own, and the firmware sends what it mirrors on COM1 in the
        timer interrupt: the last characters may be missing. The status then proves that the guest came to its end.
        """
        if self.status != guest.exit_code:
            return False
        if guest.format != "boot":
            return self.console == expect or self.console == as_qemu_prints(guest, expect)
        start = self.console.find(expect[:_HELD_BACK])
        shown = self.console[start:]
        return start >= 0 and expect.startswith(shown) and len(expect) - len(shown) <= _HELD_BACK


def as_qemu_prints(guest: Guest, expect: str) -> str:
    """`expect` with the lines in which QEMU is known to differ from the manual."""
    lines = expect.splitlines(keepends=True)
    for number, text in guest.qemu_lines:
        lines[number - 1] = text + "\n"
    return "".join(lines)


def available() -> bool:
    """True where QEMU's system emulator for x86-64 is installed."""
    return shutil.which(PROGRAM) is not None


def wrap_flat(image: bytes, mode: int, org: int, entry: int) -> bytes:
    """A multiboot kernel that builds the environment of a flat guest (or an ELF64 one) and jumps to it."""
    definitions = f".equ ORG, {org}\n.equ SIZE, {len(image)}\n.equ ENTRY, {entry}\n"

    def read(name: str) -> str:
        text = files("guests").joinpath(name).read_text(encoding="ascii")
        return definitions + text if name == wrapper else text

    wrapper = f"wrap/flat{mode}.s"
    return assemble(wrapper, read, _WRAPPER_AT, 32).image + image


def machine(memory: int = _MEMORY_MIB) -> list[str]:
    """QEMU's command line for a machine of `memory` MiB like vemu's; its console is on standard output."""
    # the manual the guests follow is Intel's: SYSENTER, SYSEXIT and SYSRET differ between the vendors
    line = [PROGRAM, "-accel", "tcg", "-cpu", "qemu64,vendor=GenuineIntel,+rdtscp", "-m", f"{memory}M"]
    line += ["-no-reboot", "-net", "none", "-monitor", "none", "-serial", "stdio"]
    return [*line, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]


def boot_disk(disk: Path) -> list[str]:
    """The options that start `disk`'s boot sector; -nographic makes the firmware mirror its teletype output on COM1."""
    return ["-nographic", "-drive", f"file={disk},format=raw,snapshot=on"]


def command(guest: Guest, kernel: Path) -> list[str]:
    """QEMU's command line for the image in `kernel`; its console is on standard output."""
    if guest.format == "boot":
        return [*machine(), *boot_disk(kernel)]
    return [*machine(), "-display", "none", "-kernel", str(kernel)]


def write_image(guest: Guest, folder: Path, scale: int | None = None) -> Path:
    """Write to `folder` what QEMU boots for `guest` and return its path."""
    target = folder / f"{guest.name}.img"
    if guest.format == "flat":
        target.write_bytes(wrap_flat(guest.image(scale), guest.mode, guest.org, guest.org))
    elif guest.format == "elf" and guest.mode == 64:
        # QEMU's multiboot loader takes no ELF64: give it the same bytes as a flat guest
        program = build_program(guest)
        target.write_bytes(wrap_flat(program.image, guest.mode, guest.org, program.symbols["_start"]))
    else:
        target.write_bytes(guest.image(scale))
    return target


def run(guest: Guest, scale: int | None = None, timeout: float = 60.0) -> Outcome:
    """Run `guest` (with its iteration count replaced by `scale`, if given) for at most `timeout` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = write_image(guest, Path(folder), scale)
        try:
            done = subprocess.run(command(guest, kernel), capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            return Outcome(None, (error.stdout or b"").decode("latin-1"))
    return Outcome(done.returncode, done.stdout.decode("latin-1"))
