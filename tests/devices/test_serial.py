"""The 16550A against its datasheet, and what drivers do to find out which UART they have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emu.clock import Clock
from emu.devices.serial import Serial
from emu.irq import IrqLine

Move = Callable[[int], None]

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCRATCH = 0, 1, 2, 2, 3, 4, 5, 6, 7
DLAB = 0x80
OUT2 = 0x08
NONE, MODEM, THRE, RECEIVED, LINE, TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C


class Board:
    """A UART with what it sent and the edges of its interrupt."""

    def __init__(self, clock: Clock) -> None:
        self.sent = bytearray()
        self.edges = 0
        self.line = IrqLine(self._sink)
        self.uart = Serial(self.line, clock, self.sent.extend)

    def _sink(self, level: bool) -> None:
        self.edges += level

    def out(self, offset: int, value: int) -> None:
        self.uart.write(offset, 1, value)

    def into(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def start(self, ier: int, fcr: int = 0x00) -> None:
        """115200 8N1, interrupts connected."""
        self.out(LCR, DLAB)
        self.out(0, 1)
        self.out(1, 0)
        self.out(LCR, 0x03)
        self.out(FCR, fcr)
        self.out(MCR, 0x0B)
        self.into(MSR)
        self.out(IER, ier)

    def cause(self) -> int:
        return self.into(IIR) & 0x0F

    def drain(self) -> bytes:
        data = bytearray()
        while self.into(LSR) & 0x01:
            data.append(self.into(DATA))
        return bytes(data)


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(clock)


# -- registers -------------------------------------------------------------------------------------------------------


def test_registers_after_reset(board: Board) -> None:
    assert board.into(IER) == 0x00
    assert board.into(IIR) == 0x01
    assert board.into(LCR) == 0x00
    assert board.into(MCR) == 0x00
    assert board.into(LSR) == 0x60
    assert board.into(MSR) == 0xB0  # CTS, DSR, DCD, without changes
    assert not board.line.level


def test_divisor_latch(board: Board) -> None:
    board.out(IER, 0x05)
    board.out(LCR, DLAB | 0x03)
    board.out(0, 0x35)
    board.out(1, 0x13)
    assert (board.into(0), board.into(1)) == (0x35, 0x13)
    board.out(0, 0x78)
    assert (board.into(0), board.into(1)) == (0x78, 0x13)
    board.out(LCR, 0x03)
    assert board.into(IER) == 0x05
    assert board.sent == b""
    board.out(LCR, DLAB)
    assert (board.into(0), board.into(1)) == (0x78, 0x13)


def test_unused_bits_read_zero(board: Board) -> None:
    board.out(IER, 0xFF)
    board.out(MCR, 0xFF)
    assert board.into(IER) == 0x0F
    assert board.into(MCR) == 0x1F


def test_scratch_and_line_control_keep_every_bit(board: Board) -> None:
    for value in (0x55, 0xAA):
        board.out(SCRATCH, value)
        board.out(LCR, value)
        assert board.into(SCRATCH) == value
        assert board.into(LCR) == value


def test_status_registers_are_not_writable(board: Board) -> None:
    board.out(LSR, 0x00)
    board.out(MSR, 0x00)
    assert board.into(LSR) == 0x60
    assert board.into(MSR) == 0xB0


def test_break_bit_sends_nothing(board: Board) -> None:
    board.out(LCR, 0x43)
    assert board.into(LCR) == 0x43
    assert board.sent == b""


# -- probing ---------------------------------------------------------------------------------------------------------


def test_linux_autoconfig_finds_a_16550a(board: Board) -> None:
    """The steps of Linux's 8250 driver, in its order."""
    board.out(IER, 0x00)
    assert board.into(IER) & 0x0F == 0x00
    board.out(IER, 0x0F)
    assert board.into(IER) & 0x0F == 0x0F
    board.out(IER, 0x00)
    board.out(MCR, 0x10 | 0x0A)  # loop-back with OUT2 and RTS must show as DCD and CTS
    assert board.into(MSR) & 0xF0 == 0x90
    board.out(MCR, 0x00)
    board.out(LCR, 0xBF)
    board.out(FCR, 0x00)
    board.out(LCR, 0x00)
    board.out(FCR, 0x01)
    assert board.into(IIR) >> 6 == 3  # 0 8250/16450, 2 16550 with its broken FIFO, 3 16550A
    board.out(LCR, 0x80)
    assert board.into(IIR) != 0  # an extended feature register there would make it a 16650
    board.out(LCR, 0xBF)
    assert board.into(IIR) != 0
    board.out(LCR, 0x00)
    board.out(FCR, 0x21)
    first = board.into(IIR) >> 5
    board.out(FCR, 0x01)
    board.out(LCR, 0x80)
    board.out(FCR, 0x21)
    second = board.into(IIR) >> 5
    board.out(FCR, 0x01)
    board.out(LCR, 0x00)
    assert (first, second) == (6, 6)  # (6, 7) would be a 16750
    board.out(IER, 0x40)
    assert board.into(IER) & 0x40 == 0  # an XScale UART has that bit


