"""Programs from Debian's packages, which nobody here wrote, show what they show under QEMU."""

from __future__ import annotations

import gzip
import os
import subprocess
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


SEABIOS = ("/usr/share/seabios/bios-256k.bin", "seabios")


def shown(image: Path, **options: Any) -> tuple[Ending, str]:
    """How the guest ends, and what it prints."""
    text = bytearray()
    with Machine(MachineConfig(guest=str(image), timeout=120, **options), console=text.extend) as machine:
        ending = machine.run().ending
    return ending, text.decode("latin-1").replace("\r", "")


def test_seabios_finds_no_disk() -> None:
    ending, text = shown(package_file(*SEABIOS), format="firmware", expect="No bootable device.")
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
    ending, text = shown(package_file(*SEABIOS), format="firmware", disk=disk)
    assert (ending.reason, ending.code) == (EndReason.DEBUG_EXIT, 33), text
    assert "Booting from 0000:7c00" in text


def test_ovmf_starts_its_shell() -> None:
    image = package_file("/usr/share/ovmf/OVMF.fd", "ovmf")
    ending, text = shown(image, format="firmware", memory=256 << 20, expect="Shell>")
    assert ending.reason is EndReason.EXPECTED, f"{ending} after\n{text}"
    assert 'BdsDxe: starting Boot0001 "EFI Internal Shell"' in text
    assert "UEFI Interactive Shell v2.2\nEDK II\nUEFI v2.70 (EDK II, 0x00010000)\n" in text


def test_u_boot_comes_to_its_prompt() -> None:
    image = package_file("/usr/lib/u-boot/qemu-x86/u-boot.rom", "u-boot-qemu")
    ending, text = shown(image, format="firmware", memory=128 << 20, expect="=> ")
    assert ending.reason is EndReason.EXPECTED, f"{ending} after\n{text}"
    assert {"DRAM:  128 MiB", "Model: QEMU x86 (I440FX)"} <= set(text.splitlines())
    assert "Reset IDE: Bus 0: OK Bus 1: OK" in text


def test_syslinux_starts_from_a_fat_disk(tmp_path: Path) -> None:
    install = package_file("/usr/bin/syslinux", "syslinux")
    mkfs, mcopy = package_file("/usr/sbin/mkfs.fat", "dosfstools"), package_file("/usr/bin/mcopy", "mtools")
    settings, disk = tmp_path / "syslinux.cfg", tmp_path / "disk"
    settings.write_text("SERIAL 0 115200\nPROMPT 1\nSAY greetings\nDEFAULT it\nLABEL it\n  KERNEL absent\n")
    with disk.open("wb") as file:
        file.truncate(32 << 20)
    for line in ([mkfs, "-F", "16", disk], [mcopy, "-i", disk, settings, "::"], [install, "--install", disk]):
        subprocess.run(line, check=True, capture_output=True)
    ending, text = shown(disk, expect="boot:")
    assert ending.reason is EndReason.EXPECTED, f"{ending} after\n{text}"
    assert "SYSLINUX 6." in text
    assert "greetings\nboot:" in text


@pytest.mark.parametrize("name", ["BIOS-bochs-latest", "BIOS-bochs-legacy"])
def test_the_bochs_bios_finds_no_disk(name: str) -> None:
    ending, text = shown(package_file(f"/usr/share/bochs/{name}", "bochsbios"), format="firmware")
    assert ending.reason is EndReason.HALTED, f"{ending} after\n{text}"
    lines = text.splitlines()
    assert lines[0].startswith("$Revision: ")
    assert lines[-2:] == ["No bootable device.", ""] or lines[-1] == "No bootable device."
    if name.endswith("latest"):
        assert {"Found 1 cpu(s)", "ram_size=0x08000000"} <= set(lines)
        assert "PCI: bus=0 devfn=0x00: vendor_id=0x8086 device_id=0x1237 class=0x0600" in lines


@pytest.mark.parametrize(
    ("path", "package", "options", "texts"),
    [
        (
            "/boot/ipxe.lkrn", "ipxe", {},
            ["iPXE initialising devices...ok", "No more network devices"],
        ),
        (
            "/boot/gnumach-1.8-486.gz", "gnumach-image-1.8-486", {},
            ["GNU Mach 1.8", "com0: at atbus0, port = 3f8", "No bootstrap code loaded with t"],
        ),
        (
            "/usr/share/qemu/grub.bin", "grub-firmware-qemu", {"format": "firmware"},
            ["Search & load /boot/multiboot.img", "The highlighted entry will be executed"],
        ),
        (
            "/usr/lib/grub-rescue/grub-rescue-cdrom.iso", "grub-rescue-pc", {},
            ["FreeBSD (or GNU/kFreeBSD), via /boot/loader", "The highlighted entry will be executed"],
        ),
    ],
)  # fmt: skip
def test_what_stands_on_the_screen(
    path: str, package: str, options: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    image = package_file(path, package)
    if image.suffix == ".gz":
        unpacked = tmp_path / image.stem
        unpacked.write_bytes(gzip.decompress(image.read_bytes()))
        image = unpacked
    config = MachineConfig(guest=str(image), console="vga", timeout=120, expect=texts[-1], **options)
    with Machine(config) as machine:
        ending = machine.run().ending
        screen = machine.screen_text()
    assert ending.reason is EndReason.EXPECTED, "\n".join(map(str.rstrip, screen))
    for text in texts:
        assert any(text in line for line in screen), "\n".join(map(str.rstrip, screen))
