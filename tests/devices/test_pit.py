"""The 8254 against its datasheet, and against a model that counts one CLK pulse at a time; port B."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.clock import Clock
from emu.devices.pit import Counter, Pit, PortB
from emu.irq import IrqLine

Move = Callable[[int], None]

NS = 1_000_000_000
HZ = 1_193_182
CONTROL = 3


def at(tick: int) -> int:
    """The first nanosecond of a tick of the CLK input."""
    return -(-tick * NS // HZ)


class Board:
    """A timer, its interrupt's rising edges (as ticks) and port B."""

    def __init__(self, clock: Clock, run_to: Move) -> None:
        self.clock, self.run_to = clock, run_to
        self.rises: list[int] = []
        self.line = IrqLine(self._sink)
        self.pit = Pit(clock, self.line)
        self.port_b = PortB(self.pit, clock)

    def _sink(self, level: bool) -> None:
        if level:
            self.rises.append(self.clock.now() * HZ // NS)

    def out(self, offset: int, *values: int) -> None:
        for value in values:
            self.pit.write(offset, 1, value)

    def program(self, counter: int, mode: int, count: int, bcd: bool = False) -> None:
        self.out(CONTROL, counter << 6 | 0x30 | mode << 1 | bcd)
        self.out(counter, count & 0xFF, count >> 8 & 0xFF)

    def word(self, counter: int) -> int:
        low, high = self.pit.read(counter, 1), self.pit.read(counter, 1)
        return low | high << 8

    def latched(self, counter: int) -> int:
        self.out(CONTROL, counter << 6)
        return self.word(counter)

    def status(self, counter: int) -> int:
        self.out(CONTROL, 0xE0 | 2 << counter)
        return self.pit.read(counter, 1)

    def tick(self, number: int) -> None:
        self.run_to(at(number))


@pytest.fixture
def board(clock: Clock, run_to: Move) -> Board:
    return Board(clock, run_to)


# -- a second model --------------------------------------------------------------------------------------------------


class Pulses:
    """One counter as the datasheet tells it, a CLK pulse at a time."""

    def __init__(self, mode: int, gate: bool, modulus: int) -> None:
        self.mode, self.gate, self.modulus = mode, gate, modulus
        self.register = 0
        self.element: int | None = None
        self.odd = False
        self.load = False
        self.null = True
        self.strobe = self.shot = self.done = False
        self.out = mode != 0

    def write(self, count: int) -> None:
        self.register = count
        self.null = True
        if self.mode in (0, 4):
            self.load = True
            self.done = False
            if self.mode == 0:
                self.out = False
        elif self.mode in (2, 3) and self.element is None:
            self.load = True

    def set_gate(self, gate: bool) -> None:
        rises, self.gate = gate and not self.gate, gate
        if rises and self.register and self.mode in (1, 2, 3, 5):
            self.load = True
        if not gate and self.mode in (2, 3):
            self.out = True

    def pulse(self) -> None:
        if self.strobe:
            self.out, self.strobe = True, False
        if self.load:
            self._reload()
            self.load = self.done = False
            if self.mode == 1:
                self.out = False
            elif self.mode in (2, 3):
                self.out = True
        elif self.element is not None and (self.gate or self.mode in (1, 5)):
            (self._count3 if self.mode == 3 else self._count)()

    def _reload(self) -> None:
        self.odd = bool(self.register & 1) and self.mode == 3
        self.element = self.register - self.odd
        self.null = False

    def _count(self) -> None:
        assert self.element is not None
        self.element = (self.element - 1) % self.modulus
        if self.mode == 2:
            if self.element == 1:
                self.out = False
            elif self.element == 0:
                self._reload()
                self.out = True
        elif self.element == 0 and not self.done:
            self.done = True
            if self.mode in (0, 1):
                self.out = True
            else:
                self.out, self.strobe = False, True

    def _count3(self) -> None:
        assert self.element is not None
        if self.odd and self.out and self.element > 0:
            self.element -= 2
            return
        if not (self.odd and self.out):
            self.element -= 2
        if self.element <= 0:
            self._reload()
            self.out = not self.out

    def shown(self) -> int:
        assert self.element is not None
        value = self.element % self.modulus
        return int(f"{value:04d}", 16) if self.modulus == 10000 else value


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(2, 14)),
        st.tuples(st.just("gate"), st.integers(0, 1)),
        st.tuples(st.just("wait"), st.integers(1, 20)),
        st.tuples(st.just("wait"), st.integers(1, 3)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("mode", range(6))
@settings(max_examples=150, deadline=None)
@given(steps=STEPS, gate=st.booleans(), bcd=st.booleans())
def test_counting_equals_the_pulse_model(mode: int, steps: list[tuple[str, int]], gate: bool, bcd: bool) -> None:
    counter = Counter(gate)
    counter.program(0x10 | mode << 1 | bcd)  # low byte only
    model = Pulses(mode, gate, 10000 if bcd else 0x10000)
    now, cut_short = 100, False
    for what, value in steps:
        if what == "write":
            cut_short = model.strobe  # a count written during a strobe may end it up to a pulse early
            counter.write(int(str(value), 16) if bcd else value, now)
            model.write(value)
        elif what == "gate":
            counter.set_gate(bool(value), now)
            model.set_gate(bool(value))
        else:
            for _ in range(value):
                rise = counter.next_rise(now)
                before = model.out
                now += 1
                model.pulse()
                assert counter.out(now) == model.out
                if model.out and not before and counter.state.held is None and not cut_short:
                    assert rise == now
                cut_short = False
                if model.element is not None:
                    assert counter.value(now) == model.shown()
            counter.latch_status(now)
            assert counter.read(now) == model.out << 7 | model.null << 6 | 0x10 | mode << 1 | bcd


@pytest.mark.parametrize("mode", [0, 2, 3, 4])
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(2, 14), st.integers(1, 40)), min_size=1, max_size=8))
def test_interrupts_come_where_the_pulse_model_raises_out(mode: int, steps: list[tuple[int, int]]) -> None:
    class Manual:
        ns = 0

        def now(self) -> int:
            return self.ns

    source = Manual()
    clock = Clock(source)

    def run_to(ns: int) -> None:
        while (when := clock.next_alarm()) is not None and when <= ns:
            source.ns = when
            clock.fire_due()
        source.ns = ns

    board = Board(clock, run_to)
    board.out(CONTROL, 0x10 | mode << 1)
    model = Pulses(mode, True, 0x10000)
    now, expected = 0, []
    for count, wait in steps:
        board.out(0, count)
        model.write(count)
        # a count written during mode 4's strobe may end it up to a pulse early
        while wait > 0 or model.strobe:
            before = model.out
            wait -= 1
            now += 1
            model.pulse()
            if model.out and not before:
                expected.append(now)
        board.tick(now)
    assert board.rises == expected


