"""System behaviour judged by QEMU: guests that print what the CPU or board did, under both engines and under QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from emu import Machine, MachineConfig
from guests.assembler import assemble

SOURCES = Path(__file__).parent / "guests"
COMMON = Path(__file__).parents[2] / "guests"
QEMU = "qemu-system-x86_64"
ORIGIN = 0x100000
MEMORY_MIB = 64
STATUS = 33  # value 10h at the debug exit
# QEMU's CPU has virtual-8086 mode extensions, which ours has not.
CPU = "qemu64,vendor=GenuineIntel,-vme,+smap,+fsgsbase,+smep,+umip,+rdtscp"


def build(name: str, made: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The multiboot image of a source; `made` are texts that are no files, by name."""

    def read(file: str) -> str:
        if file in made:
            return made[file]
        path = SOURCES / file
        return (path if path.exists() else COMMON / file).read_text(encoding="ascii")

    return assemble(name, read, ORIGIN, 32).image


def under_vemu(image: bytes, engine: str) -> tuple[int, str]:
    """(status, console) of the guest under one of our engines."""
    console = bytearray()
    config = MachineConfig(image, engine=engine, format="multiboot", memory=MEMORY_MIB << 20, timeout=60)
    with Machine(config, console=console.extend) as machine:
        ending = machine.run().ending
    return ending.code, console.decode("latin-1") + (f"\n{ending.detail}" if ending.code != STATUS else "")


def under_qemu(image: bytes, folder: Path) -> tuple[int, str]:
    """The same under QEMU's TCG."""
    kernel = folder / "kernel"
    kernel.write_bytes(image)
    line = [QEMU, "-accel", "tcg", "-cpu", CPU, "-m", f"{MEMORY_MIB}M", "-no-reboot", "-net", "none"]
    line += ["-monitor", "none", "-display", "none", "-serial", "stdio"]
    line += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(kernel)]
    done = subprocess.run(line, capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout.decode("latin-1")


@pytest.mark.parametrize("name", sorted(path.name for path in SOURCES.glob("*.s")))
def test_prints_what_qemu_prints(name: str, tmp_path: Path) -> None:
    if shutil.which(QEMU) is None:
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(f"{QEMU} is missing: install the package qemu-system-x86")
        pytest.skip(f"{QEMU} is not installed")
    image = build(name)
    judged = under_qemu(image, tmp_path)
    assert judged[0] == STATUS, judged[1]
    assert under_vemu(image, "interpret") == judged
    assert under_vemu(image, "translate") == judged
