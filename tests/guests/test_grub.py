"""GRUB from its package, on a disk, loads a Multiboot 2 kernel: under QEMU, under vemu, and vemu without GRUB."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from emu import Machine, MachineConfig
from guests.assembler import assemble

HERE = Path(__file__).parent
COMMON = HERE.parents[1] / "guests"
BOOT = Path("/usr/lib/grub/i386-pc/boot.img")
QEMU = "qemu-system-x86_64"
MENU = "serial --unit=0\nterminal_output serial\nset timeout=0\nmultiboot2 (memdisk)/boot/kernel hello there\nboot\n"
SHOWN = "36d76289\nhello there\n0000027f\n"
MODULES = "multiboot2 serial memdisk tar normal terminal"


def kernel() -> bytes:
    def read(file: str) -> str:
        path = HERE / file
        return (path if path.exists() else COMMON / file).read_text(encoding="ascii")

    return assemble("multiboot2.s", read, 0x100000, 32).image


def needed(found: bool, what: str) -> None:
    """What is missing is a failure where everything must be there, and a named skip elsewhere."""
    if not found:
        (pytest.fail if os.environ.get("VEMU_CI") == "1" else pytest.skip)(f"{what} is missing")


def disk_with_grub(folder: Path) -> Path:
    needed(BOOT.exists(), "the package grub-pc-bin")
    needed(shutil.which("grub-mkstandalone") is not None, "the package grub-common")
    (folder / "grub.cfg").write_text(MENU, encoding="ascii")
    (folder / "kernel").write_bytes(kernel())
    core = folder / "core.img"
    line = ["grub-mkstandalone", "-O", "i386-pc", "-o", str(core), f"--install-modules={MODULES}"]
    line += ["--modules=multiboot2 serial memdisk tar", "--locales=", "--fonts=", "--themes="]
    files = ["boot/grub/grub.cfg=grub.cfg", "boot/kernel=kernel"]
    subprocess.run([*line, *files], cwd=folder, check=True, capture_output=True)
    disk = folder / "disk.img"
    disk.write_bytes((BOOT.read_bytes() + core.read_bytes()).ljust(4 << 20, b"\0"))
    return disk


def under_vemu(image: Path, **options: object) -> tuple[str, int, str]:
    console = bytearray()
    config = MachineConfig(image, memory=64 << 20, timeout=60, **options)  # type: ignore[arg-type]
    with Machine(config, console=console.extend) as machine:
        ending = machine.run().ending
        return machine.guest.format, ending.code, console.decode("latin-1")


@pytest.mark.parametrize("engine", ["interpret", "translate"])
def test_vemu_passes_the_information_itself(tmp_path: Path, engine: str) -> None:
    image = tmp_path / "kernel"
    image.write_bytes(kernel())
    assert under_vemu(image, engine=engine, append="hello there") == ("multiboot2", 33, SHOWN)


def test_grub_loads_the_kernel_as_under_qemu(tmp_path: Path) -> None:
    needed(shutil.which(QEMU) is not None, "the package qemu-system-x86")
    disk = disk_with_grub(tmp_path)
    line = [QEMU, "-accel", "tcg", "-m", "64M", "-no-reboot", "-net", "none", "-monitor", "none", "-display", "none"]
    line += ["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    judged = subprocess.run([*line, "-drive", f"file={disk},format=raw"], capture_output=True, timeout=60, check=False)
    format_, code, console = under_vemu(disk)
    assert (format_, code) == ("boot", judged.returncode)
    assert console[console.index("36d7") :] == SHOWN
    assert judged.stdout.decode("latin-1").endswith(SHOWN)
