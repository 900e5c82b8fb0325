"""`python -m tests.guests.kills --count N --seed S`: vemu killed at random moments while Linux writes to a disk.

Each seed decides on the image (raw or qcow2, written to or under the overlay) and on the moment: while the kernel
boots, while files are written, or while the run ends and the code cache is saved. Behind SIGKILL, `qemu-img check` must
find no corruption (clusters that nobody owns may be left, see `emu.disk.refcounts`), the file system must be clean once
its journal is replayed, every file that the guest had synced must be whole, an image under the overlay must be what it
was, and the code cache's file must be one that a run can use.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from emu.disk_image import open_disk
from emu.saved_code import SavedCode
from guests.debian import KERNELS
from guests.linux import DONE, READY
from tests.guests.linux import ext4_disk, host, kernel_and_initrd, tool

_KEPT: Final = 8  # the newest files that the guest keeps
_ROUNDS: Final = {"boot": 1000, "writing": 1000, "end": 3}  # until the guest switches itself off
_SECONDS: Final = 900  # to the text that a kill waits for
_APPEND: Final = "console=ttyS0 quiet acpi=off nolapic noapic"
_DISK_MIB: Final = 24


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed stands for: SIGKILL comes `delay` seconds behind `after` on the console, or behind the start."""

    seed: int
    format: str
    options: tuple[str, ...]
    writable: bool
    moment: str
    after: str
    delay: float


def plan(seed: int) -> Plan:
    rng = random.Random(seed)
    format_, writable = (("qcow2", True), ("raw", True), ("qcow2", True), ("raw", False), ("qcow2", False))[seed % 5]
    moment = rng.choices(("boot", "writing", "end"), (2, 6, 2))[0]
    options = ("-o", f"cluster_size={rng.choice((512, 4096, 65536))}") if format_ == "qcow2" else ()
    match moment:
        case "boot":
            after, delay = "", rng.uniform(0, 15)
        case "writing":
            after, delay = f"round {rng.randint(1, 12)}\n", rng.uniform(0, 0.5)
        case _:
            after, delay = DONE, rng.uniform(0, 2.5)
    return Plan(seed, format_, options, writable, moment, after, delay)


def script(rounds: int) -> str:
    """Each round writes a file whose content is known, one in place, and removes an old one; then all is synced."""
    return f"""#!/bin/sh
mount -t ext4 /dev/vda /mnt || exit 1
n=0
while [ $n -lt {rounds} ]; do
    n=$((n+1))
    seq $n $((n+9000)) > /mnt/file-$n
    dd if=/mnt/file-$n of=/mnt/same bs=4096 seek=$((n%7)) conv=notrunc 2>/dev/null
    rm -f /mnt/file-$((n-{_KEPT}))
    sync
    echo "round $n"
done
umount /mnt
"""


def content(number: int) -> bytes:
    return "".join(f"{value}\n" for value in range(number, number + 9001)).encode()


def run_and_kill(command: list[str], plan: Plan) -> str:
    """Start `command`, kill it when the plan says so, and return what it printed until then."""
    output = bytearray()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        deadline = time.monotonic() + _SECONDS
        os.set_blocking(process.stdout.fileno(), False)
        try:
            moment = None if plan.after else time.monotonic() + plan.delay
            while moment is None or time.monotonic() < moment:
                time.sleep(0.002)
                try:
                    data = os.read(process.stdout.fileno(), 1 << 16)
                except BlockingIOError:
                    data = None
                if data:
                    output += data
                if moment is None and plan.after.encode() in output.replace(b"\r\n", b"\n"):
                    moment = time.monotonic() + plan.delay
                if data == b"" or time.monotonic() > deadline:
                    break
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            while data := os.read(process.stdout.fileno(), 1 << 16):
                output += data
            process.stdout.close()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
    text = output.decode("utf-8", "replace").replace("\r\n", "\n")
    assert moment is not None, f"{plan}: {plan.after!r} was not shown:\n{text[-1000:]}\n{said}"
    assert "Traceback" not in said, said
    return text


