"""The remaining integer families, executed here and by Unicorn from random states: the outcome must be equal."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import unicorn
from unicorn import x86_const as ux

from emu.bus import Bus
from emu.memory import GuestMemory
from isa.base import GuestFault
from isa.x86.cpu import Cpu
from isa.x86.interp import Interpreter
from isa.x86.state import AF, ARITH, CF, DB, DE, DF, GP, OF, PAGE_FAULT, PF, SF, TF, UD, ZF, Segment

CODE = 0x1000
DATA, DATA_SIZE = 0x8000, 0x4000  # below 64 KiB, so that 16-bit addresses reach it
MIDDLE = DATA + DATA_SIZE // 2
SPACE = 0x20000
TABLES = 0x80000
PAGE_TABLE = TABLES + 0x3000
CASES = int(os.environ.get("VEMU_ORACLE_CASES", "400"))
FLAGS = ARITH | DF
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 63) - 1)
UC_REGS = [getattr(ux, f"UC_X86_REG_R{n}") for n in ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", *range(8, 16))]
UC_REGS32 = [getattr(ux, f"UC_X86_REG_E{n}") for n in ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI")]


# -- cases ------------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One instruction; `regs` overrides the random state, `undefined` are the flags that the manual leaves open."""

    code: bytes
    regs: dict[int, int] = field(default_factory=dict)
    undefined: int = 0
    data: bytes = b""
    flags: int | None = None


def _number(rng: random.Random) -> int:
    return rng.choice(EDGES) if rng.random() < 0.5 else rng.getrandbits(64)


@dataclass
class Shape:
    """Operand size and the bytes in front of the opcode; whether the r/m operand is memory, and its ModRM tail."""

    prefixes: bytes
    size: int
    memory: bool
    reg: int
    modrm: bytes

    def code(self, opcode: bytes, immediate: bytes = b"", mandatory: bytes = b"") -> bytes:
        legacy, rex = (self.prefixes[:-1], self.prefixes[-1:]) if self._has_rex() else (self.prefixes, b"")
        return legacy + mandatory + rex + opcode + self.modrm + immediate

    def _has_rex(self) -> bool:
        return bool(self.prefixes) and self.prefixes[-1] & 0xF0 == 0x40


def _shape(
    rng: random.Random, mode: int, reg: int | None = None, byte: bool = False, memory: bool | None = None,
    word: bool = True,
) -> Shape:  # fmt: skip
    """A random register or memory operand [rBX+disp8]; `reg` fixes ModRM.reg, `word` allows the 66 prefix."""
    rex = rng.randrange(0x40, 0x50) if mode == 64 and rng.random() < 0.6 else 0
    size, prefixes = (8 if rex & 8 else 4), b""
    if word and rng.random() < 0.3:
        prefixes, size = b"\x66", 8 if rex & 8 else 2
    in_memory = rng.random() < 0.4 if memory is None else memory
    field_ = rng.randrange(8) if reg is None else reg
    if in_memory:
        rex &= ~3
        modrm = bytes((0x40 | field_ << 3 | RBX, rng.randrange(256)))
    else:
        modrm = bytes((0xC0 | field_ << 3 | rng.randrange(8),))
    return Shape(prefixes + (bytes((rex,)) if rex else b""), 1 if byte else size, in_memory, field_, modrm)


def _muldiv(rng: random.Random, mode: int) -> Case:
    kind = rng.randrange(6)
    if kind < 4:
        byte = rng.random() < 0.3
        reg = rng.randrange(4, 8)
        shape = _shape(rng, mode, reg, byte)
        regs = {}
        if reg >= 6 and rng.random() < 0.8:  # mostly without overflow
            regs = {RDX: rng.choice((0, 0, 1, (1 << 64) - 1))}
            if byte:
                regs[RAX] = rng.getrandbits(10)
        return Case(shape.code(b"\xf6" if byte else b"\xf7"), regs, ARITH if reg >= 6 else SF | ZF | AF | PF)
    shape = _shape(rng, mode)
    if kind == 4:
        return Case(shape.code(b"\x0f\xaf"), {}, SF | ZF | AF | PF)
    length = rng.choice((1, min(shape.size, 4)))
    opcode = b"\x6b" if length == 1 else b"\x69"
    return Case(shape.code(opcode, rng.randbytes(length)), {}, SF | ZF | AF | PF)