# -- the modes in the datasheet's own figures ------------------------------------------------------------------------


def trace(board: Board, counter: int, ticks: int) -> str:
    """OUT of a counter after each of the next CLK pulses: H or L."""
    start = board.clock.now() * HZ // NS
    levels = ""
    for tick in range(start + 1, start + 1 + ticks):
        board.tick(tick)
        levels += "H" if board.pit.output(counter) else "L"
    return levels


def test_mode_0(board: Board) -> None:
    board.program(0, 0, 4)
    assert not board.pit.output(0)
    assert trace(board, 0, 8) == "LLLLHHHH"  # N + 1 pulses after the count was written


def test_mode_1_waits_for_its_gate_and_can_be_triggered_again(board: Board) -> None:
    board.program(2, 1, 3)
    assert trace(board, 2, 6) == "HHHHHH"
    board.pit.set_gate(True)
    assert trace(board, 2, 2) == "LL"
    board.pit.set_gate(False)
    board.pit.set_gate(True)
    assert trace(board, 2, 5) == "LLLHH"


def test_mode_1_new_count_waits_for_the_next_trigger(board: Board) -> None:
    board.program(2, 1, 2)
    board.pit.set_gate(True)
    assert trace(board, 2, 1) == "L"
    board.out(2, 4, 0)
    assert trace(board, 2, 4) == "LHHH"
    board.pit.set_gate(False)
    board.pit.set_gate(True)
    assert trace(board, 2, 6) == "LLLLHH"