def check_disk(image: Path, plan: Plan, before: bytes, shown: str) -> str:
    """AssertionError where the image is damaged, or lost what was synced; a word on what was found."""
    if not plan.writable:
        assert hashlib.sha256(image.read_bytes()).digest() == before, f"{plan}: the image changed under the overlay"
        return "unchanged"
    found = "whole"
    raw = image.with_suffix(".check")
    if plan.format == "qcow2":
        checked = subprocess.run([tool("qemu-img"), "check", image], capture_output=True, text=True, check=False)
        assert checked.returncode in (0, 3), f"{plan}:\n{checked.stdout}{checked.stderr}"
        found = "whole" if checked.returncode == 0 else "leaked clusters"
        host("qemu-img", "convert", "-O", "raw", image, raw)
    else:
        shutil.copy(image, raw)
    open_disk(image, writable=True).close()  # the next run can go on with it
    host("fsck.ext4", "-y", "-E", "journal_only", raw, statuses=(0, 1))  # 1: what was replayed
    host("fsck.ext4", "-f", "-n", raw)
    last = max((int(line[6:]) for line in shown.splitlines() if line.startswith("round ")), default=0)
    for number in range(max(1, last - _KEPT + 2), last + 1):  # the round that was cut off may have removed one
        assert host("debugfs", "-R", f"cat file-{number}", raw).encode() == content(number), f"{plan}: file-{number}"
    return found


def check_cache(cache: Path, kernel: Path, plan: Plan) -> None:
    """The file that the next run reads holds translations, where there is one."""
    saved = SavedCode(cache, kernel.read_bytes())
    assert saved.store.loaded or not saved.path.exists(), f"{plan}: {saved.path} is damaged"


def prepare(folder: Path, rounds: int) -> tuple[Path, list[str]]:
    """A disk's raw image, and vemu's command but for the disk and the cache."""
    kernel, initrd = kernel_and_initrd("cloud", folder, ("virtio_pci", "virtio_blk", "ext4"), script(rounds))
    command = [sys.executable, "-m", "emu", "run", str(kernel), "--initrd", str(initrd), "--memory", "256M"]
    return ext4_disk(folder / "disk.raw", _DISK_MIB << 20), [*command, "--append", _APPEND]


def fill(cache: Path, folder: Path) -> None:
    """One run to its end, so that the others find its translations."""
    image, command = prepare(folder, 3)
    command += ["--cache", str(cache), "--disk", str(image)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def once(seed: int, folder: Path, cache: Path) -> tuple[Plan, str]:
    """One kill; AssertionError for whatever it damaged. `cache` is shared by all but those killed at their end."""
    wanted = plan(seed)
    image, command = prepare(folder, _ROUNDS[wanted.moment])
    if wanted.format == "qcow2":
        raw, image = image, folder / "disk.qcow2"
        host("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *wanted.options, raw, image)
    before = hashlib.sha256(image.read_bytes()).digest()
    mine = folder / "cache" if wanted.moment == "end" else cache  # one that is full is not saved again
    command += ["--cache", str(mine), "--disk", f"{image}{',rw' if wanted.writable else ''}"]
    shown = run_and_kill(command, wanted)
    found = check_disk(image, wanted, before, shown)
    check_cache(mine, KERNELS["cloud"].image, wanted)
    if wanted.moment == "end":  # a run with what is left in the cache
        done = subprocess.run([*command, "--expect", READY], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    return wanted, found


@click.command()
@click.option("--count", default=50, show_default=True)
@click.option("--seed", default=1, show_default=True, help="The first seed.")
def main(count: int, seed: int) -> None:
    """Kill vemu many times; prints what each left, and fails where one left damage."""
    outcomes: Counter[str] = Counter()
    damaged = 0
    with tempfile.TemporaryDirectory() as cache:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(cache), Path(folder))
        for number in range(seed, seed + count):
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    wanted, found = once(number, Path(folder), Path(cache))
                except AssertionError as error:
                    damaged += 1
                    click.echo(f"seed {number}: {error}")
                    continue
            kind = f"{wanted.format}{',rw' if wanted.writable else ''} {wanted.moment}: {found}"
            outcomes[kind] += 1
            click.echo(f"seed {number}: {kind} ({time.monotonic() - started:.0f} s)")
    for kind, times in sorted(outcomes.items()):
        click.echo(f"{times:4} {kind}")
    click.echo(f"{count} kills, {damaged} with damage")
    sys.exit(damaged > 0)


if __name__ == "__main__":
    main()