def _shift(rng: random.Random, mode: int) -> Case:
    byte, operation, form = rng.random() < 0.3, rng.randrange(8), rng.randrange(3)
    shape = _shape(rng, mode, operation, byte)
    count = rng.choice((0, 1, 1, rng.randrange(64), rng.randrange(256)))
    base, bits = (0xC0, 0xD0, 0xD2)[form], shape.size * 8
    if form == 1:
        count = 1
    regs = {RCX: rng.getrandbits(56) << 8 | count} if form == 2 else {}
    masked = count & (63 if shape.size == 8 else 31)
    undefined = 0
    if masked:
        undefined = (AF if operation >= 4 else 0) | (OF if masked != 1 else 0)
        undefined |= CF if masked >= bits and operation in (4, 5, 6) else 0
    immediate = bytes((count,)) if form == 0 else b""
    return Case(shape.code(bytes((base + (not byte),)), immediate), regs, undefined)


def _double_shift(rng: random.Random, mode: int) -> Case:
    shape = _shape(rng, mode)
    count = rng.choice((0, 1, rng.randrange(64)))
    if shape.size == 2:
        count %= 17  # beyond that the result is undefined
    opcode, by_cl = rng.choice((0xA4, 0xAC)), rng.random() < 0.5
    masked = count & (63 if shape.size == 8 else 31)
    undefined = (AF | (OF if masked != 1 else 0)) if masked else 0
    regs = {RCX: rng.getrandbits(56) << 8 | count} if by_cl else {}
    return Case(shape.code(bytes((0x0F, opcode + by_cl)), b"" if by_cl else bytes((count,))), regs, undefined)


def _bit_test(rng: random.Random, mode: int) -> Case:
    undefined = OF | SF | AF | PF
    if rng.random() < 0.4:
        shape = _shape(rng, mode, rng.randrange(4, 8))
        return Case(shape.code(b"\x0f\xba", rng.randbytes(1)), {}, undefined)
    shape = _shape(rng, mode)
    reach = {n: rng.randrange(-0x4000, 0x4000) for n in range(16) if n != RBX} if shape.memory else {}
    if shape.memory and shape.reg == RBX:  # the base itself as bit number would reach too far
        return _bit_test(rng, mode)
    return Case(shape.code(bytes((0x0F, rng.choice((0xA3, 0xAB, 0xB3, 0xBB))))), reach, undefined)


def _scan(rng: random.Random, mode: int) -> Case:
    opcode = rng.choice((0xBC, 0xBD, 0xB8))
    shape = _shape(rng, mode)
    while opcode == 0xB8 and shape.size == 8 and b"\x66" in shape.prefixes:  # where Unicorn lets 66 win over REX.W
        shape = _shape(rng, mode)
    counting = opcode == 0xB8 or rng.random() < 0.5
    undefined = 0 if opcode == 0xB8 else OF | SF | AF | PF
    if not counting:
        undefined |= CF
    # A zero source leaves the destination alone; whether its upper half, too, the manual leaves to the processor.
    clean = not counting and shape.size == 4
    regs = {n: _number(rng) & 0xFFFFFFFF for n in range(16) if n != RBX} if clean else {}
    case = Case(shape.code(bytes((0x0F, opcode)), b"", b"\xf3" if counting else b""), regs, undefined)
    if shape.memory:
        case.data = rng.choice((b"", bytes(16)))
    return case


def _carry_chain(rng: random.Random, mode: int) -> Case:
    shape = _shape(rng, mode, word=False)
    return Case(shape.code(b"\x0f\x38\xf6", b"", rng.choice((b"\x66", b"\xf3"))))


def _crc32(rng: random.Random, mode: int) -> Case:
    byte = rng.random() < 0.3
    shape = _shape(rng, mode, byte=byte, word=not byte)
    return Case(shape.code(b"\x0f\x38\xf0" if byte else b"\x0f\x38\xf1", b"", b"\xf2"))


