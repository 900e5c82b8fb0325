"""The translating engine: exactness of state, chaining, coherency, eviction and budgets."""

from collections.abc import Callable
from typing import Any

import pytest

from emu.backends import tuning
from emu.engines.translate import TranslateEngine
from emu.exits import Budget, Fault, Halt, Shutdown
from emu.preempt import Preempter
from guests.encode import raw
from isa.x86.state import (
    CF,
    CR0_AM,
    CR0_MP,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR4_FSGSBASE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CR4_TSD,
    CS,
    DS,
    EFER_LMA,
    EFER_LME,
    ES,
    FS,
    GS,
    IF,
    RAX,
    RBX,
    RCX,
    RDX,
    RF,
    RSI,
    RSP,
    SS,
    Segment,
)

ORG = 0x100000
Make = Callable[..., Any]  # builds a World (see conftest)
ENGINES = ["translate", "interpret"]


@pytest.mark.parametrize("kind", ENGINES)
def test_runs_to_halt_and_counts_instructions(make: Make, kind: str) -> None:
    world = make(kind)
    world.put("mov ecx, 1000; xor eax, eax; again: add eax, ecx; dec ecx; jnz again; hlt")
    assert world.run() == Halt(False)
    assert world.cpu.regs[RAX] == 500500
    assert world.cpu.retired == 2 + 3 * 1000 + 1


@pytest.mark.parametrize("kind", ENGINES)
def test_a_fault_leaves_the_state_before_the_instruction(make: Make, kind: str) -> None:
    world = make(kind)
    at = world.put("mov eax, 5; mov ebx, 7; cmp eax, 5; stc")
    world.put("xor edx, edx; xor ecx, ecx; stc; div ecx; mov ebx, 9", at)
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.vector, out.error, out.pc) == (0, None, at + 5)
    assert (world.cpu.regs[RAX], world.cpu.regs[RBX], world.cpu.retired) == (5, 7, 7)
    assert world.cpu.rflags & 0x41 == 0x41


def test_direct_branches_are_chained(make: Make) -> None:
    world = make()
    world.put("mov ecx, 100000; a: jmp b; nop; b: dec ecx; jnz a; hlt")
    world.run()
    counters = world.engine.counters()
    assert counters.dispatches < 20
    assert counters.links >= 3


def test_calls_and_returns_stay_in_the_cache(make: Make) -> None:
    world = make()
    world.put("mov ecx, 50000; again: call f; dec ecx; jnz again; hlt; f: inc ebx; ret")
    world.run()
    assert world.cpu.regs[RBX] == 50000
    assert world.engine.counters().exits["indirect"] < 10


@pytest.mark.parametrize("kind", ENGINES)
def test_a_block_that_patches_itself_sees_the_patch_at_once(make: Make, kind: str) -> None:
    world = make(kind)
    # the immediate of the MOV behind is rewritten by the MOV before it, in the same block
    head = world.put("mov byte ptr [0x100008], 42")
    assert head == ORG + 7
    world.put("mov al, 1; mov bl, al; hlt", head)
    assert world.run() == Halt(False)
    assert world.cpu.regs[RBX] & 0xFF == 42


@pytest.mark.parametrize("kind", ENGINES)
def test_a_chained_block_is_unlinked_when_its_bytes_change(make: Make, kind: str) -> None:
    world = make(kind)
    world.put(
        "mov ecx, 10; again: call 0x101000; cmp ecx, 5; jne skip; "
        "mov byte ptr [0x101001], 100; skip: dec ecx; jnz again; hlt"
    )
    world.put("mov al, 1; add ebx, 0; movzx eax, al; add esi, eax; ret", 0x101000)
    world.run()
    assert world.cpu.regs[RSI] == 6 * 1 + 4 * 100


@pytest.mark.parametrize("kind", ENGINES)
def test_a_block_is_not_fallen_into_once_its_bytes_changed(make: Make, kind: str) -> None:
    world = make(kind)
    # the branch is never taken: what is behind it is entered without an exit
    world.put("mov ecx, 10; mov edi, 0x101000; again: call edi; dec ecx; cmp ecx, 5; jne again")
    at = world.put("test ecx, ecx; jz over; mov eax, 1; add ebx, eax; over: ret", 0x101000) - 8
    assert world.memory.read(at, 5) == 0x1B8
    end = world.put("mov ecx, 10; mov edi, 0x101000; again: call edi; dec ecx; cmp ecx, 5; jne again")
    world.put(f"mov byte ptr [{at + 1:#x}], 100; back: call edi; dec ecx; jnz back; hlt", end)
    world.run()
    assert world.cpu.regs[RBX] == 5 * 1 + 5 * 100


