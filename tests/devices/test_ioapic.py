"""The I/O APIC: its registers, edges and levels, masks, and the end of level-triggered interrupts."""

from __future__ import annotations

import pytest

from emu.devices.ioapic import IoApic

MASKED, LEVEL, REMOTE_IRR, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11


class Board:
    def __init__(self) -> None:
        self.sent: list[tuple[int, bool]] = []
        self.io_apic = IoApic(
            lambda vector, level: self.sent.append((vector, level)), lambda to, logical: to == (2 if logical else 0)
        )

    def __getitem__(self, register: int) -> int:
        self.io_apic.write(0, 4, register)
        return self.io_apic.read(0x10, 4)

    def __setitem__(self, register: int, value: int) -> None:
        self.io_apic.write(0, 4, register)
        self.io_apic.write(0x10, 4, value)

    def route(self, number: int, low: int, high: int = 0) -> None:
        self[0x11 + number * 2] = high
        self[0x10 + number * 2] = low

    def set(self, number: int, level: bool) -> None:
        self.io_apic.line(number).set(level)


@pytest.fixture
def board() -> Board:
    return Board()


def test_registers(board: Board) -> None:
    assert board[1] == 23 << 16 | 0x11
    board[0] = 0xFFFFFFFF
    assert (board[0], board[2]) == (0x0F000000, 0x0F000000)
    assert board[0x10 + 23 * 2] == MASKED
    board.route(23, 0xFFFFFFFF, 0xFFFFFFFF)
    assert (board[0x3E], board[0x3F], board[0x40]) == (0x1AFFF, 0xFF000000, 0)
    assert board.io_apic.read(0, 1) == 0x40
    assert board.io_apic.read(4, 4) == 0


def test_an_edge_is_sent_once_and_lost_while_masked(board: Board) -> None:
    board.route(4, 0x44)
    board.set(4, True)
    board.set(4, False)
    board.set(4, True)
    assert board.sent == [(0x44, False)] * 2
    board.route(4, MASKED | 0x44)
    board.set(4, False)
    board.set(4, True)
    board.route(4, 0x44)
    assert len(board.sent) == 2


def test_a_level_is_sent_again_until_it_falls(board: Board) -> None:
    board.route(9, LEVEL | 0x59)
    board.set(9, True)
    board.io_apic.end_of_interrupt(0x58)
    assert (board.sent, board[0x10 + 18]) == ([(0x59, True)], LEVEL | REMOTE_IRR | 0x59)
    board.io_apic.end_of_interrupt(0x59)
    assert len(board.sent) == 2
    board.set(9, False)
    board.io_apic.end_of_interrupt(0x59)
    assert (len(board.sent), board[0x10 + 18]) == (2, LEVEL | 0x59)


def test_opening_an_entry_sends_a_level_that_waits(board: Board) -> None:
    board.set(10, True)
    board.route(10, LEVEL | 0x60)
    assert board.sent == [(0x60, True)]


def test_destinations(board: Board) -> None:
    board.route(1, 0x41, 1 << 24)
    board.route(2, LOGICAL | 0x42, 2 << 24)
    board.route(3, 7 << 8 | 0x43)  # ExtINT
    for number in (1, 2, 3):
        board.set(number, True)
    assert board.sent == [(0x42, False)]
