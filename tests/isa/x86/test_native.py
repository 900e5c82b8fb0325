"""The hand-off of x87, MMX and SSE instructions: checks, operands, and results against plain Unicorn."""

from __future__ import annotations

import random
import struct

import pytest
import unicorn
from unicorn import x86_const as ux

from emu.backends.unicorn import UnicornBackend
from emu.bus import Bus
from emu.memory import GuestMemory
from isa.base import Flow, GuestFault
from isa.x86 import sensitive, vector
from isa.x86.cpu import Cpu
from isa.x86.decode import Decoder, Insn
from isa.x86.interp import bind
from isa.x86.state import (
    AC_FAULT,
    AF,
    ARITH,
    CR0_EM,
    CR0_MP,
    CR0_NE,
    CR0_TS,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    GP,
    MF,
    NM,
    OF,
    PAGE_FAULT,
    RBX,
    RDI,
    SF,
    UD,
    Segment,
)

CODE, DATA, TABLES = 0x1000, 0x8000, 0x80000
READ_ONLY, ABSENT = 0x20_0000, 0x40_0000


class Device:
    """Notes every access to the VGA hole."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append(("read", offset, size))
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append(("write", offset, size))


class Machine:
    """A CPU with a unit, flat; in 64-bit mode READ_ONLY is what it says and ABSENT is not mapped."""

    def __init__(self, mode: int = 64) -> None:
        self.device = Device()
        bus = Bus("memory")
        bus.attach(0xA0000, 0x1000, self.device)
        self.memory = GuestMemory(8 << 20, bus)
        self.cpu = cpu = Cpu(self.memory, None, UnicornBackend().native)  # type: ignore[arg-type]  # nothing outside is asked
        cpu.mode = mode
        cpu.cr0, cpu.cr4 = 1 | CR0_NE | CR0_MP, CR4_OSFXSR | CR4_OSXMMEXCPT
        attr = 0x93 if mode == 16 else 0xC093
        cpu.segs = [Segment(8, 0, 0xFFFFFFFF, attr) for _ in range(6)]
        cpu.segs[1].attr = {16: 0x9B, 32: 0xC09B, 64: 0xA09B}[mode]
        if mode == 64:
            cpu.cr0 |= 1 << 31 | 1 << 16
            cpu.cr4 |= CR4_PAE
            cpu.efer, cpu.cr3 = 0x500, TABLES
            self.memory.write(TABLES, 8, TABLES + 0x1003)
            self.memory.write(TABLES + 0x1000, 8, TABLES + 0x2003)
            self.memory.write(TABLES + 0x2000, 8, 0x83)
            self.memory.write(TABLES + 0x2008, 8, READ_ONLY | 0x81)
        cpu.flush_tlb(None)
        self.decoder = Decoder(mode)

    def decode(self, code: str) -> Insn:
        insn = self.decoder.decode(bytes.fromhex(code).ljust(15, b"\x90"))
        assert insn is not None
        return insn

    def run(self, *codes: str) -> None:
        for code in codes:
            bind(self.decode(code), CODE)(self.cpu)

    def fault(self, code: str) -> int:
        """The vector of an instruction that must fault and leave the unit, the registers and the flags alone."""
        assert self.cpu.native is not None
        before = self.cpu.native.save(), list(self.cpu.regs), self.cpu.rflags
        with pytest.raises(GuestFault) as caught:
            self.run(code)
        assert (self.cpu.native.save(), list(self.cpu.regs), self.cpu.rflags) == before
        return caught.value.vector

    def image(self) -> bytes:
        assert self.cpu.native is not None
        return self.cpu.native.save()


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.cpu.regs[RBX] = DATA
    return machine


# -- against plain Unicorn --------------------------------------------------------------------------------------------


def _instructions() -> list[bytes]:
    """Every SSE, MMX and x87 encoding with [RBX], and with registers, that the guest's CPUID allows."""
    decoder, found = Decoder(64), []
    maps = [(b"\x0f", range(0x10, 0x100)), (b"\x0f\x38", range(0xF0)), (b"\x0f\x3a", range(0x100))]
    for escape, opcodes in maps:
        for opcode in opcodes:
            if escape == b"\x0f" and opcode in (0x38, 0x3A):
                continue
            for prefix in (b"", b"\x66", b"\xf3", b"\xf2"):
                for rex in (b"", b"\x48"):
                    for modrm in (0x03, 0xD1):
                        code = prefix + rex + escape + bytes((opcode, modrm, 0x05))
                        insn = decoder.decode(code.ljust(15, b"\0"))
                        if insn is None or insn.flow is Flow.INVALID or sensitive.row_of(insn) or insn.vex:
                            continue
                        if vector.is_vector(insn) and insn.opcode not in (0x0FF7, 0x0FAE):
                            found.append(insn.raw)
    x87 = [bytes((op, modrm)) for op in range(0xD8, 0xE0) for modrm in (*range(0x03, 0x40, 8), *range(0xC1, 0x100, 3))]
    for code in x87:
        insn = decoder.decode(code.ljust(15, b"\0"))
        if insn is not None and insn.flow is not Flow.INVALID:
            found.append(insn.raw)
    return found


