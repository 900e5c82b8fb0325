"""The interpreter's promises: precise faults, exact limits, coherence with memory, shadows, single steps, TLB."""

from __future__ import annotations

from typing import Any

import pytest

from emu.bus import Bus
from emu.memory import GuestMemory
from isa.base import GuestFault
from isa.x86 import move
from isa.x86.cpu import Cpu
from isa.x86.interp import Interpreter, merge
from isa.x86.state import AC, CF, CR0_AM, IF, RF, RSP, TF, Segment

TABLES = 0x80000
PAGE_TABLE = TABLES + 0x3000
M64 = (1 << 64) - 1


class Nothing:
    """An `Outside` nobody asks for anything."""

    def mapping_changed(self, linear: int | None) -> None: ...


class Machine:
    """A vCPU with 1 MiB; in 64-bit mode its first 2 MiB are mapped by 4 KiB pages that tests may change."""

    def __init__(self, mode: int = 64) -> None:
        self.mmio = Bus("memory")
        self.memory = GuestMemory(1 << 20, self.mmio)
        self.cpu = cpu = Cpu(self.memory, Nothing(), None)  # type: ignore[arg-type]
        cpu.mode = mode
        limit, attr = (0xFFFF, 0x93) if mode == 16 else (0xFFFFFFFF, 0xC093)
        cpu.segs = [Segment(0 if mode == 16 else 8, 0, limit, attr) for _ in range(6)]
        cpu.segs[1].attr = {16: 0x9B, 32: 0xC09B, 64: 0xA09B}[mode]
        cpu.cr0 |= 0 if mode == 16 else 1
        if mode == 64:
            cpu.cr0, cpu.cr4, cpu.efer, cpu.cr3 = 0x80010011, 0x20, 0xD00, TABLES
            for level in range(3):
                self.memory.write(TABLES + 0x1000 * level, 8, TABLES + 0x1000 * (level + 1) + 7)
            for page in range(0x100):
                self.map(page << 12)
        cpu.rip = 0x1000
        cpu.regs[RSP] = 0x9000
        self.interpreter = Interpreter(cpu)
        self.memory.on_watched_write = self.interpreter.written
        self.memory.on_watch_change.append(cpu.page_watched)

    def map(self, linear: int, gpa: int | None = None, flags: int = 7) -> None:
        """Map one page (`gpa` None: to itself) with the given entry bits; 0 unmaps."""
        entry = (linear if gpa is None else gpa) | flags if flags else 0
        self.memory.write(PAGE_TABLE + (linear >> 12) * 8, 8, entry)
        self.cpu.flush_tlb(None)

    def code(self, text: str, at: int = 0x1000) -> int:
        """Place hexadecimal bytes; returns the address behind them."""
        data = bytes.fromhex(text)
        self.memory.write_bytes(at, data)
        return at + len(data)

    def faults(self, steps: int = 0) -> GuestFault:
        """The fault raised after `steps` good instructions; nothing else may have changed."""
        for _ in range(steps):
            self.interpreter.step()
        cpu = self.cpu
        before = (list(cpu.regs), cpu.rflags, cpu.rip, cpu.retired, self.memory.read_bytes(0, TABLES))
        with pytest.raises(GuestFault) as caught:
            self.interpreter.step()
        assert before == (list(cpu.regs), cpu.rflags, cpu.rip, cpu.retired, self.memory.read_bytes(0, TABLES))
        return caught.value


