"""20,000 seeded instructions on the real CPU, the interpreter and the translator, and tests of what compares them."""

from __future__ import annotations

import dataclasses
import os
import random
import struct
from collections.abc import Iterator

import pytest

from isa.x86.state import CF, RAX, RCX, RDI
from tests.differential import generate
from tests.differential.campaign import ENGINES, Campaign, Result
from tests.differential.compare import decode, differences
from tests.differential.explain import DISAGREEMENTS, explain
from tests.differential.guests import Interpreted, Translated
from tests.differential.harness import LOST, TIMEOUT, Case, RealCpu, unavailable
from tests.differential.layout import DATA, DATA_SIZE, END, FIXED, FIXED_BYTES, MODES
from tests.differential.shrink import shrink
from tests.differential.values import image

COUNT, SEED = 20_000, 1
_PENDING = struct.pack("<HHB19xI484x", 0x37E, 0x8081, 0xFF, 0x1F80)  # an unmasked invalid operation happened
_WHY = unavailable()
_CI = os.environ.get("VEMU_CI") == "1"
pytestmark = pytest.mark.skipif(bool(_WHY) and not _CI, reason=_WHY)


@pytest.fixture(scope="module")
def real() -> Iterator[RealCpu]:
    with RealCpu() as cpu:
        yield cpu


@pytest.fixture(scope="module")
def result() -> Iterator[Result]:
    campaign = Campaign()
    try:
        campaign.run(SEED, 0, COUNT)
        yield campaign.result
    finally:
        campaign.close()


def case(code: str, mode: str = "64", **regs: int) -> Case:
    """A case with zeros everywhere but in the registers named (as `r1` and so on)."""
    values = [0] * 16
    for name, value in regs.items():
        values[int(name[1:])] = value
    return Case("", MODES[mode], bytes.fromhex(code), 3, values, 0x202, bytes(512), bytes(DATA_SIZE), False)


# -- the comparison ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_unexplained_difference(result: Result) -> None:
    assert result.cases == COUNT
    assert [f"{failure.text()}: {failure.command()}" for failure in result.failures] == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_row_of_the_instruction_tables_is_executed(result: Result, engine: str) -> None:
    assert result.missing(engine) == []


@pytest.mark.slow
def test_most_cases_complete_and_every_kind_of_fault_is_seen(result: Result) -> None:
    assert result.completed > COUNT * 0.75
    assert {0, 5, 6, 12, 13, 14, 16, 17, 19} <= result.vectors.keys()


@pytest.mark.slow
def test_the_translator_leaves_little_to_the_interpreter(result: Result) -> None:
    assert sum(result.copied.values()) > COUNT * 0.7


# -- that it can fail --------------------------------------------------------------------------------------------------


class Wrong(Interpreted):
    """Adds one too much to 32-bit results where RCX is odd."""

    def _execute(self) -> tuple[int, int | None, int | None]:
        odd = self.cpu.regs[RCX] & 1
        ended = super()._execute()
        if odd:
            self.cpu.regs[RAX] ^= 4
        return ended


def test_a_wrong_engine_is_found_and_its_case_shrunk(real: RealCpu) -> None:
    wrong = Wrong()

    def fails(one: Case) -> bool:
        return "rax" in differences(one, decode(one), real.run([one])[0], wrong.run(one))

    numbers = [number for number in range(300) if fails(generate.case(5, number, ("64",)))]
    assert len(numbers) > 50
    small = shrink(generate.case(5, numbers[0], ("64",)), fails)
    assert small.regs[RCX] == 1
    assert sum(bool(value) for value in small.regs) <= 3
    wrong.close()


def test_flags_data_and_faults_are_compared() -> None:
    one = case("01c8")
    guest = Interpreted()
    right = guest.run(one)
    insn = decode(one)
    guest.close()
    assert differences(one, insn, right, right) == {}
    data = bytearray(right.data)
    data[5] = 1
    changes = {
        "vector": dataclasses.replace(right, vector=6),
        "error": dataclasses.replace(right, error=1),
        "cr2": dataclasses.replace(right, cr2=8),
        "rip": dataclasses.replace(right, rip=right.rip + 1),
        "flags": dataclasses.replace(right, flags=right.flags ^ CF),
        "data+0x5": dataclasses.replace(right, data=bytes(data)),
    }
    for name, changed in changes.items():
        assert list(differences(one, insn, right, changed)) == [name]


