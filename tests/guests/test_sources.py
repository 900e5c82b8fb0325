"""The guests' sources, what is built from them, and what QEMU says they print."""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys
from pathlib import Path

import capstone
import pytest
import unicorn
from elftools.elf.elffile import ELFFile
from unicorn import x86_const

from guests import SUFFIXES, Guest, HeaderError, catalogue, linux_programs, parse_header, qemu
from guests.assembler import AssemblyError, assemble
from guests.build import build, build_program, main, same_bytes

GUESTS = catalogue()
PROGRAMS = linux_programs()
NAMES = sorted(GUESTS)
COMPUTE = [name for name in NAMES if "compute" in GUESTS[name].tags]
SMALL_RUN = 30_000  # instructions


def assembled(source: str, origin: int = 0x1000, bits: int = 64) -> bytes:
    return assemble("test.s", lambda _: source, origin, bits).image


# ---- images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_committed_image_is_what_its_source_builds(name: str) -> None:
    assert GUESTS[name].path.read_bytes() == build(GUESTS[name])


@pytest.mark.parametrize("name", PROGRAMS)
def test_committed_program_is_what_its_source_builds(name: str) -> None:
    assert PROGRAMS[name].path.read_bytes() == build(PROGRAMS[name])


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="no x86-64 Linux")
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_host_prints_what_a_programs_header_expects(name: str, tmp_path: Path) -> None:
    program = tmp_path / name
    program.write_bytes(PROGRAMS[name].image())
    program.chmod(0o700)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, PROGRAMS[name].expect)


def test_no_image_without_a_source() -> None:
    folder = GUESTS["hello64"].path.parent
    assert sorted(p.name for p in folder.iterdir()) == sorted(GUESTS[n].path.name for n in NAMES)


def test_check_reports_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = build(GUESTS["hello64"])
    path = tmp_path / "hello64.bin"
    assert not same_bytes(path, image)
    path.write_bytes(image[:5] + b"\xcc" + image[6:])
    assert not same_bytes(path, image)
    assert "offset 0x5" in capsys.readouterr().err
    path.write_bytes(image)
    assert same_bytes(path, image)


def test_build_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "hello16", "kernel32"]) == 0
    assert main(["--check", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n in NAMES if GUESTS[n].container == "elf"])
def test_elf_images_read_back(name: str) -> None:
    guest, program = GUESTS[name], build_program(GUESTS[name])
    elf = ELFFile(io.BytesIO(guest.path.read_bytes()))
    (segment,) = elf.iter_segments()
    table = elf.get_section_by_name(".symtab")
    symbols = {s.name: s["st_value"] for s in table.iter_symbols() if s.name}
    assert elf.elfclass == guest.mode
    assert elf["e_entry"] == program.symbols["_start"]
    assert (segment["p_vaddr"], segment.data()) == (guest.org, program.image)
    assert symbols == program.symbols


def test_boot_image_is_whole_sectors_with_a_signature() -> None:
    image = GUESTS["bootbios"].image()
    assert image[510:512] == b"\x55\xaa"
    assert len(image) == 64 * 512


# ---- headers ---------------------------------------------------------------------------------------------------


def test_catalogue_fields() -> None:
    for name, guest in GUESTS.items():
        assert guest.name == name
        assert guest.path.suffix == SUFFIXES[guest.container]
        assert guest.mode in (16, 32, 64)
        assert guest.summary
        assert guest.expect.endswith("\n")
        assert guest.exit_code == guest.success_code == 33
        assert set(guest.tags) < {"system", "compute", "nano"}
    assert GUESTS["bootbios"].expect.count("\r\n") == GUESTS["bootbios"].expect.count("\n")


@pytest.mark.parametrize("name", COMPUTE)
def test_scale_lies_where_the_header_says(name: str) -> None:
    guest = GUESTS[name]
    assert guest.scale is not None
    at = guest.scale.offset
    image, small = guest.image(), guest.image(guest.scale.small)
    assert int.from_bytes(image[at : at + 4], "little") == guest.scale.default
    assert int.from_bytes(small[at : at + 4], "little") == guest.scale.small == guest.small_scale
    assert small[:at] + small[at + 4 :] == image[:at] + image[at + 4 :]