class Judge:
    """Plain Unicorn over the same addresses."""

    def __init__(self) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.ctl_set_cpu_model(ux.UC_CPU_X86_BROADWELL)
        self.uc.mem_map(0, 0x10000)
        self.uc.reg_write(ux.UC_X86_REG_CR0, 0x33)
        self.uc.reg_write(ux.UC_X86_REG_CR4, 0x600)
        names = ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", *range(8, 16))
        self.names = [getattr(ux, f"UC_X86_REG_R{n}") for n in names]

    def run(self, code: bytes) -> bool:
        """Execute one instruction at CODE; False where it is undefined."""
        self.uc.mem_write(CODE, code)
        self.uc.ctl_remove_cache(CODE, CODE + 0x100)
        try:
            self.uc.emu_start(CODE, CODE + len(code), count=1)
        except unicorn.UcError as error:
            if error.errno != unicorn.UC_ERR_INSN_INVALID:
                raise
            return False
        return True


def _comparable(image: bytes) -> bytes:
    """What FXSAVE stores but for what only the unit tells, exception flags, and opcode and pointers, which it hides."""
    return image[:2] + bytes((image[2] & 0xC0,)) + image[3:6] + bytes((image[24] & 0xC0,)) + image[25:416]


def test_agrees_with_unicorn(machine: Machine) -> None:
    rng, judge, cpu, agreed = random.Random("native"), Judge(), machine.cpu, 0
    assert cpu.native is not None
    fresh = machine.image()
    for code in _instructions():
        insn = machine.decode(code.hex())
        image = bytearray(fresh)
        image[32:416] = rng.randbytes(384)
        for n in range(8):
            image[42 + 16 * n : 48 + 16 * n] = bytes(6)  # reserved
        image[4] = rng.getrandbits(8)  # tags
        regs = [rng.getrandbits(64) for _ in range(16)]
        regs[RBX] = DATA
        data = rng.randbytes(512)
        flags = rng.getrandbits(12) & ARITH
        judge.uc.mem_write(DATA, data)
        judge.uc.mem_write(DATA + 0x1000, bytes(image))  # from where FXRSTOR takes the judge's state
        judge.uc.reg_write(ux.UC_X86_REG_RBX, DATA + 0x1000)
        assert judge.run(b"\x48\x0f\xae\x0b")
        for name, value in zip(judge.names, regs, strict=True):
            judge.uc.reg_write(name, value)
        judge.uc.reg_write(ux.UC_X86_REG_EFLAGS, flags | 2)
        if vector.forgets_mmx(insn) or insn.opcode == vector.EMMS:
            judge.run(vector.TOUCH_MMX)  # what processors do and Unicorn omits
        defined = judge.run(code)
        wanted_regs = [judge.uc.reg_read(name) for name in judge.names]
        wanted_flags = judge.uc.reg_read(ux.UC_X86_REG_EFLAGS) & ARITH
        wanted_data = bytes(judge.uc.mem_read(DATA, 512))
        judge.uc.reg_write(ux.UC_X86_REG_RBX, DATA + 0x1000)
        assert judge.run(b"\x48\x0f\xae\x03")
        wanted_image = bytes(judge.uc.mem_read(DATA + 0x1000, 416))

        if insn.opcode == 0x0F2A and not insn.rep and insn.modrm < 0xC0:  # CVTPI2PS, CVTPI2PD enter MMX mode in Unicorn
            wanted_image = bytes(image[:6]) + wanted_image[6:32] + bytes(image[32:160]) + wanted_image[160:]

        machine.memory.write_bytes(DATA, data)
        cpu.native.load(bytes(image))
        cpu.regs[:], cpu.rflags = regs, flags | 2
        if not defined or (insn.opcode == 0x0FC3 and code[0] in (0x66, 0xF2, 0xF3)):  # MOVNTI takes no prefix
            with pytest.raises(GuestFault) as caught:
                bind(insn, CODE)(cpu)
            assert caught.value.vector == UD, insn
            continue
        bind(insn, CODE)(cpu)
        if insn.opcode in (0xDB, 0xDF) and 0xE8 <= insn.modrm <= 0xF7:
            wanted_flags &= ~(OF | SF | AF)  # as the manual says of FCOMI; Unicorn leaves them
        if insn.opcode in (0xD9, 0xDD) and insn.modrm >> 3 == 6:  # FNSTENV, FNSAVE: where Unicorn itself executed
            wanted_data = wanted_data[:12] + bytes(16) + wanted_data[28:]
        assert cpu.regs == wanted_regs, insn
        assert cpu.rflags & ARITH == wanted_flags, insn
        assert machine.memory.read_bytes(DATA, 512) == wanted_data, insn
        assert _comparable(machine.image()) == _comparable(wanted_image), insn
        agreed += 1
    assert agreed > 800