@pytest.mark.parametrize("kind", ENGINES)
def test_a_page_of_code_that_is_written_to_often_sleeps_until_its_code_runs(make: Make, kind: str) -> None:
    world = make(kind)
    world.put(
        "call 0x101000; mov ecx, 100; again: mov [0x101800], ecx; dec ecx; jnz again; mov ebx, eax; "
        "mov dword ptr [0x101001], 7; call 0x101000; hlt"
    )
    world.put("mov eax, 1; cmp eax, 1; jne out; inc edi; out: ret", 0x101000)
    assert isinstance(world.run(), Halt)
    assert (world.cpu.regs[RAX], world.cpu.regs[RBX], world.cpu.regs[7]) == (7, 1, 1)
    assert world.memory.read(0x101800, 4) == 1
    if kind == "translate":
        assert world.engine.counters().exits["memory"] == 2
        assert world.engine.cache.asleep == {}
        assert world.memory.watched(0x101000)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_page_whose_code_runs_between_writes_is_right_every_time(make: Make, kind: str) -> None:
    world = make(kind)
    # the code runs in turn with writes to its page; each fourth changes the code, the last ones from within the page
    world.put(
        "mov ecx, 60; again: mov [0x101800], ecx; mov [0x101804], ecx; test ecx, 3; jne run; mov [0x101001], ecx; "
        "run: call 0x101000; add ebx, eax; loop again; call 0x101100; call 0x101000; add ebx, eax; hlt"
    )
    world.put("mov eax, 1; add esi, eax; inc edi; jmp 0x101020", 0x101000)
    world.put("ret", 0x101020)
    world.put("mov edx, 9; back: mov [0x101001], edx; mov [0x101021], dl; dec edx; jnz back; ret", 0x101100)
    assert isinstance(world.run(), Halt)
    wanted = sum((ecx + 3) // 4 * 4 if ecx <= 60 else 1 for ecx in range(1, 61)) + 1
    assert (world.cpu.regs[RBX], world.cpu.regs[7]) == (wanted, 61)


def test_a_chain_out_of_a_sleeping_page_is_cut_when_its_target_changes(make: Make) -> None:
    world = make()
    world.put(
        "mov ecx, 3; warm: call 0x101000; loop warm; mov ecx, 9; again: mov [0x101800], ecx; loop again; "
        "mov byte ptr [0x102001], 50; call 0x101000; hlt"
    )
    world.put("jmp 0x102000", 0x101000)
    world.put("mov eax, 1; add ebx, eax; ret", 0x102000)
    assert isinstance(world.run(), Halt)
    assert world.cpu.regs[RBX] == 3 + 50


def test_a_write_by_a_device_drops_the_translation(make: Make) -> None:
    world = make()
    world.put("mov eax, 1; hlt")
    world.run()
    world.memory.write_bytes(ORG + 1, b"\x07")
    world.cpu.rip, world.cpu.halted = ORG, False
    world.run()
    assert world.cpu.regs[RAX] == 7


def test_a_full_cache_is_flushed_and_goes_on(make: Make) -> None:
    world = make(cache_limit=20_000)
    at = ORG
    for _ in range(400):  # blocks enough for several times the limit
        at = world.put(f"add eax, 1; jmp {at + 64:#x}", at) and at + 64
    world.put("hlt", at)
    assert world.run() == Halt(False)
    assert world.cpu.regs[RAX] == 400
    assert world.engine.counters().flushes > 0


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 999, 1000, 1001])
@pytest.mark.parametrize("kind", ENGINES)
def test_an_exact_budget_stops_at_the_instruction(make: Make, kind: str, limit: int) -> None:
    world = make(kind, exact=True) if kind == "translate" else make(kind)
    world.put("again: inc eax; add ebx, 2; nop; jmp again")
    assert world.run(limit) == Budget()
    assert world.cpu.retired == limit
    assert world.cpu.regs[RAX] == (limit + 3) // 4
    assert world.cpu.rip == ORG + [0, 1, 4, 5][limit % 4]


def test_interrupt_from_another_thread_stops_a_loop_precisely(make: Make) -> None:
    world = make()
    world.put("again: inc eax; jmp again")
    preempter = Preempter(world.engine.interrupt)
    preempter.arm(20_000_000)
    assert world.run() == Budget()
    preempter.close()
    assert world.cpu.rip in (ORG, ORG + 1)
    assert world.cpu.retired == 2 * world.cpu.regs[RAX] - (world.cpu.rip == ORG + 1)