def test_scale_of_a_guest_without_one() -> None:
    assert GUESTS["hello64"].small_scale is None
    with pytest.raises(ValueError, match="no iteration count"):
        GUESTS["hello64"].image(5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("guest: x", "guest: y"), "names guest 'y'"),
        (("format: flat", "format: floppy"), "unknown format 'floppy'"),
        (("mode: 64", "mode: wide"), "'mode' is missing or no number"),
        (("org: 0x1000", "colour: red"), "unknown header field 'colour'"),
        (("; expect:", "; note:"), "no expect block"),
        (("org: 0x1000", "org: 0x1000\n; newline: cr"), "not lf or crlf"),
        (("org: 0x1000", "org: 0x1000\n; scale: many"), "'scale' is not"),
        (("org: 0x1000", "org: 0x1000\n; container: box"), "unknown container 'box'"),
        (("org: 0x1000", "org: 0x1000\n; qemu-line: x"), "does not open with a line number"),
    ],
)
def test_malformed_headers_are_refused(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    source = tmp_path / "x.s"
    header = "; guest: x\n; format: flat\n; mode: 64\n; org: 0x1000\n; expect:\n;   text\n\nnop\n"
    source.write_text(header)
    assert parse_header(source).expect == "text\n"
    source.write_text(header.replace(*change))
    with pytest.raises(HeaderError, match=complaint):
        parse_header(source)


# ---- the assembler ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "source", "expected"),
    [
        (64, "mov eax, 10", "b80a000000"),  # decimal is decimal
        (64, "x: mov ecx, dword ptr [x]", "8b0dfaffffff"),  # relative to RIP
        (64, "mov dword ptr [x], 1\nx:", "c7050000000001000000"),  # counted from behind the immediate
        (64, "mov rsp, qword ptr gs:[8]", "65488b242508000000"),  # absolute behind a segment override
        (64, "jmp x\n.space 3\nx:", "eb03000000"),
        (64, "jmp x\n.space 128\nx:", "e980000000" + "00" * 128),
        (64, "sysretq\nsysret", "480f070f07"),
        (32, "iret\npush ds\nrep movsd", "cf1ef3a5"),
        (32, "ljmp 8:x\nx:", "ea071000000800"),
        (32, "lgdt [0x1234]", "0f011534120000"),
        (16, "call x\nret\nx:", "e80100c3"),
        (16, "jz x\n.space 200\nx:", "0f84c800" + "00" * 200),
        (16, "ljmp 0:x\nx:", "ea05100000"),
        (32, ".mode 64\ninc eax\n.mode 32\ninc eax", "ffc040"),
        (64, ".byte 1, -1, 'A'\n.word 0x1234\n.asciz \"a;\\n\"", "01ff413412613b0a00"),
        (64, "nop\n.align 4\n.long $\n.org 0x100a\nnop", "9090909004100000" + "0000" + "90"),
        (64, ".macro add2 r, v\nadd \\r, \\v * 2\n.endm\nadd2 ecx, 3", "83c106"),
        (64, ".macro twice i\nl\\@: \\i\njmp l\\@\n.endm\ntwice {mov eax, ecx}\ntwice nop", "89c8ebfc90ebfd"),
        (64, "a: jmp .x\n.x: nop\nb: jmp .x\n.x: nop", "eb0090eb0090"),
        (64, "out PORT, al\n.equ PORT, 0x64", "e664"),  # defined behind its use
    ],
)
def test_assembler_gives_the_manuals_bytes(bits: int, source: str, expected: str) -> None:
    assert assembled(source, bits=bits).hex() == expected


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nop\nfrobnicate eax", "test.s:2: .*frobnicate"),
        ("jmp nowhere", "undefined symbol 'nowhere'"),
        ("x: nop\nx: nop", "test.s:2: symbol 'x' is defined twice"),
        ("nop\nnop\n.org 0x1001", "test.s:3: .org 0x1001 lies 1 bytes behind"),
        (".mode 128", "test.s:1: no mode 128"),
        (".frob", "test.s:1: unknown directive .frob"),
        (".macro m a\nnop\n.endm\nm 1, 2", "test.s:4: macro m takes 1 operands, not 2"),
    ],
)
def test_assembler_names_the_line_at_fault(source: str, complaint: str) -> None:
    with pytest.raises(AssemblyError, match=complaint):
        assembled(source)


