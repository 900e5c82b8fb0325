"""The bare machine: privilege, segments, faults, flags, stops; each against what the architecture says."""

import gc
import math
import struct
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from emu.backends.base import LEAVE, Trap, View
from emu.backends.unicorn import UnicornBackend
from emu.bus import Bus
from emu.memory import GuestMemory
from emu.preempt import Preempter
from guests.encode import raw

NO_BASES = (0, 0, 0, 0, 0, 0)
AT = 0x1000


def asm(mode: int, text: str) -> bytes:
    return raw(text, mode)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(2 << 20, Bus("memory"))
    yield memory
    memory.close()


@pytest.fixture
def machine(memory: GuestMemory) -> Iterator[UnicornBackend]:
    backend = UnicornBackend(memory)
    yield backend
    backend.close()


Outcome = tuple[list[Trap], list[int], int]


def run(
    machine: UnicornBackend,
    mode: int,
    cpl: int,
    code: bytes,
    bases: tuple[int, int, int, int, int, int] = NO_BASES,
    handler: Callable[[Trap], int] | None = None,
) -> Outcome:
    machine.patch(AT, code + machine.layout.leave)
    machine.set_view(View(mode, cpl, True, bases))
    machine.push(list(range(100, 116)), 2)
    traps: list[Trap] = []

    def on_trap(trap: Trap) -> int:
        traps.append(trap)
        return handler(trap) if handler is not None else -1

    machine.run(AT, on_trap)
    regs = [0] * 16
    machine.pull(regs)
    flags = machine.flags()
    return traps, regs, flags


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize("mode", [16, 32, 64])
def test_runs_guest_code_in_every_mode_and_leaves(machine: UnicornBackend, mode: int, cpl: int) -> None:
    code = asm(mode, "mov eax, ebx; add eax, ecx")
    traps, regs, _ = run(machine, mode, cpl, code)
    assert [t.vector for t in traps] == [LEAVE]
    assert traps[0].pc == AT + len(code) + len(machine.layout.leave)
    assert regs[0] == 204


@pytest.mark.parametrize(("cpl", "error"), [(1, 0), (3, 4)])
def test_unmapped_page_faults_with_its_error_code(machine: UnicornBackend, cpl: int, error: int) -> None:
    traps, _, _ = run(machine, 64, cpl, asm(64, "mov rax, [rbx]"))
    assert (traps[0].vector, traps[0].error, traps[0].cr2, traps[0].pc) == (14, error, 103, AT)
    traps, _, _ = run(machine, 64, cpl, asm(64, "mov [rbx], rax"))
    assert traps[0].error == error | 2


def test_faults_one_after_the_other_stay_page_faults(machine: UnicornBackend) -> None:
    """The machine keeps a delivered exception pending; the second would become a double fault (FACTS)."""
    code = asm(64, "mov rax, [0x1000]; mov rax, [0x2000]; mov rax, [0x3000]; mov rax, [0x4000]")

    def fix(trap: Trap) -> int:
        if trap.vector == LEAVE:
            return -1
        machine.fixed.map(trap.cr2 & -0x1000, 0x5000, writable=True, user=True)
        return trap.pc

    traps, _, _ = run(machine, 64, 1, code, handler=fix)
    assert [t.vector for t in traps] == [14, 14, 14, 14, LEAVE]


def test_mapping_reaches_guest_memory_and_respects_write_and_user(machine: UnicornBackend, memory: GuestMemory) -> None:
    memory.write(0x5008, 8, 0x1122334455667788)
    machine.fixed.map(0x70000000, 0x5000, writable=False, user=False)
    _, regs, _ = run(machine, 64, 1, asm(64, "mov rax, [0x70000008]"))
    assert regs[0] == 0x1122334455667788
    traps, _, _ = run(machine, 64, 1, asm(64, "mov [0x70000008], rax"))
    assert (traps[0].vector, traps[0].error) == (14, 3)
    traps, _, _ = run(machine, 64, 3, asm(64, "mov rax, [0x70000008]"))
    assert (traps[0].vector, traps[0].error) == (14, 5)
    machine.fixed.unmap(0x70000000)
    machine.flush_tlb()
    traps, _, _ = run(machine, 64, 1, asm(64, "mov rax, [0x70000008]"))
    assert (traps[0].vector, traps[0].error) == (14, 0)