# -- precise faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("48 8b 03", 0),  # mov rax, [rbx]
        ("48 89 03", 2),  # mov [rbx], rax
        ("48 01 03", 2),  # add [rbx], rax: faults as a write
        ("48 39 03", 0),  # cmp [rbx], rax
        ("48 11 03", 2),  # adc [rbx], rax
        ("48 ff 03", 2),  # inc qword [rbx]
        ("48 f7 1b", 2),  # neg qword [rbx]
        ("48 87 03", 2),  # xchg [rbx], rax
        ("ff 33", 0),  # push qword [rbx]
        ("8f 03", 2),  # pop qword [rbx]: rsp must be restored
        ("ff 13", 0),  # call [rbx]
        ("0f 94 03", 2),  # setz [rbx]
        ("48 0f 4f 03", 0),  # cmovg rax, [rbx]: read although the condition is false
    ],
)
@pytest.mark.parametrize("across", [False, True], ids=["page", "across"])
def test_page_fault_changes_nothing(text: str, error: int, across: bool) -> None:
    machine = Machine()
    machine.code(text)
    machine.map(0x6000, flags=0)
    machine.cpu.regs[3] = 0x5FFD if across and text != "0f 94 03" else 0x6010
    machine.cpu.rflags = 0xC7
    fault = machine.faults()
    assert (fault.vector, fault.error) == (14, error)
    assert fault.cr2 == (0x6000 if machine.cpu.regs[3] < 0x6000 else 0x6010)


@pytest.mark.parametrize("text", ["50", "6a 01", "e8 00 01 00 00", "ff d0", "c8 10 00 03"])
def test_push_that_faults_leaves_the_stack_pointer(text: str) -> None:
    machine = Machine()
    machine.code(text)
    machine.map(0x8000, flags=5)
    machine.cpu.cr0 |= 1 << 16
    assert machine.faults().vector == 14


def test_ret_to_non_canonical_address() -> None:
    machine = Machine()
    machine.code("c3")
    machine.memory.write(0x9000, 8, 0x8000_0000_0000)
    fault = machine.faults()
    assert (fault.vector, fault.error) == (13, 0)


def test_branches_beyond_the_limit() -> None:
    for text in ("e9 00 01 00 00", "ff e0", "c3", "74 7f", "ff d0"):
        machine = Machine(32)
        machine.cpu.segs[1].limit = 0x1040
        machine.cpu.rflags = 0x42
        machine.cpu.regs[0] = 0x1041
        machine.memory.write(0x9000, 4, 0x1041)
        machine.code(text)
        fault = machine.faults()
        assert (fault.vector, fault.error) == (13, 0), text


def test_branch_wraps_at_the_operand_size() -> None:
    machine = Machine(32)
    machine.code("66 e9 00 80", 0x9000)  # 9004 - 8000 = 1004
    machine.cpu.rip = 0x9000
    machine.interpreter.step()
    assert machine.cpu.rip == 0x1004
    machine.code("66 e8 00 f0", 0x1004)  # 16 bits: 1008 - 1000 = 8
    machine.interpreter.step()
    assert (machine.cpu.rip, machine.cpu.regs[RSP]) == (8, 0x8FFE)
    assert machine.memory.read(0x8FFE, 2) == 0x1008


def test_stack_wraps_in_16_bits() -> None:
    machine = Machine(16)
    machine.code("50")
    machine.cpu.regs[RSP] = 0x1234_0000
    machine.cpu.regs[0] = 0xBEEF
    machine.interpreter.step()
    assert machine.cpu.regs[RSP] == 0x1234_FFFE
    assert machine.memory.read(0xFFFE, 2) == 0xBEEF
    machine.code("50", 0x1001)
    machine.cpu.regs[RSP] = 1  # the word would wrap: stack fault
    assert machine.faults().vector == 12


def test_fetch_faults() -> None:
    machine = Machine()
    machine.code("b8 01 02", 0x1FFD)  # mov eax, imm32 that goes on in the next page
    machine.map(0x2000, flags=0)
    machine.cpu.rip = 0x1FFD
    fault = machine.faults()
    assert (fault.vector, fault.cr2) == (14, 0x2000)
    machine.map(0x2000)
    machine.code("03 04", 0x2000)
    machine.interpreter.step()
    assert machine.cpu.regs[0] == 0x04030201
    machine.cpu.rip = 0x8000_0000_0000
    assert machine.faults().vector == 13