# -- checks -----------------------------------------------------------------------------------------------------------

FADD, PADDB, ADDPS, FXSAVE = "d803", "0ffcc1", "0f58c1", "0fae03"


@pytest.mark.parametrize(
    ("cr0", "code", "vector"),
    [
        (CR0_EM, FADD, NM), (CR0_EM, PADDB, UD), (CR0_EM, ADDPS, UD), (CR0_EM, FXSAVE, UD),
        (CR0_TS, FADD, NM), (CR0_TS, PADDB, NM), (CR0_TS, ADDPS, NM), (CR0_TS, FXSAVE, NM),
        (CR0_TS, "9b", NM),
    ],
)  # fmt: skip
def test_control_bits_of_cr0(machine: Machine, cr0: int, code: str, vector: int) -> None:
    machine.cpu.cr0 |= cr0
    assert machine.fault(code) == vector


def test_wait_needs_mp_to_trap(machine: Machine) -> None:
    machine.cpu.cr0 = machine.cpu.cr0 & ~CR0_MP | CR0_TS
    machine.run("9b")


def test_sse_needs_osfxsr_and_the_rest_does_not(machine: Machine) -> None:
    machine.cpu.cr4 &= ~CR4_OSFXSR
    # addps, pshufb xmm, cvtpi2ps, movq2dq, ldmxcsr, movdqu
    for code in (ADDPS, "660f3800c1", "0f2ac1", "f30fd6c1", "0fae13", "f30f6f03"):
        assert machine.fault(code) == UD
    machine.run(FADD, PADDB, "0f3800c1", "0fc4c101", FXSAVE, "0fc303")  # pshufb mm, pinsrw mm, movnti


def test_movnti_asks_for_no_unit(machine: Machine) -> None:
    machine.cpu.cr0 |= CR0_EM | CR0_TS
    machine.cpu.regs[0] = 0x1122334455667788
    machine.run("480fc303")
    assert machine.memory.read(DATA, 8) == 0x1122334455667788


@pytest.mark.parametrize(
    "code", ["0f2803", "660f6f03", "0f2903", "660fe703", "0f5803", "660f382a03", "0fae03", "0fae0b"]
)
def test_aligned_operands(machine: Machine, code: str) -> None:
    machine.run(code)
    machine.cpu.regs[RBX] += 8
    assert machine.fault(code) == GP