def test_a_stop_long_after_an_exit_does_not_go_back_to_it(make: Make) -> None:
    world = make()
    world.put("mov eax, dword ptr [0x8000]; again: inc dword ptr [0x8000]; inc ebx; jmp again")
    for _ in range(3):  # an exit (a hidden page fault, the first chaining) comes before each stop
        world.engine.mapping_changed(None)
        preempter = Preempter(world.engine.interrupt)
        preempter.arm(20_000_000)
        assert world.run() == Budget()
        preempter.close()
    counted = world.memory.read(0x8000, 4)
    assert counted - world.cpu.regs[RBX] in (0, 1)
    assert counted > 1000


def test_a_machine_that_stops_inside_instructions_is_stopped_by_budget(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_CHECKER", "no_such_function")
    world = make()
    world.put("again: inc dword ptr [0x8000]; inc ebx; jmp again")
    preempter = Preempter(world.engine.interrupt)
    preempter.arm(20_000_000)
    assert world.run(1 << 60) == Budget()
    preempter.close()
    assert world.memory.read(0x8000, 4) - world.cpu.regs[RBX] in (0, 1)
    assert world.cpu.retired > 1000


def test_each_mode_has_a_jump_table_of_its_own(make: Make) -> None:
    world = make()
    world.put("mov eax, 0x101000; jmp eax")
    world.put("mov eax, 0x101100; jmp eax", 0x101000)
    world.put("mov eax, 0x101200; jmp eax", 0x101100)
    world.put("hlt", 0x101200)
    for cr0 in (CR0_PE, CR0_PE | CR0_TS, CR0_PE, CR0_PE | CR0_TS):
        world.cpu.rip, world.cpu.cr0, world.cpu.halted = ORG, cr0, False
        world.engine.mapping_changed(None)
        assert world.run() == Halt(False)
    # three targets in two modes, each looked up by the monitor once
    assert world.engine.counters().exits["indirect"] == 6


def test_a_return_is_expected_where_its_call_was_translated(make: Make) -> None:
    world = make()
    world.put("call 0x101000; call 0x101000; call 0x101000; hlt")
    world.put("ret", 0x101000)
    assert world.run() == Halt(False)
    assert world.engine.counters().exits["indirect"] == 0


@pytest.mark.parametrize("rounds", range(1, 11))
@pytest.mark.parametrize("body", ["add eax, 3; dec ecx", "inc eax; sub ecx, 1", "lea eax, [eax+3]; dec ecx"])
def test_an_unrolled_loop_counts_its_rounds(make: Make, body: str, rounds: int) -> None:
    world = make()
    world.put(f"mov ecx, {rounds}; again: {body}; jnz again; hlt")
    assert world.run() == Halt(False)
    assert world.cpu.regs[RCX] == 0
    assert world.cpu.retired == 1 + 3 * rounds + 1
    assert any(block.code.charge > block.count for block in world.engine.blocks())


@pytest.mark.parametrize("rounds", range(1, 11))
def test_a_fault_in_an_unrolled_loop_is_exact(make: Make, rounds: int) -> None:
    world = make()
    # the divisor becomes zero in the given round
    world.put(
        f"mov ecx, {rounds - 1}; again: xor edx, edx; mov eax, 6; div ecx; dec ecx; cmp ecx, 0x80; jne again; hlt"
    )
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.vector, out.pc) == (0, ORG + 5 + 2 + 5)
    assert world.cpu.regs[RCX] == 0
    assert world.cpu.retired == 1 + 6 * (rounds - 1) + 2


def test_cli_sti_pushf_popf_do_not_leave_the_cache(make: Make) -> None:
    world = make()
    world.put(
        "mov ecx, 1000; again: cli; pushfd; pop eax; sti; pushfd; pop ebx; pushfd; popfd; dec ecx; jnz again; cli; hlt"
    )
    world.run()
    exits = world.engine.counters().exits
    assert not any(exits[name] for name in ("cli", "sti", "pushf", "popf"))
    assert world.cpu.regs[RAX] & IF == 0
    assert world.cpu.regs[RBX] & IF == IF


@pytest.mark.parametrize("kind", ENGINES)
def test_popf_keeps_arithmetic_flags_and_changes_if(make: Make, kind: str) -> None:
    world = make(kind)
    world.put("push 0x2d7; popfd; pushfd; pop eax; push 0x46; popfd; pushfd; pop ebx; hlt")
    world.run()
    assert world.cpu.regs[RAX] == 0x2D7
    assert world.cpu.regs[RBX] == 0x46


def test_sti_leaves_when_an_interrupt_waits(make: Make) -> None:
    world = make()
    end = world.put("cli; mov eax, 1; sti; nop")
    world.put("mov eax, 2; hlt", end)
    world.engine.set_pending(True)
    assert world.run() == Budget()
    assert world.cpu.shadow
    assert world.cpu.regs[RAX] == 1
    assert world.cpu.rip == end - 1