def test_code_segment_limit() -> None:
    machine = Machine(32)
    machine.code("90 b8 01 00 00 00")
    machine.cpu.segs[1].limit = 0x1004
    fault = machine.faults(steps=1)
    assert (fault.vector, fault.error) == (13, 0)


@pytest.mark.parametrize(
    ("text", "vector"),
    [
        ("0f 0b", 6),
        ("f0 01 c0", 6),  # lock with a register
        ("f0 8b 03", 6),  # lock mov
        ("f0 39 03", 6),  # lock cmp
        ("f0 f6 03 01", 6),  # lock test
        ("c5 f8 58 c1", 6),  # vaddps
        ("66 " * 15 + "90", 13),  # longer than 15 bytes
        ("2e " * 10 + "81 05 00 10 00 00 01 00 00 00", 13),
        ("66 67 2e " * 4 + "0f ba 24 85 00 10 00 00 01", 13),
        ("2e " * 10 + "0f ff 05 00 10 00 00 01 00 00 00", 6),  # longer, but undefined
    ],
)
def test_undefined(text: str, vector: int) -> None:
    machine = Machine()
    machine.code(text)
    machine.cpu.regs[3] = 0x6000
    assert machine.faults().vector == vector


def test_lock_is_legal_where_it_should_be() -> None:
    machine = Machine()
    machine.code("f0 48 01 03 f0 ff 0b f0 f7 13 f0 87 03")
    machine.cpu.regs[3], machine.cpu.regs[0] = 0x6000, 5
    assert machine.interpreter.run(4) == 4
    assert machine.memory.read(0x6000, 8) == 5
    assert machine.cpu.regs[0] == 0xFFFFFFFB


def test_alignment_check() -> None:
    machine = Machine()
    machine.code("48 8b 03" * 2)
    machine.cpu.regs[3] = 0x6001
    machine.interpreter.step()
    machine.cpu.cr0 |= CR0_AM
    machine.cpu.rflags = AC
    machine.cpu.cpl = 3
    fault = machine.faults()
    assert (fault.vector, fault.error) == (17, 0)
    machine.cpu.regs[3] = 0x6008
    machine.interpreter.step()


# -- running ------------------------------------------------------------------------------------------------------


def test_run_stops_exactly_at_the_limit() -> None:
    machine = Machine()
    end = machine.code("ff c0" * 10)
    machine.code("eb ea", end)  # back to 0x1000
    cpu = machine.cpu
    assert machine.interpreter.run(7) == 7
    assert (cpu.rip, cpu.regs[0], cpu.retired) == (0x100E, 7, 7)
    assert machine.interpreter.run(30) == 30
    assert (cpu.regs[0], cpu.retired) == (34, 37)


def test_fault_inside_a_block_is_precise() -> None:
    machine = Machine()
    machine.map(0x6000, flags=0)
    machine.code("ff c0 ff c0 8b 0b ff c0")
    machine.cpu.regs[3] = 0x6000
    with pytest.raises(GuestFault) as caught:
        machine.interpreter.run(4)
    assert caught.value.cr2 == 0x6000
    assert (machine.cpu.rip, machine.cpu.retired, machine.cpu.regs[0]) == (0x1004, 2, 2)
    machine.map(0x6000)
    assert machine.interpreter.run(2) == 2
    assert machine.cpu.regs[0] == 3


def test_stop_request_ends_the_run_at_the_end_of_a_block() -> None:
    machine = Machine()
    machine.code("90 90 eb fc")
    machine.cpu.stop_requested = True
    assert machine.interpreter.run(1000) == 3


