"""Debian's kernels, unmodified: booted to a shell that works, on a disk that holds what was written, and to a panic."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emu import Machine, MachineConfig
from emu.exits import Ending, EndReason
from guests.debian import KERNELS, FetchError, fetch_busybox, fetch_kernel
from guests.linux import DONE, READY, applets_of, initramfs, modules_of

MEMORY = 256 << 20
TIMEOUT = 240.0
SCRIPT = """#!/bin/sh
i=0; while [ $i -lt 100 ]; do i=$((i+1)); done; echo "counted $i"
seq 1 2000 > /tmp/numbers; sha256sum < /tmp/numbers
gzip -c /tmp/numbers | gunzip -c | cmp - /tmp/numbers && echo "unpacked the same"
i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done; echo "forked $i"
mount -t ext4 /dev/vda /mnt && cp /tmp/numbers /mnt/copied && umount /mnt && echo "copied"
dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c
"""


def needed(reason: str) -> None:
    """What is missing is a failure where everything must be there, and a named skip elsewhere."""
    if os.environ.get("VEMU_CI") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def kernel_and_initrd(
    name: str, folder: Path, modules: tuple[str, ...] = (), script: str | None = None
) -> tuple[Path, Path]:
    """A kernel and an initramfs for it; fetched where the cache has none."""
    kernel = KERNELS[name]
    try:
        fetch_kernel(kernel)
        busybox = fetch_busybox(kernel.architecture)
        archive = initramfs(
            busybox.read_bytes(),
            applets_of(busybox),
            modules_of(kernel.folder, modules),
            script.encode() if script is not None else None,
        )
    except FetchError as error:
        needed(str(error))
    path = folder / "initrd"
    path.write_bytes(archive)
    return kernel.image, path


def boot(
    image: Path, append: str, reply: Callable[[Machine, bytes], None] | None = None, **options: object
) -> tuple[Ending, str]:
    """Run a kernel to its end; `reply` sees the console so far whenever it grows."""
    console = bytearray()

    def output(data: bytes) -> None:
        console.extend(data)
        if reply is not None:
            reply(machine, bytes(console))

    config = MachineConfig(image, memory=MEMORY, timeout=TIMEOUT, append=f"console=ttyS0 quiet {append}", **options)  # type: ignore[arg-type]
    with Machine(config, console=output) as machine:
        ending = machine.run().ending
    return ending, console.decode("utf-8", "replace").replace("\r\n", "\n")


def ext4_disk(folder: Path) -> Path:
    for tool in ("mkfs.ext4", "fsck.ext4", "debugfs"):
        if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            needed(f"{tool} is missing: install the package e2fsprogs")
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    host("mkfs.ext4", "-q", "-F", str(disk))
    return disk


def host(tool: str, *arguments: str) -> str:
    """What a tool of the host's prints; it must succeed."""
    found = shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert found is not None
    return subprocess.run([found, *arguments], check=True, capture_output=True, text=True).stdout


def test_amd64_runs_a_script_and_keeps_its_files(tmp_path: Path) -> None:
    modules = ("virtio_pci", "virtio_blk", "virtio_rng", "ext4")
    image, initrd = kernel_and_initrd("cloud", tmp_path, modules, SCRIPT)
    disk = ext4_disk(tmp_path)
    ending, console = boot(image, "", initrd=initrd, disk=disk, disk_writable=True)
    numbers = "".join(f"{number}\n" for number in range(1, 2001)).encode()
    assert (ending.reason, ending.code) == (EndReason.POWER_OFF, 0), console[-2000:]
    shown = console[console.index(READY) :]
    for line in (
        "counted 100",
        f"{hashlib.sha256(numbers).hexdigest()}  -",
        "unpacked the same",
        "forked 200",
        "copied",
    ):
        assert f"\n{line}\n" in shown, shown
    assert f"\n16\n{DONE} 0" in shown
    host("fsck.ext4", "-f", "-n", str(disk))
    assert host("debugfs", "-R", "cat copied", str(disk)).encode() == numbers


@pytest.mark.parametrize(("name", "append"), [("686", ""), ("cloud", "nolapic noapic acpi=off")])
def test_a_shell_answers_and_switches_off(tmp_path: Path, name: str, append: str) -> None:
    image, initrd = kernel_and_initrd(name, tmp_path)
    typed = []

    def reply(machine: Machine, console: bytes) -> None:
        if READY.encode() in console and console.rstrip().endswith(b"#") and not typed:
            typed.append(1)
            machine.send_input(b"echo answer-$((6*7)); reboot -f\n")

    ending, console = boot(image, append, reply, initrd=initrd)
    assert "answer-42" in console
    assert (ending.reason, ending.code) == (EndReason.RESET, 0), console[-2000:]


def test_a_panic_has_its_own_exit_code() -> None:
    try:
        fetch_kernel(KERNELS["cloud"])
    except FetchError as error:
        needed(str(error))
    ending, console = boot(KERNELS["cloud"].image, "acpi=off nolapic noapic")
    assert (ending.reason, ending.code) == (EndReason.PANIC, 14), console[-2000:]
    assert "Unable to mount root fs" in ending.detail
