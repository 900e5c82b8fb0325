"""The local APIC: priorities, the 8259A behind it, errors, interprocessor interrupts to itself, and its timer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emu.clock import Clock
from emu.devices.lapic import LocalApic

TPR, PPR, EOI, LDR, DFR, SVR = 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
TIMER, LINT0, ERROR, INITIAL, CURRENT, DIVIDE = 0x320, 0x350, 0x370, 0x380, 0x390, 0x3E0
MASKED, PERIODIC, DEADLINE = 1 << 16, 1 << 17, 2 << 17
BY_ONE = 0xB
Move = Callable[[int], None]


class Board:
    def __init__(self, clock: Clock) -> None:
        self.levels: list[bool] = []
        self.outside = False
        self.ended: list[int] = []
        self.bases: list[int | None] = []
        self.apic = LocalApic(clock, self.levels.append, lambda: self.outside, lambda: 0x33, lambda tsc: tsc)
        self.apic.on_eoi, self.apic.on_move = self.ended.append, self.bases.append
        self.apic.enable()

    def __getitem__(self, register: int) -> int:
        return self.apic.read(register, 4)

    def __setitem__(self, register: int, value: int) -> None:
        self.apic.write(register, 4, value)

    def taken(self) -> list[int]:
        """The vectors that the processor takes one after the other, ending each."""
        found = []
        while self.apic.pending():
            found.append(self.apic.acknowledge())
            self[EOI] = 0
        return found


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(clock)


def test_after_reset(clock: Clock) -> None:
    apic = LocalApic(clock, lambda level: None, lambda: True, lambda: 8, int)
    assert [apic.read(at, 4) for at in (0x20, 0x30, TPR, SVR, DFR, TIMER, 0x360)] == [
        0, 0x50014, 0, 0xFF, 0xFFFFFFFF, MASKED, MASKED,
    ]  # fmt: skip
    apic.deliver(0x40, False)
    assert (apic.pending(), apic.acknowledge()) == (True, 8)  # LINT0 is open, the APIC itself is not enabled


def test_the_higher_vector_comes_first_and_holds_off_its_class(board: Board) -> None:
    for vector in (0x51, 0x62, 0x6F):
        board.apic.deliver(vector, False)
    assert board.apic.acknowledge() == 0x6F
    assert (board[PPR], board.apic.pending()) == (0x60, False)
    assert (board[ISR + 0x30], board[IRR + 0x30], board[IRR + 0x20]) == (1 << 15, 4, 1 << 17)
    board.apic.deliver(0x70, False)
    assert board.apic.acknowledge() == 0x70
    board[EOI] = 0
    board[EOI] = 0
    assert board.taken() == [0x62, 0x51]
    assert board.levels == [True, False, True, False, True, False, True, False]


def test_task_priority_is_cr8(board: Board) -> None:
    board.apic.deliver(0x55, False)
    board.apic.set_task_priority(5)
    assert (board[TPR], board[PPR], board.apic.task_priority, board.apic.pending()) == (0x50, 0x50, 5, False)
    assert board.apic.acknowledge() == 0xFF  # spurious
    board[TPR] = 0x4F
    assert (board.apic.task_priority, board.taken()) == (4, [0x55])


def test_end_of_level_triggered_interrupts_is_told(board: Board) -> None:
    board.apic.deliver(0x41, True)
    board.apic.deliver(0x61, False)
    assert board[TMR + 0x20] == 2
    assert board.taken() == [0x61, 0x41]
    assert board.ended == [0x41]


def test_the_8259a_comes_through_lint0(board: Board) -> None:
    board.outside = True
    board.apic.external_changed()
    assert (board.levels, board.apic.acknowledge()) == ([True], 0x33)
    board[LINT0] = MASKED | 0x700
    assert board.levels == [True, False]
    board.apic.base_changed(0xFEE00100)  # switched off: LINT0 is the processor's INTR
    assert (board.levels[-1], board.apic.acknowledge(), board.bases) == (True, 0x33, [None])
    board.apic.base_changed(0xFED00900)
    assert (board.bases[1], board[SVR]) == (0xFED00000, 0xFF)


def test_software_disable_masks_the_local_vectors(board: Board) -> None:
    board[SVR] = 0xFF
    board[LINT0] = 0x700
    assert board[LINT0] == MASKED | 0x700
    board.apic.deliver(0x40, False)
    assert board[IRR + 0x20] == 0


def test_errors_are_shown_after_a_write(board: Board) -> None:
    board[ERROR] = 0xFE
    board.apic.deliver(5, False)
    board[ICR] = 1 << 18 | 3
    board[0x3F0] = 0
    assert board[ESR] == 0
    board[ESR] = 0
    assert board[ESR] == 0xE0
    board[ESR] = 0
    assert board[ESR] == 0
    assert board.taken() == [0xFE]


@pytest.mark.parametrize(
    ("command", "destination", "arrives"),
    [
        (1 << 18, 9, True), (2 << 18, 9, True), (3 << 18, 0, False), (0, 0, True), (0, 0xFF, True), (0, 1, False),
        (1 << 11, 4, True), (1 << 11, 2, False), (5 << 8 | 1 << 18, 0, False),
    ],
)  # fmt: skip
def test_interprocessor_interrupts(board: Board, command: int, destination: int, arrives: bool) -> None:
    board[LDR] = 4 << 24
    board[ICR_HIGH] = destination << 24
    board[ICR] = command | 0x77
    assert board[ICR] == command | 0x77
    assert board.taken() == ([0x77] if arrives else [])


def test_cluster_model(board: Board) -> None:
    board[DFR], board[LDR] = 0, 0x24000000
    accepted = [board.apic.accepts(destination, True) for destination in (0x24, 0x2F, 0x22, 0x34, 0xFF)]
    assert accepted == [True, True, False, False, True]


def test_only_whole_registers_are_written(board: Board) -> None:
    board.apic.write(TPR, 1, 0x40)
    board.apic.write(TPR + 4, 4, 0x40)
    assert board[TPR] == 0
    board[TPR] = 0xA5
    assert (board.apic.read(TPR, 1), board.apic.read(TPR + 1, 1), board.apic.read(TPR + 8, 4)) == (0xA5, 0, 0)


# -- the timer ---------------------------------------------------------------------------------------------------------


def test_one_shot(board: Board, run_to: Move) -> None:
    board[DIVIDE], board[TIMER], board[INITIAL] = BY_ONE, 0x40, 1000
    run_to(400)
    assert (board[CURRENT], board.taken()) == (600, [])
    run_to(1000)
    assert (board[CURRENT], board.taken()) == (0, [0x40])
    run_to(9000)
    assert board.taken() == []


def test_the_divider(board: Board, run_to: Move) -> None:
    board[TIMER] = 0x40
    for code, factor in ((0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)):
        board[DIVIDE], board[INITIAL] = code, 1000
        start = board.apic._clock.now()
        run_to(start + 1000 * factor - 1)
        assert board.taken() == []
        run_to(start + 1000 * factor)
        assert board.taken() == [0x40]


def test_periodic_without_drift_or_backlog(board: Board, run_to: Move) -> None:
    board[DIVIDE], board[TIMER], board[INITIAL] = BY_ONE, PERIODIC | 0x40, 1000
    run_to(1000)
    run_to(2010)
    assert board.taken() == [0x40]
    run_to(5500)
    assert (board.taken(), board[CURRENT]) == ([0x40], 500)
    run_to(5999)
    assert board.taken() == []
    run_to(6000)
    assert board.taken() == [0x40]
    board[INITIAL] = 0
    run_to(20000)
    assert (board.taken(), board[CURRENT]) == ([], 0)


def test_a_masked_timer_counts_in_silence(board: Board, run_to: Move) -> None:
    board[DIVIDE], board[TIMER], board[INITIAL] = BY_ONE, MASKED | 0x40, 1000
    run_to(500)
    assert board[CURRENT] == 500
    run_to(1500)
    board[TIMER] = 0x40  # it ended unseen
    run_to(5000)
    assert board.taken() == []
    board[TIMER], board[INITIAL] = MASKED | PERIODIC | 0x40, 1000
    run_to(6500)
    board[TIMER] = PERIODIC | 0x40
    run_to(7000)
    assert board.taken() == [0x40]


def test_tsc_deadline(board: Board, run_to: Move) -> None:
    board.apic.set_deadline(500)
    assert board.apic.deadline == 0  # not in that mode
    board[TIMER] = DEADLINE | 0x41
    board[INITIAL] = 7
    board.apic.set_deadline(500)
    assert (board.apic.deadline, board[CURRENT]) == (500, 0)
    run_to(499)
    assert board.taken() == []
    run_to(500)
    assert (board.taken(), board.apic.deadline) == ([0x41], 0)
    board.apic.set_deadline(900)
    board.apic.set_deadline(0)
    run_to(1000)
    assert board.taken() == []
    board.apic.set_deadline(2000)
    board[TIMER] = 0x41
    board[TIMER] = DEADLINE | 0x41
    run_to(3000)
    assert board.taken() == []