def test_block_that_modifies_itself() -> None:
    machine = Machine()
    # mov byte [rip+1], 7 (the immediate of the next instruction); mov eax, 1
    machine.code("c6 05 01 00 00 00 07 b8 01 00 00 00 90 90")
    assert machine.interpreter.run(1) == 1  # now in memory: 7
    machine.code("c6 05 01 00 00 00 09")
    machine.cpu.rip = 0x1000
    assert machine.interpreter.run(4) == 4
    assert (machine.cpu.regs[0], machine.cpu.rip) == (9, 0x100E)
    machine.code("c6 05 01 00 00 00 0b")
    machine.cpu.rip, machine.cpu.retired = 0x1000, 0
    assert machine.interpreter.run(2) == 2
    assert machine.cpu.regs[0] == 0xB


def test_data_beside_code_keeps_the_blocks() -> None:
    machine = Machine()
    machine.code("ff 05 fa 0f 00 00 eb f8")  # inc dword [rip+ffa] = [2000]; jmp back
    machine.code("ff 05 0a 00 00 00 eb f8", 0x1800)  # inc dword [rip+a] = [1810], beside this very code; jmp back
    machine.cpu.rip = 0x1800
    machine.memory.write(0x1810, 4, 0)
    assert machine.interpreter.run(200) == 200
    assert machine.memory.read(0x1810, 4) == 100


def test_write_through_another_mapping_is_seen() -> None:
    machine = Machine()
    machine.map(0x7000, gpa=0x1000)
    machine.code("b8 01 00 00 00 eb f9")
    assert machine.interpreter.run(20) == 20
    machine.cpu.store(3, 0x7001, 1, 0x55)
    machine.interpreter.run(2)
    assert machine.cpu.regs[0] == 0x55


def test_change_of_mapping_is_seen() -> None:
    machine = Machine()
    machine.code("b8 01 00 00 00 eb f9")
    machine.code("b8 02 00 00 00 eb f9", 0x3000)
    assert machine.interpreter.run(20) == 20
    machine.map(0x1000, gpa=0x3000)
    assert machine.interpreter.run(2) == 2
    assert machine.cpu.regs[0] == 2
    machine.map(0x1000)
    assert machine.interpreter.run(2) == 2
    assert machine.cpu.regs[0] == 1


def test_instruction_across_pages_follows_a_change_of_the_second() -> None:
    machine = Machine()
    machine.code("b8 01 02 03 04 eb f9", 0x1FFE)
    machine.code("03 05 eb f9", 0x3001)
    machine.memory.write(0x3000, 1, 0x02)
    machine.cpu.rip = 0x1FFE
    assert machine.interpreter.run(4) == 4
    assert machine.cpu.regs[0] == 0x04030201
    machine.map(0x2000, gpa=0x3000)
    assert machine.interpreter.run(2) == 2
    assert machine.cpu.regs[0] == 0x05030201
    machine.cpu.store(3, 0x2000, 1, 0x66)  # GPA 3000: the instruction's second page
    assert machine.interpreter.run(2) == 2
    assert machine.cpu.regs[0] == 0x05036601


def test_code_in_mmio_runs() -> None:
    class Rom:
        name = "rom"

        def read(self, offset: int, size: int) -> int:
            return int.from_bytes(
                bytes.fromhex("b805000000ffc0ebf7").ljust(4096, b"\x90")[offset : offset + size], "little"
            )

        def write(self, offset: int, size: int, value: int) -> None: ...

    machine = Machine(32)
    machine.mmio.attach(0xFFFF0000, 0x1000, Rom())
    machine.cpu.rip = 0xFFFF0000
    assert machine.interpreter.run(5) == 5
    assert machine.cpu.regs[0] == 6


def test_real_mode_keeps_offsets_apart() -> None:
    machine = Machine(16)
    machine.code("e8 00 00 58", 0x1000)  # call +0; pop ax: reads the offset
    for base, offset in ((0, 0x1000), (0x800, 0x800), (0x1000, 0)):
        machine.cpu.segs[1].base, machine.cpu.rip = base, offset
        assert machine.interpreter.run(2) == 2
        assert machine.cpu.regs[0] == offset + 3


