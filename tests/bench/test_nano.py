"""Nanobenchmarks: marks become costs, every event takes the exits that belong to it, and gaps have reasons."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path

import pytest

from emu.bench import native
from emu.bench.console import ELAPSED, Lines, NotMeasured
from emu.bench.cycles import cycles_per_ns
from emu.bench.nano import (
    EVENTS,
    Event,
    Loops,
    cost_ns,
    exits_of,
    in_qemu,
    in_vemu,
    loops_in,
    measure,
    rounds_for,
)
from emu.trace.reasons import EXITS
from emu.trace.record import ExitRecord
from guests import catalogue, linux_programs

BY_NAME = {event.name: event for event in EVENTS}
NATIVE = sys.platform == "linux" and platform.machine() == "x86_64"
native_only = pytest.mark.skipif(not NATIVE, reason="no x86-64 Linux")
# What an event must leave translated code for, an event at a time.
TAKEN = {
    "syscall": {"SYSTEM_CALL", "SYSTEM_RETURN"},
    "in": {"IO_INSTRUCTION"},
    "cr8wr": {"CR_ACCESS"},
    "call/ret": set(),
    "divzero": {"EXCEPTION_NMI", "EXCEPTION_DELIVERY", "IRET"},
    "pgfault": {"MEMORY_ACCESS", "EXCEPTION_DELIVERY", "IRET"},
    "ptemod": set(),
    "remap": {"INVLPG", "SHADOW_PAGE_FAULT"},
}


def console(*lines: tuple[float, str]) -> Lines:
    found = Lines()
    found.ends = list(lines)
    return found


def test_marks_become_times() -> None:
    marks = console(
        (1, "begin"), (1.5, "noise"), (2, "empty"), (5, "event"), (6, "begin"), (7, "empty"), (7.5, "event")
    )
    assert loops_in(marks) == [(1, 3), (1, 0.5)]
    named = console((1, "begin a"), (2, "begin b"), (3, "empty a"), (4, "empty b"), (9, "event b"), (10, "event a"))
    assert (loops_in(named, "a"), loops_in(named, "b")) == ([(2, 7)], [(2, 5)])
    assert cost_ns((1, 3), 1000) == 2e6
    for missing in (console((1, "begin"), (2, "event")), console(), named):
        with pytest.raises(NotMeasured, match="no marks"):
            loops_in(missing)


def test_rounds_suit_the_platform() -> None:
    tried: list[int] = []

    def run(rounds: int) -> Loops:
        tried.append(rounds)
        return 0.0, 1e-4 + rounds * 1e-7

    rounds = rounds_for(run)
    assert rounds % 2 == 0
    assert 0.8e6 < rounds < 1.2e6
    assert tried == sorted(tried)
    assert rounds_for(lambda rounds: (0.0, 0.0)) <= 1 << 28  # nothing to see: an end all the same


def test_events_and_guests_belong_together() -> None:
    assert {event.guest for event in EVENTS} == {name for name, g in catalogue().items() if "nano" in g.tags}
    assert {event.native for event in EVENTS} - {""} <= set(native.TESTS)
    assert TAKEN.keys() == BY_NAME.keys()
    assert set().union(*TAKEN.values()) <= set(EXITS)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_event_takes_the_exits_that_belong_to_it(name: str) -> None:
    shares = {share.exit: share for share in exits_of(BY_NAME[name], ELAPSED)}
    assert shares.keys() == TAKEN[name]
    for share in shares.values():
        assert share.per_event == pytest.approx(1, abs=0.05)
        assert sum(share.parts.values()) == pytest.approx(share.stat.mean)


@pytest.mark.parametrize("engine", ["translate", "interpret"])
def test_an_engine_as_platform(engine: str) -> None:
    empty, event = in_vemu(engine, ELAPSED)(BY_NAME["in"], 3000)
    assert 0 < empty < event


def test_qemu_as_platform(judge: None) -> None:
    empty, event = in_qemu(ELAPSED)(BY_NAME["divzero"], 300_000)
    assert 0 <= empty < event


def test_a_guest_that_goes_wrong_is_no_figure() -> None:
    wrong = Event("x", "hello64", "", ("-", "-", "-"), "")
    with pytest.raises((NotMeasured, ValueError)):
        in_vemu("translate", ELAPSED)(wrong, 100)


def test_rows_have_figures_and_reasons() -> None:
    def steady(_event: Event, rounds: int) -> Loops:
        return 0.5, 0.5 + rounds * 8 * 25e-9

    def never(_event: Event, _rounds: int) -> Loops:
        raise NotMeasured("no such thing")

    told: list[str] = []
    (row,) = measure([BY_NAME["call/ret"]], {"steady": steady, "never": never}, 2, ELAPSED, told.append)
    assert row.ns["steady"].samples == pytest.approx((25.0, 25.0))  # of one event out of eight a round
    assert row.missing == {"never": "no such thing"}
    assert told == ["call/ret: steady", "call/ret: never", "call/ret: steady", "call/ret: steady"]
    found = row.as_json(2.0)
    assert found["cycles"] == {"steady": pytest.approx(50.0)}
    assert found["paper_cycles"] == {"native": "11", "binary_translation": "51", "vt_x": "11"}


# -- the program for Linux -------------------------------------------------------------------------------------------


def test_counts_lie_where_the_program_looks_for_them() -> None:
    image = linux_programs()["nano"].image()
    assert struct.unpack_from("<8I", image, native._COUNTS_AT) == (2000, 2000, 2000, 200, 200, 20, 200, 1)
    changed = native.program({"fork": 7}, 3)
    assert struct.unpack_from("<8I", changed, native._COUNTS_AT) == (0, 0, 0, 0, 0, 7, 0, 3)
    assert len(changed) == len(image)


@native_only
def test_the_bare_cpu_as_platform() -> None:
    found = native.run_native({"store": 100_000, "fork": 5, "switch": 10}, 2)
    assert {name: len(loops) for name, loops in found.items()} == {"store": 2, "fork": 2, "switch": 2}
    run = native.on_bare_cpu(ELAPSED)
    assert run(BY_NAME["call/ret"], 5_000_000)[1] > 0
    with pytest.raises(NotMeasured, match="privileged"):
        run(BY_NAME["in"], 100)


def test_another_host_has_no_bare_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.platform, "machine", lambda: "aarch64")
    with pytest.raises(NotMeasured, match="no x86-64 Linux"):
        native.on_bare_cpu(ELAPSED)(BY_NAME["syscall"], 100)
    assert cycles_per_ns() is None


def test_an_archive_holds_the_program_as_init() -> None:
    archive = native.initramfs({"fork": 7}, 1)
    assert native.program({"fork": 7}) in archive
    assert {b"init\0", b"dev/console\0"} <= {
        archive[at : at + len(n)] for n in (b"init\0", b"dev/console\0") if (at := archive.find(n)) > 0
    }


def test_linux_rows_without_a_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"no kernel")

    def boot(subject: object, lines: Lines, timer: object) -> None:
        at = 0.0
        for _ in range(3):
            for test in native.TESTS[2:]:
                lines.ends += [(at, f"begin {test}"), (at + 1, f"empty {test}"), (at + 3, f"event {test}")]
                at += 3

    def fail(*_: object) -> None:
        raise NotMeasured("no boot")

    monkeypatch.setattr(native, "boot_vemu", boot)
    monkeypatch.setattr(native, "linux_exits", lambda *_: {name: [] for name in native.TESTS})
    monkeypatch.setattr(native, "boot_qemu", fail)
    monkeypatch.setattr(native, "run_native", fail)
    rows = native.measure_linux(kernel, 2, ELAPSED)
    assert [row.name for row in rows] == [test.name for test in native.LINUX_TESTS]
    fork = rows[3]
    assert fork.ns["translate"].samples == pytest.approx([1 / native._ROUNDS["fork"] * 1e9] * 2)
    assert fork.missing.keys() == {"interpret", "bare CPU", "QEMU TCG"}


def test_exits_belong_to_the_test_whose_marks_are_around_them() -> None:
    between, lines = native.ExitsBetween(), Lines()
    exit_ = ExitRecord(0, 0, 0, 1, 1, 1, 1, "cpuid", 0)
    for text, count in (
        ("begin fork", 5),
        ("empty fork", 3),
        ("event fork", 7),
        ("empty switch", 2),
        ("nano: right", 1),
    ):
        lines.write(text.encode() + b"\n")
        between.console(lines)
        for _ in range(count):
            between.record(exit_)
    lines.write(b"end\n")
    between.console(lines)
    assert {name: found.total.count for name, found in between.sums.items()} == {"fork": 3, "switch": 2}


@pytest.mark.skipif(cycles_per_ns(0.01) is None, reason="no time-stamp counter")
def test_cycles_have_a_sane_rate() -> None:
    found = cycles_per_ns()
    assert found is not None
    assert 0.5 < found < 8