def test_indirect_jumps_through_a_table(make: Make) -> None:
    world = make()
    world.put(
        "mov ecx, 3000; again: mov eax, ecx; and eax, 1; jmp dword ptr [eax*4 + 0x102000]; nop;"
        "zero: add ebx, 1; jmp next; one: add esi, 1; next: dec ecx; jnz again; hlt"
    )
    code = bytes(world.memory.read_bytes(ORG, 64))
    zero = ORG + code.index(b"\x83\xc3\x01")
    one = ORG + code.index(b"\x83\xc6\x01")
    world.memory.write(0x102000, 4, zero)
    world.memory.write(0x102004, 4, one)
    world.run()
    assert (world.cpu.regs[RBX], world.cpu.regs[RSI], world.cpu.regs[RCX]) == (1500, 1500, 0)
    assert world.engine.counters().exits["indirect"] <= 4


@pytest.mark.parametrize("kind", ENGINES)
def test_targets_that_share_a_place_in_the_table_are_both_found(make: Make, kind: str) -> None:
    world = make(kind)
    world.put("mov ecx, 50; again: mov eax, 0x110000; call eax; mov eax, 0x120000; call eax; dec ecx; jnz again; hlt")
    world.put("add ebx, 1; ret", 0x110000)
    world.put("add ebx, 100; ret", 0x120000)
    assert isinstance(world.run(), Halt)
    assert world.cpu.regs[RBX] == 50 * 101
    if kind == "translate":
        counters = world.engine.counters()
        assert counters.exits["indirect"] >= 99
        assert counters.dispatches < 20  # all others were answered where they came from


@pytest.mark.parametrize("kind", ENGINES)
def test_a_target_that_lost_its_place_is_not_found_once_its_bytes_changed(make: Make, kind: str) -> None:
    world = make(kind)
    world.put(
        "mov ecx, 9; again: mov eax, 0x110000; call eax; mov eax, 0x120000; call eax; cmp ecx, 5; jne next; "
        "mov byte ptr [0x120002], 50; mov byte ptr [0x110002], 7; next: dec ecx; jnz again; hlt"
    )
    world.put("add ebx, 1; ret", 0x110000)
    world.put("add ebx, 100; ret", 0x120000)
    assert isinstance(world.run(), Halt)
    assert world.cpu.regs[RBX] == 5 * 101 + 4 * 57


@pytest.mark.parametrize("kind", ENGINES)
def test_a_guest_reads_what_is_at_the_void_address(make: Make, kind: str) -> None:
    world = make(kind)
    void = make("translate").engine._backend.layout.void[32]
    world.put(f"mov ecx, 1; mov edx, 0x1234; mov esi, {void:#x}; mov eax, 0; rep lodsb; hlt")
    assert isinstance(world.run(), Halt)
    assert (world.cpu.regs[RAX], world.cpu.regs[RCX], world.cpu.regs[RSI]) == (0xFF, 0, void + 1)


def test_every_stop_point_of_a_mixed_loop_agrees_with_the_interpreter(make: Make) -> None:
    """Invariants 2 and 4: the whole state is equal after any number of instructions."""
    text = (
        "mov ebp, 0x103000; again: mov [ebp], eax; add eax, 3; pushfd; call f; popfd; adc ebx, 0; cmp eax, 40;"
        "sti; jb again; cli; mov ecx, 3; rep stosb; xor eax, eax; jmp again; f: lea esi, [eax + ebx]; ror esi, 1; ret"
    )
    reference = make("interpret")
    reference.put(text)
    reference.cpu.regs[7] = 0x104000
    for steps in range(1, 120):
        world = make(exact=True)
        world.put(text)
        world.cpu.regs[7] = 0x104000
        world.run(steps)
        reference.run(1)
        ours: Any = (world.cpu.rip, world.cpu.regs, world.cpu.rflags, world.cpu.retired)
        theirs: Any = (reference.cpu.rip, reference.cpu.regs, reference.cpu.rflags, reference.cpu.retired)
        assert ours == theirs, f"after {steps} instructions"
        world.engine.close()


@pytest.mark.parametrize(
    "text", ["nop; nop; hlt", "jmp a; a: nop; hlt", "a: loop a; nop; hlt", "call a; a: pop eax; hlt"]
)
def test_rf_is_gone_behind_the_next_instruction(make: Make, text: str) -> None:
    for limit in range(4):
        states = []
        for kind in ENGINES:
            world = make(kind, exact=True) if kind == "translate" else make(kind)
            world.put(text)
            world.cpu.regs[RCX] = 2
            world.cpu.rflags = 2 | RF
            world.run(limit)
            states.append((world.cpu.rip, world.cpu.retired, world.cpu.rflags))
        assert states[0] == states[1]
        assert bool(states[0][2] & RF) == (limit == 0)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(("text", "rf"), [("ud2", RF), ("div ecx", RF), ("nop; ud2", 0), ("jmp a; a: div ecx", 0)])