# -- shadows, single steps ------------------------------------------------------------------------------------------


def test_shadow_lasts_one_instruction() -> None:
    machine = Machine()
    machine.code("90 90 90")
    machine.cpu.shadow = True
    assert machine.interpreter.run(3) == 1
    assert not machine.cpu.shadow
    assert machine.interpreter.run(2) == 2


def test_single_step_trap() -> None:
    machine = Machine()
    machine.code("ff c0 ff c0")
    machine.cpu.rflags = TF | RF
    with pytest.raises(GuestFault) as caught:
        machine.interpreter.run(2)
    assert caught.value.vector == 1
    assert (machine.cpu.rip, machine.cpu.retired) == (0x1002, 1)
    assert machine.cpu.dr[6] & 1 << 14
    assert not machine.cpu.rflags & RF


def test_halt_and_enabling_interrupts_end_the_run() -> None:
    machine = Machine()
    machine.code("90 fb 90 90 f4 90")  # nop; sti; nop; nop; hlt
    assert machine.interpreter.run(10) == 2
    assert machine.cpu.rflags & IF
    assert machine.cpu.shadow
    assert machine.interpreter.run(10) == 1
    assert machine.interpreter.run(10) == 2
    assert machine.cpu.halted
    assert machine.cpu.rip == 0x1005


# -- memory ---------------------------------------------------------------------------------------------------------


def test_tlb_keeps_privileges_and_kinds_apart() -> None:
    machine = Machine()
    cpu = machine.cpu
    machine.map(0x6000, flags=1)  # supervisor, read-only
    assert cpu.load(3, 0x6000, 4) == 0
    with pytest.raises(GuestFault):
        cpu.store(3, 0x6000, 4, 1)
    cpu.cpl = 3
    with pytest.raises(GuestFault) as caught:
        cpu.load(3, 0x6000, 4)
    assert caught.value.error == 5
    assert cpu.load_linear(0x6000, 4, user=False) == 0
    cpu.cpl = 0
    assert cpu.load(3, 0x6000, 4) == 0


def test_flush_of_one_page() -> None:
    machine = Machine()
    cpu = machine.cpu
    cpu.store(3, 0x6000, 8, 0x11)
    cpu.store(3, 0x7000, 8, 0x22)
    machine.memory.write(PAGE_TABLE + 6 * 8, 8, 0x7007)
    assert cpu.load(3, 0x6000, 8) in (0x11, 0x22)  # stale entries are allowed
    cpu.flush_tlb(0x6123)
    assert cpu.load(3, 0x6000, 8) == 0x22


@pytest.mark.parametrize("touched", [0x20_0000, 0x3F_F000])
def test_flush_of_one_address_forgets_all_of_its_large_page(long: Any, touched: int) -> None:
    """SDM vol. 3, 4.10.4.1: INVLPG drops every translation made from the entry, whatever part of the page it names."""
    cpu = long.cpu
    long.memory.write(0x20_1000, 8, 0x11)
    long.memory.write(0x1000, 8, 0x22)
    cpu.store(3, 0x20_0000, 1, 0)
    assert cpu.load(3, 0x20_1000, 8) == 0x11
    long.memory.write(0x30_2008, 8, 0x87)  # the second 2 MiB are now the first
    cpu.flush_tlb(touched)
    assert cpu.load(3, 0x20_1000, 8) == 0x22
    assert 0x20_0000 >> 12 not in cpu.write_tlb


def test_accesses_of_every_size_across_pages() -> None:
    machine = Machine()
    cpu = machine.cpu
    machine.map(0x6000, gpa=0xA000)
    for size in range(1, 9):
        for at in range(0x6000 - 9, 0x6002):
            value = 0x8877665544332211 + at & (1 << size * 8) - 1
            cpu.store(3, at, size, value | 1 << size * 8)
            assert cpu.load(3, at, size) == value
            assert cpu.load_rmw(3, at, size) == value
    data = bytes(range(200))
    cpu.store_bytes(3, 0x5FA0, data)
    assert cpu.load_bytes(3, 0x5FA0, 200) == data
    assert machine.memory.read_bytes(0x5FA0, 0x60) + machine.memory.read_bytes(0xA000, 104) == data