@pytest.mark.parametrize(
    "code", ["0f1003", "f30f6f03", "f30f7f03", "f20ff003", "660f2f03", "660f3a630300", "f20f5803", "0f1203"]
)
def test_unaligned_operands(machine: Machine, code: str) -> None:
    machine.cpu.regs[RBX] += 1
    machine.run(code)


def test_alignment_is_that_of_the_linear_address() -> None:
    machine = Machine(32)
    machine.cpu.segs[3].base = 8
    machine.cpu.regs[RBX] = DATA
    assert machine.fault("0f2803") == GP
    machine.cpu.regs[RBX] = DATA + 8
    machine.run("0f2803")


def _divide_by_zero(machine: Machine) -> None:
    machine.memory.write(DATA, 2, 0x37B)
    machine.run("d92b", "d9e8", "d9ee", "def9")  # fldcw, fld1, fldz, fdivp


@pytest.mark.parametrize("code", ["d9e8", "d803", "9b", PADDB, "0f77", "0f2cc1", "f30fd6c1", "0ff7c1", "dd1b"])
def test_a_pending_exception_is_raised_first(machine: Machine, code: str) -> None:
    _divide_by_zero(machine)
    assert machine.fault(code) == MF


# fnclex, fninit, fnstsw ax, fnstcw, fnstsw, fnstenv, fnsave, fxsave, addps, cvtpi2pd from memory
@pytest.mark.parametrize("code", ["dbe2", "dbe3", "dfe0", "d93b", "dd3b", "d933", "dd33", FXSAVE, ADDPS, "660f2a03"])
def test_what_does_not_wait(machine: Machine, code: str) -> None:
    _divide_by_zero(machine)
    machine.run(code)


def test_without_ne_nothing_is_raised(machine: Machine) -> None:
    machine.cpu.cr0 &= ~CR0_NE
    _divide_by_zero(machine)
    machine.run("d9e8", "9b")


@pytest.mark.parametrize("code", ["0fae13", "0fae0b"])
def test_reserved_bits_of_mxcsr(machine: Machine, code: str) -> None:
    machine.memory.write(DATA + (24 if code.endswith("0b") else 0), 4, 0x11F80)
    assert machine.fault(code) == GP


def test_a_machine_without_a_unit(machine: Machine) -> None:
    machine.cpu.native = None
    with pytest.raises(GuestFault) as caught:
        machine.run("d9e8")
    assert caught.value.vector == UD


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["dd1b", "dd33", "db3b", "0f1103", "f20f1103", "660f3a160301", FXSAVE])
def test_a_store_that_faults_changes_nothing(machine: Machine, code: str) -> None:
    machine.run("d9e8", "d9e8")
    for address in (READ_ONLY, ABSENT):
        machine.cpu.regs[RBX] = address
        assert machine.fault(code) == PAGE_FAULT


def test_a_store_over_the_edge_of_a_page(machine: Machine) -> None:
    machine.run("d9e8")
    machine.cpu.regs[RBX] = READ_ONLY - 4
    assert machine.fault("dd1b") == PAGE_FAULT
    assert machine.memory.read(READ_ONLY - 4, 4) == 0


def test_stores_do_not_read_and_loads_do_not_write(machine: Machine) -> None:
    machine.cpu.regs[RBX] = 0xA0010
    machine.run("f30f1103", "dd3b")  # movss, fnstsw
    assert machine.device.seen == [("write", 0x10, 4), ("write", 0x10, 2)]
    machine.device.seen.clear()
    machine.run("f30f1003")
    assert machine.device.seen == [("read", 0x10, 4)]


def test_misaligned_scalars_can_raise_alignment_checks(machine: Machine) -> None:
    for n in range(3):
        at = TABLES + n * 0x1000
        machine.memory.write(at, 8, machine.memory.read(at, 8) | 4)
    machine.cpu.cr0 |= 1 << 18
    machine.cpu.rflags |= 1 << 18
    machine.cpu.cpl = 3
    machine.cpu.flush_tlb(None)
    machine.cpu.regs[RBX] = DATA + 1
    assert machine.fault("f20f1003") == AC_FAULT


