"""The interpreter against plain Unicorn: agreement on compute guests, named limits, and a report of what differs."""

from __future__ import annotations

import pytest

from emu.backends import plain
from emu.backends.plain import PlainUnicorn, Stop
from emu.config import MachineConfig
from emu.exits import EndReason
from emu.verify import Verdict
from emu.verify_unicorn import UnicornComparison
from guests import catalogue
from isa.x86 import interp
from isa.x86.cpu import Cpu
from isa.x86.decode import Insn
from isa.x86.operands import Op
from isa.x86.state import RSI

GUESTS = catalogue()
COMPUTE = sorted(name for name, guest in GUESTS.items() if "compute" in guest.tags)
WIDER = "plain Unicorn does not show the registers of a wider mode than it was started in"
EXIT = "b0 10 e6 f4"  # mov al, 10h; out F4h, al


def compare(name: str, every: int = 1000, limit: int | None = None) -> Verdict:
    guest = GUESTS[name]
    if guest.scale is None:
        return UnicornComparison(MachineConfig(name)).run(every, limit)
    config = MachineConfig(guest.image(guest.scale.small), format="flat", mode=guest.mode, org=guest.org)
    return UnicornComparison(config).run(every, limit)


def compare_code(text: str, mode: int = 64, every: int = 1, limit: int | None = None) -> Verdict:
    return UnicornComparison(MachineConfig(bytes.fromhex(text), format="flat", mode=mode)).run(every, limit)


@pytest.mark.parametrize("name", [*COMPUTE, "smc", "hello16", "hello32", "hello64"])
def test_whole_runs_agree(name: str) -> None:
    verdict = compare(name)
    assert (verdict.divergence, verdict.stopped) == (None, None)
    assert verdict.ending is not None
    assert verdict.ending.reason is EndReason.DEBUG_EXIT
    assert verdict.comparisons >= verdict.instructions // 1000


def test_single_steps_agree() -> None:
    verdict = compare("strings", every=1, limit=3000)  # REP is one instruction on both sides
    assert (verdict.divergence, verdict.ending, verdict.instructions, verdict.comparisons) == (None, None, 3000, 3000)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("31 c0 31 c9 0f a2", 64),  # cpuid
        ("b9 05 00 00 00 e2 fe", 64),  # loop to itself
        ("b8 07 00 00 00 f7 e0 d3 e0 0f bc c1", 64),  # mul, shl by CL, bsf leave flags undefined
        ("a1 30 00 e0 fe", 32),  # the local APIC's version
        ("e4 80 e4 40 e4 40", 64),  # a device that counts time
        ("b9 a0 01 00 00 0f 32 0f 30 b9 77 02 00 00 0f 32 b9 80 00 00 c0 0f 32 0f 30", 64),  # rdmsr, wrmsr
        ("0f 31 90 0f 31 90 0f 01 f9", 64),  # rdtsc, rdtscp
        ("ea 05 00 c0 07 8c c8 0f 31 f3 90", 16),  # jmp 07c0:0005
        ("66 0f ef c0 b8 03 00 00 00 f3 0f 2a c0", 64),  # pxor xmm0, xmm0; cvtsi2ss xmm0, eax
        ("b8 05 00 00 00 0f 01 e8", 64),  # serialize
        ("8c d8 8e c0 8e e0", 16),
    ],
)
def test_little_programs_agree(text: str, mode: int) -> None:
    verdict = compare_code(text + EXIT, mode)
    assert (verdict.divergence, verdict.stopped) == (None, None)
    assert verdict.ending is not None
    assert verdict.ending.reason is EndReason.DEBUG_EXIT


# -- what Unicorn lacks ---------------------------------------------------------------------------------------------