def test_store_bytes_checks_every_page_first() -> None:
    machine = Machine()
    machine.map(0x7000, flags=0)
    with pytest.raises(GuestFault):
        machine.cpu.store_bytes(3, 0x6FF0, b"\xff" * 32)
    assert machine.memory.read_bytes(0x6FF0, 16) == bytes(16)


def test_mmio_gets_one_access_of_the_right_size() -> None:
    seen: list[tuple[str, int, int]] = []

    class Recorder:
        name = "recorder"

        def read(self, offset: int, size: int) -> int:
            seen.append(("read", offset, size))
            return 0x80

        def write(self, offset: int, size: int, value: int) -> None:
            seen.append(("write", offset, size))

    machine = Machine(32)
    machine.mmio.attach(0xFEC00000, 0x1000, Recorder())
    machine.cpu.regs[3] = 0xFEC00010
    machine.code("8b 03 66 89 03 01 03 84 03")
    assert machine.interpreter.run(4) == 4
    assert seen == [("read", 16, 4), ("write", 16, 2), ("read", 16, 4), ("write", 16, 4), ("read", 16, 1)]


def test_watched_pages_are_written_through() -> None:
    machine = Machine()
    machine.cpu.store(3, 0x6000, 4, 1)
    written: list[tuple[int, int]] = []
    machine.memory.on_watched_write = lambda gpa, size: written.append((gpa, size))
    machine.memory.watch(6)
    machine.cpu.store(3, 0x6008, 4, 2)
    machine.memory.unwatch(6)
    machine.cpu.store(3, 0x6008, 4, 3)
    assert written == [(0x6008, 4)]


def test_inc_and_dec_keep_carry() -> None:
    for carry in (0, CF):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            machine = Machine()
            machine.code("fe c0 fe c8")
            machine.cpu.rflags, machine.cpu.regs[0] = carry, value
            machine.interpreter.run(1)
            assert machine.cpu.rflags & CF == carry
            machine.interpreter.run(1)
            assert (machine.cpu.rflags & CF, machine.cpu.regs[0]) == (carry, value)


@pytest.mark.parametrize("opcode", ["e0", "e1", "e2", "e3"])
def test_loop_affects_no_flags(opcode: str) -> None:
    for flags in (0, 0x8D5, 0x40, 0x891):
        machine = Machine()
        machine.code(f"{opcode} 10")
        machine.cpu.rflags, machine.cpu.regs[1] = flags, 2
        machine.interpreter.step()
        assert machine.cpu.rflags == flags | 2
        taken = {"e0": not flags & 0x40, "e1": bool(flags & 0x40), "e2": True, "e3": False}[opcode]
        assert machine.cpu.rip == (0x1012 if taken else 0x1002)
        assert machine.cpu.regs[1] == (2 if opcode == "e3" else 1)


# -- binding --------------------------------------------------------------------------------------------------------


def test_two_families_cannot_claim_one_opcode() -> None:
    with pytest.raises(ValueError, match="0x8d"):
        merge(move.BINDERS, {0x8D: move.movsxd})


def test_group_3_is_shared_by_two_families() -> None:
    machine = Machine()
    machine.code("f7 c3 08 00 00 00 f7 d3 f7 db f7 e3 f6 f1")  # test, not, neg, mul, div
    machine.cpu.regs[0], machine.cpu.regs[1], machine.cpu.regs[3] = 3, 5, 9
    assert machine.interpreter.run(4) == 4
    assert machine.cpu.regs[3] == 10
    assert machine.cpu.regs[0] == 30
    machine.interpreter.step()
    assert machine.cpu.regs[0] == 6