# (map, opcode, mandatory prefix, ModRM.reg or -1, undefined flags, has an immediate byte)
VEX_FORMS = (
    (2, 0xF2, 0, -1, AF | PF, False),  # ANDN
    (2, 0xF3, 0, 1, AF | PF, False), (2, 0xF3, 0, 2, AF | PF, False),  # BLSR BLSMSK
    (2, 0xF3, 0, 3, AF | PF | CF, False),  # BLSI: Unicorn inverts its CF
    (2, 0xF5, 0, -1, AF | PF, False), (2, 0xF5, 2, -1, 0, False), (2, 0xF5, 3, -1, 0, False),  # BZHI PEXT PDEP
    (2, 0xF6, 3, -1, 0, False),  # MULX
    (2, 0xF7, 0, -1, AF | SF | PF, False),  # BEXTR
    (2, 0xF7, 1, -1, 0, False), (2, 0xF7, 2, -1, 0, False), (2, 0xF7, 3, -1, 0, False),  # SHLX SARX SHRX
    (3, 0xF0, 3, -1, 0, True),  # RORX
)  # fmt: skip


def _vex(rng: random.Random, mode: int) -> Case:
    space, opcode, prefix, reg, undefined, immediate = rng.choice(VEX_FORMS)
    long = mode == 64
    memory = rng.random() < 0.3
    wide, high_reg, high_base = (rng.random() < 0.5 if long else False for _ in range(3))
    vvvv = rng.randrange(16 if long else 8) if not immediate else 0
    second = (0 if high_reg else 0x80) | 0x40 | (0 if high_base and not memory else 0x20) | space
    if reg >= 0:
        second |= 0x80
    third = (0x80 if wide else 0) | (~vvvv & 15) << 3 | prefix
    field_ = rng.randrange(8) if reg < 0 else reg
    register, disp = rng.randrange(8), rng.randrange(256)
    modrm = bytes((0x43 | field_ << 3, disp)) if memory else bytes((0xC0 | field_ << 3 | register,))
    tail = rng.randbytes(1) if immediate else b""
    bits = 64 if wide else 32
    regs: dict[int, int] = {}
    if not wide and (opcode == 0xF5 or (opcode, prefix) == (0xF7, 0)):  # Unicorn lets the upper halves in
        regs = {n: _number(rng) & 0xFFFFFFFF for n in range(16) if n != RBX}
    if prefix == 0 and opcode in (0xF5, 0xF7):  # BZHI and BEXTR: Unicorn takes one bit too few of a whole operand
        if memory and vvvv == RBX:
            return _vex(rng, mode)
        regs |= {vvvv: rng.randrange(bits - 1 if opcode == 0xF5 else 80) | rng.randrange(bits) << 8}
    return Case(bytes((0xC4, second, third, opcode)) + modrm + tail, regs, undefined)


def _exchange(rng: random.Random, mode: int) -> Case:
    byte, opcode = rng.random() < 0.3, rng.choice((0xB0, 0xC0))
    shape = _shape(rng, mode, byte=byte)
    regs = {}
    if rng.random() < 0.5:
        value = rng.getrandbits(8) * 0x0101010101010101
        if shape.size == 4:  # Unicorn extends EAX also where it is equal, and a register also where it is not
            value &= 0xFFFFFFFF
        regs = {n: value for n in range(16) if n != RBX}
        case = Case(shape.code(bytes((0x0F, opcode + (not byte)))), regs)
        case.data = value.to_bytes(8, "little") if shape.memory and rng.random() < 0.7 else b""
        return case
    if shape.size == 4:
        regs = {n: _number(rng) & 0xFFFFFFFF for n in range(16) if n != RBX}
    return Case(shape.code(bytes((0x0F, opcode + (not byte)))), regs)


def _exchange_pair(rng: random.Random, mode: int) -> Case:
    wide = mode == 64 and rng.random() < 0.5
    half = 8 if wide else 4
    code = (b"\x48" if wide else b"") + bytes((0x0F, 0xC7, 0x43 | 1 << 3, 0))
    low, high = rng.getrandbits(8 * half), rng.getrandbits(8 * half)
    case = Case(code, {RBX: MIDDLE}, 0, low.to_bytes(half, "little") + high.to_bytes(half, "little"))
    if rng.random() < 0.6:
        case.regs |= {RAX: low, RDX: high}
    return case


def _decimal(rng: random.Random, mode: int) -> Case:
    opcode = rng.choice((0x27, 0x2F, 0x37, 0x3F, 0xD4, 0xD5))
    undefined = {0x27: OF, 0x2F: OF, 0x37: OF | SF | ZF | PF, 0x3F: OF | SF | ZF | PF}.get(opcode, OF | AF | CF)
    tail = bytes((rng.choice((10, 10, 16, 7, 1, 0, 255)),)) if opcode >= 0xD4 else b""
    return Case(bytes((opcode,)) + tail, {RAX: rng.getrandbits(32)}, undefined)