def test_guest_memory_is_never_executable(machine: UnicornBackend, memory: GuestMemory) -> None:
    memory.write_bytes(0x5000, b"\x90\x90")
    machine.fixed.map(0x5000, 0x5000, writable=True, user=True)
    traps, _, _ = run(machine, 64, 1, asm(64, "mov eax, 0x5000; jmp rax"))
    assert (traps[0].vector, traps[0].error & 0x11, traps[0].cr2) == (14, 0x11, 0x5000)


@pytest.mark.parametrize("mode", [16, 32])
def test_segment_bases_apply_in_compatibility_code(machine: UnicornBackend, memory: GuestMemory, mode: int) -> None:
    memory.write(0x6000 + 103, 2, 0xBEEF)
    machine.fixed.map(0x6000, 0x6000, writable=True, user=True)
    code = {16: b"\x67\x8b\x03", 32: b"\x66\x8b\x03"}[mode]  # mov ax, [ebx]
    _, regs, _ = run(machine, mode, 1, code, bases=(0, 0, 0, 0x6000, 0, 0))
    assert regs[0] & 0xFFFF == 0xBEEF
    _, regs, _ = run(machine, mode, 1, b"\x65" + code, bases=(0, 0, 0, 0, 0, 0x6000))
    assert regs[0] & 0xFFFF == 0xBEEF


def test_gs_base_has_64_bits_in_64_bit_code(machine: UnicornBackend) -> None:
    traps, _, _ = run(machine, 64, 1, asm(64, "mov rax, gs:[rbx]"), bases=(0, 0, 0, 0, 0, 0xFFFF880000000000))
    assert traps[0].cr2 == 0xFFFF880000000000 + 103


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize("code", ["f4", "0f22d8", "fa"], ids=["hlt", "mov cr3", "cli"])
def test_privileged_instructions_cannot_pass(machine: UnicornBackend, cpl: int, code: str) -> None:
    traps, _, _ = run(machine, 64, cpl, bytes.fromhex(code))
    assert traps[0].vector == 13


def test_undefined_opcodes_and_divide_errors_trap_precisely(machine: UnicornBackend) -> None:
    traps, _, _ = run(machine, 64, 1, b"\x90\x0f\x0b")
    assert (traps[0].vector, traps[0].pc) == (6, AT + 1)
    traps, _, _ = run(machine, 64, 1, asm(64, "xor ecx, ecx; div ecx"))
    assert (traps[0].vector, traps[0].pc) == (0, AT + 2)


def test_flags_are_exact_inside_a_trap(machine: UnicornBackend) -> None:
    seen: list[int] = []

    def look(trap: Trap) -> int:
        seen.append(machine.flags() & 0x8D5)
        return trap.pc if len(seen) < 3 else -1

    leave = machine.layout.leave
    code = asm(64, "mov rax, -1; add rax, 1") + leave + asm(64, "sub rax, 1") + leave + asm(64, "inc rax; stc")
    run(machine, 64, 1, code, handler=look)
    assert seen == [0x55, 0x95, 0x55]


def test_a_trap_handler_can_change_registers_and_flags(machine: UnicornBackend) -> None:
    def change(trap: Trap) -> int:
        if len(done) == 0:
            done.append(1)
            machine.push([7] * 16, 0x41)
            return trap.pc
        return -1

    done: list[int] = []
    code = machine.layout.leave + asm(64, "setc al; setz bl")
    _, regs, _ = run(machine, 64, 1, code, handler=change)
    assert (regs[0], regs[3], regs[15]) == (1, 1, 7)