def test_fifo_bits_of_iir_follow_fcr(board: Board) -> None:
    assert board.into(IIR) == 0x01
    board.out(FCR, 0x01)
    assert board.into(IIR) == 0xC1
    board.out(FCR, 0xC0)
    assert board.into(IIR) == 0x01


def test_loopback_self_test_of_hobby_kernels(board: Board) -> None:
    board.start(0, fcr=0xC7)
    board.out(MCR, 0x1E)
    board.out(DATA, 0xAE)
    assert board.into(DATA) == 0xAE
    board.out(MCR, 0x0F)
    assert board.sent == b""


# -- sending ---------------------------------------------------------------------------------------------------------


def test_sending(board: Board) -> None:
    for byte in b"Hi\x00\xff":
        assert board.into(LSR) & 0x60 == 0x60
        board.out(DATA, byte)
    assert board.sent == b"Hi\x00\xff"
    assert board.edges == 0


def test_enabling_the_transmitter_interrupt_raises_it(board: Board) -> None:
    board.start(ier=0x02)
    assert board.line.level
    assert board.cause() == THRE
    assert not board.line.level  # reading the cause clears it
    assert board.cause() == NONE
    board.out(IER, 0x02)  # no change
    assert not board.line.level
    board.out(IER, 0x00)
    board.out(IER, 0x02)
    assert board.line.level


def test_transmitter_interrupt_after_each_byte(board: Board) -> None:
    board.start(ier=0x02)
    board.cause()
    board.out(DATA, 0x41)
    assert board.line.level
    assert board.cause() == THRE
    assert board.edges == 2


def test_writing_data_ends_the_old_interrupt_and_gives_a_new_edge(board: Board) -> None:
    """A handler that never reads IIR still sends all its bytes through an edge-triggered controller."""
    board.start(ier=0x02)
    assert board.edges == 1
    for number in range(3):
        board.out(DATA, 0x30 + number)
        assert board.edges == 2 + number


def test_reading_iir_for_a_higher_cause_keeps_the_transmitter_interrupt(board: Board) -> None:
    board.start(ier=0x03)
    board.uart.receive(b"x")
    assert board.cause() == RECEIVED
    board.into(DATA)
    assert board.cause() == THRE
    assert board.cause() == NONE


# -- receiving without the FIFO --------------------------------------------------------------------------------------


def test_receiving_a_byte(board: Board) -> None:
    board.start(ier=0x01)
    assert board.into(LSR) == 0x60
    board.uart.receive(b"A")
    assert board.into(LSR) == 0x61
    assert board.line.level
    assert board.cause() == RECEIVED
    assert board.line.level  # only reading the data clears it
    assert board.into(DATA) == 0x41
    assert not board.line.level
    assert board.into(LSR) == 0x60


