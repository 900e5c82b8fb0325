"""The keyboard controller and its keyboard, as an AT program sees them."""

from __future__ import annotations

import pytest

from emu.devices.i8042 import I8042
from emu.irq import IrqLine

DATA, STATUS = 0, 4


class Board:
    def __init__(self) -> None:
        self.edges: list[bool] = []
        self.resets = 0
        self.a20: list[bool] = []
        self.device = I8042(IrqLine(self.edges.append), self._reset, self.a20.append)

    def _reset(self) -> None:
        self.resets += 1

    def command(self, *values: int) -> None:
        """The first value to port 64h, its parameters to 60h."""
        self.device.write(STATUS, 1, values[0])
        for value in values[1:]:
            self.device.write(DATA, 1, value)

    def all(self) -> list[int]:
        """Read the data port while the status says that it is full."""
        out = []
        while self.device.read(STATUS, 1) & 1:
            out.append(self.device.read(DATA, 1))
        return out


@pytest.fixture
def board() -> Board:
    return Board()


def test_status_after_power_on(board: Board) -> None:
    assert board.device.read(STATUS, 1) == 0x14  # unlocked, system flag
    assert board.device.read(DATA, 1) == 0
    board.device.write(STATUS, 1, 0xAA)
    assert board.device.read(STATUS, 1) == 0x1D  # a command was written last, the buffer is full


@pytest.mark.parametrize(
    ("command", "answer"),
    [((0xAA,), [0x55]), ((0xAB,), [0x00]), ((0xA9,), [0x02]), ((0xD0,), [0x03]), ((0xC0,), [0x80])],
)
def test_controller_commands(board: Board, command: tuple[int, ...], answer: list[int]) -> None:
    board.command(*command)
    assert board.all() == answer


def test_command_byte_is_kept(board: Board) -> None:
    board.command(0x60, 0x65)
    board.command(0x20)
    assert board.all() == [0x65]


def test_buffer_can_be_written_for_tests(board: Board) -> None:
    board.command(0xD2, 0x5A)
    assert board.all() == [0x5A]


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ([0xFF], [0xFA, 0xAA]), ([0xF2], [0xFA, 0xAB, 0x41]), ([0xEE], [0xEE]), ([0xED, 0x07], [0xFA, 0xFA]),
        ([0xF3, 0x20], [0xFA, 0xFA]), ([0xF4], [0xFA]), ([0xF0, 0x00], [0xFA, 0xFA, 0x02]), ([0x77], [0xFE]),
    ],
)  # fmt: skip
def test_keyboard_commands(board: Board, data: list[int], answer: list[int]) -> None:
    for value in data:
        board.device.write(DATA, 1, value)
    assert board.all() == answer


def test_a_keyboard_told_to_stop_sends_no_keys(board: Board) -> None:
    board.device.write(DATA, 1, 0xF5)
    board.device.type_text("a")
    assert board.all() == [0xFA]
    board.device.write(DATA, 1, 0xF4)
    board.device.type_text("a")
    assert board.all() == [0xFA, 0x1E, 0x9E]


def test_a_disabled_interface_holds_the_keys_back(board: Board) -> None:
    board.command(0xAD)
    board.device.type_text("a")
    assert board.all() == []
    board.command(0xAE)
    assert board.all() == [0x1E, 0x9E]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("a", [0x1E, 0x9E]), ("A", [0x2A, 0x1E, 0x9E, 0xAA]), ("1", [0x02, 0x82]), ("!", [0x2A, 0x02, 0x82, 0xAA]),
        ("\n", [0x1C, 0x9C]), (" ", [0x39, 0xB9]), ("\x7f", [0x0E, 0x8E]), ("/", [0x35, 0xB5]), ("\\", [0x2B, 0xAB]),
        ("\x03", [0x1D, 0x2E, 0xAE, 0x9D]), ("é", []), ("z;", [0x2C, 0xAC, 0x27, 0xA7]),
    ],
)  # fmt: skip
def test_typing_gives_scan_codes_of_set_1(board: Board, text: str, codes: list[int]) -> None:
    board.device.type_text(text)
    assert board.all() == codes


def test_every_byte_makes_an_edge(board: Board) -> None:
    board.device.type_text("a")
    assert board.edges == [True]
    board.device.read(DATA, 1)
    assert board.edges == [True, False, True]
    board.device.read(DATA, 1)
    assert board.edges == [True, False, True, False]


def test_interrupts_can_be_switched_off(board: Board) -> None:
    board.command(0x60, 0x44)
    board.device.type_text("a")
    assert board.edges == []
    assert board.all() == [0x1E, 0x9E]


def test_a20_and_reset(board: Board) -> None:
    board.command(0xD1, 0x01)
    board.command(0xDF)
    board.command(0xDD)
    assert (board.a20, board.resets) == ([False, True, False], 0)
    board.command(0xFE)
    assert board.resets == 1
    board.command(0xD1, 0x02)
    assert board.resets == 2
    board.command(0xFF)  # pulses nothing
    assert board.resets == 2
