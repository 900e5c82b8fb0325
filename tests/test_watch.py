"""Text awaited on the console, and the last words of a Linux kernel."""

from __future__ import annotations

from emu.watch import KernelWatch, TextWatch


def test_text_split_over_pieces_is_found() -> None:
    seen: list[str] = []
    watch = TextWatch("ready", "wrong", seen.append, seen.append)
    for piece in (b"...re", b"a", b"dy", b"wrong"):
        watch.feed(piece)
    assert seen == ["ready"]


def test_a_panic_is_told_when_its_last_line_is_complete() -> None:
    seen: list[str] = []
    watch = KernelWatch(seen.append)
    watch.feed(b"[ 1.0] Kernel pa")
    watch.feed(b"nic - not syncing: VFS: no root\r\n[ 1.1] CPU: 0\n")
    assert watch.panic == "Kernel panic - not syncing: VFS: no root"
    assert seen == []
    watch.feed(b"[ 1.2] ---[ end Kernel panic - not syncing: VFS: no root ]---")
    assert seen == []
    watch.feed(b"\r\n")
    assert seen == ["Kernel panic - not syncing: VFS: no root"]


def test_no_panic_is_found_in_other_lines() -> None:
    watch = KernelWatch(lambda message: None)
    watch.feed(b"panic\nKernel panic\n---[ end Kernel panic ]---\n")
    assert watch.panic is None


def test_a_kernel_s_halt_is_told() -> None:
    watch = KernelWatch(lambda message: None)
    watch.feed(b"# echo System halted\r\nSystem halted\r\n[   25.4] reboot: System ")
    assert not watch.halted
    watch.feed(b"halted\r\n")
    assert watch.halted