def test_mode_2(board: Board) -> None:
    board.program(0, 2, 3)
    assert trace(board, 0, 9) == "HHLHHLHHL"


def test_mode_2_new_count_waits_for_the_end_of_the_period(board: Board) -> None:
    board.program(0, 2, 4)
    assert trace(board, 0, 2) == "HH"
    board.out(0, 5, 0)
    assert board.status(0) & 0x40
    assert trace(board, 0, 8) == "HLHHHHLH"
    assert not board.status(0) & 0x40


def test_mode_3_even_and_odd(board: Board) -> None:
    board.program(0, 3, 4)
    assert trace(board, 0, 8) == "HHLLHHLL"
    board.program(0, 3, 5)
    assert trace(board, 0, 10) == "HHHLLHHHLL"


def test_mode_3_shows_even_counts_only(board: Board) -> None:
    board.program(0, 3, 5)
    seen = []
    for tick in range(1, 11):
        board.tick(tick)
        seen.append(board.latched(0))
    assert seen == [4, 2, 0, 4, 2, 4, 2, 0, 4, 2]


def test_mode_4(board: Board) -> None:
    board.program(0, 4, 3)
    assert trace(board, 0, 8) == "HHHLHHHH"  # a strobe N + 1 pulses after the count was written, once


def test_mode_5(board: Board) -> None:
    board.program(2, 5, 3)
    assert trace(board, 2, 6) == "HHHHHH"
    board.pit.set_gate(True)
    assert trace(board, 2, 6) == "HHHLHH"


def test_gates_of_counters_0_and_1_never_trigger(board: Board) -> None:
    board.program(0, 1, 2)
    board.tick(100)
    assert board.pit.output(0)
    assert board.rises == []


def test_modes_6_and_7_are_2_and_3_and_read_back_as_written(board: Board) -> None:
    board.program(0, 6, 3)
    assert trace(board, 0, 6) == "HHLHHL"
    board.program(0, 7, 4)
    assert trace(board, 0, 4) == "HHLL"
    assert board.status(0) & 0x3F == 0x3E


# -- reading and writing counts --------------------------------------------------------------------------------------


def test_running_counter_reads(board: Board) -> None:
    board.program(0, 2, 0x1234)
    board.tick(1)
    assert board.word(0) == 0x1234
    board.tick(1 + 0x35)
    assert board.word(0) == 0x11FF


def test_unlatched_bytes_come_from_different_moments(board: Board) -> None:
    board.program(0, 0, 0x1000)
    board.tick(1)
    assert board.pit.read(0, 1) == 0x00
    board.tick(2)
    assert board.pit.read(0, 1) == 0x0F  # 0FFF by now


def test_latch_holds_until_read(board: Board) -> None:
    board.program(0, 0, 0x1000)
    board.tick(1)
    board.out(CONTROL, 0x00)
    board.tick(300)
    board.out(CONTROL, 0x0F)  # a second latch before the first was read is ignored, whatever its other bits
    assert board.word(0) == 0x1000
    assert board.word(0) == 0x1000 - 299


