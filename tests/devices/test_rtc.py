"""The MC146818A against its datasheet: time in its formats, setting it, flags and interrupts, and the CMOS memory."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.clock import Clock
from emu.devices.rtc import Rtc
from emu.irq import IrqLine

Move = Callable[[int], None]

NS = 1_000_000_000
MIB = 1 << 20
A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
SET, PIE, AIE, UIE, BINARY, H24 = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
START = datetime.datetime(2024, 2, 28, 23, 59, 57, tzinfo=datetime.UTC)  # a Wednesday
CLOCK = (0x04, 0x02, 0x00)  # hours, minutes, seconds
CALENDAR = (0x32, 0x09, 0x08, 0x07, 0x06)  # century, year, month, date, day of the week


class Board:
    """A clock chip and the edges of its interrupt."""

    def __init__(self, clock: Clock, start: datetime.datetime = START, memory: int = 64 * MIB) -> None:
        self.edges: list[int] = []
        self.clock = clock
        self.line = IrqLine(self._sink)
        self.rtc = Rtc(clock, self.line, start, memory)

    def _sink(self, level: bool) -> None:
        if level:
            self.edges.append(self.clock.now())

    def __getitem__(self, register: int) -> int:
        self.rtc.write(0, 1, register)
        return self.rtc.read(1, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.rtc.write(0, 1, register)
        self.rtc.write(1, 1, value)

    def many(self, registers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self[register] for register in registers)


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(clock)


# -- showing the time ------------------------------------------------------------------------------------------------


def test_time_and_date_in_bcd(board: Board) -> None:
    assert board.many(CLOCK) == (0x23, 0x59, 0x57)
    assert board.many(CALENDAR) == (0x20, 0x24, 0x02, 0x28, 4)


def test_leap_day_at_midnight(board: Board, run_to: Move) -> None:
    run_to(3 * NS - 1)
    assert board.many(CLOCK) == (0x23, 0x59, 0x59)
    run_to(3 * NS)
    assert board.many(CLOCK) == (0x00, 0x00, 0x00)
    assert board.many(CALENDAR) == (0x20, 0x24, 0x02, 0x29, 5)
    run_to((3 + 86400) * NS)
    assert board.many(CALENDAR) == (0x20, 0x24, 0x03, 0x01, 6)


def test_turn_of_the_century(clock: Clock, run_to: Move) -> None:
    board = Board(clock, datetime.datetime(1999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC))
    run_to(NS)
    assert board.many(CALENDAR) == (0x20, 0x00, 0x01, 0x01, 7)  # a Saturday


@pytest.mark.parametrize(("hour", "shown"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)])
def test_twelve_hour_clock(clock: Clock, hour: int, shown: int) -> None:
    board = Board(clock, START.replace(hour=hour))
    board[B] = 0x00
    assert board[0x04] == shown
    board[B] = BINARY
    assert board[0x04] == (shown & 0x80) + (hour % 12 or 12)


def test_changing_the_format_of_a_running_clock(board: Board) -> None:
    board[B] = BINARY | H24
    assert board.many(CLOCK) == (23, 59, 57)
    assert board.many(CALENDAR) == (20, 24, 2, 28, 4)
    board[B] = H24
    assert board.many(CLOCK) == (0x23, 0x59, 0x57)


def test_seconds_turn_with_the_start_dates_fraction(clock: Clock, run_to: Move) -> None:
    board = Board(clock, START.replace(microsecond=250_000))
    run_to(749_999_999)
    assert board[0x00] == 0x57
    assert board[A] & 0x80
    run_to(750_000_000)
    assert board[0x00] == 0x58
    assert not board[A] & 0x80


@settings(max_examples=60, deadline=None)
@given(
    start=st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2090, 1, 1)),
    waits=st.lists(st.integers(0, 400_000_000_000_000), max_size=4),
    binary=st.booleans(),
    day=st.booleans(),
)
def test_time_follows_the_calendar(start: datetime.datetime, waits: list[int], binary: bool, day: bool) -> None:
    class Manual:
        ns = 12345

        def now(self) -> int:
            return self.ns

    source = Manual()
    board = Board(Clock(source), start.replace(tzinfo=datetime.UTC))
    board[B] = BINARY * binary | H24 * day
    for wait in waits:
        source.ns += wait
        now = start + datetime.timedelta(microseconds=(source.ns - 12345) // 1000)
        shown = [int(str(v)) if binary else int(f"{v:x}") for v in board.many((0x32, 0x09, 0x08, 0x07, 0x02, 0x00))]
        assert shown[0] * 100 + shown[1] == now.year
        assert shown[2:] == [now.month, now.day, now.minute, now.second]
        assert board[0x06] == int(now.strftime("%w")) + 1
        hour = board[0x04]
        if not day:
            assert bool(hour & 0x80) == (now.hour >= 12)
        number = hour & 0x7F if binary else int(f"{hour & 0x7F:x}")
        assert number == (now.hour if day else int(now.strftime("%I")))


# -- setting it ------------------------------------------------------------------------------------------------------


def test_setting_the_time_while_stopped(board: Board, run_to: Move) -> None:
    board[B] = SET | H24
    run_to(10 * NS)
    assert board.many(CLOCK) == (0x23, 0x59, 0x57)  # stands still
    for register, value in zip(CALENDAR + CLOCK, (0x19, 0x99, 0x12, 0x30, 0x05, 0x06, 0x07, 0x08), strict=True):
        board[register] = value
    board[B] = H24
    assert board.many(CLOCK) == (0x06, 0x07, 0x08)
    assert board.many(CALENDAR) == (0x19, 0x99, 0x12, 0x30, 0x05)
    run_to(11 * NS)
    assert board.many(CLOCK) == (0x06, 0x07, 0x09)


def test_date_may_be_written_in_any_order(board: Board, run_to: Move) -> None:
    """The 31st comes first, while the month is still February."""
    board[B] = SET | H24
    board[0x07] = 0x31
    board[0x08] = 0x03
    board[B] = H24
    assert board.many((0x08, 0x07)) == (0x03, 0x31)
    run_to(3 * NS)
    assert board.many((0x08, 0x07)) == (0x04, 0x01)


def test_writing_a_running_clock(board: Board, run_to: Move) -> None:
    board[0x07] = 0x30
    board[0x08] = 0x06
    board[0x04] = 0x11
    assert board.many((0x08, 0x07, *CLOCK)) == (0x06, 0x30, 0x11, 0x59, 0x57)
    run_to(3 * NS)
    assert board.many((0x08, 0x07, *CLOCK)) == (0x06, 0x30, 0x12, 0x00, 0x00)


def test_setting_in_binary_and_twelve_hours(board: Board, run_to: Move) -> None:
    board[B] = SET | BINARY
    for register, value in zip(CLOCK, (0x80 | 12, 59, 59), strict=True):
        board[register] = value
    board[B] = BINARY
    assert board.many(CLOCK) == (0x80 | 12, 59, 59)  # the format did not touch what was set
    run_to(NS)
    assert board.many(CLOCK) == (0x80 | 1, 0, 0)


def test_day_of_the_week_is_only_counted(board: Board, run_to: Move) -> None:
    board[0x06] = 7
    assert board[0x06] == 7
    run_to(3 * NS)
    assert board[0x06] == 1
    run_to((3 + 10 * 86400) * NS)
    assert board[0x06] == 4


@pytest.mark.parametrize("register", [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32])
@pytest.mark.parametrize("value", [0x00, 0x7F, 0xFF])
def test_nonsense_in_a_time_register_is_survived(board: Board, run_to: Move, register: int, value: int) -> None:
    board[register] = value
    assert board[register] == value
    run_to(90_000 * NS)
    month, date, hour, minute, second = board.many((0x08, 0x07, 0x04, 0x02, 0x00))
    assert 0x01 <= month <= 0x12
    assert 0x01 <= date <= 0x31
    assert hour <= 0x23
    assert minute <= 0x59
    assert second <= 0x59


def test_divider_reset_starts_half_a_second_before_the_update(board: Board, run_to: Move) -> None:
    board[A] = 0x76
    run_to(5 * NS + 300_000_000)
    assert board[0x00] == 0x57
    board[A] = 0x26
    run_to(5 * NS + 799_999_999)
    assert board[0x00] == 0x57
    run_to(5 * NS + 800_000_000)
    assert board[0x00] == 0x58
    run_to(6 * NS + 800_000_000)
    assert board[0x00] == 0x59


# -- registers A to D ------------------------------------------------------------------------------------------------


def test_registers_after_reset(board: Board) -> None:
    assert board[A] == 0x26  # 32768 Hz crystal, 1024 Hz periodic rate
    assert board[B] == H24
    assert board[C] == 0x00
    assert board[D] == 0x80  # RAM and time valid


def test_read_only_registers(board: Board) -> None:
    board[A] = 0xFF
    assert board[A] == 0x7F
    board[A] = 0x26
    board[C] = 0xFF
    board[D] = 0x00
    assert board[C] == 0x00
    assert board[D] == 0x80


def test_update_in_progress(board: Board, run_to: Move) -> None:
    seen = []
    for ns in (0, 500_000_000, NS - 245_000, NS - 243_000, NS - 1, NS, 2 * NS - 1000):
        run_to(ns)
        seen.append(board[A] >> 7)
    assert seen == [0, 0, 0, 1, 1, 0, 1]
    board[B] = SET | H24
    assert not board[A] & 0x80  # no update comes


def test_index_bit_7_masks_the_nmi_only(board: Board) -> None:
    board.rtc.write(0, 1, 0x80 | D)
    assert board.rtc.read(1, 1) == 0x80
    board[0x80 | 0x40] = 0x5A
    assert board[0x40] == 0x5A
    assert board.rtc.read(0, 1) == 0xFF  # the index cannot be read


# -- flags and interrupts --------------------------------------------------------------------------------------------


def test_flags_without_interrupts(board: Board, run_to: Move) -> None:
    run_to(NS - 1)
    assert board[C] == 0x40  # periodic
    assert board[C] == 0x00  # reading clears
    run_to(NS)
    assert board[C] == 0x50  # and update ended
    assert board.edges == []


def test_update_interrupt_every_second(board: Board, run_to: Move) -> None:
    run_to(NS // 2)
    board[B] = H24 | UIE
    for second in (1, 2):
        run_to(second * NS - 1)
        assert not board.line.level
        run_to(second * NS)
        assert board.line.level
        assert board[C] == 0x80 | 0x40 | 0x10
        assert not board.line.level
    assert board.edges == [NS, 2 * NS]


def test_interrupt_stands_until_register_c_is_read(board: Board, run_to: Move) -> None:
    board[B] = H24 | UIE
    run_to(5 * NS)
    assert board.edges == [NS]
    assert board.line.level
    assert board[C] & 0x90 == 0x90
    run_to(6 * NS)
    assert board.edges == [NS, 6 * NS]


@pytest.mark.parametrize(
    ("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (8, 256), (9, 128), (14, 4), (15, 2)]
)
def test_periodic_rates(board: Board, run_to: Move, rate: int, hertz: int) -> None:
    board[A] = 0x20 | rate
    board[B] = H24 | PIE
    count = 0
    while count < 200:
        when = board.clock.next_alarm()
        assert when is not None
        run_to(when)
        assert board[C] & 0xC0 == 0xC0
        count += 1
    assert len(board.edges) == 200
    for number, ns in enumerate(board.edges, 1):
        assert 0 <= ns - number * NS / hertz < 1.5  # no drift: the nth tick is where n periods end


def test_rate_of_zero_is_off(board: Board, run_to: Move) -> None:
    board[A] = 0x20
    board[B] = H24 | PIE
    run_to(10 * NS)
    assert board.edges == []
    assert board[C] & 0x40 == 0


def test_late_periodic_interrupts_do_not_pile_up(board: Board, run_to: Move, stall_to: Move) -> None:
    board[B] = H24 | PIE
    stall_to(NS * 100)
    assert len(board.edges) == 1
    assert board[C] & 0xC0 == 0xC0
    run_to(NS * 100 + NS // 1024 + 1)
    assert len(board.edges) == 2


def test_enabling_an_interrupt_whose_flag_is_set(board: Board, run_to: Move) -> None:
    run_to(NS // 2)
    board[B] = H24 | PIE
    assert board.line.level
    board[B] = H24
    assert not board.line.level
    board[C]
    board[B] = H24 | PIE
    assert not board.line.level


def test_alarm(board: Board, run_to: Move) -> None:
    for register, value in ((0x05, 0x00), (0x03, 0x01), (0x01, 0x02)):
        board[register] = value
    board[B] = H24 | AIE
    run_to(65 * NS - 1)
    assert board.edges == []
    run_to(65 * NS)  # 00:01:02, 65 seconds after 23:59:57
    assert board.edges == [65 * NS]
    assert board[C] & 0xA0 == 0xA0
    run_to(70 * NS)
    assert board.edges == [65 * NS]


def test_alarm_of_every_minute_and_every_second(board: Board, run_to: Move) -> None:
    for register, value in ((0x05, 0xFF), (0x03, 0xC0), (0x01, 0x30)):
        board[register] = value
    board[B] = H24 | AIE
    seconds = []
    for second in range(1, 160):
        run_to(second * NS)
        if board[C] & 0x80:
            seconds.append(second)
    assert seconds == [33, 93, 153]
    board[0x01] = 0xFF
    for second in range(160, 163):
        run_to(second * NS)
        assert board[C] & 0x80


def test_alarm_compares_as_the_clock_shows(clock: Clock, run_to: Move) -> None:
    board = Board(clock, datetime.datetime(2024, 5, 1, 11, 59, 58, tzinfo=datetime.UTC))
    board[B] = BINARY
    for register, value in ((0x05, 0x80 | 12), (0x03, 0), (0x01, 0)):
        board[register] = value
    board[B] = BINARY | AIE
    run_to(NS)
    assert board.edges == []
    run_to(2 * NS)
    assert board.edges == [2 * NS]


def test_alarm_that_passed_unobserved_is_flagged(board: Board, run_to: Move) -> None:
    for register, value in ((0x05, 0x12), (0x03, 0x34), (0x01, 0x56)):
        board[register] = value
    run_to(12 * 3600 * NS)
    assert board[C] & 0x20 == 0
    run_to(14 * 3600 * NS)
    assert board[C] & 0x20
    run_to(36 * 3600 * NS)
    assert board[C] & 0x20 == 0


def test_set_stops_updates_and_clears_their_enable(board: Board, run_to: Move) -> None:
    board[B] = H24 | UIE | AIE | PIE
    board[B] = H24 | UIE | AIE | PIE | SET
    assert board[B] == H24 | AIE | PIE | SET
    run_to(10 * NS)
    assert board[C] == 0x80 | 0x40  # the divider goes on: periodic only


def test_several_causes_at_once(board: Board, run_to: Move) -> None:
    for register in (0x01, 0x03, 0x05):
        board[register] = 0xFF
    board[A] = 0x2F  # 2 Hz
    board[B] = H24 | UIE | AIE | PIE
    run_to(NS // 2)
    assert board[C] == 0xC0
    run_to(NS)
    assert board[C] == 0xF0
    assert board.edges == [NS // 2, NS]


def test_nothing_waits_while_nothing_is_enabled(board: Board, run_to: Move) -> None:
    run_to(NS)
    assert board.many((A, C, 0x00))
    assert board.clock.next_alarm() is None


def test_polling_does_not_gather_alarms(board: Board, run_to: Move) -> None:
    board[B] = H24 | UIE
    for _ in range(1000):
        assert not board[A] & 0x80
    assert len(board.clock._queue) == 1


# -- CMOS memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "extended", "above_16", "above_4g"),
    [
        (1 * MIB, 0, 0, 0),
        (2 * MIB, 1024, 0, 0),
        (16 * MIB, 15360, 0, 0),
        (64 * MIB, 64512, 768, 0),
        (128 * MIB, 65535, 1792, 0),
        (3072 * MIB, 65535, 48896, 0),
        (4096 * MIB, 65535, 48896, 16384),
        (262144 * MIB, 65535, 48896, 4145152),
    ],
)
def test_memory_sizes(clock: Clock, memory: int, extended: int, above_16: int, above_4g: int) -> None:
    board = Board(clock, memory=memory)

    def number(*registers: int) -> int:
        return int.from_bytes(board.many(registers), "little")

    assert number(0x15, 0x16) == 640
    assert number(0x17, 0x18) == number(0x30, 0x31) == extended
    assert number(0x34, 0x35) == above_16
    assert number(0x5B, 0x5C, 0x5D) == above_4g


def test_equipment_tells_a_coprocessor_and_no_floppy(board: Board) -> None:
    assert board[0x14] == 0x02
    assert board[0x10] == 0x00


def test_memory_keeps_what_is_written(board: Board, run_to: Move) -> None:
    plain = [register for register in range(0x0E, 0x80) if register != 0x32] + [0x01, 0x03, 0x05]
    for register in plain:
        board[register] = register ^ 0xA5
    run_to(3 * NS)
    for register in plain:
        assert board[register] == register ^ 0xA5
