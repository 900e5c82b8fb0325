"""Builds an initramfs around Debian's static busybox: a shell on the console, or a script, on any of Debian's kernels.

`python -m guests.linux [--kernel cloud|generic|686] [--script FILE] [--module NAME]... -o rootfs.cpio.gz` fetches what
it needs (`guests.debian`) and prints the kernel's path.
"""

from __future__ import annotations

import gzip
import lzma
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from guests.cpio import Archive
from guests.debian import KERNELS, FetchError, fetch_busybox, fetch_kernel

READY: Final = "vemu-shell-ready"  # a line on the console, just before shell or script start
DONE: Final = "vemu-script-done"  # and behind a script, with its exit status

_FOLDERS: Final = ("bin", "dev", "etc", "modules", "mnt", "proc", "root", "sys", "tmp")
_CONSOLE, _NULL, _TTYS0 = (5, 1), (1, 3), (4, 64)  # device numbers (Documentation/admin-guide/devices.txt)
_BUSYBOX: Final = "bin/busybox"

# The kernel's messages below errors go before the first line is printed: one of them in its midst would split it.
_INIT: Final = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    [ -f "$module" ] && insmod "$module"
done
hostname vemu
dmesg -n 4
exec init
"""
# busybox's init, since `poweroff`, `reboot` and `halt` ask process 1 to do it
_INITTAB: Final = "::once:/etc/session\n"
_SESSION: Final = f"""#!/bin/sh
export PATH=/bin HOME=/root TERM="${{TERM:-vt102}}"
cd /root
echo {READY}
if [ -f /script ]; then
    setsid cttyhack /script
    echo {DONE} $?
else
    setsid cttyhack sh
fi
poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module: its name with underscores, and the unpacked object file."""

    name: str
    data: bytes


def initramfs(
    busybox: bytes, applets: Iterable[str], modules: Sequence[Module] = (), script: bytes | None = None
) -> bytes:
    """A cpio archive that loads `modules` in order, prints READY and starts a shell on the console.

    With `script`, an executable file's content, that is run instead, and the machine switched off behind it.
    """
    archive = Archive()
    for folder in _FOLDERS:
        archive.folder(folder)
    archive.file(_BUSYBOX, busybox, 0o755)
    for applet in sorted(set(applets) - {"busybox"}):
        archive.link(f"bin/{applet}", "busybox")
    # what /init writes to before devtmpfs is there, and all a kernel without devtmpfs has
    archive.character_device("dev/console", *_CONSOLE)
    archive.character_device("dev/null", *_NULL, 0o666)
    archive.character_device("dev/ttyS0", *_TTYS0)
    for number, module in enumerate(modules):
        archive.file(f"modules/{number:03}-{module.name}.ko", module.data)
    if script is not None:
        archive.file("script", script, 0o755)
    archive.file("etc/inittab", _INITTAB.encode())
    archive.file("etc/session", _SESSION.encode(), 0o755)
    archive.file("init", _INIT.encode(), 0o755)
    return archive.data()


def applets_of(busybox: Path) -> list[str]:
    """The names that `busybox` answers to. Raises FetchError where this machine cannot run it."""
    try:
        done = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FetchError(f"{busybox} does not run on this machine: {error}") from error
    return done.stdout.split()


def modules_of(kernel: Path, names: Sequence[str]) -> list[Module]:
    """The modules `names` of the unpacked kernel package `kernel`, each behind those it depends on.

    What is built into the kernel is left out. Raises FetchError for a name the package does not have.
    """
    files = {_module_name(path.name): path for path in (kernel / "lib/modules").glob("*/kernel/**/*.ko*")}
    lists = (kernel / "lib/modules").glob("*/modules.builtin")
    built_in = {_module_name(line) for listed in lists for line in listed.read_text().split()}
    found: dict[str, Module] = {}

    def add(name: str, wanted_by: str | None) -> None:
        name = _module_name(name)
        if name in found or name in built_in:
            return
        if name not in files:
            by = f", which {wanted_by} needs" if wanted_by else ""
            raise FetchError(f"{kernel}: there is no module {name!r}{by}")
        data = files[name].read_bytes()
        module = Module(name, lzma.decompress(data) if files[name].suffix == ".xz" else data)
        for soft in _modinfo(module, rb"softdep=pre: ([^\0]*)"):
            # an algorithm, such as crc32c, is asked for by its own name; the module of that name has a suffix
            known = next((one for one in (soft, f"{soft}_generic") if _module_name(one) in files), None)
            if known is not None:
                add(known, name)
        for hard in _modinfo(module, rb"depends=([^\0]*)"):
            add(hard, name)
        found[name] = module

    for name in names:
        add(name, None)
    return list(found.values())


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _modinfo(module: Module, pattern: bytes) -> list[str]:
    """The names behind one key of the module's .modinfo section, a run of zero-terminated `key=value`."""
    found = re.findall(rb"(?:\A|\0)" + pattern + rb"\0", module.data)
    return [name for names in found for name in re.split(r"[\s,]+", names.decode()) if name]


@click.command()
@click.option("--kernel", "name", type=click.Choice(list(KERNELS)), default="cloud", show_default=True)
@click.option("--script", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Run instead of a shell.")
@click.option("--module", "modules", multiple=True, metavar="NAME", help="Load this kernel module; may be repeated.")
@click.option("--update", is_flag=True, help="Fetch the newest packages, whatever the cache holds.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE",
              help="The archive; packed where its name ends in .gz.")  # fmt: skip
def main(name: str, script: Path | None, modules: tuple[str, ...], update: bool, output: Path) -> None:
    """Build an initramfs for one of Debian's kernels, and print the kernel's path."""
    kernel = KERNELS[name]
    try:
        image = fetch_kernel(kernel, update)
        busybox = fetch_busybox(kernel.architecture, update)
        data = initramfs(
            busybox.read_bytes(),
            applets_of(busybox),
            modules_of(kernel.folder, modules),
            None if script is None else script.read_bytes(),
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        # no time stamp: the same content gives the same file
        output.write_bytes(gzip.compress(data, mtime=0) if output.suffix == ".gz" else data)
    except (FetchError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(image)


if __name__ == "__main__":
    main()