TIMER = (
    "b0 11 e6 20 b0 20 e6 21 b0 04 e6 21 b0 01 e6 21 b0 fe e6 21"  # interrupt controller from vector 20h, IRQ 0 only
    "b0 34 e6 43 b0 20 e6 40 b0 00 e6 40 fb eb fe"  # timer every 32 ticks; sti; jmp to itself
)


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("90 f4", 64, "HLT: plain Unicorn has no interrupt to end it (at 0x100001)"),
        ("90 0f 0b", 64, "#UD: plain Unicorn delivers no exceptions (at 0x100001)"),
        ("31 c0 f7 f0", 32, "#DE: plain Unicorn delivers no exceptions (at 0x100002)"),
        ("a1 00 00 00 00 01 00 00 00", 64, "#PF: plain Unicorn delivers no exceptions (at 0x100000)"),  # beyond 4 GiB
        ("90 cd 10", 16, "software interrupt 0x10: plain Unicorn delivers none (at 0x7c01)"),
        ("90 0f 05", 64, "plain Unicorn does not carry out SYSCALL and SYSENTER (at 0x100001)"),
        ("31 c9 0f 32", 64, "#GP: plain Unicorn delivers no exceptions (at 0x100002)"),  # rdmsr of none
        ("0f 20 c0 0c 01 0f 22 c0 90", 16, WIDER),
        ("90 66 0f 38 82 03", 64, "plain Unicorn has no INVPCID (at 0x100001)"),
        (TIMER, 16, "an interrupt came, and plain Unicorn delivers none"),
    ],
)
def test_what_unicorn_lacks_is_named(text: str, mode: int, why: str) -> None:
    verdict = compare_code(text, mode, every=1000)
    assert (verdict.divergence, verdict.stopped) == (None, why)
    assert verdict.instructions >= (0 if why.startswith("#PF") else 1)


def test_entering_long_mode_ends_the_comparison() -> None:
    verdict = compare("kernel64")
    assert verdict.divergence is None
    assert verdict.stopped == WIDER
    assert verdict.instructions > 50  # found one by one, although a step is longer


def test_known_errors_are_passed_over_and_named() -> None:
    code = "0f 01 15 1c 00 10 00 ea 0e 00 10 00 08 00 b0 10 e6 f4 66 90" + "00 00 00 00 00 00 00 00"  # at 100000h
    code += "1f 00 24 00 10 00 00 00" + "00 00 00 00 00 00 00 00" + "ff ff 00 00 00 9a cf 00"  # lgdt; jmp 8:10000eh
    verdict = compare_code(code, 32)
    assert (verdict.divergence, verdict.stopped) == (None, None)
    assert verdict.known == ["plain Unicorn leaves the accessed bit of descriptor 0x8 clear"]


# -- differences ----------------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_lea(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's LEA of RSI gives two more."""
    right = interp.BINDERS[0x8D]

    def bind(insn: Insn, pc: int) -> Op:
        operation = right(insn, pc)

        def wrong(cpu: Cpu) -> None:
            operation(cpu)
            cpu.regs[RSI] += 2

        return wrong

    monkeypatch.setitem(interp.BINDERS, 0x8D, bind)


@pytest.mark.parametrize("every", [1, 1000])
def test_the_first_difference_is_reported(wrong_lea: None, every: int) -> None:
    divergence = compare("hello64", every).divergence
    assert divergence is not None
    assert divergence.retired == 1
    assert divergence.differences == ["rsi: interpreted 0x100013, Unicorn 0x100011 (bits 0x2)"]
    assert divergence.block == ["0x100000  lea rsi, [rip + 0xa]"]


def test_memory_is_compared_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    load = PlainUnicorn._load

    def flawed(self: PlainUnicorn) -> None:
        load(self)
        self._memory.write(0x40000, 1, 0x5A)

    monkeypatch.setattr(PlainUnicorn, "_load", flawed)
    divergence = compare("sieve").divergence
    assert divergence is not None
    assert divergence.differences == ["byte at RAM offset 0x40000: interpreted 0x0, Unicorn 0x5a (bits 0x5a)"]


def test_an_exception_of_unicorn_alone_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    run_to = PlainUnicorn.run_to

    def imagining(self: PlainUnicorn, retired: int) -> Stop | None:
        stop = run_to(self, min(retired, 1))
        return stop if stop is not None else Stop(plain.Why.EVENT, 13)

    monkeypatch.setattr(PlainUnicorn, "run_to", imagining)
    divergence = compare_code("90 90" + EXIT).divergence
    assert divergence is not None
    assert divergence.differences == ["exception at 0x100001: interpreted none, Unicorn #GP"]
