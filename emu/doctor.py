"""Looks at the installation: versions, whether each engine runs a guest here, and which optional tools are found."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from emu import __version__
from emu.config import ENGINES, MachineConfig
from emu.memory import MIB

_LIBRARIES: Final = ("unicorn", "capstone", "keystone-engine", "click", "rich", "pyelftools", "pillow")
_OPTIONAL: Final = frozenset(("keystone-engine",))  # rebuilds guests; it has wheels for x86-64 only
_QEMU: Final = "qemu-system-x86_64"
_MEMTEST: Final = ("memtest86+x64.bin", "memtest86+ia32.bin")
_MEMTEST_FOLDER: Final = Path("/boot")
_BACKEND: Final = "unicorn"
_PROBE_GUEST: Final = "hello64"
_PROBE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination; `needed` tells that vemu cannot work where `ok` is false."""

    topic: str
    name: str
    ok: bool
    detail: str
    needed: bool = False


def examine() -> list[Finding]:
    """Everything, in the order in which it is shown."""
    return [*_versions(), *_backend_and_engines(), _qemu(), *map(_memtest, _MEMTEST), _kvm()]


def _versions() -> list[Finding]:
    found = [
        Finding("version", "vemu", True, __version__),
        Finding("version", "python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
    ]
    for name in _LIBRARIES:
        needed = name not in _OPTIONAL
        try:
            found.append(Finding("version", name, True, metadata.version(name), needed))
        except metadata.PackageNotFoundError:
            found.append(Finding("version", name, False, "not installed", needed))
    return found


def _backend_and_engines() -> list[Finding]:
    """Run a bundled guest by each engine: what an engine and its backend can do is best shown."""
    native, engines = 0, []
    for name in ENGINES:
        try:
            engine, ran = _engine(name)
        except Exception as error:  # a broken installation may fail in any way; saying which is this command's work
            engine, ran = Finding("engine", name, False, f"{type(error).__name__}: {error}", needed=True), 0
        engines.append(engine)
        native += ran
    detail = f"ran {native} instructions of translated code" if native else "ran no translated code"
    return [Finding("backend", _BACKEND, native > 0, detail, needed=True), *engines]


def _engine(name: str) -> tuple[Finding, int]:
    """What one engine shows, and how many guest instructions ran as translated code."""
    from emu.machine import Machine
    from guests import catalogue

    guest = catalogue()[_PROBE_GUEST]
    console = bytearray()
    config = MachineConfig(
        guest.image(), engine=name, memory=guest.memory * MIB, mode=guest.mode, org=guest.org, format=guest.format,
        timeout=_PROBE_SECONDS,
    )  # fmt: skip
    with Machine(config, console=console.extend) as machine:
        result = machine.run()
    ending = result.ending
    if ending.code != guest.exit_code:
        detail = f"{guest.name} ended with {ending.reason.value}: {ending.detail}"
    elif console.decode("latin-1") != guest.expect:
        detail = f"{guest.name} printed {console.decode('latin-1')!r}"
    else:
        return Finding("engine", name, True, f"runs {guest.name}", needed=True), result.stats.native_instructions
    return Finding("engine", name, False, detail, needed=True), result.stats.native_instructions


def _qemu() -> Finding:
    path = shutil.which(_QEMU)
    if path is None:
        return Finding("tool", _QEMU, False, "not found; benchmarks and some tests do without")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("tool", _QEMU, False, f"{path}: {error}")
    return Finding("tool", _QEMU, True, done.stdout.partition("\n")[0] or path)


def _memtest(name: str) -> Finding:
    path = _MEMTEST_FOLDER / name
    found = path.is_file()
    return Finding("tool", name, found, str(path) if found else f"not in {_MEMTEST_FOLDER} (Debian package memtest86+)")


def _kvm() -> Finding:
    device = "/dev/kvm"
    if not os.path.exists(device):
        return Finding("tool", device, False, "not present; vemu does not use it")
    usable = os.access(device, os.R_OK | os.W_OK)
    return Finding("tool", device, usable, f"{'usable' if usable else 'no permission'}; vemu does not use it")
