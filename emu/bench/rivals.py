"""Who runs a guest: vemu's engines, plain Unicorn, QEMU TCG; each run begins cold, in a fresh machine."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from emu.backends.flat import FlatFailed, run_flat
from emu.bench.console import Lines, NotMeasured, Timer, run_process
from emu.config import MachineConfig, resolve_guest
from emu.exits import EndReason
from emu.machine import Machine
from emu.memory import MIB
from guests import Guest, catalogue

INTERPRETED: Final = 2_000_000  # instructions after which the interpreter is stopped: its rate does not depend on it
_SHORTEST: Final = 0.1  # of the time that QEMU takes to start and end: what is less is lost in it
_TIMEOUT: Final = 600.0  # seconds of one run where nothing else is said
_INCOMPLETE: Final = frozenset((
    EndReason.TIMEOUT, EndReason.INTERRUPTED, EndReason.NOT_IMPLEMENTED, EndReason.TRIPLE_FAULT, EndReason.HALTED,
    EndReason.FAILED_ON, EndReason.PANIC,
))  # fmt: skip
_BY_KERNEL: Final = ("multiboot", "linux", "pvh")  # formats that QEMU's -kernel takes


@dataclass(frozen=True, slots=True)
class Subject:
    """What is run: a configuration (mode and so on filled in), and the bundled guest and scale it stands for, if any.

    The run ends by itself, or where the console shows `config.expect`.
    """

    name: str
    config: MachineConfig
    guest: Guest | None = None
    scale: int | None = None

    @property
    def timeout(self) -> float:
        return self.config.timeout or _TIMEOUT


@dataclass(frozen=True, slots=True)
class Run:
    """One run: seconds of the guest's own work, its instructions where they are counted, and the console.

    `status` is what the guest ended with; None where something else ended it.
    """

    seconds: float
    instructions: int | None
    console: str
    status: int | None = None


Rival = Callable[[Subject, Timer], Run]  # raises NotMeasured


def bundled(name: str, scale: int | None = None) -> Subject:
    """A bundled guest; `scale` is its iteration count, where it has one."""
    guest = catalogue()[name]
    config = MachineConfig(
        guest.image(scale), format=guest.format, memory=guest.memory * MIB,
        mode=guest.mode if guest.format == "flat" else None, org=guest.org if guest.format == "flat" else None,
    )  # fmt: skip
    return Subject(name, config, guest, scale)


def translate(subject: Subject, timer: Timer) -> Run:
    """vemu as it is used."""
    return _vemu(subject, timer, "translate", None)


def interpret(subject: Subject, timer: Timer) -> Run:
    """vemu's interpreter, the first INTERPRETED instructions."""
    return _vemu(subject, timer, "interpret", INTERPRETED)


def _vemu(subject: Subject, timer: Timer, engine: str, limit: int | None) -> Run:
    console = bytearray()
    config = dataclasses.replace(
        subject.config,
        engine=engine,
        timeout=subject.timeout,
        max_instructions=subject.config.max_instructions or limit,
    )
    with Machine(config, console=console.extend) as machine:
        started = timer.now()
        result = machine.run()
        seconds = timer.now() - started
    ending = result.ending
    cut = ending.reason is EndReason.INSTRUCTIONS and config.max_instructions is not None
    if ending.reason in _INCOMPLETE or (subject.config.expect and not cut and ending.reason is not EndReason.EXPECTED):
        raise NotMeasured(f"{engine}: {ending.detail.partition(chr(10))[0]}")
    status = None if cut or subject.config.expect else ending.code
    return Run(seconds, result.stats.instructions, console.decode("utf-8", "replace"), status)


def unicorn(subject: Subject, timer: Timer) -> Run:
    """The same bytes flat at CPL 0, without paging, devices or a monitor; only flat 32- and 64-bit guests can."""
    config = subject.config
    if config.format != "flat" or config.mode is None or not isinstance(config.guest, bytes):
        raise NotMeasured("plain Unicorn is given flat 32- and 64-bit guests only: it has no devices and no loader")
    if config.expect:
        raise NotMeasured("plain Unicorn watches no console")
    try:
        seconds, console = run_flat(config.guest, config.mode, config.org or 0, subject.timeout, timer.now)
    except FlatFailed as error:
        raise NotMeasured(str(error)) from error
    return Run(seconds, None, console.decode("utf-8", "replace"))