def test_latch_outlives_a_new_count_but_not_a_control_word(board: Board) -> None:
    board.program(0, 2, 0x1000)
    board.tick(1)
    board.out(CONTROL, 0x00)
    board.out(0, 0x00, 0x20)
    assert board.word(0) == 0x1000
    board.out(CONTROL, 0x00)
    board.program(0, 2, 0x0500)
    board.tick(2)
    assert board.word(0) == 0x0500


def test_single_byte_access(board: Board) -> None:
    board.out(CONTROL, 0x10)  # low byte, mode 0
    board.out(0, 0x34)
    board.tick(1)
    assert board.pit.read(0, 1) == board.pit.read(0, 1) == 0x34
    board.out(CONTROL, 0x20)  # high byte
    board.out(0, 0x34)
    board.tick(2)
    assert board.pit.read(0, 1) == board.pit.read(0, 1) == 0x34
    board.tick(3)
    assert board.pit.read(0, 1) == 0x33


def test_latched_single_byte_is_released_by_one_read(board: Board) -> None:
    for control, expected in ((0x10, 0x80), (0x20, 0x80)):
        board.out(CONTROL, control)
        board.out(0, 0x80)
        board.tick(board.clock.now() * HZ // NS + 1)
        board.out(CONTROL, 0x00)
        board.tick(board.clock.now() * HZ // NS + 0x101)
        assert board.pit.read(0, 1) == expected
        assert board.pit.read(0, 1) == (0x7F if control == 0x10 else 0x7E)


@pytest.mark.parametrize(("bcd", "period"), [(False, 65536), (True, 10000)])
def test_count_of_zero_is_the_largest(board: Board, bcd: bool, period: int) -> None:
    board.program(0, 2, 0, bcd)
    board.tick(1)
    assert board.latched(0) == 0
    board.tick(2)
    assert board.latched(0) == (0x9999 if bcd else 0xFFFF)
    board.tick(1 + 3 * period)
    assert board.rises == [1 + period, 1 + 2 * period, 1 + 3 * period]


def test_bcd(board: Board) -> None:
    board.program(0, 2, 0x1000, bcd=True)
    board.tick(2)
    assert board.latched(0) == 0x0999
    board.tick(1 + 999)
    assert board.latched(0) == 0x0001
    board.tick(1 + 1000)
    assert board.latched(0) == 0x1000
    assert board.rises == [1001]


def test_count_goes_on_through_zero_in_mode_0(board: Board) -> None:
    board.program(0, 0, 3)
    board.tick(4)
    assert board.latched(0) == 0
    board.tick(5)
    assert board.latched(0) == 0xFFFF
    assert board.pit.output(0)


def test_first_byte_of_a_count_stops_mode_0(board: Board) -> None:
    board.program(0, 0, 5)
    board.tick(6)
    assert board.pit.output(0)
    board.out(0, 5)
    assert not board.pit.output(0)
    assert not board.line.level
    board.tick(100)
    assert board.rises == [6]
    board.out(0, 0)
    board.tick(200)
    assert board.rises == [6, 106]


def test_first_byte_of_a_count_changes_nothing_in_mode_2(board: Board) -> None:
    board.program(0, 2, 10)
    board.out(0, 7)
    board.tick(31)
    assert board.rises == [11, 21, 31]


# -- read-back -------------------------------------------------------------------------------------------------------


def test_status_byte(board: Board) -> None:
    board.out(CONTROL, 0xB6)
    assert board.status(2) == 0x80 | 0x40 | 0x36  # OUT high, no count yet
    board.out(2, 100, 0)
    board.tick(1)
    assert board.status(2) == 0x80 | 0x36
    board.out(CONTROL, 0x51)  # counter 1: low byte, mode 0, BCD
    board.out(1, 9)
    assert board.status(1) == 0x40 | 0x11
    board.tick(2)
    assert board.status(1) == 0x11
    board.tick(2 + 9)
    assert board.status(1) == 0x80 | 0x11


def test_read_back_of_status_and_count_of_several_counters(board: Board) -> None:
    board.program(0, 0, 0x0200)
    board.program(1, 0, 0x0300)
    board.tick(1)
    board.out(CONTROL, 0xC6)  # counters 0 and 1, both status and count
    board.tick(50)
    assert board.pit.read(0, 1) == 0x30
    assert board.word(0) == 0x0200
    assert board.pit.read(1, 1) == 0x30
    assert board.word(1) == 0x0300
    assert board.word(0) == 0x0200 - 49  # nothing latched any more
    assert board.word(1) == 0x0300 - 49


def test_read_back_of_the_count_only_and_of_no_counter(board: Board) -> None:
    board.program(0, 0, 0x0200)
    board.tick(1)
    board.out(CONTROL, 0xD2)
    board.tick(9)
    assert board.word(0) == 0x0200
    board.out(CONTROL, 0xC0)
    assert board.word(0) == 0x0200 - 8


def test_second_status_latch_is_ignored(board: Board) -> None:
    board.program(0, 0, 5)
    board.tick(1)
    board.out(CONTROL, 0xE2)
    board.tick(50)
    board.out(CONTROL, 0xE2)
    assert board.pit.read(0, 1) == 0x30  # OUT was low at the first
    assert board.status(0) == 0xB0


def test_control_port_reads_nothing(board: Board) -> None:
    assert board.pit.read(3, 1) == 0xFF


# -- the interrupt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [2, 3])
def test_periodic_interrupt_does_not_drift(board: Board, mode: int) -> None:
    board.program(0, mode, 11932)  # 100 Hz, as kernels ask for
    board.run_to(60 * NS)
    count = (60 * HZ - 1) // 11932
    assert len(board.rises) == count == 5999
    assert board.rises == [1 + 11932 * k for k in range(1, count + 1)]


def test_late_interrupts_do_not_pile_up(board: Board, stall_to: Move) -> None:
    board.program(0, 2, 1000)
    stall_to(at(1 + 57_300))
    assert len(board.rises) == 1
    board.tick(1 + 60_000)
    assert board.rises == [57_301, 58_001, 59_001, 60_001]  # and the beat is kept


def test_line_stays_up_between_edges(board: Board) -> None:
    board.program(0, 2, 1000)
    board.tick(2500)
    assert board.line.level


def test_one_shot_fires_once(board: Board) -> None:
    board.program(0, 0, 500)
    board.tick(501 - 1)
    assert board.rises == []
    board.tick(500_000)
    assert board.rises == [501]
    assert board.line.level
    board.program(0, 0, 500)
    assert not board.line.level


def test_mode_4_interrupts_at_the_end_of_its_strobe(board: Board) -> None:
    board.program(0, 4, 500)
    board.tick(500_000)
    assert board.rises == [502]


def test_reprogramming_drops_the_old_alarm(board: Board) -> None:
    board.program(0, 2, 1000)
    board.tick(500)
    board.program(0, 2, 2000)
    board.tick(5000)
    assert board.rises == [2501, 4501]


def test_control_word_alone_stops_the_interrupt(board: Board) -> None:
    board.program(0, 2, 1000)
    board.tick(1500)
    board.out(CONTROL, 0x34)
    board.tick(100_000)
    assert board.rises == [1001]


def test_control_word_raises_an_out_that_was_low(board: Board) -> None:
    board.program(0, 0, 1000)
    board.tick(10)
    board.out(CONTROL, 0x34)  # OUT goes high in every mode but 0
    assert board.rises == [10]


def test_first_control_word_raises_nothing(board: Board) -> None:
    board.out(CONTROL, 0x34)
    assert board.rises == []
    assert not board.line.level


def test_other_counters_do_not_interrupt(board: Board) -> None:
    board.pit.set_gate(True)
    board.program(1, 2, 18)
    board.program(2, 3, 100)
    board.tick(10_000)
    assert board.rises == []


def test_period_of_one_does_not_hang_the_clock(board: Board) -> None:
    board.program(0, 2, 1)
    board.tick(1000)
    assert board.rises == []


def test_alarms_that_fall_due_while_others_fire_wait(clock: Clock) -> None:
    class Running:
        """Host time, which goes on while alarms fire."""

        ns = 0

        def now(self) -> int:
            self.ns += 5000
            return self.ns

    clock.source = Running()
    board = Board(clock, lambda ns: None)
    board.program(0, 2, 2)  # a period shorter than the time it takes to fire
    for _ in range(3):
        clock.fire_due()  # comes back
    assert 1 <= len(board.rises) <= 10


# -- port B ----------------------------------------------------------------------------------------------------------


def test_port_b_bits_read_back(board: Board) -> None:
    board.port_b.write(0, 1, 0xFF)
    assert board.port_b.read(0, 1) & 0xCF == 0x0F
    board.port_b.write(0, 1, 0x02)
    assert board.port_b.read(0, 1) & 0xCF == 0x02


def test_port_b_gates_counter_2(board: Board) -> None:
    board.port_b.write(0, 1, 0x00)
    board.program(2, 0, 1000)
    board.tick(5000)
    assert not board.port_b.read(0, 1) & 0x20
    assert board.latched(2) == 1000
    board.port_b.write(0, 1, 0x01)
    board.tick(5400)
    assert board.latched(2) == 600
    board.port_b.write(0, 1, 0x00)
    board.tick(9000)
    assert board.latched(2) == 600  # stands while the gate is closed
    board.port_b.write(0, 1, 0x01)
    board.tick(9599)
    assert not board.port_b.read(0, 1) & 0x20
    board.tick(9600)
    assert board.port_b.read(0, 1) & 0x20


def test_calibration_loop_of_kernels(board: Board) -> None:
    """Gate on, speaker off, mode 0, 50 ms; wait for OUT (Linux's pit_calibrate_tsc)."""
    board.port_b.write(0, 1, board.port_b.read(0, 1) & ~0x02 | 0x01)
    board.program(2, 0, HZ // 20)
    assert not board.port_b.read(0, 1) & 0x20
    board.run_to(49_999_000)
    assert not board.port_b.read(0, 1) & 0x20
    board.run_to(50_002_000)
    assert board.port_b.read(0, 1) & 0x20


def test_speaker_tone_on_bit_5(board: Board) -> None:
    board.port_b.write(0, 1, 0x03)
    board.program(2, 3, 1000)
    levels = []
    for tick in (1, 500, 501, 1000, 1001, 1500, 1501):
        board.tick(tick)
        levels.append(board.port_b.read(0, 1) >> 5 & 1)
    assert levels == [1, 1, 0, 0, 1, 1, 0]


def test_refresh_bit_toggles_every_15_microseconds(board: Board) -> None:
    flips, last = 0, board.port_b.read(0, 1) & 0x10
    for us in range(1, 1001):
        board.run_to(us * 1000)
        now = board.port_b.read(0, 1) & 0x10
        flips += now != last
        last = now
    assert flips == 66  # 1 ms / 15.085 us


class PausedTime:
    """Time of a host that takes the processor away at every look at the clock, for longer than a short count."""

    def __init__(self) -> None:
        self.ns = 0

    def now(self) -> int:
        self.ns += 1_000_000
        return self.ns


@pytest.mark.parametrize("mode", [0, 4])
def test_a_single_shot_is_not_lost_where_the_host_pauses_in_the_midst_of_a_write(mode: int) -> None:
    clock = Clock(PausedTime())
    rises: list[bool] = []
    pit = Pit(clock, IrqLine(lambda level: rises.append(level) if level else None))
    for offset, value in ((CONTROL, 0x30 | mode << 1), (0, 15), (0, 0)):
        pit.write(offset, 1, value)
    rises.clear()
    clock.fire_due()
    assert rises == [True]