def test_input_waits_for_room_and_every_byte_gives_an_edge(board: Board) -> None:
    board.start(ier=0x01)
    board.uart.receive(b"hello")
    got = bytearray()
    for number in range(5):
        assert board.edges == number + 1
        got.append(board.into(DATA))
    assert got == b"hello"
    assert board.into(LSR) == 0x60
    assert board.edges == 5


def test_receiver_interrupt_can_be_enabled_late(board: Board) -> None:
    board.start(ier=0x00)
    board.uart.receive(b"A")
    assert not board.line.level
    assert board.cause() == NONE
    board.out(IER, 0x01)
    assert board.line.level


# -- the receive FIFO ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fcr", "trigger"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_fifo_trigger_levels(board: Board, fcr: int, trigger: int) -> None:
    board.start(ier=0x01, fcr=fcr)
    board.uart.receive(b"x" * (trigger - 1))
    assert not board.line.level
    board.uart.receive(b"x")
    assert board.line.level
    assert board.cause() == RECEIVED
    board.into(DATA)
    assert not board.line.level  # below the trigger
    assert len(board.drain()) == trigger - 1


def test_fifo_time_out(board: Board, run_to: Move) -> None:
    board.start(ier=0x01, fcr=0xC1)
    board.uart.receive(b"abc")
    four = 4 * 10 * 1_000_000_000 // 115_200  # four characters of ten bits
    run_to(four - 2000)
    assert not board.line.level
    run_to(four + 2000)
    assert board.cause() == TIMEOUT
    assert board.line.level
    assert board.into(DATA) == ord("a")
    assert not board.line.level  # reading data clears it and starts the wait anew
    run_to(2 * four)
    assert not board.line.level
    run_to(2 * four + 4000)
    assert board.cause() == TIMEOUT
    assert board.drain() == b"bc"
    run_to(1_000_000_000)
    assert board.cause() == NONE


def test_time_out_follows_the_speed_and_the_frame(board: Board, run_to: Move) -> None:
    board.start(ier=0x01, fcr=0xC1)
    board.out(LCR, DLAB)
    board.out(0, 96)  # 1200 baud
    board.out(LCR, 0x0F)  # 8 data bits, parity, two stop bits: 12 bits
    board.uart.receive(b"a")
    run_to(39_900_000)
    assert not board.line.level
    run_to(40_100_000)  # 48 bits at 1200 a second
    assert board.line.level


def test_new_input_restarts_the_time_out(board: Board, run_to: Move) -> None:
    board.start(ier=0x01, fcr=0xC1)
    board.uart.receive(b"a")
    run_to(300_000)
    board.uart.receive(b"b")
    run_to(600_000)
    assert not board.line.level
    run_to(660_000)
    assert board.line.level


def test_fifo_holds_sixteen_and_the_rest_waits(board: Board) -> None:
    data = bytes(range(100))
    board.start(ier=0x01, fcr=0xC1)
    board.uart.receive(data)
    assert board.drain() == data
    assert not board.line.level


def test_resetting_the_receive_fifo(board: Board) -> None:
    board.start(ier=0x01, fcr=0x01)
    board.uart.receive(b"abc")
    board.out(FCR, 0x03)
    assert board.into(LSR) == 0x60
    assert not board.line.level
    board.uart.receive(b"abc")
    board.out(FCR, 0x05)  # the transmitter's
    assert board.drain() == b"abc"
    board.uart.receive(b"abc")
    board.out(FCR, 0x00)  # switching it off empties it as well
    assert board.into(LSR) == 0x60


def test_reset_bit_needs_the_enable_bit(board: Board) -> None:
    board.start(ier=0x00)
    board.uart.receive(b"a")
    board.out(FCR, 0x02)
    assert board.into(DATA) == ord("a")


# -- line errors -----------------------------------------------------------------------------------------------------