@dataclass(slots=True)
class Qemu:
    """QEMU TCG: the time of the whole process less that of one whose guest has next to nothing to do."""

    _idle: float = field(default=-1.0)

    def __call__(self, subject: Subject, timer: Timer) -> Run:
        small = subject.guest.small_scale if subject.guest is not None and subject.scale is not None else None
        if small is not None:
            idle = self._whole(bundled(subject.name, small), timer).seconds
        else:
            if self._idle < 0:
                self._idle = self._whole(bundled("hello64"), timer).seconds
            idle = self._idle
        whole = self._whole(subject, timer)
        own = whole.seconds - idle
        if own < _SHORTEST * idle:
            raise NotMeasured(f"QEMU was done in {whole.seconds:.2f} s, and takes {idle:.2f} s to do next to nothing")
        return dataclasses.replace(whole, seconds=own)

    def _whole(self, subject: Subject, timer: Timer) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            lines = Lines()
            command = qemu_command(subject, Path(folder))
            expected = (subject.config.expect or "").encode()
            done = run_process(
                command, lines, lambda: bool(expected) and expected in lines.text, subject.timeout, timer
            )
        if expected and done.status is not None:
            raise NotMeasured(f"QEMU ended with {done.status} and never showed {subject.config.expect!r}")
        return Run(done.seconds, None, lines.text.decode("utf-8", "replace"), done.status)


def qemu_command(subject: Subject, folder: Path) -> list[str]:
    """QEMU's command line for the same guest; what it boots is written to `folder`. Raises NotMeasured."""
    from guests import qemu  # here: it needs the assembler

    if not qemu.available():
        raise NotMeasured(f"{qemu.PROGRAM} is not installed")
    if subject.guest is not None:
        return qemu.command(subject.guest, qemu.write_image(subject.guest, folder, subject.scale))
    config = subject.config
    assert isinstance(config.guest, bytes)
    target = folder / "guest"
    target.write_bytes(config.guest)
    line = qemu.machine(config.memory // MIB)
    if config.format == "boot":
        return [*line, *qemu.boot_disk(target)]
    if config.format == "firmware":
        return [*line, "-display", "none", "-bios", str(target), *_disk(config)]
    if config.format == "flat" and config.mode is not None:
        target.write_bytes(qemu.wrap_flat(config.guest, config.mode, config.org or 0, config.org or 0))
    elif config.format not in _BY_KERNEL:
        raise NotMeasured(f"QEMU boots no kernel of the format {config.format}")
    line += ["-display", "none", "-kernel", str(target), *_disk(config)]
    if config.initrd is not None:
        line += ["-initrd", str(config.initrd)]
    return [*line, "-append", config.append] if config.append else line


def _disk(config: MachineConfig) -> list[str]:
    """The disk, whose writes are thrown away."""
    if config.disk is None:
        return []
    virtio = (config.disk_interface or ("virtio" if config.format in ("linux", "pvh") else "ide")) == "virtio"
    with config.disk.open("rb") as file:
        kind = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
    return ["-drive", f"file={config.disk},format={kind},snapshot=on,if={'virtio' if virtio else 'ide'}"]


def named(config: MachineConfig) -> Subject:
    """The subject of a guest given on the command line: a bundled one at its long scale, or a file as it is.

    Raises VemuError for what cannot be loaded. Writes to a disk are not kept, or runs would differ.
    """
    config = dataclasses.replace(config, disk_writable=False)
    name, image = config.guest_name, resolve_guest(config)
    known = catalogue().get(name) if isinstance(config.guest, str) else None
    if known is not None and image.path == str(known.path):
        scale = None if known.scale is None else known.scale.bench
        return Subject(name, dataclasses.replace(config, guest=known.image(scale)), known, scale)
    with Machine(config) as machine:
        guest, mode = machine.guest, machine.state.mode
    config = dataclasses.replace(config, guest=image.data, format=guest.format)
    if guest.format == "flat":
        config = dataclasses.replace(config, mode=mode, org=guest.entry)
    return Subject(Path(name).name, config)