def _string(rng: random.Random, mode: int) -> Case:
    opcode = rng.choice((0xA4, 0xA6, 0xAA, 0xAC, 0xAE)) + (rng.random() < 0.6)
    rex = 0x48 if mode == 64 and rng.random() < 0.3 else 0
    prefixes = b"\x66" if rng.random() < 0.25 else b""
    short = rng.random() < 0.3
    adsize = (4 if mode == 64 else 2) if short else mode // 8
    prefixes += b"\x67" if short else b""
    prefixes += rng.choice((b"", b"\xf2", b"\xf3", b"\xf2", b"\xf3"))
    size = 1 if not opcode & 1 else 8 if rex else 2 if b"\x66" in prefixes else 4
    most = 0x1400 // size
    count = rng.choice((0, 1, 2, 3, rng.randrange(40), rng.randrange(most)))
    source = rng.randrange(MIDDLE - 0x900, MIDDLE + 0x900)
    near = rng.random() < 0.5
    target = source + rng.randrange(-24, 24) if near else rng.randrange(MIDDLE - 0x900, MIDDLE + 0x900)
    regs = {RSI: source, RDI: target, RCX: count}
    if short and count:  # bits beyond the address size must not count
        regs = {n: value | rng.getrandbits(16) << adsize * 8 for n, value in regs.items()}
    # Long runs of two values, so that comparisons go on for a while.
    one, other = rng.sample(range(256), 2)
    data = b"".join(bytes((rng.choice((one, one, one, other)),)) * rng.randrange(1, 700) for _ in range(60))
    if rng.random() < 0.3:
        data = rng.randbytes(DATA_SIZE)
    data = data.ljust(DATA_SIZE, bytes((one,)))[:DATA_SIZE]
    regs[RAX] = rng.choice((one, other)) * 0x0101010101010101
    case = Case(prefixes + (bytes((rex,)) if rex else b"") + bytes((opcode,)), regs, 0, data)
    case.flags = rng.getrandbits(12) & ARITH | (DF if rng.random() < 0.3 else 0)
    return case


FAMILIES: dict[str, tuple[Callable[[random.Random, int], Case], tuple[int, ...]]] = {
    "muldiv": (_muldiv, (32, 64)),
    "shift": (_shift, (32, 64)),
    "double-shift": (_double_shift, (32, 64)),
    "bit-test": (_bit_test, (32, 64)),
    "scan": (_scan, (32, 64)),
    "carry-chain": (_carry_chain, (32, 64)),
    "crc32": (_crc32, (32, 64)),
    "vex": (_vex, (32, 64)),
    "exchange": (_exchange, (32, 64)),
    "exchange-pair": (_exchange_pair, (32, 64)),
    "decimal": (_decimal, (32,)),
    "string": (_string, (32, 64)),
}


# -- the two machines -------------------------------------------------------------------------------------------------


class Judge:
    """Unicorn with flat segments over the same memory layout."""

    def __init__(self, mode: int) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if mode == 64 else unicorn.UC_MODE_32)
        self.uc.ctl_set_cpu_model(ux.UC_CPU_X86_BROADWELL)  # the first with BMI and ADX
        self.uc.mem_map(0, SPACE)
        self.names = UC_REGS if mode == 64 else UC_REGS32
        self.interrupted = False
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.fresh = self.uc.context_save()

    def _interrupt(self, uc: unicorn.Uc, number: int, _: object) -> None:
        self.interrupted = True
        uc.emu_stop()

    def run(self, code: bytes, regs: list[int], flags: int, data: bytes) -> tuple[list[int], int, bytes] | None:
        """Registers, flags and data afterwards; None where the instruction faulted."""
        uc = self.uc
        uc.ctl_remove_cache(CODE, CODE + 16)  # it may have translated what stood there before
        uc.mem_write(CODE, code)
        uc.mem_write(DATA, data)
        for name, value in zip(self.names, regs, strict=True):
            uc.reg_write(name, value)
        uc.reg_write(ux.UC_X86_REG_EFLAGS, flags)
        self.interrupted = False
        uc.emu_start(CODE, CODE + len(code))
        if self.interrupted:
            uc.context_restore(self.fresh)  # it would take the next exception for a double fault
            return None
        after = [uc.reg_read(name) for name in self.names]
        return after, uc.reg_read(ux.UC_X86_REG_EFLAGS) & FLAGS, bytes(uc.mem_read(DATA, DATA_SIZE))