def test_overrun_with_the_fifo_keeps_what_it_holds(board: Board) -> None:
    board.start(ier=0x04, fcr=0x01)
    board.out(MCR, 0x10)
    for byte in range(17):
        board.out(DATA, byte)
    assert board.cause() == LINE
    assert board.into(LSR) & 0x03 == 0x03
    assert board.into(LSR) & 0x02 == 0  # reading clears it
    assert board.cause() == NONE
    assert board.drain() == bytes(range(16))


def test_overrun_without_the_fifo_loses_the_older_byte(board: Board) -> None:
    board.start(ier=0x00)
    board.out(MCR, 0x10)
    board.out(DATA, 1)
    assert board.into(LSR) & 0x02 == 0
    board.out(DATA, 2)
    assert board.into(LSR) & 0x03 == 0x03
    assert board.into(DATA) == 2
    assert board.into(LSR) == 0x60


# -- modem lines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mcr", "msr"), [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)])
def test_loopback_connects_outputs_to_inputs(board: Board, mcr: int, msr: int) -> None:
    board.out(MCR, 0x10 | mcr)
    assert board.into(MSR) & 0xF0 == msr


def test_changes_of_modem_lines(board: Board) -> None:
    board.out(MCR, 0x10)
    board.into(MSR)
    board.out(MCR, 0x1F)
    assert board.into(MSR) == 0xF0 | 0x0B  # CTS, DSR and DCD changed; a ring that begins does not count
    assert board.into(MSR) == 0xF0
    board.out(MCR, 0x1B)
    assert board.into(MSR) == 0xB0 | 0x04  # the ring's end
    board.out(MCR, 0x1A)
    assert board.into(MSR) == 0x90 | 0x02


def test_modem_interrupt(board: Board) -> None:
    board.start(ier=0x08)
    board.out(MCR, 0x10)  # all inputs drop
    assert board.cause() == MODEM
    assert board.cause() == MODEM  # only reading MSR clears it
    board.into(MSR)
    assert board.cause() == NONE


# -- interrupts ------------------------------------------------------------------------------------------------------


def test_priority_of_causes(board: Board) -> None:
    board.start(ier=0x00)
    board.out(MCR, 0x10)  # changes modem lines
    board.out(DATA, 1)
    board.out(DATA, 2)  # overrun
    board.out(IER, 0x0F)
    assert board.cause() == LINE
    board.into(LSR)
    assert board.cause() == RECEIVED
    board.into(DATA)
    assert board.cause() == THRE
    assert board.cause() == MODEM
    board.into(MSR)
    assert board.cause() == NONE


def test_out2_connects_the_interrupt(board: Board) -> None:
    board.out(IER, 0x01)
    board.uart.receive(b"x")
    assert board.cause() == RECEIVED
    assert not board.line.level
    board.out(MCR, OUT2)
    assert board.line.level
    board.out(MCR, 0x03)
    assert not board.line.level


def test_loopback_disconnects_the_interrupt(board: Board) -> None:
    board.start(ier=0x02)
    assert board.line.level
    board.out(MCR, 0x10 | OUT2)
    assert not board.line.level


def test_outside_input_waits_while_looped_back(board: Board) -> None:
    board.start(ier=0x01)
    board.out(MCR, 0x10 | OUT2)
    board.uart.receive(b"z")
    assert board.into(LSR) & 0x01 == 0
    board.out(MCR, OUT2)
    assert board.line.level
    assert board.into(DATA) == ord("z")


def test_looped_bytes_time_out_too(board: Board, run_to: Move) -> None:
    board.start(ier=0x01, fcr=0xC1)
    board.out(MCR, 0x10)
    board.out(DATA, 1)
    board.out(DATA, 2)
    run_to(400_000)
    assert board.cause() == TIMEOUT
    board.into(DATA)
    assert board.cause() == NONE
    run_to(800_000)
    assert board.cause() == TIMEOUT
