"""A comparison's rows come from runs that do the same work, the warm-up does not count, and gaps have reasons."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from emu import MachineConfig
from emu.bench import rivals
from emu.bench.compare import NAMES, Comparison, compare, compute_guests, field_of
from emu.bench.console import ELAPSED, NotMeasured, Timer
from emu.bench.rivals import Run, Subject, bundled, named, qemu_command
from emu.errors import GuestFileError
from guests import catalogue, qemu

SMALL = catalogue()["fib"].small_scale


def rival(*runs: Run) -> rivals.Rival:
    """One that gives these runs in turn."""
    left = iter(runs)
    return lambda _subject, _timer: next(left)


def test_all_rivals_print_the_same_and_count() -> None:
    row = compare(bundled("fib", SMALL), field_of(("interpret", "unicorn")), 2, 0)
    assert set(row.rates) == {"interpret", "translate", "unicorn"}
    assert all(len(figure.samples) == 2 and figure.median > 0 for figure in row.rates.values())
    assert 1000 < row.instructions < 30_000
    assert row.lead("unicorn") == pytest.approx(row.rates["translate"].median / row.rates["unicorn"].median)
    assert (row.lead("qemu"), row.missing) == (None, {})


def test_the_warm_up_does_not_count_and_the_order_is_kept() -> None:
    order: list[str] = []
    slow, fast = Run(10.0, 2_000_000, "a"), Run(1.0, 2_000_000, "a")
    field = {
        "translate": rival(slow, fast, fast),
        "unicorn": rival(*[dataclasses.replace(slow, instructions=None)] * 3),
    }
    row = compare(bundled("fib", SMALL), field, 2, 1, told=order.append)
    assert row.rates["translate"].samples == (2.0, 2.0)
    assert row.rates["unicorn"].samples == (0.2, 0.2)  # it does not count: the same work as under `translate`
    assert [text.partition(",")[0] for text in order] == ["fib: translate", "fib: plain Unicorn"] * 3


def test_rivals_that_print_something_else_did_something_else() -> None:
    field = {"translate": rival(Run(1.0, 1, "a")), "unicorn": rival(Run(1.0, None, "b"))}
    with pytest.raises(RuntimeError, match="'a' under vemu, 'b' under plain Unicorn"):
        compare(bundled("fib", SMALL), field, 1, 0)


def test_a_rival_under_which_the_guest_fails_is_left_out() -> None:
    field = {"translate": rival(Run(1.0, 1, "a", 33)), "qemu": rival(Run(1.0, None, "a", 1))}
    row = compare(bundled("hello64"), field, 1, 0)
    assert row.missing == {"qemu": "the guest ended with 1 there, and with 33 under vemu"}
    assert set(row.rates) == {"translate"}


def test_who_cannot_run_it_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "available", lambda: False)
    row = compare(bundled("bootbios"), field_of(("unicorn", "qemu")), 1, 0)
    assert set(row.rates) == {"translate"}
    assert "flat" in row.missing["unicorn"]
    assert row.missing["qemu"] == "qemu-system-x86_64 is not installed"
    assert Comparison([row]).mean("qemu") is None
    assert row.as_json()["missing"] == row.missing


def test_the_interpreter_is_cut_short_and_a_guest_that_fails_is_no_figure(
    monkeypatch: pytest.MonkeyPatch, little_guest: Path
) -> None:
    monkeypatch.setattr(rivals, "INTERPRETED", 5000)
    cut = rivals.interpret(bundled("fib", SMALL), ELAPSED)
    assert cut.instructions == 5000
    triple = Subject("triple", MachineConfig(little_guest / "triple", format="flat", mode=64))
    for run in (rivals.translate, rivals.interpret):
        with pytest.raises(NotMeasured, match="triple fault"):
            run(triple, Timer())
    with pytest.raises(NotMeasured):
        compare(triple, field_of(()), 1, 0)
    endless = Subject("spin", MachineConfig(little_guest / "spin", format="flat", mode=64, timeout=0.2))
    with pytest.raises(NotMeasured, match="time-out"):
        rivals.translate(endless, ELAPSED)


def test_qemu_counts_the_guests_own_time(monkeypatch: pytest.MonkeyPatch, judge: None) -> None:
    fib = catalogue()["fib"]
    assert fib.scale is not None
    run = rivals.Qemu()(bundled("fib", fib.scale.bench), ELAPSED)
    assert "fib" in run.console
    assert run.seconds > 0
    monkeypatch.setattr(rivals, "_SHORTEST", 1e9)
    with pytest.raises(NotMeasured, match="to do next to nothing"):
        rivals.Qemu()(bundled("hello32"), ELAPSED)
    monkeypatch.setattr(rivals, "_SHORTEST", -1e9)
    assert rivals.Qemu()(bundled("hello32"), ELAPSED).console == catalogue()["hello32"].expect


def test_qemu_boots_what_is_given(tmp_path: Path, judge: None) -> None:
    def command(**more: object) -> list[str]:
        config = MachineConfig(b"\xf4", **more)  # type: ignore[arg-type]
        return qemu_command(Subject("x", config), tmp_path)

    disk = tmp_path / "disk"
    disk.write_bytes(b"QFI\xfb")
    line = command(format="linux", append="quiet", initrd=Path("initrd"), disk=disk, memory=64 << 20)
    assert {"-kernel", "initrd", "quiet", "64M", f"file={disk},format=qcow2,snapshot=on,if=virtio"} <= set(line)
    assert "-bios" in command(format="firmware")
    assert "-drive" in command(format="boot")
    assert (tmp_path / "guest").read_bytes() == b"\xf4"
    command(format="flat", mode=64, org=0x1000)
    assert (tmp_path / "guest").read_bytes().endswith(b"\xf4")  # behind what sets a flat guest's machine up
    with pytest.raises(NotMeasured, match="format multiboot2"):
        command(format="multiboot2")


def test_guests_by_name_and_by_file(tmp_path: Path) -> None:
    fib = catalogue()["fib"]
    assert fib.scale is not None
    subject = named(MachineConfig("fib"))
    assert (subject.guest, subject.scale, subject.config.guest) == (fib, fib.scale.bench, fib.image(fib.scale.bench))
    copy = tmp_path / "copy.bin"
    copy.write_bytes(fib.image(SMALL))
    subject = named(MachineConfig(copy, mode=64, disk_writable=True))
    assert (subject.name, subject.guest, subject.config.format) == ("copy.bin", None, "flat")
    assert (subject.config.mode, subject.config.org, subject.config.disk_writable) == (64, 0x100000, False)
    assert set(compare(subject, field_of(NAMES[:3]), 1, 0).rates) == {"interpret", "translate", "unicorn"}
    with pytest.raises(GuestFileError, match="no such file"):
        named(MachineConfig(str(tmp_path / "absent")))
    assert {s.name for s in compute_guests()} == {n for n, g in catalogue().items() if "compute" in g.tags}