def test_rf_stays_where_the_next_instruction_faults(make: Make, kind: str, text: str, rf: int) -> None:
    world = make(kind)
    world.put(text)
    world.cpu.rflags = 2 | RF
    assert isinstance(world.run(), Fault)
    assert world.cpu.rflags & RF == rf


def test_rf_does_not_keep_code_out_of_the_cache(make: Make) -> None:
    world = make()
    world.put("nop; hlt")
    world.cpu.rflags = 2 | RF
    assert world.run() == Halt(False)
    assert world.engine.counters().emulated == 1  # HLT


def test_rf_holds_breakpoints_off_for_one_instruction(make: Make) -> None:
    world = make()
    world.put("again: inc eax; jmp again")
    world.cpu.rflags = 2 | RF
    world.cpu.dr[0], world.cpu.dr[7] = ORG, 0x402
    world.cpu.debug_changed()
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.vector, world.cpu.regs[RAX], world.cpu.retired) == (1, 1, 2)


def handle(world: Any, log: list[Fault]) -> Callable[[Fault], Any]:
    """Skips the two bytes of the instruction that faulted; the run is over behind the third."""

    def handler(fault: Fault) -> Any:
        log.append(fault)
        world.cpu.rip += 2
        return None if len(log) < 3 else Shutdown((fault,), "enough")

    return handler


def test_faults_are_delivered_from_within_the_cache(make: Make) -> None:
    world, log = make(), []
    world.put("a: inc eax; div ecx; inc ebx; jmp a")
    world.cpu.regs[RAX] = 5
    world.engine.on_fault = handle(world, log)
    out = world.run()
    assert out == Shutdown((log[2],), "enough")
    assert [(fault.vector, fault.pc) for fault in log] == [(0, ORG + 1)] * 3
    assert (world.cpu.regs[RAX], world.cpu.regs[RBX], world.cpu.retired) == (8, 2, 7)


def test_a_fault_without_progress_goes_to_the_monitor(make: Make) -> None:
    world, log = make(), []
    world.put("inc eax; div ecx; div ecx; inc ebx; hlt")
    world.engine.on_fault = handle(world, log)
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.pc, len(log), world.cpu.retired) == (ORG + 3, 1, 1)
    world.cpu.rip += 2
    assert world.run() == Halt(False)
    assert (len(log), world.cpu.regs[RBX]) == (1, 1)


def test_a_guest_that_only_faults_is_left_from_time_to_time(make: Make) -> None:
    world, log = make(), []
    world.put("a: inc eax; div ecx; jmp a")

    def handler(fault: Fault) -> None:
        log.append(fault)
        world.cpu.rip += 2

    world.engine.on_fault = handler
    assert isinstance(world.run(), Fault)
    assert 100 < len(log) < 10_000


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_a_stop_asked_for_by_a_delivery_is_heard(make: Make, how: str) -> None:
    world = make()
    world.put("div ecx; inc ebx; hlt")

    def handler(_fault: Fault) -> None:
        world.cpu.rip += 2
        if how == "stop":
            world.cpu.stop_requested = True
        else:
            world.cpu.rflags |= IF
            world.engine.set_pending(True)

    world.engine.on_fault = handler
    assert world.run() == Budget()
    assert (world.cpu.rip, world.cpu.regs[RBX]) == (ORG + 2, 0)


def test_the_engine_names_itself(make: Make) -> None:
    assert isinstance(make().engine, TranslateEngine)


def test_alignment_is_checked_once_for_each_instruction(make: Make) -> None:
    world = make()
    world.cpu.cr4 |= CR4_OSFXSR
    world.put("mov ecx, 500; mov esi, 0x1010; again: movaps xmm0, [esi]; movups xmm1, [esi+1]; dec ecx; jnz again; hlt")
    assert world.run() == Halt(False)
    assert world.engine.counters().exits["alignment"] <= 4  # the loop is unrolled


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    "text", ["movaps xmm0, [esi]", "addps xmm1, [esi]", "movdqa [esi], xmm2", "pshufd xmm0, [esi], 0"]
)
def test_a_misaligned_operand_faults(make: Make, kind: str, text: str) -> None:
    world = make(kind)
    world.cpu.cr4 |= CR4_OSFXSR
    at = world.put("mov esi, 0x1008")
    world.put(text, at)
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.vector, out.error, out.pc) == (13, 0, at)


