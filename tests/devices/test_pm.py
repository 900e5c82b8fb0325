"""PM1 registers, PM timer and SMI command port against the ACPI specification, section 4.8.3."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.bus import Bus
from emu.clock import Clock
from emu.devices.pm import PowerManagement, SmiCommand
from emu.irq import IrqLine

Move = Callable[[int], None]

NS = 1_000_000_000
HZ = 3_579_545
HALF = 1 << 23  # ticks between two changes of the timer's highest bit
BASE, SMI = 0x600, 0xB2
STATUS, ENABLE, CONTROL, TIMER = BASE, BASE + 2, BASE + 4, BASE + 8
TIMER_STS, GLOBAL_STS, BUTTON_STS, CLOCK_STS = 0x0001, 0x0020, 0x0100, 0x0400
SCI_EN, SLP_EN = 0x0001, 0x2000


def at(tick: int) -> int:
    """The first nanosecond of a tick."""
    return -(-tick * NS // HZ)


class Board:
    """A port bus with the registers at their ports, the SCI's changes with their times, and whether it is on."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sci: list[tuple[bool, int]] = []
        self.on = True
        self.line = IrqLine(lambda level: self.sci.append((level, clock.now())), 9)
        self.pm = PowerManagement(clock, self.line, self._off)
        self.ports = Bus("port")
        self.ports.attach(BASE, 0x40, self.pm)
        self.ports.attach(SMI, 2, SmiCommand(self.pm))

    def _off(self) -> None:
        self.on = False

    def raised(self) -> bool:
        return self.line.level

    def read(self, port: int, size: int = 2) -> int:
        return self.ports.read(port, size)

    def write(self, port: int, value: int, size: int = 2) -> None:
        self.ports.write(port, size, value)

    def enable_acpi(self) -> None:
        self.write(SMI, 0xF1, 1)


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(clock)


# -- off ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "size", "value"), [(0x604, 2, 0x2000), (0x604, 4, 0x2000), (0x605, 1, 0x20), (0x604, 2, 0x2001)]
)
def test_soft_off(board: Board, port: int, size: int, value: int) -> None:
    board.write(port, value, size)
    assert not board.on


@pytest.mark.parametrize("value", [0, SCI_EN, 0x1C00, *(kind << 10 | SLP_EN for kind in range(1, 8))])
def test_other_writes_do_not_switch_off(board: Board, value: int) -> None:
    board.write(CONTROL, value)
    assert board.on
    assert board.read(CONTROL) == value & ~SLP_EN


def test_the_sleep_type_may_be_written_before(board: Board) -> None:
    """4.8.3.2.1: software may write SLP_TYP first; each byte of the register can be written by itself."""
    board.write(CONTROL, 5 << 10 | SCI_EN)
    board.write(CONTROL, SCI_EN)
    board.write(CONTROL, 0x01, 1)
    assert board.on
    board.write(CONTROL, SLP_EN | SCI_EN)
    assert not board.on


# -- ACPI mode ---------------------------------------------------------------------------------------------------------


def test_smi_commands_switch_acpi_mode(board: Board) -> None:
    assert board.read(CONTROL) == 0
    board.enable_acpi()
    assert board.read(CONTROL) == SCI_EN
    board.write(SMI, 0x55, 1)
    assert board.read(CONTROL) == SCI_EN
    board.write(SMI, 0xF0, 1)
    assert board.read(CONTROL) == 0


def test_smi_ports_hold_what_was_written(board: Board) -> None:
    board.write(SMI, 0xA5F1)
    assert board.read(CONTROL) == SCI_EN
    assert (board.read(SMI, 1), board.read(SMI + 1, 1), board.read(SMI)) == (0xF1, 0xA5, 0xA5F1)
    assert board.read(SMI, 4) == 0xFFFFA5F1
    board.write(SMI + 1, 0xF0, 1)  # the status port takes no command
    assert board.read(CONTROL) == SCI_EN


def test_control_keeps_only_what_can_be_read_back(board: Board) -> None:
    board.write(CONTROL, 0xFFFF & ~SLP_EN)
    assert board.read(CONTROL) == 0x1C03  # SLP_TYP, BM_RLD, SCI_EN; GBL_RLS is write-only


def test_only_defined_events_can_be_enabled(board: Board) -> None:
    board.write(ENABLE, 0xFFFF)
    assert board.read(ENABLE) == TIMER_STS | GLOBAL_STS | BUTTON_STS | CLOCK_STS
    board.write(ENABLE, 0, 1)
    assert board.read(ENABLE) == BUTTON_STS | CLOCK_STS


def test_registers_read_together_and_nothing_answers_between(board: Board) -> None:
    board.write(ENABLE, BUTTON_STS)
    board.pm.press_power_button()
    assert board.read(STATUS, 4) == BUTTON_STS << 16 | BUTTON_STS
    assert board.read(STATUS + 1, 1) == 1
    board.enable_acpi()
    assert board.read(CONTROL, 4) == 0xFFFF0001
    assert board.read(BASE + 0x0C, 4) == 0xFFFFFFFF
    assert board.read(BASE + 0x3F, 1) == 0xFF
    board.write(BASE + 0x0C, 0xFFFFFFFF, 4)
    assert board.read(STATUS, 4) == BUTTON_STS << 16 | BUTTON_STS