@pytest.mark.parametrize(("mode", "prefix", "size"), [(16, "", 14), (16, "66", 28), (32, "", 28), (32, "66", 14)])
def test_environments_follow_the_operand_size(mode: int, prefix: str, size: int) -> None:
    machine = Machine(mode)
    machine.cpu.regs[RBX], machine.cpu.regs[RDI] = DATA, DATA
    machine.memory.write_bytes(DATA, b"\xaa" * 128)
    machine.run(prefix + ("d935" if mode == 16 else "d933"))  # fnstenv [di], [ebx]
    written = machine.memory.read_bytes(DATA, 128)
    assert written[size:] == b"\xaa" * (128 - size)
    assert written[:2] == b"\x7f\x03"


@pytest.mark.parametrize(("mode", "end"), [(32, 288), (64, 416)])
def test_fxsave_leaves_the_rest_alone(mode: int, end: int) -> None:
    machine = Machine(mode)
    machine.cpu.regs[RBX] = DATA
    machine.memory.write_bytes(DATA, b"\xaa" * 512)
    machine.run(FXSAVE)
    written = machine.memory.read_bytes(DATA, 512)
    assert written[end:] == b"\xaa" * (512 - end)
    assert written[end - 16 : end] == bytes(16)


def test_fxrstor_outside_64_bit_mode_keeps_the_upper_registers() -> None:
    machine = Machine(32)
    machine.cpu.regs[RBX] = DATA
    image = bytearray(machine.image())
    image[160:416] = bytes(range(256))
    assert machine.cpu.native is not None
    machine.cpu.native.load(bytes(image))
    machine.memory.write_bytes(DATA, bytes(image[:160]) + b"\x55" * 352)
    machine.run("0fae0b")
    after = machine.image()
    assert after[160:288] == b"\x55" * 128
    assert after[288:416] == bytes(image[288:416])


@pytest.mark.parametrize(("code", "width", "at"), [("660ff7ca", 16, 160), ("0ff7ca", 8, 32)])
def test_masked_moves_write_the_selected_bytes_only(machine: Machine, code: str, width: int, at: int) -> None:
    image = bytearray(machine.image())
    values, mask = bytes(range(0x10, 0x10 + width)), bytes(0x80 if n % 3 == 0 else 0x7F for n in range(width))
    image[at + 16 : at + 16 + width], image[at + 32 : at + 32 + width] = values, mask
    assert machine.cpu.native is not None
    machine.cpu.native.load(bytes(image))
    machine.cpu.regs[RDI] = 0xA0100
    machine.run(code)
    assert machine.device.seen == [("write", 0x100 + n, 1) for n in range(0, width, 3)]
    machine.cpu.regs[RDI] = ABSENT - 1  # only byte 0 of those selected is mapped, and it is read-only
    assert machine.fault(code) == PAGE_FAULT


def test_masked_move_finds_mmx_registers_whatever_the_x87_top(machine: Machine) -> None:
    machine.memory.write_bytes(DATA, bytes(range(8)) + b"\x80" * 8)
    machine.run("0f6f0b", "0f6f5308", "0f77", "d9f6", "d9f6")  # movq mm1, mm2; emms; fdecstp twice
    machine.cpu.regs[RDI] = DATA + 64
    machine.run("0ff7ca")
    assert machine.memory.read_bytes(DATA + 64, 8) == bytes(range(8))
    assert struct.unpack_from("<H", machine.image(), 2)[0] >> 11 & 7 == 0  # an MMX instruction clears the top


def test_a_rip_relative_operand(machine: Machine) -> None:
    machine.memory.write_bytes(CODE + 8 + 0x100, struct.pack("<d", 2.5))
    machine.run("f20f100500010000", "f20f1103")
    assert machine.memory.read_bytes(DATA, 8) == struct.pack("<d", 2.5)


def test_scaled_operands_lose_index_and_base(machine: Machine) -> None:
    machine.cpu.regs[9], machine.cpu.regs[12] = DATA, 8
    machine.memory.write_bytes(DATA + 0x28, struct.pack("<f", 1.25))
    machine.run("f3470f107ca108")  # movss xmm15, [r9 + 4 * r12 + 8]
    assert machine.image()[400:404] == struct.pack("<f", 1.25)