@pytest.mark.parametrize("kind", ENGINES)
def test_alignment_checks_begin_with_popf(make: Make, kind: str) -> None:
    world = make(kind)
    world.cpu.cr0 |= CR0_AM
    world.cpu.cpl = 3
    world.cpu.segs[CS] = Segment(0x1B, 0, 0xFFFFFFFF, 0xC0FB)
    for seg in (ES, SS, DS, FS, GS):
        world.cpu.segs[seg] = Segment(0x23, 0, 0xFFFFFFFF, 0xC0F3)
    at = world.put("mov esi, 0x1001; mov eax, [esi]; push 0x40002; popfd; mov eax, [esi+3]")
    world.put("mov eax, [esi]", at)
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.vector, out.error, out.pc) == (17, 0, at)


def test_returns_of_16_bit_code_stay_in_the_cache(make: Make) -> None:
    world = make()
    cpu = world.cpu
    cpu.mode = 16
    for base, seg in ((0x8000, CS), (0x2000, DS), (0x3000, ES), (0x4000, SS), (0, FS), (0, GS)):
        cpu.segs[seg] = Segment(base >> 4, base, 0xFFFF, 0x9B if seg == CS else 0x93)
    cpu.rip, cpu.regs[RSP] = 0, 0xABCD_0000  # SP wraps, and the upper half stays
    # 5000 times: call f; f: inc bx; push word of a table, ret to it; it jumps back through the table
    text = (
        "mov cx, 5000; again: call f; mov si, 2; jmp word ptr [si]; back: dec cx; jnz again; hlt; "
        # push word ptr [0]; ret; and ret 0
        "f: inc bx; .byte 0xff, 0x36, 0, 0; .byte 0xc3; g: add eax, 1; .byte 0xc2, 0, 0"
    )
    world.memory.write_bytes(0x8000, raw(text, 16, 0))
    code = raw(text, 16, 0)
    back, g = code.index(bytes.fromhex("49")), code.index(bytes.fromhex("6683c001"))
    world.memory.write_bytes(0x2000, g.to_bytes(2, "little") + back.to_bytes(2, "little"))
    assert world.run() == Halt(False)
    assert (cpu.regs[RAX], cpu.regs[RBX], cpu.regs[RCX]) == (5000, 5000, 0)
    assert cpu.regs[RSP] == 0xABCD_0000 | -2 * 5000 & 0xFFFF  # the assembler's CALL pushes four bytes
    exits = world.engine.counters().exits
    assert exits["indirect"] < 10
    assert not exits["indirect transfer"]


@pytest.mark.parametrize("kind", ENGINES)
def test_unreal_mode_reaches_all_addresses(make: Make, kind: str) -> None:
    world = make(kind)
    cpu = world.cpu
    cpu.mode = 16
    cpu.segs[CS] = Segment(0x800, 0x8000, 0xFFFF, 0x9B)
    for seg in (DS, SS, FS, GS):
        cpu.segs[seg] = Segment(0, 0, 0xFFFF, 0x93)
    cpu.segs[ES] = Segment(0x100, 0x1000, 0xFFFFFFFF, 0x93)
    cpu.rip = 0
    text = "mov ecx, 1000; mov edi, 0x200000; again: inc dword ptr es:[edi]; dec ecx; jnz again; mov ax, [edi]"
    world.memory.write_bytes(0x8000, raw(text, 16, 0))
    out = world.run()
    assert isinstance(out, Fault)  # DS ends at 64 KiB
    assert out.vector == 13
    assert world.memory.read(0x201000, 4) == 1000
    if kind == "translate":
        assert world.engine.counters().exits["segment check"] == 1


FLAT = 0x2000  # where the tests of exceptions keep their operands


def floating(make: Make, kind: str, text: str, words: tuple[int, ...] = ()) -> tuple[Any, object]:
    """The world after `text`, which finds `words` at EBX."""
    world = make(kind)
    world.cpu.cr0 |= CR0_NE | CR0_MP
    world.cpu.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT
    for number, word in enumerate(words):
        world.memory.write(FLAT + 4 * number, 4, word)
    world.cpu.regs[RBX] = FLAT
    world.put(text)
    return world, world.run()


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("movss xmm0, [ebx]; divss xmm0, [ebx+4]", 0x20),  # 1 / 3
        ("movss xmm0, [ebx]; divss xmm0, [ebx+8]", 0x04),  # 1 / 0
        ("movss xmm0, [ebx+8]; divss xmm0, [ebx+8]; addss xmm0, [ebx]", 0x01),  # 0 / 0, and the flag stays
        ("movss xmm0, [ebx+12]; mulss xmm0, xmm0", 0x28),
        ("movss xmm0, [ebx]; divss xmm0, [ebx+4]; ldmxcsr [ebx+16]", 0),
        ("movss xmm0, [ebx]; addss xmm0, xmm0", 0),
    ],
)
def test_flags_of_masked_simd_exceptions(make: Make, kind: str, text: str, flags: int) -> None:
    words = (0x3F800000, 0x40400000, 0, 0x7F000000, 0x1F80)
    world, out = floating(make, kind, f"{text}; stmxcsr [ebx+32]; hlt", words)
    assert out == Halt(False)
    assert world.memory.read(FLAT + 32, 4) == 0x1F80 | flags