class Nothing:
    """An `Outside` nobody asks for anything."""

    def mapping_changed(self, linear: int | None) -> None: ...


class Machine:
    """A vCPU with 1 MiB and flat segments; in 64-bit mode 4 KiB pages, identity-mapped, that tests may change."""

    def __init__(self, mode: int) -> None:
        self.mmio = Bus("memory")
        self.memory = GuestMemory(1 << 20, self.mmio)
        self.cpu = cpu = Cpu(self.memory, Nothing(), None)  # type: ignore[arg-type]  # nothing outside is asked for
        cpu.mode = mode
        cpu.cr0 |= 1
        cpu.segs = [Segment(8, 0, 0xFFFFFFFF, 0xC093) for _ in range(6)]
        cpu.segs[1].attr = 0xA09B if mode == 64 else 0xC09B
        if mode == 64:
            cpu.cr0, cpu.cr4, cpu.efer, cpu.cr3 = 0x80000011, 0x20, 0x500, TABLES
            for level in range(3):
                self.memory.write(TABLES + level * 0x1000, 8, TABLES + (level + 1) * 0x1000 + 3)
            for page in range(512):
                self.map(page, page)
        cpu.flush_tlb(None)
        self.interpreter = Interpreter(cpu)
        self.memory.on_watched_write = self.interpreter.written
        self.memory.on_watch_change.append(cpu.page_watched)

    def map(self, page: int, to: int | None) -> None:
        """Map linear page number `page` to guest-physical page `to`, or to nothing."""
        self.memory.write(PAGE_TABLE + page * 8, 8, 0 if to is None else to << 12 | 3)
        self.cpu.flush_tlb(None)

    def execute(self, code: bytes, regs: dict[int, int], flags: int = 2) -> GuestFault | None:
        """Execute one instruction; other registers are left alone."""
        self.memory.write_bytes(CODE, code.ljust(16, b"\x90"))
        self.cpu.rip, self.cpu.rflags = CODE, flags
        for n, value in regs.items():
            self.cpu.regs[n] = value
        try:
            self.interpreter.step()
        except GuestFault as fault:
            return fault
        assert self.cpu.rip == CODE + len(code)
        return None

    def data(self, at: int, size: int) -> bytes:
        return self.memory.read_bytes(at, size)


