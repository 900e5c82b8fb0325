"""The initramfs for Debian's kernels: its archive read back by cpio, its modules in order, and booted under QEMU."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from guests import qemu
from guests.cpio import Archive
from guests.debian import KERNELS, FetchError, Kernel, cache, fetch_busybox, fetch_kernel
from guests.linux import DONE, READY, Module, applets_of, initramfs, main, modules_of


@dataclass(frozen=True)
class Entry:
    """A cpio entry as read back; `fields` are the 13 numbers of its header."""

    name: str
    data: bytes
    fields: list[int]

    @property
    def mode(self) -> int:
        return self.fields[1]


def entries(archive: bytes) -> Iterator[Entry]:
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_at, name_length, size = at + 110, fields[11], fields[6]
        data_at = (name_at + name_length + 3) & ~3
        assert archive[name_at + name_length - 1] == 0
        name = archive[name_at : name_at + name_length - 1].decode()
        at = (data_at + size + 3) & ~3
        if name == "TRAILER!!!":
            assert at == len(archive)
            return
        yield Entry(name, archive[data_at : data_at + size], fields)


def test_every_kind_of_entry() -> None:
    archive = Archive()
    archive.folder("dev")
    archive.file("/dev/note", b"hello", 0o600)
    archive.link("dev/other", "note")
    archive.character_device("dev/ttyS0", 4, 64)
    found = {entry.name: entry for entry in entries(archive.data())}
    assert list(found) == ["dev", "dev/note", "dev/other", "dev/ttyS0"]
    assert [entry.mode for entry in found.values()] == [0o40755, 0o100600, 0o120777, 0o20600]
    assert (found["dev/note"].data, found["dev/other"].data) == (b"hello", b"note")
    assert found["dev/ttyS0"].fields[9:11] == [4, 64]
    assert len({entry.fields[0] for entry in found.values()}) == 4  # inode numbers


@pytest.mark.skipif(shutil.which("cpio") is None, reason="the package cpio is not installed")
def test_cpio_reads_the_archive(tmp_path: Path) -> None:
    data = initramfs(b"\x7fELF", ["sh", "ls"], [Module("ext4", b"module")], b"#!/bin/sh\n")
    listed = subprocess.run(["cpio", "-itv", "--quiet"], input=data, capture_output=True, check=True)
    lines = [line.split() for line in listed.stdout.decode().splitlines()]
    assert listed.stderr == b""
    assert {" ".join(line[8:]) for line in lines} >= {"bin/busybox", "bin/sh -> busybox", "modules/000-ext4.ko", "init"}
    wanted = ("bin/busybox", "bin/ls", "init", "script")
    subprocess.run(["cpio", "-i", "-d", "--quiet", *wanted], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/busybox").read_bytes() == b"\x7fELF"
    assert (tmp_path / "bin/ls").readlink() == Path("busybox")
    assert (tmp_path / "script").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755


def test_what_is_in_it() -> None:
    found = {entry.name: entry for entry in entries(initramfs(b"program", ["busybox", "sh", "ls"]))}
    assert {"bin", "dev", "proc", "sys", "tmp", "root"} <= {e.name for e in found.values() if stat.S_ISDIR(e.mode)}
    assert (found["bin/busybox"].data, found["bin/sh"].data) == (b"program", b"busybox")
    assert {name: found[f"dev/{name}"].fields[9:11] for name in ("console", "null", "ttyS0")} == {
        "console": [5, 1], "null": [1, 3], "ttyS0": [4, 64],
    }  # fmt: skip
    assert f"echo {READY}".encode() in found["etc/session"].data
    assert found["etc/inittab"].data == b"::once:/etc/session\n"
    assert "script" not in found
    for name in found:
        folder = name.rpartition("/")[0]
        assert folder == "" or list(found).index(folder) < list(found).index(name)


# -- modules and the command line ----------------------------------------------------------------------------------


def make_kernel(folder: Path, **modules: str) -> Path:
    """A kernel package with modules, each with its .modinfo text, keys separated by spaces and values by commas."""
    below = folder / "lib/modules/6.1/kernel/drivers"
    below.mkdir(parents=True)
    (below.parent.parent / "modules.builtin").write_text("kernel/lib/crc16.ko\nkernel/lib/x-y.ko\n")
    for name, text in modules.items():
        info = b"\x7fELF\0license=GPL\0" + b"".join(line.encode() + b"\0" for line in text.split(";"))
        path = below / (name.replace("_", "-") + ".ko")
        if "packed" in text:
            path.with_suffix(".ko.xz").write_bytes(lzma.compress(info))
        else:
            path.write_bytes(info)
    return folder


def test_modules_come_behind_what_they_need(tmp_path: Path) -> None:
    kernel = make_kernel(
        tmp_path,
        ext4="depends=jbd2,crc16,mbcache;softdep=pre: crc32c",
        jbd2="depends=",
        mbcache="packed;depends=",
        crc32c_generic="depends=x-y",
        virtio_blk="depends=virtio_ring",
        virtio_ring="depends=",
    )
    found = modules_of(kernel, ["virtio-blk", "ext4", "jbd2", "crc16"])
    assert [module.name for module in found] == [
        "virtio_ring", "virtio_blk", "crc32c_generic", "jbd2", "mbcache", "ext4"
    ]  # fmt: skip
    assert all(module.data.startswith(b"\x7fELF") for module in found)
    with pytest.raises(FetchError, match="there is no module 'zfs'"):
        modules_of(kernel, ["zfs"])
    with pytest.raises(FetchError, match="there is no module 'gone', which needy needs"):
        modules_of(make_kernel(tmp_path / "other", needy="depends=gone"), ["needy"])


def test_what_is_cached_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    kernel = Kernel("cloud", "linux-image-cloud-amd64", "amd64")
    assert cache() == tmp_path / "vemu/linux"
    with pytest.raises(FetchError, match="dpkg is missing"):
        fetch_kernel(kernel)
    kernel.folder.mkdir(parents=True)
    kernel.image.write_bytes(b"kernel")
    busybox = cache() / "busybox-amd64/bin/busybox"
    busybox.parent.mkdir(parents=True)
    busybox.write_text("#!/bin/sh\necho sh\necho ls\n")
    busybox.chmod(0o755)
    assert fetch_kernel(kernel).read_bytes() == b"kernel"
    assert fetch_busybox("amd64") == busybox
    assert applets_of(busybox) == ["sh", "ls"]
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    for name, opened in (("rootfs.cpio.gz", gzip.decompress), ("rootfs.cpio", bytes)):
        done = CliRunner().invoke(main, ["--script", str(script), "-o", str(tmp_path / name)])
        assert (done.exit_code, done.output) == (0, f"{kernel.image}\n")
        found = {entry.name: entry.data for entry in entries(opened((tmp_path / name).read_bytes()))}
        assert (found["script"], found["bin/ls"]) == (b"#!/bin/sh\n", b"busybox")
    done = CliRunner().invoke(main, ["--module", "zfs", "-o", str(tmp_path / "x")])
    assert done.exit_code == 1
    assert "there is no module 'zfs'" in done.output
    busybox.write_bytes(b"\x7fELF of another machine")
    with pytest.raises(FetchError, match="does not run on this machine"):
        applets_of(busybox)


# -- the real thing ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not qemu.available(), reason="QEMU is not installed")
def test_debian_s_kernel_runs_a_script_from_it(tmp_path: Path) -> None:
    kernel = KERNELS["cloud"]
    if not kernel.image.exists():
        pytest.skip(f"{kernel.image} is missing: 'python -m guests.linux' fetches it")
    busybox = fetch_busybox(kernel.architecture)
    script = b"#!/bin/sh\ntty\ncut -d ' ' -f 1 /proc/modules | sort\nexit 5\n"
    archive = tmp_path / "rootfs.cpio"
    modules = modules_of(kernel.folder, ["virtio_blk"])
    archive.write_bytes(initramfs(busybox.read_bytes(), applets_of(busybox), modules, script))
    done = subprocess.run(
        [
            qemu.PROGRAM, "-accel", "tcg", "-m", "256M", "-no-reboot", "-net", "none", "-display", "none", "-monitor",
            "none", "-serial", "stdio", "-kernel", kernel.image, "-initrd", archive, "-append", "console=ttyS0 quiet",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    lines = done.stdout.decode("latin-1").replace("\r", "").splitlines()
    shown = lines[lines.index(READY) + 1 :]
    loaded = sorted(module.name for module in modules)
    assert shown[: 2 + len(loaded)] == ["/dev/ttyS0", *loaded, f"{DONE} 5"]