def test_patched_code_takes_effect(machine: UnicornBackend) -> None:
    run(machine, 64, 1, asm(64, "mov eax, 1"))
    _, regs, _ = run(machine, 64, 1, asm(64, "mov eax, 2"))
    assert regs[0] == 2


def test_stop_from_another_thread_is_precise(machine: UnicornBackend) -> None:
    machine.patch(AT, b"\xeb\xfe")
    machine.set_view(View(64, 1, True, NO_BASES))
    machine.push([5] * 16, 2)
    preempter = Preempter(machine.stop)  # one request alone may come before the machine runs, and be lost
    preempter.arm(20_000_000)
    started = time.monotonic()
    assert machine.run(AT, lambda trap: -1) == AT
    assert time.monotonic() - started < 5
    preempter.close()
    regs = [0] * 16
    machine.pull(regs)
    assert regs == [5] * 16


def test_an_error_in_a_handler_reaches_the_caller(machine: UnicornBackend) -> None:
    def broken(trap: Trap) -> int:
        raise ValueError("handler")

    with pytest.raises(ValueError, match="handler"):
        run(machine, 64, 1, b"\x90", handler=broken)


def test_native_unit_computes_and_keeps_vector_state(machine: UnicornBackend) -> None:
    regs = [0] * 16
    one, two = struct.pack("<d", 1.5), struct.pack("<d", 2.25)
    machine.native.execute(bytes.fromhex("f20f1005") + bytes(4), 4, one, regs, 2)  # movsd xmm0, m64
    machine.native.execute(bytes.fromhex("f20f5805") + bytes(4), 4, two, regs, 2)  # addsd xmm0, m64
    out = machine.native.execute(bytes.fromhex("f20f1105") + bytes(4), 4, bytes(8), regs, 2)  # movsd m64, xmm0
    assert struct.unpack("<d", out.memory) == (3.75,)
    image = machine.native.save()
    assert image[160:168] == out.memory
    machine.native.load(image[:160] + two + image[168:])
    assert machine.native.save()[160:168] == two


def test_native_unit_executes_although_a_stop_is_asked_for(machine: UnicornBackend) -> None:
    machine.stop()
    out = machine.native.execute(bytes.fromhex("f30f7f05") + bytes(4), 4, b"\xff" * 16, [0] * 16, 2)
    assert out.memory == bytes(16)  # movdqu m128, xmm0


def test_native_unit_reports_undefined_instructions(machine: UnicornBackend) -> None:
    assert machine.native.execute(b"\x0f\x0b", -1, b"", [0] * 16, 2).vector == 6


def test_closing_frees_the_engine_at_once() -> None:
    backend = UnicornBackend()
    engine = weakref.ref(backend._uc)
    gc.disable()
    try:
        backend.close()
        assert engine() is None  # a gigabyte of addresses
    finally:
        gc.enable()


def test_stops_are_heard_between_blocks_only() -> None:
    assert UnicornBackend().stops_whole


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_root_entered_with_pages_is_looked_up_for_these(
    machine: UnicornBackend, memory: GuestMemory, one_by_one: bool
) -> None:
    """Two pages are mapped elsewhere, and one is told of; a machine that cannot forget one page forgets all."""
    assert machine._flush_page is not None
    machine._grows = math.inf
    if not one_by_one:
        machine._flush_page = None
    first, second = 0x7000_0000, 0x7000_1000

    def read() -> tuple[int, int]:
        _, regs, _ = run(machine, 64, 1, asm(64, f"mov esi, {first}; mov eax, [rsi]; mov ecx, [rsi+0x1000]"))
        return regs[0], regs[1]

    for number in (1, 2):
        memory.write(0x5000 + number * 0x1000, 4, number)
    for linear in (first, second):
        machine.fixed.map(linear, 0x6000, writable=False, user=False)
    assert read() == (1, 1)
    for linear in (first, second):
        machine.fixed.map(linear, 0x7000, writable=False, user=False)
    machine.set_root(machine.fixed.root, [second])
    assert read() == ((1, 2) if one_by_one else (2, 2))
