"""Debian's kernels, unmodified: booted to a shell that works, on disks that hold what was written, and to a panic."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from emu.exits import EndReason
from guests.debian import KERNELS, FetchError, fetch_kernel
from guests.linux import DONE, READY
from tests.guests.linux import Dialogue, boot, ext4_disk, host, kernel_and_initrd, needed
from tests.guests.matrix import talk

NUMBERS = "".join(f"{number}\n" for number in range(1, 2001)).encode()
DISK = ("virtio_pci", "virtio_blk", "ext4")
SCRIPT = """#!/bin/sh
i=0; while [ $i -lt 100 ]; do i=$((i+1)); done; echo "counted $i"
seq 1 2000 > /tmp/numbers; sha256sum < /tmp/numbers
gzip -c /tmp/numbers | gunzip -c | cmp - /tmp/numbers && echo "unpacked the same"
i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done; echo "forked $i"
mount -t ext4 /dev/vda /mnt && cp /tmp/numbers /mnt/copied && umount /mnt && echo "copied"
dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c
nproc
"""
# What is written is read back from the disk: the page cache is dropped in between.
OVERLAY = """#!/bin/sh
mount -t ext4 /dev/vda /mnt
seq 1 2000 > /mnt/written; sync; echo 3 > /proc/sys/vm/drop_caches
sha256sum < /mnt/written
umount /mnt
exec 3<>/dev/hvc0; stty -echo <&3
echo "said by hvc0" >&3
head -n 1 <&3
"""


def test_amd64_runs_a_script_and_keeps_its_files(tmp_path: Path) -> None:
    image, initrd = kernel_and_initrd("cloud", tmp_path, (*DISK, "virtio_rng"), SCRIPT)
    disk = ext4_disk(tmp_path / "disk.img")
    done = boot(image, initrd=initrd, disk=disk, disk_writable=True)
    assert done.ending == (EndReason.POWER_OFF, 0), done.console[-2000:]
    shown = done.console[done.console.index(READY) :]
    for line in (
        "counted 100",
        f"{hashlib.sha256(NUMBERS).hexdigest()}  -",
        "unpacked the same",
        "forked 200",
        "copied",
    ):
        assert f"\n{line}\n" in shown, shown
    assert f"\n16\n1\n{DONE} 0" in shown  # bytes from virtio-rng, CPUs
    host("fsck.ext4", "-f", "-n", disk)
    assert host("debugfs", "-R", "cat copied", disk).encode() == NUMBERS


def test_an_image_stays_as_it_is_unless_asked(tmp_path: Path) -> None:
    image, initrd = kernel_and_initrd("cloud", tmp_path, (*DISK, "virtio_console"), OVERLAY)
    disk = tmp_path / "disk.qcow2"
    host("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", ext4_disk(tmp_path / "disk.img"), disk)
    before = disk.read_bytes()
    serial = bytearray()
    done = boot(
        image,
        reply=Dialogue((("hvc0\n", "said by the host\n"),)),
        serial=serial.extend,
        initrd=initrd,
        disk=disk,
        console="virtio",
    )
    assert done.ending == (EndReason.POWER_OFF, 0), serial[-2000:]
    shown = serial.decode().replace("\r\n", "\n")
    assert f"{hashlib.sha256(NUMBERS).hexdigest()}  -\nsaid by the host\n{DONE} 0" in shown
    assert done.console == "said by hvc0\n"
    assert disk.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "append", "command"),
    [("cloud", "", "poweroff"), ("cloud", "nolapic noapic acpi=off", "reboot"), ("686", "", "poweroff")],
)
def test_a_shell_has_jobs_and_ends(tmp_path: Path, name: str, append: str, command: str) -> None:
    talk(name, append, command, tmp_path)


def test_a_panic_has_its_own_exit_code() -> None:
    try:
        fetch_kernel(KERNELS["cloud"])
    except FetchError as error:
        needed(str(error))
    done = boot(KERNELS["cloud"].image, "acpi=off nolapic noapic")
    assert done.ending == (EndReason.PANIC, 14), done.console[-2000:]
    assert "Unable to mount root fs" in done.result.ending.detail


def test_without_acpi_the_apics_are_found_in_the_multiprocessor_table() -> None:
    try:
        fetch_kernel(KERNELS["686"])
    except FetchError as error:
        needed(str(error))
    done = boot(KERNELS["686"].image, "acpi=off ignore_loglevel")
    assert "Intel MultiProcessor Specification v1.4" in done.console, done.console[:2000]
    assert "Enabling APIC mode:  Flat.  Using 1 I/O APICs" in done.console
    assert done.ending == (EndReason.PANIC, 14), done.console[-2000:]
