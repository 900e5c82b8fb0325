"""Callers are found by frame pointers, and garbage in RBP finds none; `vemu trace --calls` and `--blocks` show them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emu import Machine, MachineConfig
from emu.callstack import callers
from emu.trace.names import Names
from emu.trace.stacks import StackCounts
from guests.assembler import assemble
from isa.x86.state import RBP, RSP

BASE = 0x100000
WORK = """
start: mov {sp}, 0x90000
 xor {bp}, {bp}
 call outer
 mov al, 0x10
 out 0xf4, al
outer: push {bp}
 mov {bp}, {sp}
 mov {cx}, 5
again: call inner
 dec {cx}
 jnz again
 pop {bp}
 ret
inner: push {bp}
 mov {bp}, {sp}
 in al, 0x80
 pop {bp}
 ret
"""
Vemu = Callable[..., Any]


def work(bits: int) -> bytes:
    letter = {32: "e", 64: "r"}[bits]
    names = {name: letter + name for name in ("sp", "bp", "cx")}
    return assemble("work.s", lambda _: WORK.format(**names), BASE, bits).image


def places(image: bytes, bits: int) -> dict[str, int]:
    """Where the functions begin: at each PUSH RBP, behind the start."""
    begins = [match.start() for match in re.finditer(rb"\x55", image)]
    assert len(begins) == 2
    return {"start": BASE, "outer": BASE + begins[0], "inner": BASE + begins[1]}


@pytest.mark.parametrize("bits", [32, 64])
def test_calls_blocks_and_symbols(vemu: Vemu, tmp_path: Path, bits: int) -> None:
    image = work(bits)
    guest, symbols = tmp_path / "guest", tmp_path / "System.map"
    guest.write_bytes(image)
    symbols.write_text("".join(f"{at:016x} T {name}\n" for name, at in places(image, bits).items()))
    line = ("--mode", bits, "--org", hex(BASE), "--symbols", symbols, "--quiet")
    done = vemu("trace", "--calls", guest, *line)
    counts = {stack: int(count) for stack, _, count in (row.rpartition(" ") for row in done.out.splitlines())}
    assert done.code == 33
    assert counts["start;outer;inner"] >= 5
    assert set(counts) <= {"start", "start;outer", "start;outer;inner", "start;inner", "outer"}
    blocks = vemu("trace", "--blocks", guest, *line).out.splitlines()
    inner = sum(int(row.rpartition(" ")[2]) for row in blocks if row.startswith("inner;"))
    assert inner == 5 * 5
    graph = tmp_path / "graph.svg"
    assert vemu("trace", "--calls", guest, *line, "-o", graph).out == ""
    assert "<title>inner (" in graph.read_text()


def test_a_frame_pointer_that_is_none_finds_nobody() -> None:
    with Machine(MachineConfig(work(64), format="flat", mode=64, org=BASE)) as machine:
        cpu = machine.state
        cpu.regs[RSP] = 0x8000
        for value in (0, 0x8000, BASE, 0xFFFF_8000_0000_0000, (1 << 64) - 8, 0xFEE00000):
            cpu.regs[RBP] = value
            assert callers(cpu, machine.memory) == []


def test_what_stacks_do_not_take(vemu: Vemu, tmp_path: Path) -> None:
    assert vemu("trace", "--calls", "hello64", "--by", "symbol").code == 2
    assert vemu("trace", "--blocks", "hello64", "--engine", "interpret").code == 2
    assert vemu("trace", "--blocks", "hello64", "--symbols", tmp_path / "none").code == 4
    assert vemu("trace", "--calls", "hello64", "-o", tmp_path / "none" / "file").code == 4


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.trace.stacks._MOST", 2)
    counts = StackCounts()
    for number in (1, 2, 3, 1, 4):
        counts.add([number])
    assert counts.calls(Names()) == {("0x1",): 2, ("0x2",): 1, ("[elsewhere]",): 2}
    assert counts.total == 5
