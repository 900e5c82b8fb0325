"""Fetches Debian's kernels and its static busybox by apt, and unpacks them into a cache without installing them.

$XDG_CACHE_HOME/vemu/linux/cloud/  generic/  686/      a kernel package: boot/, lib/modules/, and a link `vmlinuz`
$XDG_CACHE_HOME/vemu/linux/busybox-amd64/  busybox-i386/
$XDG_CACHE_HOME/vemu/linux/apt-i386/                   package lists of an architecture that the host's apt lacks
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

_POLL: Final = 0.1  # seconds between two looks at a growing file
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class FetchError(RuntimeError):
    """A package cannot be had or unpacked; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of Debian's: its name here, the package that always names the newest, and its architecture."""

    name: str
    package: str
    architecture: str

    @property
    def folder(self) -> Path:
        """Where the package is unpacked."""
        return cache() / self.name

    @property
    def image(self) -> Path:
        """The bzImage."""
        return self.folder / "vmlinuz"


KERNELS: Final = {
    kernel.name: kernel
    for kernel in (
        Kernel("cloud", "linux-image-cloud-amd64", "amd64"),
        Kernel("generic", "linux-image-amd64", "amd64"),
        Kernel("686", "linux-image-686", "i386"),
    )
}


def cache() -> Path:
    """The folder that keeps what was fetched."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vemu" / "linux"


def fetch_kernel(kernel: Kernel, update: bool = False) -> Path:
    """The bzImage of `kernel`, fetched where the cache lacks it or `update` asks for the newest. Raises FetchError."""
    if update or not kernel.image.exists():
        options = _apt_options(kernel.architecture, update)
        _unpack(_dependency(kernel.package, options), options, kernel.folder)
        found = sorted((kernel.folder / "boot").glob("vmlinuz-*"))
        if not found:
            raise FetchError(f"package {kernel.package}: there is no /boot/vmlinuz-* in it")
        kernel.image.symlink_to(found[-1].relative_to(kernel.folder))
    return kernel.image


def fetch_busybox(architecture: str, update: bool = False) -> Path:
    """The statically linked busybox for `architecture` (as Debian names it). Raises FetchError."""
    folder = cache() / f"busybox-{architecture}"
    places = (folder / "bin/busybox", folder / "usr/bin/busybox")
    if update or not any(path.exists() for path in places):
        _unpack("busybox-static", _apt_options(architecture, update), folder)
    found = next((path for path in places if path.exists()), None)
    if found is None:
        raise FetchError("package busybox-static: there is no busybox in it")
    return found


# -- apt -----------------------------------------------------------------------------------------------------------


def _output(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is missing: kernels are fetched by the tools of a Debian system") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise FetchError(f"{' '.join(command)}: {said[-1] if said else f'status {error.returncode}'}") from None
    return done.stdout


def _apt_options(architecture: str, update: bool) -> list[str]:
    """Options by which apt finds packages of `architecture`.

    For one that is not the host's they name sources, lists and a status file of our own, made where they are missing,
    so that the host's configuration stays as it is; `update` reads those lists anew.
    """
    if architecture == _output("dpkg", "--print-architecture").strip():
        return []
    folder = cache() / f"apt-{architecture}"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    status, sources = folder / "status", folder / "sources.list"
    status.touch()
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",  # the sandbox's user need not be able to reach the cache
        "Acquire::Languages": "none",
        "Dir::State": str(folder / "state"),
        "Dir::State::status": str(status),
        "Dir::Cache": str(folder / "cache"),
        "Dir::Etc::sourcelist": str(sources),
        "Dir::Etc::sourceparts": "-",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    if not sources.exists():
        sources.write_text(_sources(architecture))
    if update or not _has_lists(folder):
        with Console(stderr=True).status(f"package lists of {architecture}"):
            try:
                _output("apt-get", *options, "update")
            except FetchError as error:
                # a mirror may be out of step in one suite; apt drops that suite's list and keeps the others
                if not _has_lists(folder):
                    raise
                Console(stderr=True).print(f"not all package lists could be read: {error}", style="yellow")
    return options


def _has_lists(folder: Path) -> bool:
    return any((folder / "state/lists").glob("*_Packages*"))


def _sources(architecture: str) -> str:
    """The host's own Debian mirrors and suites, for `architecture`."""
    wanted = ("Created-By: Packages", "Origin: Debian")
    listed = _output("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", *wanted)
    rows = sorted(set(listed.splitlines()))
    if not rows:
        raise FetchError("apt knows no Debian mirror: run 'apt-get update' first")
    return "".join(f"deb [arch={architecture} signed-by={_KEYRING}] {row}\n" for row in rows)


def _dependency(package: str, options: Sequence[str]) -> str:
    """The versioned kernel package that `package` stands for."""
    listed = _output("apt-cache", *options, "depends", "--important", package)
    found = re.search(r"Depends: (linux-image-\d\S*)", listed)
    if found is None:
        raise FetchError(f"package {package}: apt knows no kernel behind it ('apt-get update' may help)")
    return found[1]


def _unpack(package: str, options: Sequence[str], folder: Path) -> None:
    """Download `package` and put its files into `folder`, in one step at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
        work = Path(name)
        archive = _download(package, options, work)
        _output("dpkg-deb", "-x", str(archive), str(work / "files"))
        if folder.exists():
            shutil.rmtree(folder)
        (work / "files").rename(folder)


def _download(package: str, options: Sequence[str], folder: Path) -> Path:
    """`apt-get download`, with a progress bar on a terminal."""
    command = ["apt-get", *options, "-o", "APT::Sandbox::User=", "download", package]
    uris = re.search(r"^'\S+' \S+ (\d+)", _output(*command, "--print-uris"), re.MULTILINE)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    errors = folder / "errors"
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        errors.open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=log) as process,
    ):
        task = progress.add_task(package, total=int(uris[1]) if uris else None)
        while process.poll() is None:
            progress.update(task, completed=sum(file.stat().st_size for file in _archives(folder)))
            time.sleep(_POLL)
        progress.update(task, completed=sum(file.stat().st_size for file in _archives(folder)))
    found = _archives(folder)
    if process.returncode or not found:
        said = errors.read_text().strip().splitlines()
        raise FetchError(f"package {package}: {said[-1] if said else 'apt-get download left no file'}")
    return found[0]


def _archives(folder: Path) -> list[Path]:
    return list(folder.glob("*.deb"))
