"""Programs from Debian's packages, which nobody here wrote, show what they show under QEMU."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from emu import Machine, MachineConfig
from emu.exits import Ending, EndReason
from guests import catalogue


def package_file(path: str, package: str) -> Path:
    """The file, or a named skip (a failure in CI) where its package is not installed."""
    found = Path(path)
    if not found.exists():
        missing = f"{path} is missing: install the package {package}"
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def test_xen_comes_up_and_misses_its_first_domain(tmp_path: Path) -> None:
    packed = package_file("/boot/xen-4.17-amd64.gz", "xen-hypervisor-4.17-amd64")
    image = tmp_path / "xen"
    image.write_bytes(gzip.decompress(packed.read_bytes()))
    config = MachineConfig(
        guest=str(image),
        append="console=com1 com1=115200 noreboot=1",
        memory=256 << 20,
        timeout=60,
        expect="Manual reset required",
    )
    serial = bytearray()
    with Machine(config, console=serial.extend) as machine:
        ending = machine.run().ending
    text = serial.decode("latin-1").replace("\r", "")
    assert ending.reason is EndReason.EXPECTED, f"{ending} after\n{text}"
    lines = [line.removeprefix("(XEN) ") for line in text.splitlines()]
    assert lines[0].startswith("Xen version 4.17")
    assert "Command line: console=com1 com1=115200 noreboot=1" in lines
    assert " VGA is text mode 80x25, font 8x16" in lines
    assert "Panic on CPU 0:" in lines
    assert "dom0 kernel not specified. Check bootloader configuration" in lines


def test_invaders_draw_their_screen() -> None:
    image = package_file("/boot/invaders.exec", "grub-invaders")
    with Machine(MachineConfig(guest=str(image), console="vga", timeout=2)) as machine:
        machine.run()
        screen = machine.screen_text()
    # as under QEMU: rows of invaders above, the ship in the middle of the last line
    assert sum(line.count("-*-") for line in screen[:20]) >= 30
    assert "/ \\" in screen[24][36:44]


def firmware(disk: Path | None = None, **options: Any) -> tuple[Ending, str]:
    """How SeaBIOS from its package ends, and what it and its disk print."""
    image = package_file("/usr/share/seabios/bios-256k.bin", "seabios")
    text = bytearray()
    config = MachineConfig(guest=str(image), format="firmware", disk=disk, timeout=60, **options)
    with Machine(config, console=text.extend) as machine:
        ending = machine.run().ending
    return ending, text.decode("latin-1").replace("\r", "")


def test_seabios_finds_no_disk() -> None:
    ending, text = firmware(expect="No bootable device.")
    assert ending.reason is EndReason.EXPECTED, f"{ending} after\n{text}"
    lines = text.splitlines()
    assert lines[0].startswith("SeaBIOS (version 1.")
    assert "Running on QEMU (i440fx)" in lines
    assert "RamSize: 0x08000000 [cmos]" in lines
    assert "PS2 keyboard initialized" in lines
    assert "  3: 0000000000100000 - 0000000007ffe000 = 1 RAM" in lines
    assert "Boot failed: could not read the boot disk" in lines


def test_seabios_boots_a_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(catalogue()["bootbios"].image())
    ending, text = firmware(disk)
    assert (ending.reason, ending.code) == (EndReason.DEBUG_EXIT, 33), text
    assert "Booting from 0000:7c00" in text