# -- against Unicorn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "mode"), [(name, mode) for name, (_, modes) in FAMILIES.items() for mode in modes]
)  # fmt: skip
def test_agrees_with_unicorn(family: str, mode: int) -> None:
    rng = random.Random(f"{os.environ.get('VEMU_ORACLE_SEED', 'families')}-{family}-{mode}")
    make = FAMILIES[family][0]
    machine, judge, judged = Machine(mode), Judge(mode), 0
    limit = (1 << mode) - 1
    for _ in range(CASES):
        case = make(rng, mode)
        regs = [_number(rng) for _ in range(mode // 4 if mode == 64 else 8)]
        regs[RBX] = rng.randrange(MIDDLE - 64, MIDDLE + 64)
        for n, value in case.regs.items():
            if n < len(regs):
                regs[n] = value
        regs = [value & limit for value in regs]
        flags = 2 | (rng.getrandbits(12) & ARITH if case.flags is None else case.flags)
        data = rng.randbytes(DATA_SIZE)
        if len(case.data) == DATA_SIZE:
            data = case.data
        elif case.data:
            step = case.code[-1] if case.code[-1] < 0x80 else case.code[-1] - 0x100  # the disp8 of [rBX+disp8]
            at = regs[RBX] + step - DATA
            data = data[:at] + case.data + data[at + len(case.data) :]
        verdict = judge.run(case.code, regs, flags, data)
        machine.memory.write_bytes(DATA, data)
        where = f"{mode}-bit {case.code.hex()}, regs {[hex(r) for r in regs]}, flags {flags:#x}"
        fault = machine.execute(case.code, dict(enumerate(regs)), flags)
        cpu = machine.cpu
        if verdict is None:
            assert fault is not None, f"{where}: Unicorn faulted"
            assert fault.vector == DE, f"{where}: {fault!r}"
            assert cpu.regs[: len(regs)] == regs, f"{where}: changed by a fault"
            assert cpu.rflags & FLAGS == flags & FLAGS, f"{where}: flags changed by a fault"
            assert machine.data(DATA, DATA_SIZE) == data, f"{where}: memory changed by a fault"
            continue
        assert fault is None, f"{where}: {fault!r}"
        assert [hex(r) for r in cpu.regs[: len(regs)]] == [hex(r) for r in verdict[0]], where
        found, wanted = cpu.rflags & FLAGS & ~case.undefined, verdict[1] & ~case.undefined
        assert found == wanted, f"{where}: flags {found:#x}, Unicorn {wanted:#x}"
        assert machine.data(DATA, DATA_SIZE) == verdict[2], f"{where}: memory differs"
        judged += 1
    assert judged > CASES * 2 // 3


# -- what Unicorn cannot judge ----------------------------------------------------------------------------------------

REP_MOVSB, REP_MOVSW, REP_STOSB, REPE_CMPSB = b"\xf3\xa4", b"\x66\xf3\xa5", b"\xf3\xaa", b"\xf3\xa6"


def test_a_repetition_that_faults_keeps_its_progress() -> None:
    machine = Machine(64)
    machine.memory.write_bytes(DATA, bytes(range(256)) * 16)
    machine.map(0xB, None)
    machine.cpu.regs[RDX] = 77
    fault = machine.execute(REP_MOVSB, {RSI: DATA, RDI: 0xAF00, RCX: 0x300})
    assert fault is not None
    assert (fault.vector, fault.cr2) == (PAGE_FAULT, 0xB000)
    assert [machine.cpu.regs[n] for n in (RSI, RDI, RCX, RDX)] == [DATA + 0x100, 0xB000, 0x200, 77]
    assert machine.data(0xAF00, 0x100) == bytes(range(256))
    assert machine.cpu.rip == CODE


def test_a_repetition_stops_at_the_segment_limit() -> None:
    machine = Machine(32)
    machine.cpu.segs[0].limit, machine.cpu.segs[0].attr = 0x917F, 0x4093
    fault = machine.execute(REP_STOSB, {RDI: 0x9100, RCX: 0x100, RAX: 0x5A})
    assert fault is not None
    assert fault.vector == GP
    assert (machine.cpu.regs[RDI], machine.cpu.regs[RCX]) == (0x9180, 0x80)
    assert machine.data(0x9100, 0x81) == b"\x5a" * 0x80 + b"\0"


def test_flags_stay_where_a_compare_faults_midway() -> None:
    """SDM vol. 2, REP: EFLAGS is then as before the instruction."""
    machine = Machine(64)
    machine.map(0xB, None)
    fault = machine.execute(REPE_CMPSB, {RSI: 0x9000, RDI: 0xAFF0, RCX: 0x40}, 2 | CF | OF)
    assert fault is not None
    assert (fault.vector, fault.cr2) == (PAGE_FAULT, 0xB000)
    assert (machine.cpu.regs[RCX], machine.cpu.regs[RDI]) == (0x30, 0xB000)
    assert machine.cpu.rflags == 2 | CF | OF


def test_a_copy_between_two_names_of_one_page_repeats_what_it_wrote() -> None:
    machine = Machine(64)
    machine.map(0xB, 0xA)
    machine.memory.write_bytes(0xA000, bytes(range(1, 256)) + bytes(0xF01))
    assert machine.execute(REP_MOVSB, {RSI: 0xA000, RDI: 0xB003, RCX: 0x200}) is None
    assert machine.data(0xA000, 0x204) == (b"\1\2\3" * 0x100)[:0x203] + b"\0"


@pytest.mark.parametrize("code", [REP_MOVSB, REP_STOSB], ids=["movs", "stos"])
def test_a_repetition_over_traced_pages_is_reported_page_by_page(code: bytes) -> None:
    machine = Machine(64)
    reports: list[tuple[int, int]] = []
    machine.memory.on_watched_write = lambda gpa, size: reports.append((gpa, size))
    machine.memory.watch(0xA)
    machine.memory.watch(0xB)
    machine.memory.write_bytes(0x8000, bytes(range(256)) * 8)
    assert machine.execute(code, {RSI: 0x8000, RDI: 0xAF80, RCX: 0x200, RAX: 0x77}) is None
    first = [(0xAF80, 1), (0xAF81, 0x7F)] if code == REP_MOVSB else [(0xAF80, 0x80)]  # its source is looked up first
    assert reports == [*first, (0xB000, 0x180)]
    assert machine.data(0xAF80, 0x201) == (bytes(range(256)) * 2 if code == REP_MOVSB else b"\x77" * 0x200) + b"\0"
    assert (machine.cpu.regs[RDI], machine.cpu.regs[RCX]) == (0xB180, 0)


def test_a_copy_within_a_traced_page_repeats_what_it_wrote() -> None:
    machine = Machine(64)
    machine.memory.watch(0xA)
    machine.memory.write_bytes(0xA000, bytes(range(1, 256)) + bytes(0xF01))
    assert machine.execute(REP_MOVSB, {RSI: 0xA000, RDI: 0xA003, RCX: 0x200}) is None
    assert machine.data(0xA000, 0x204) == (b"\1\2\3" * 0x100)[:0x203] + b"\0"


@pytest.mark.parametrize("prefix", [b"\x2e", b"\x36", b"\x64"], ids=["cs", "ss", "fs"])
def test_an_override_changes_the_source_only(prefix: bytes) -> None:
    machine = Machine(32)
    if prefix == b"\x64":
        machine.cpu.segs[4].base = 0x100
    base = machine.cpu.segs[4].base
    machine.memory.write_bytes(0xA000, bytes(range(1, 256)) + bytes(0xF01))
    assert machine.execute(prefix + REP_MOVSB, {RSI: 0xA000 - base, RDI: 0xA002, RCX: 0x80}) is None
    assert machine.data(0xA000, 0x82) == b"\1\2" * 0x41


def test_fs_has_its_base_in_64_bit_mode() -> None:
    machine = Machine(64)
    machine.cpu.segs[4].base = 0x1000
    machine.memory.write_bytes(0xA000, bytes(range(1, 256)) + bytes(0xF01))
    assert machine.execute(b"\x64" + REP_MOVSB, {RSI: 0x9000, RDI: 0xA002, RCX: 0x80}) is None
    assert machine.data(0xA000, 0x82) == b"\1\2" * 0x41


class Recorder:
    """A device that notes every access."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append(("read", offset, size))
        return offset & 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append(("write", offset, size))


def test_devices_see_each_element() -> None:
    machine, device = Machine(32), Recorder()
    machine.mmio.attach(0x200000, 0x1000, device)
    assert machine.execute(REP_MOVSW, {RSI: 0x200000, RDI: 0x200800, RCX: 32}) is None
    expected = [(kind, at + 2 * n, 2) for n in range(32) for kind, at in (("read", 0), ("write", 0x800))]
    assert device.seen == expected


def test_a_repetition_traps_after_each_element() -> None:
    """SDM vol. 3, 17.3.1.4: with TF set, RIP stays on the instruction until the last repetition."""
    machine = Machine(32)
    fault = machine.execute(REP_STOSB, {RDI: DATA, RCX: 2, RAX: 1}, 2 | TF)
    assert fault is not None
    assert (fault.vector, machine.cpu.rip, machine.cpu.regs[RCX]) == (DB, CODE, 1)
    fault = machine.execute(REP_STOSB, {}, 2 | TF)
    assert fault is not None
    assert (fault.vector, machine.cpu.rip, machine.cpu.regs[RCX]) == (DB, CODE + 2, 0)


def test_filling_over_remembered_code_forgets_it() -> None:
    machine = Machine(32)
    cpu = machine.cpu
    machine.memory.write_bytes(0x3000, b"\x40\xf4")  # INC EAX; HLT
    cpu.rip, cpu.regs[RAX] = 0x3000, 5
    machine.interpreter.run(2)
    assert cpu.regs[RAX] == 6
    cpu.halted = False
    assert machine.execute(REP_STOSB, {RDI: 0x2F00, RCX: 0x101, RAX: 0x4B}) is None  # DEC EBX
    cpu.rip, cpu.regs[RBX] = 0x3000, 5
    machine.interpreter.run(2)
    assert (cpu.regs[RBX], cpu.regs[RAX]) == (4, 0x4B)


def test_cmpxchg16b_needs_alignment() -> None:
    machine = Machine(64)
    fault = machine.execute(b"\x48\x0f\xc7\x0b", {RBX: DATA + 8})
    assert fault is not None
    assert (fault.vector, fault.error) == (GP, 0)


@pytest.mark.parametrize("code", [b"\x27", b"\x37", b"\xd4\x0a", b"\xd5\x0a"])
def test_decimal_adjustment_is_absent_in_64_bit_mode(code: bytes) -> None:
    fault = Machine(64).execute(code, {})
    assert fault is not None
    assert fault.vector == UD


@pytest.mark.parametrize("code", [b"\xd4\x00", b"\xf7\xf1"], ids=["aam", "div"])
def test_division_by_zero(code: bytes) -> None:
    fault = Machine(32).execute(code, {RAX: 7, RCX: 0})
    assert fault is not None
    assert fault.vector == DE


@pytest.mark.parametrize(
    "code",
    [b"\x0f\xab\x03", b"\xd1\x23", b"\x0f\xb1\x0b", b"\x0f\xc1\x0b", b"\x0f\xc7\x0b", b"\x0f\xa4\x0b\x04", b"\xf7\x23"],
)
def test_a_fault_changes_nothing(code: bytes) -> None:
    machine = Machine(64)
    machine.map(0xA, None)
    regs = {RAX: 4, RCX: 2, RDX: 3, RBX: 0xA000}
    fault = machine.execute(code, regs, 2 | CF | PF)
    assert fault is not None
    assert (fault.vector, fault.cr2) == (PAGE_FAULT, 0xA000)
    assert {n: machine.cpu.regs[n] for n in regs} == regs
    assert machine.cpu.rflags == 2 | CF | PF


def test_cmpxchg_leaves_what_it_does_not_write() -> None:
    """Neither EAX after a success nor a register destination after a failure is zero-extended (SDM vol. 2)."""
    machine, high = Machine(64), 0xAAAA_AAAA << 32
    assert machine.execute(b"\x0f\xb1\xca", {RAX: high | 5, RCX: high | 9, RDX: high | 5}) is None
    assert [machine.cpu.regs[n] for n in (RAX, RDX)] == [high | 5, 9]
    assert machine.cpu.rflags & ZF
    assert machine.execute(b"\x0f\xb1\xca", {RAX: high | 5, RCX: high | 9, RDX: high | 6}) is None
    assert [machine.cpu.regs[n] for n in (RAX, RDX)] == [6, high | 6]
    assert not machine.cpu.rflags & ZF


def test_bzhi_takes_all_bits_where_the_index_is_too_high() -> None:
    machine = Machine(64)
    assert machine.execute(b"\xc4\xe2\x70\xf5\xc3", {RBX: 0xFFFFFFFF_F0F0F0F0, RCX: 32}) is None  # BZHI EAX, EBX, ECX
    assert machine.cpu.regs[RAX] == 0xF0F0F0F0
    assert machine.cpu.rflags & (CF | ZF | SF | OF) == CF | SF


@pytest.mark.parametrize(("value", "low", "carry"), [(0, 0, 0), (0x50, 0x10, CF)])
def test_blsi_carries_for_a_source_that_is_not_zero(value: int, low: int, carry: int) -> None:
    machine = Machine(64)
    assert machine.execute(b"\xc4\xe2\x78\xf3\xdb", {RBX: value}, 2 | (carry ^ CF)) is None  # BLSI EAX, EBX
    assert machine.cpu.regs[RAX] == low
    assert machine.cpu.rflags & CF == carry


@pytest.mark.parametrize(
    ("control", "result"), [(0x4000, 0xF0F0F0F0), (0x2004, 0x0F0F0F0F), (0x0804, 0x0F), (0xFF28, 0)]
)
def test_bextr_takes_what_there_is(control: int, result: int) -> None:
    machine = Machine(64)
    regs = {RBX: 0xFFFFFFFF_F0F0F0F0, RCX: control}
    assert machine.execute(b"\xc4\xe2\x70\xf7\xc3", regs) is None  # BEXTR EAX, EBX, ECX
    assert machine.cpu.regs[RAX] == result
    assert machine.cpu.rflags & (CF | ZF | OF) == (0 if result else ZF)


def test_pdep_uses_32_bits_of_its_mask() -> None:
    machine = Machine(64)
    regs = {RBX: 0xFFFFFFFF_00F00F0F, RCX: 0xFFFFFFFF_00000ABC}
    assert machine.execute(b"\xc4\xe2\x73\xf5\xc3", regs) is None  # PDEP EAX, ECX, EBX
    assert machine.cpu.regs[RAX] == 0x00A00B0C