# -- events ------------------------------------------------------------------------------------------------------------


def test_power_button_raises_the_sci_until_it_is_cleared(board: Board) -> None:
    board.enable_acpi()
    board.write(ENABLE, BUTTON_STS)
    assert not board.raised()
    board.pm.press_power_button()
    assert board.raised()
    board.write(STATUS, TIMER_STS)  # clears another event
    assert board.raised()
    board.write(STATUS, BUTTON_STS)
    assert not board.raised()
    assert board.read(STATUS) == 0


def test_status_is_set_without_enable_and_interrupts_once_enabled(board: Board) -> None:
    board.enable_acpi()
    board.pm.press_power_button()
    assert board.read(STATUS) == BUTTON_STS
    assert not board.raised()
    board.write(ENABLE, BUTTON_STS)
    assert board.raised()
    board.write(ENABLE, 0)
    assert not board.raised()


def test_no_sci_outside_acpi_mode(board: Board) -> None:
    board.write(ENABLE, BUTTON_STS)
    board.pm.press_power_button()
    assert not board.raised()
    board.enable_acpi()
    assert board.raised()
    board.write(SMI, 0xF0, 1)
    assert not board.raised()


def test_clearing_takes_ones_only(board: Board) -> None:
    board.pm.press_power_button()
    board.write(STATUS, 0)
    board.write(STATUS, 0x01, 1)
    assert board.read(STATUS) == BUTTON_STS
    board.write(STATUS + 1, 0x01, 1)
    assert board.read(STATUS) == 0


# -- the timer ---------------------------------------------------------------------------------------------------------


def test_timer_counts_at_its_rate_and_wraps_at_24_bits(board: Board, run_to: Move) -> None:
    assert board.read(TIMER, 4) == 0
    run_to(NS)
    assert board.read(TIMER, 4) == HZ
    run_to(at(1 << 24) - 1)
    assert board.read(TIMER, 4) == 0xFFFFFF
    run_to(at(1 << 24))
    assert board.read(TIMER, 4) == 0
    run_to(at((1 << 24) + 0x123456))
    assert [board.read(TIMER + byte, 1) for byte in range(4)] == [0x56, 0x34, 0x12, 0]
    board.write(TIMER, 0, 4)  # read-only
    assert board.read(TIMER, 4) == 0x123456


def test_timer_status_follows_the_highest_bit(board: Board, run_to: Move) -> None:
    for turn in (1, 2, 3):
        run_to(at(turn * HALF) - 1)
        assert board.read(STATUS) == 0
        run_to(at(turn * HALF))
        assert board.read(STATUS) == TIMER_STS
        board.write(STATUS, TIMER_STS)
        assert board.read(STATUS) == 0


def test_timer_interrupts_at_the_tick_each_time_it_was_cleared(board: Board, run_to: Move) -> None:
    board.enable_acpi()
    board.write(ENABLE, TIMER_STS)
    for turn in (1, 2):
        run_to(at(turn * HALF))
        assert board.sci[-1] == (True, at(turn * HALF))
        board.write(STATUS, TIMER_STS)
        assert not board.raised()
    run_to(at(5 * HALF))  # nobody clears the third event: one interrupt, no alarms
    assert [when for level, when in board.sci if level] == [at(turn * HALF) for turn in (1, 2, 3)]
    assert board.clock.next_alarm() is None


def test_no_alarm_runs_unless_the_timer_may_interrupt(board: Board) -> None:
    assert board.clock.next_alarm() is None
    board.write(ENABLE, TIMER_STS)
    assert board.clock.next_alarm() is None
    board.enable_acpi()
    assert board.clock.next_alarm() == at(HALF)
    board.write(ENABLE, 0)
    assert board.clock.next_alarm() is None


def test_a_late_host_loses_no_timer_event(board: Board, stall_to: Move) -> None:
    board.enable_acpi()
    board.write(ENABLE, TIMER_STS)
    stall_to(at(HALF) + 5 * NS)
    assert board.raised()
    board.write(STATUS, TIMER_STS)
    assert board.clock.next_alarm() == at(4 * HALF)


@given(st.lists(st.tuples(st.integers(0, 0x0F), st.sampled_from((1, 2, 4)), st.integers(0, 0xFFFFFFFF)), max_size=12))
def test_any_writes_leave_registers_in_their_bits_and_the_sci_right(writes: list[tuple[int, int, int]]) -> None:
    class Still:
        def now(self) -> int:
            return at(HALF)

    board = Board(Clock(Still()))
    board.pm.press_power_button()
    for offset, size, value in writes:
        board.write(BASE + offset, value, size)
        status, enable, control = board.read(STATUS), board.read(ENABLE), board.read(CONTROL)
        assert status & ~(TIMER_STS | BUTTON_STS) == 0
        assert enable & ~0x0521 == 0
        assert control & ~0x1C03 == 0
        assert board.raised() == bool(control & SCI_EN and status & enable)