@pytest.mark.parametrize("kind", ENGINES)
def test_an_unmasked_simd_exception(make: Make, kind: str) -> None:
    words = (0x3F800000, 0x40400000, 0, 0, 0x1D80)  # division by zero is not masked
    text = "movss xmm0, [ebx]; ldmxcsr [ebx+16]; divss xmm0, [ebx+4]; movss xmm1, xmm0; divss xmm0, [ebx+8]"
    world, out = floating(make, kind, text, words)
    assert isinstance(out, Fault)
    assert (out.vector, out.pc) == (19, ORG + len(raw(text[: text.rindex(";") + 1], 32, ORG)))
    image = world.cpu.native.save()
    assert image[160:164] == image[176:180]  # the quotient of before
    assert int.from_bytes(image[24:28], "little") == 0x1D80 | 0x24
    assert world.memory.read(FLAT + 16, 4) == 0x1D80


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("fld1; fldpi; fdivp st(1), st(0)", 0x20), ("fld1; fldz; fdivp st(1), st(0)", 0x04),
        ("fld1; fchs; fsqrt", 0x01), ("fld1; fchs; fsqrt; fnclex", 0),
        ("fld1; fldpi; fdivp st(1), st(0); fninit", 0), ("fld1; fld1; faddp st(1), st(0)", 0),
    ],
)  # fmt: skip
def test_flags_of_masked_x87_exceptions(make: Make, kind: str, text: str, flags: int) -> None:
    world, out = floating(make, kind, f"fninit; {text}; fnstsw ax; hlt")
    assert out == Halt(False)
    assert world.cpu.regs[RAX] & 0xFF == flags


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("waiting", ["fld1", "fwait", "movq [ebx+8], mm0", "fadd st(0), st(0)"])
def test_an_unmasked_x87_exception_is_raised_by_the_next_instruction(make: Make, kind: str, waiting: str) -> None:
    text = "fninit; fldcw [ebx]; fldz; fldz; fdivp st(1), st(0); mov ecx, 7; "
    world, out = floating(make, kind, text + waiting, (0x37E,))
    assert isinstance(out, Fault)
    assert (out.vector, out.pc) == (16, ORG + len(raw(text, 32, ORG)))
    assert world.cpu.regs[RCX] == 7
    image = world.cpu.native.save()
    assert int.from_bytes(image[2:4], "little") & 0xB8FF == 0xB081  # nothing was popped; invalid, summary, busy


LONG_ORG = 0x10000


def long_world(make: Make, kind: str, text: str, **options: bool) -> Any:
    """A world in 64-bit mode, its RAM mapped as it is for all privilege levels, about to run `text`."""
    world = make(kind, **options)
    for at, entry in ((0x200000, 0x201007), (0x201000, 0x202007), (0x202000, 0x87), (0x202008, 0x200087)):
        world.memory.write_bytes(at, entry.to_bytes(8, "little"))
    cpu = world.cpu
    cpu.cr3, cpu.cr4, cpu.efer, cpu.cr0 = 0x200000, CR4_PAE | CR4_FSGSBASE, EFER_LME | EFER_LMA, CR0_PE | CR0_PG
    cpu.segs[CS] = Segment(8, 0, 0xFFFFFFFF, 0xA09B)
    cpu.mode, cpu.rip = 64, LONG_ORG
    cpu.flush_tlb(None)
    world.engine.mapping_changed(None)
    world.memory.write_bytes(LONG_ORG, raw(text, 64, LONG_ORG))
    return world