def test_vector_state_is_compared() -> None:
    one = dataclasses.replace(case("90"), fx=image(random.Random(1), "f32"), vector=True)
    guest = Interpreted()
    right = guest.run(one)
    guest.close()
    for at, name in ((0, "fcw"), (2, "fsw"), (4, "ftw"), (24, "mxcsr"), (32 + 16 * 3, "st3"), (160 + 16 * 15, "xmm15")):
        changed = bytearray(right.fx)
        changed[at] ^= 1
        found = differences(one, decode(one), right, dataclasses.replace(right, fx=bytes(changed)))
        assert list(found) == [name]


def test_an_explanation_covers_its_fields_only() -> None:
    one = case("0f52c1")  # rsqrtps xmm0, xmm1
    guest = Interpreted()
    right = guest.run(one)
    guest.close()
    _, left = explain("interpret", one, decode(one), right, right, {"xmm0": (1, 2), "rax": (1, 2)})
    assert left == {"rax": (1, 2)}


def test_explanations_have_names_and_reasons() -> None:
    names = [disagreement.name for disagreement in DISAGREEMENTS]
    assert len(set(names)) == len(names)
    assert all(len(disagreement.reason) > 20 for disagreement in DISAGREEMENTS)


# -- the generator -----------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_cases_again() -> None:
    once = [generate.case(9, number, tuple(MODES)) for number in range(200)]
    assert once == [generate.case(9, number, tuple(MODES)) for number in range(200)]
    assert once != [generate.case(10, number, tuple(MODES)) for number in range(200)]


def test_cases_do_not_depend_on_their_number_of_predecessors() -> None:
    assert generate.case(9, 77, ("64",)).code == generate.case(9, 77, ("64",)).code
    assert all(len(generate.case(9, number, tuple(MODES)).code) <= 15 for number in range(2000))


# -- the harness -------------------------------------------------------------------------------------------------------


def test_the_harness_runs_here() -> None:
    assert _WHY == ""  # under VEMU_CI a machine without the harness is an error


def test_an_endless_loop_is_interrupted(real: RealCpu) -> None:
    spin, plain = real.run([case("ebfe"), case("01c8", r0=2, r1=3)])
    assert spin.vector == TIMEOUT
    assert (plain.vector, plain.regs[RAX]) == (13, 5)


def test_a_case_that_ends_the_process_takes_nobody_with_it(real: RealCpu) -> None:
    leave = case("0f05", r0=231)  # the system call exit_group
    before, lost, after = real.run([case("ffc0", r0=6), leave, case("ffc0", r0=8)])
    assert (before.regs[RAX], after.regs[RAX]) == (7, 9)
    assert lost.vector == LOST


def test_a_case_that_changes_fs_and_gs_harms_no_other(real: RealCpu) -> None:
    wild = case("f3480faed8", r0=0x1234_5678)  # wrgsbase rax
    load = case("658b00")  # mov eax, gs:[rax]
    _, after = real.run([wild, load])
    assert after.rip != load.rip


@pytest.mark.parametrize("mode", list(MODES))
def test_every_mode_is_entered(real: RealCpu, mode: str) -> None:
    if mode not in real.modes:
        pytest.skip("this kernel gives no LDT")
    one = case("ffc0", mode, r0=0xFFFF_FFFF_FFFF)
    assert real.run([one])[0].regs[RAX] == {"64": 0, "16": 0xFFFF0000}.get(mode, 0)


def test_the_real_cpu_names_faults(real: RealCpu) -> None:
    read, write, divide = real.run([case("8b07", r7=DATA - 8), case("8907", r7=DATA + DATA_SIZE), case("f7f1")])
    assert (read.vector, read.error, read.cr2) == (14, 4, DATA - 8)
    assert (write.vector, write.error, write.cr2) == (14, 7, DATA + DATA_SIZE)
    assert (divide.vector, divide.error, divide.cr2) == (0, None, None)


# -- what campaigns found: one case each ------------------------------------------------------------------------------

