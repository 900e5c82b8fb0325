"""Boots Debian's kernels for the tests: what they need from packages, a console that answers, and disks to write on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emu import Machine, MachineConfig
from emu.machine import RunResult
from guests.debian import KERNELS, FetchError, fetch_busybox, fetch_kernel
from guests.linux import applets_of, initramfs, modules_of

MEMORY = 256 << 20
TIMEOUT = 900.0  # generous: the machine that runs the tests may be busy
PROMPT = "# "

Reply = Callable[[Machine, str], None]


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


@dataclass
class Dialogue:
    """Types each line once the console shows, behind what it showed at the line before, the text that goes with it."""

    steps: Sequence[tuple[str, str]]  # awaited text, what is typed then
    _step: int = 0
    _from: int = 0

    def __call__(self, machine: Machine, console: str) -> None:
        while self._step < len(self.steps):
            awaited, typed = self.steps[self._step]
            at = console.find(awaited, self._from)
            if at < 0:
                return
            self._step, self._from = self._step + 1, at + len(awaited)
            machine.send_input(typed.encode())

    @property
    def awaited(self) -> str | None:
        """What was not shown; None where all was said."""
        return None if self._step == len(self.steps) else self.steps[self._step][0]


@dataclass
class Boot:
    """A run's end and what its console showed."""

    result: RunResult
    console: str

    @property
    def ending(self) -> tuple[object, int]:
        return self.result.ending.reason, self.result.ending.code


def boot(
    image: Path,
    append: str = "",
    reply: Reply | None = None,
    serial: Callable[[bytes], None] | None = None,
    **options: object,
) -> Boot:
    """Run a kernel to its end; `reply` sees the console so far whenever it grows, `serial` COM1 where it is another."""
    shown = _Console()
    append = f"console=ttyS0 quiet {append}".strip()
    settings = {"memory": MEMORY, "timeout": TIMEOUT, "append": append} | options
    config = MachineConfig(image, **settings)  # type: ignore[arg-type]

    def output(data: bytes) -> None:
        shown.add(data)
        if reply is not None:
            reply(machine, shown.text)

    with Machine(config, console=output, serial=serial) as machine:
        result = machine.run()
    return Boot(result, shown.text)


@dataclass
class _Console:
    text: str = ""
    _bytes: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        self._bytes += data
        self.text = self._bytes.decode("utf-8", "replace").replace("\r\n", "\n")


# -- disks ---------------------------------------------------------------------------------------------------------


def tool(name: str) -> str:
    """The path of a program of the host's; a named skip, or a failure in CI, where it is missing."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found is None:
        needed(f"{name} is missing: install the package {'qemu-utils' if name == 'qemu-img' else 'e2fsprogs'}")
        raise AssertionError
    return found


def host(name: str, *arguments: object, statuses: Container[int] = (0,)) -> str:
    """What a program of the host's prints; it must end with one of `statuses`."""
    done = subprocess.run([tool(name), *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode in statuses, f"{name} {arguments}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def ext4_disk(path: Path, size: int = 16 << 20) -> Path:
    """A raw image that is one ext4 file system."""
    with path.open("wb") as file:
        file.truncate(size)
    host("mkfs.ext4", "-q", "-F", path)
    return path