@pytest.mark.parametrize("kind", ENGINES)
def test_segment_bases_change_in_the_cache(make: Make, kind: str) -> None:
    world = long_world(
        make,
        kind,
        "mov rbx, 0x1000; mov rdx, 0xffff800000002000; wrgsbase rbx; mov r8d, 1001;"
        "again: swapgs; wrfsbase rdx; rdgsbase rcx; add rsi, rcx; dec r8d; jnz again; hlt",
    )
    world.cpu.kernel_gs_base = 0x300000
    assert world.run() == Halt(False)
    cpu = world.cpu
    assert (cpu.segs[GS].base, cpu.kernel_gs_base, cpu.segs[FS].base) == (0x300000, 0x1000, 0xFFFF800000002000)
    assert cpu.regs[RSI] == 501 * 0x300000 + 500 * 0x1000
    assert sum(world.engine.counters().exits[name] for name in ("swapgs", "wrfsbase", "rdgsbase", "wrgsbase")) == 0


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("base", [0x800000000000, 0xFFFF7FFFFFFFFFFF, 0x1000000000000, 0x8000000000000000])
@pytest.mark.parametrize("register", ["rcx", "rdx", "r9"])
def test_a_segment_base_must_be_canonical(make: Make, kind: str, base: int, register: str) -> None:
    text = f"mov rcx, 0x55; mov {register}, {base:#x}; stc; wrgsbase {register}; hlt"
    world = long_world(make, kind, text)
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.vector, out.error) == (13, 0)
    assert world.cpu.segs[GS].base == 0
    assert world.cpu.regs[RCX] == (base if register == "rcx" else 0x55)
    assert world.cpu.rflags & CF


@pytest.mark.parametrize("kind", ENGINES)
def test_segment_bases_are_undefined_without_their_bit(make: Make, kind: str) -> None:
    world = long_world(make, kind, "rdgsbase rcx; mov rax, cr4; btr eax, 16; mov cr4, rax; rdgsbase rcx; hlt")
    out = world.run()
    assert isinstance(out, Fault)
    assert out.vector == 6


@pytest.mark.parametrize("exact", [False, True])
def test_reading_the_time_changes_nothing_else(make: Make, exact: bool) -> None:
    text = "mov r8d, 100; mov rbx, 7; mov ecx, 9; again: stc; rdtsc; jnc wrong; rdtscp; dec r8d; jnz again; wrong: hlt"
    world = long_world(make, "translate", text, exact=exact)
    world.cpu.tsc_offset, world.cpu.tsc_aux = 0x1234567890, 5
    assert world.run() == Halt(False)
    cpu, exits = world.cpu, world.engine.counters().exits
    assert (cpu.regs[RAX], cpu.regs[RDX], cpu.regs[RCX], cpu.regs[RBX]) == (0x34567890, 0x12, 5, 7)
    assert (exits["rdtsc"], exits["rdtscp"], cpu.retired) == (100, 100, 3 + 600 + 1)


@pytest.mark.parametrize("kind", ENGINES)
def test_the_time_can_be_kept_from_user_code(make: Make, kind: str) -> None:
    world = long_world(make, kind, "rdtsc; hlt")
    world.cpu.cr4 |= CR4_TSD
    world.cpu.segs[CS], world.cpu.segs[SS] = Segment(11, 0, 0xFFFFFFFF, 0xA0FB), Segment(19, 0, 0xFFFFFFFF, 0xC0F3)
    world.cpu.cpl = 3
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.vector, out.error, out.pc) == (13, 0, LONG_ORG)


def test_a_jump_to_code_that_is_not_translated_is_made_by_the_machine(make: Make) -> None:
    text = "mov eax, offset; call rax; call rax; hlt".replace("offset", f"{LONG_ORG + 0x20:#x}")
    world = long_world(make, "translate", text)
    world.memory.write_bytes(LONG_ORG + 0x20, raw("inc ebx; ret", 64, LONG_ORG + 0x20))
    assert world.run() == Halt(False)
    counters = world.engine.counters()
    assert (world.cpu.regs[RBX], world.cpu.retired, counters.emulated) == (2, 8, 1)  # the HLT
    assert counters.exits["indirect"] >= 1


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("text", ["push rax; ret", "push rbx; jmp rax", "push rbx; call rax"])
def test_a_jump_to_no_address_faults_where_it_is(make: Make, kind: str, text: str) -> None:
    world = long_world(make, kind, f"mov rax, 0x800000000000; {text}")
    out = world.run()
    assert isinstance(out, Fault)
    assert (out.vector, out.error, out.pc) == (13, 0, LONG_ORG + 11)
    assert (world.cpu.regs[RSP], world.cpu.retired) == (0x9F000 - 8, 2)


def test_what_is_no_instruction_may_become_one(make: Make) -> None:
    """Its bytes are written anew, from the second on: what was translated first must not be taken again."""
    world = make()
    world.memory.write_bytes(ORG, bytes.fromhex("0f04"))  # undefined
    out = world.run()
    assert isinstance(out, Fault)
    assert out.vector == 6
    world.memory.write(ORG + 1, 4, 0x90F4C8)  # BSWAP eax; HLT
    world.cpu.regs[RAX] = 0x12345678
    assert world.run() == Halt(False)
    assert world.cpu.regs[RAX] == 0x78563412
