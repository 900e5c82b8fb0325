"""The 16550A UART (National Semiconductor PC16550D datasheet); transmission takes no time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from emu.clock import Alarm, Clock
from emu.irq import IrqLine

_IER_RX, _IER_TX, _IER_LINE, _IER_MODEM = 1, 2, 4, 8
_LSR_READY, _LSR_OVERRUN, _LSR_THRE, _LSR_IDLE = 0x01, 0x02, 0x20, 0x40
_MCR_OUT2, _MCR_LOOP = 0x08, 0x10
_TRIGGERS = (1, 4, 8, 14)
_FIFO = 16
_BIT_NS = 1_000_000_000 / 115_200  # one bit at divisor 1


@dataclass(slots=True)
class SerialState:
    """Registers; `tx_pending` is the transmitter-empty interrupt, cleared by reading IIR."""

    divisor: int = 12
    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    scratch: int = 0
    modem_delta: int = 0
    line_errors: int = 0
    tx_pending: bool = False
    timed_out: bool = False


class Serial:
    """A UART at offsets 0 to 7; `output` receives each byte sent, `receive` queues input without losing any."""

    def __init__(self, line: IrqLine, clock: Clock, output: Callable[[bytes], None], name: str = "com1") -> None:
        self.name = name
        self._line, self._clock, self._output = line, clock, output
        self.state = SerialState()
        self._fifo: deque[int] = deque()
        self._waiting: deque[int] = deque()  # input the guest has not made room for yet
        self._alarm: Alarm | None = None

    # -- input -------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Input from outside."""
        self._waiting.extend(data)
        self._refill()
        self._update()

    def _refill(self) -> None:
        room = _FIFO if self.state.fcr & 1 else 1
        if not self.state.mcr & _MCR_LOOP:
            while self._waiting and len(self._fifo) < room:
                self._fifo.append(self._waiting.popleft())
        self._watch_fifo()

    def _watch_fifo(self) -> None:
        """Arm the character time-out where the FIFO holds less than its trigger level."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.state.fcr & 1 and 0 < len(self._fifo) < self._trigger():
            self._alarm = self._clock.at(self._clock.now() + 4 * self._character_ns(), self._time_out)

    def _character_ns(self) -> int:
        """Nanoseconds one character takes on the wire: start bit, data, parity, stop bits, at the divisor's rate."""
        lcr = self.state.lcr
        bits = 1 + 5 + (lcr & 3) + (lcr >> 3 & 1) + 1 + (lcr >> 2 & 1)
        return int(bits * max(self.state.divisor, 1) * _BIT_NS)

    def _time_out(self) -> None:
        self._alarm = None
        self.state.timed_out = bool(self._fifo)
        self._update()

    def _trigger(self) -> int:
        return _TRIGGERS[self.state.fcr >> 6] if self.state.fcr & 1 else 1

    # -- the interrupt -----------------------------------------------------------------------------------------

    def _cause(self) -> int:
        """The IIR identification of the pending interrupt of highest priority; 1 is none (datasheet, table 5)."""
        s = self.state
        if s.ier & _IER_LINE and s.line_errors:
            return 0x06
        if s.ier & _IER_RX:
            if len(self._fifo) >= self._trigger():
                return 0x04
            if s.timed_out:
                return 0x0C
        if s.ier & _IER_TX and s.tx_pending:
            return 0x02
        if s.ier & _IER_MODEM and s.modem_delta:
            return 0x00
        return 0x01

    def _update(self) -> None:
        # OUT2 connects the interrupt to the bus on PCs; a loop-back disconnects it
        connected = self.state.mcr & (_MCR_OUT2 | _MCR_LOOP) == _MCR_OUT2
        self._line.set(connected and self._cause() != 1)

    # -- registers ---------------------------------------------------------------------------------------------

    def _modem(self) -> int:
        """The modem lines: CTS, DSR and DCD up, or MCR's own outputs in a loop-back."""
        if not self.state.mcr & _MCR_LOOP:
            return 0xB0
        mcr = self.state.mcr
        return (mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4

    def read(self, offset: int, size: int) -> int:
        s = self.state
        if s.lcr & 0x80 and offset < 2:
            return s.divisor >> 8 * offset & 0xFF
        match offset:
            case 0:
                value = self._fifo.popleft() if self._fifo else 0
                s.timed_out = False
                self._update()  # the next byte comes later, with an edge of its own
                self._refill()
            case 1:
                return s.ier
            case 2:
                value = self._cause()
                if value == 0x02:
                    s.tx_pending = False
                value |= 0xC0 if s.fcr & 1 else 0
            case 3:
                return s.lcr
            case 4:
                return s.mcr
            case 5:
                value = _LSR_THRE | _LSR_IDLE | s.line_errors | (_LSR_READY if self._fifo else 0)
                s.line_errors = 0
            case 6:
                value = self._modem() | s.modem_delta
                s.modem_delta = 0
            case _:
                return s.scratch
        self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        s = self.state
        if s.lcr & 0x80 and offset < 2:
            s.divisor = s.divisor & 0xFF << 8 * (1 - offset) | value << 8 * offset
            return
        match offset:
            case 0:
                self._send(value)
            case 1:
                # enabling the transmitter interrupt raises it at once: the transmitter is always empty
                if value & _IER_TX and not s.ier & _IER_TX:
                    s.tx_pending = True
                s.ier = value & 0x0F
            case 2:
                if (value ^ s.fcr) & 1 or value & 3 == 3:  # the other bits count only together with bit 0
                    self._fifo.clear()
                    s.timed_out = False
                s.fcr = value & 0xC9
                self._refill()
            case 3:
                s.lcr = value
            case 4:
                before = self._modem()
                s.mcr = value & 0x1F
                changed = (before ^ self._modem()) >> 4
                falls = before & ~self._modem() & 0x40  # the ring indicator counts its trailing edge only
                s.modem_delta |= changed & 0x0B | (4 if falls else 0)
                self._refill()
            case 7:
                s.scratch = value
        self._update()

    def _send(self, value: int) -> None:
        """Writing drops the transmitter interrupt; the transmitter is empty again at once, which is another one."""
        s = self.state
        s.tx_pending = False
        self._update()
        s.tx_pending = True
        if not s.mcr & _MCR_LOOP:
            self._output(bytes((value,)))
            return
        if len(self._fifo) >= (_FIFO if s.fcr & 1 else 1):
            s.line_errors |= _LSR_OVERRUN
            if s.fcr & 1:
                return  # a full FIFO keeps what it holds, a single register takes the new byte
            self._fifo.clear()
        self._fifo.append(value)
        self._watch_fifo()