FOUND = [
    ("64", "0fc2c408", "CMPPS changes no flags that a budget may clobber"),
    ("64", "660f3a60ffff", "PCMPESTRM with a length of -2**31 leaves the process alive"),
    ("64", "67637526", "MOVSXD without REX.W with 67"),
    ("64", "660f8034ff1122", "Jcc ignores 66"),
    ("64", "f34190", "PAUSE ignores REX.B"),
    ("64", "66f390", "PAUSE ignores 66"),
    ("64", "660f1ed7", "reserved no-operations"),
    ("64", "3666460fed2c1d6109f110", "a segment override does not change the vector in 64-bit mode"),
    ("64", "664c0f38f09a4ff9ffff", "MOVBE with 66 and REX.W"),
    ("64", "dcd1", "FCOM by its alias"),
    ("64", "0f3801f2", "PHADDW of MMX registers resets the x87 top of stack"),
    ("64", "660f3801c9", "PHADDW of a register with itself"),
    ("64", "0f77", "EMMS resets the x87 top of stack"),
    ("64", "0f2a7a64", "CVTPI2PS from memory enters no MMX mode"),
    ("64", "459f", "LAHF with REX"),
    ("64", "f0f69a9c070000", "the flags of LOCK NEG"),
    ("64", "c4e20bf5df", "PDEP zeroes the upper half"),
    ("64", "c4e278f3d9", "the carry flag of BLSI"),
    ("64", "c8cc8480", "ENTER tries the new top of the stack"),
    ("32-limits", "3f", "AAS reads AF"),
    ("32", "27", "DAA reads AF"),
    ("16", "660f3808b36bfc", "SSSE3 in 16-bit code"),
    ("16", "660f38f6ca", "ADCX in 16-bit code"),
    ("16", "0f38f045b8", "MOVBE in 16-bit code"),
    ("16", "f30fb8d0", "POPCNT in 16-bit code"),
]


@pytest.mark.parametrize(("mode", "code", "what"), FOUND, ids=[what for _, _, what in FOUND])
def test_found_by_a_campaign(real: RealCpu, mode: str, code: str, what: str) -> None:
    if mode not in real.modes:
        pytest.skip("this kernel gives no LDT")
    rng = random.Random(4)
    cases = []
    for number in range(24):
        regs = [rng.choice((0, 0x7FFF_FFFF, 0x8000_0000, DATA + 0x800, rng.getrandbits(64))) for _ in range(16)]
        regs[RDI] = DATA + 0x1000
        state = image(rng, "int") if number else image(rng, "x87")
        regs = [value & MODES[mode].mask if mode == "64" or n < 8 else 0 for n, value in enumerate(regs)]
        cases.append(Case(what, MODES[mode], bytes.fromhex(code), number, regs, 0x202 | rng.getrandbits(12) & 0x8D5,
                          state, rng.randbytes(DATA_SIZE)))  # fmt: skip
    outcomes = real.run(cases)
    for make in (Interpreted, Translated):
        guest = make()
        for one, right in zip(cases, outcomes, strict=True):
            mine = guest.run(one)
            insn = decode(one)
            unlike = differences(one, insn, right, mine)
            _, left = explain(guest.name, one, insn, right, mine, unlike)
            assert left == {}, f"{guest.name}: {insn!r}"
        guest.close()


def test_edges_found_by_campaigns(real: RealCpu) -> None:
    lower = int.from_bytes(FIXED_BYTES[-4:], "little", signed=True)
    missed = case("6207", "32", r7=END - 4, r0=lower - 1 & 0xFFFF_FFFF)  # bound eax, [edi]: the upper bound is away
    over = case("9d", "32-limits", r4=0x30CE)  # popf beyond the limit of SS
    store = case("0f1107", r7=FIXED - 3)  # movups [rdi], xmm0: half of it is read-only
    wait = dataclasses.replace(case("d807", r7=END), fx=_PENDING, vector=True)  # fadd dword ptr [rdi], #MF pending
    for one in (missed, over, store, wait):
        if one.mode.name not in real.modes:
            continue
        (right,) = real.run([one])
        for make in (Interpreted, Translated):
            guest = make()
            mine = guest.run(one)
            guest.close()
            insn = decode(one)
            _, left = explain(guest.name, one, insn, right, mine, differences(one, insn, right, mine))
            assert left == {}, f"{guest.name}: {insn!r}"