# ---- the compute set on plain Unicorn --------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPUTE)
def test_small_compute_run_is_short_and_unprivileged(name: str) -> None:
    """At most 30,000 instructions, none of them privileged before the console output but matmul's CR4 prologue."""
    guest = GUESTS[name]
    assert guest.scale is not None
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    machine.mem_map(0, guest.memory << 20)
    machine.mem_write(guest.org, guest.image(guest.scale.small))
    machine.reg_write(x86_const.UC_X86_REG_RSP, 0x9F000)
    addresses: list[int] = []
    console: list[str] = []
    first_port: list[int] = []

    def port_in(_: unicorn.Uc, port: int, size: int, __: object) -> int:
        first_port.append(len(addresses))
        assert (port, size) == (0x3FD, 1)
        return 0x20

    def port_out(engine: unicorn.Uc, port: int, _: int, value: int, __: object) -> None:
        if port == 0xF4:
            assert value == 0x10
            engine.emu_stop()
        else:
            assert port == 0x3F8
            console.append(chr(value))

    machine.hook_add(unicorn.UC_HOOK_CODE, lambda engine, address, size, _: addresses.append(address))
    machine.hook_add(unicorn.UC_HOOK_INSN, port_in, None, 1, 0, x86_const.UC_X86_INS_IN)
    machine.hook_add(unicorn.UC_HOOK_INSN, port_out, None, 1, 0, x86_const.UC_X86_INS_OUT)
    machine.emu_start(guest.org, 0)

    assert "".join(console) == guest.expect_small
    assert len(addresses) <= SMALL_RUN
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    privileged = set()
    for address in set(addresses[: first_port[0] - 1]):
        insn = next(decoder.disasm(bytes(machine.mem_read(address, 15)), address, 1))
        if capstone.CS_GRP_PRIVILEGE in insn.groups:
            privileged.add(f"{insn.mnemonic} {insn.op_str}")
    assert privileged == ({"mov rax, cr4", "mov cr4, rax"} if name == "matmul" else set())


# ---- QEMU, the judge -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> None:
    if not qemu.available():
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(f"{qemu.PROGRAM} is not installed, and VEMU_CI=1 asks for it")
        pytest.skip(f"{qemu.PROGRAM} is not installed")


def check_under_qemu(guest: Guest, scale: int | None, expect: str) -> None:
    outcome = qemu.run(guest, scale)
    assert outcome.status == guest.exit_code
    assert outcome.shows(guest, expect), outcome.console


@pytest.mark.usefixtures("judge")
@pytest.mark.parametrize("name", NAMES)
def test_qemu_prints_what_the_header_expects(name: str) -> None:
    check_under_qemu(GUESTS[name], None, GUESTS[name].expect)


@pytest.mark.usefixtures("judge")
@pytest.mark.parametrize("name", COMPUTE)
def test_qemu_prints_what_the_header_expects_of_a_small_run(name: str) -> None:
    check_under_qemu(GUESTS[name], GUESTS[name].small_scale, GUESTS[name].expect_small)


@pytest.mark.usefixtures("judge")
def test_qemu_tells_a_wrong_expectation() -> None:
    outcome = qemu.run(GUESTS["hello64"])
    assert not outcome.shows(GUESTS["hello64"], GUESTS["hello64"].expect + "more\n")
    assert not qemu.Outcome(0, outcome.console).shows(GUESTS["hello64"], GUESTS["hello64"].expect)
    boot = qemu.run(GUESTS["bootbios"])
    assert not boot.shows(GUESTS["bootbios"], GUESTS["bootbios"].expect.replace("refused", "granted"))
