"""The local APIC in xAPIC mode: priorities, its timer, the 8259A behind LINT0 (SDM vol. 3, chapter 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from emu.bus import ALL_ONES
from emu.clock import Alarm, Clock

TIMER_HZ: Final = 1_000_000_000  # one tick a nanosecond in front of the divider
ENABLED: Final = 1 << 11  # IA32_APIC_BASE
SIZE: Final = 0x1000

# Registers by their offset in units of 16 bytes (table 10-1).
_ID, _VERSION, _TPR, _APR, _PPR, _EOI, _RRD, _LDR, _DFR, _SVR = 2, 3, 8, 9, 0xA, 0xB, 0xC, 0xD, 0xE, 0xF
_ISR, _TMR, _IRR, _ESR, _ICR_LOW, _ICR_HIGH = 0x10, 0x18, 0x20, 0x28, 0x30, 0x31
_LVT_TIMER, _LVT_LINT0, _LVT_LINT1, _LVT_ERROR = 0x32, 0x35, 0x36, 0x37
_INITIAL, _CURRENT, _DIVIDE = 0x38, 0x39, 0x3E
_VERSION_VALUE: Final = 5 << 16 | 0x14  # six local vectors, an integrated APIC
_SOFTWARE_ENABLED: Final = 1 << 8
_MASKED: Final = 1 << 16
# Bits of each local vector that a guest can change.
_LVT_BITS: Final = {
    _LVT_TIMER: 0x700FF, 0x33: 0x107FF, 0x34: 0x107FF, _LVT_LINT0: 0x1A7FF, _LVT_LINT1: 0x1A7FF, _LVT_ERROR: 0x100FF,
}  # fmt: skip
_TIMER_MODE, _PERIODIC, _DEADLINE = 3 << 17, 1 << 17, 2 << 17
_DELIVERY, _FIXED, _LOWEST, _NMI, _EXTINT = 7 << 8, 0, 1 << 8, 4 << 8, 7 << 8
_LOGICAL, _SELF, _ALL = 1 << 11, 1 << 18, 2 << 18
_SHORTHAND: Final = 3 << 18
_BROADCAST: Final = 0xFF
_SEND_ILLEGAL, _RECEIVE_ILLEGAL, _ILLEGAL_REGISTER = 1 << 5, 1 << 6, 1 << 7
_FIRST_VECTOR: Final = 16


@dataclass(slots=True)
class ApicState:
    """The registers; `irr`, `isr` and `tmr` are sets of 256 bits; times are guest time in ns.

    `started` is when the count was written, None while the timer does not run. `deadline` is that of the TSC.
    """

    id: int = 0
    tpr: int = 0
    svr: int = 0xFF
    ldr: int = 0
    dfr: int = 0xFFFF_FFFF
    irr: int = 0
    isr: int = 0
    tmr: int = 0
    esr: int = 0
    errors: int = 0
    icr: int = 0
    initial: int = 0
    divide: int = 0
    started: int | None = None
    deadline: int = 0
    # LINT0 of a PC's first processor comes up open for the 8259A, as QEMU has it: not every firmware sets it.
    lvt: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_LVT_BITS, _MASKED) | {_LVT_LINT0: _EXTINT})


def _highest(bits: int) -> int:
    """The highest vector of a set, or -1."""
    return bits.bit_length() - 1


class LocalApic:
    """One processor's APIC; attach it to the memory bus where IA32_APIC_BASE says.

    `external` tells whether the 8259A pair asks for an interrupt, `external_acknowledge` takes its vector; `on_change`
    is called when the answer of `pending` changes. `tsc_to_clock` gives the guest time of a TSC value.
    """

    name = "local APIC"

    def __init__(
        self,
        clock: Clock,
        on_change: Callable[[bool], None],
        external: Callable[[], bool],
        external_acknowledge: Callable[[], int],
        tsc_to_clock: Callable[[int], int],
    ) -> None:
        self._clock, self._on_change = clock, on_change
        self._external, self._external_acknowledge = external, external_acknowledge
        self._tsc_to_clock = tsc_to_clock
        self.on_nmi: Callable[[], None] = lambda: None  # a non-maskable interrupt for the processor
        self.on_move: Callable[[int | None], None] = lambda base: None  # where its registers are now
        self.on_eoi: Callable[[int], None] = lambda vector: None  # of level-triggered vectors
        self.state = ApicState()
        self._enabled = True
        self._output = False
        self._alarm: Alarm | None = None

    # -- towards the processor ---------------------------------------------------------------------------------

    def base_changed(self, value: int) -> None:
        """IA32_APIC_BASE was written: an APIC that is switched off forgets everything (10.4.3)."""
        self.on_move(value & ~0xFFF if value & ENABLED else None)
        enabled = bool(value & ENABLED)
        if self._enabled and not enabled:
            self._cancel()
            self.state = ApicState()
        self._enabled = enabled
        self._update()

    def enable(self) -> None:
        """Leave it as firmware does: enabled, the 8259A behind LINT0, NMI on LINT1 (MP specification, 3.6.2.1)."""
        self.state.svr |= _SOFTWARE_ENABLED
        self.state.lvt[_LVT_LINT1] = _NMI

    def pending(self) -> bool:
        """True where an interrupt waits for the processor."""
        return self._next() >= 0 or (self._lets_external() and self._external())

    def acknowledge(self) -> int:
        """The vector of the interrupt that the processor takes; the spurious one where it has gone."""
        vector, s = self._next(), self.state
        if vector >= 0:
            s.irr &= ~(1 << vector)
            s.isr |= 1 << vector
            self._update()
            return vector
        if self._lets_external() and (self._external() or not self._enabled):
            return self._external_acknowledge()
        return s.svr & 0xFF

    def external_changed(self) -> None:
        """The output of the 8259A pair changed."""
        self._update()

    @property
    def task_priority(self) -> int:
        """What CR8 shows: bits 7 to 4 of TPR (10.8.6)."""
        return self.state.tpr >> 4

    def set_task_priority(self, value: int) -> None:
        """CR8 was written."""
        self.state.tpr = value << 4
        self._update()

    def _next(self) -> int:
        """The vector that would be delivered now, or -1 (10.8.3)."""
        vector = _highest(self.state.irr)
        if vector < 0 or not self._enabled or not self.state.svr & _SOFTWARE_ENABLED:
            return -1
        return vector if vector >> 4 > self._processor_priority() >> 4 else -1

    def _processor_priority(self) -> int:
        s = self.state
        serving = max(_highest(s.isr), 0)
        return s.tpr if s.tpr >> 4 >= serving >> 4 else serving & 0xF0

    def _lets_external(self) -> bool:
        """True where the 8259A reaches the processor: LINT0 is its interrupt input while there is no APIC (10.4.3)."""
        return not self._enabled or self.state.lvt[_LVT_LINT0] & (_MASKED | _DELIVERY) == _EXTINT

    def _update(self) -> None:
        output = self.pending()
        if output != self._output:
            self._output = output
            self._on_change(output)

    # -- towards the I/O APIC and other senders ----------------------------------------------------------------

    def deliver(self, vector: int, level: bool) -> None:
        """An interrupt message; `level` tells the level-triggered ones, whose end the sender wants to hear of."""
        s = self.state
        if not self._enabled or not s.svr & _SOFTWARE_ENABLED:
            return
        if vector < _FIRST_VECTOR:
            self._error(_RECEIVE_ILLEGAL)
            return
        bit = 1 << vector
        s.irr |= bit
        s.tmr = s.tmr | bit if level else s.tmr & ~bit
        self._update()

    def accepts(self, destination: int, logical: bool) -> bool:
        """True where a message to `destination` (8 bits) is for this APIC (10.6.2)."""
        s = self.state
        if not logical:
            return destination in (s.id, _BROADCAST)
        mine = s.ldr >> 24
        if s.dfr >> 28 == 0xF:  # flat model
            return bool(destination & mine)
        same_cluster = destination >> 4 in (mine >> 4, 0xF)
        return same_cluster and bool(destination & mine & 0xF)

    def _error(self, bits: int) -> None:
        s = self.state
        s.errors |= bits
        entry = s.lvt[_LVT_ERROR]
        if not entry & _MASKED and entry & 0xFF >= _FIRST_VECTOR:
            self.deliver(entry & 0xFF, False)

    def _send(self, value: int) -> None:
        """An interprocessor interrupt: there is one processor, so those to others go nowhere (10.6.1)."""
        s = self.state
        shorthand = value & _SHORTHAND
        mine = shorthand in (_SELF, _ALL) or (not shorthand and self.accepts(s.icr >> 56, bool(value & _LOGICAL)))
        if value & _DELIVERY == _NMI and not shorthand and mine:  # of the shorthands, none goes to oneself (table 10-3)
            self.on_nmi()
        if value & _DELIVERY not in (_FIXED, _LOWEST):
            return  # SMI, INIT and start-up are for other processors here
        if value & 0xFF < _FIRST_VECTOR:
            self._error(_SEND_ILLEGAL)
        elif mine:
            self.deliver(value & 0xFF, False)

    # -- the timer (10.5.4) ------------------------------------------------------------------------------------

    def _period(self) -> int:
        """Ticks, which are nanoseconds, from one end of the count to the next."""
        code = self.state.divide & 3 | self.state.divide >> 1 & 4
        return self.state.initial * (1 if code == 7 else 2 << code)

    def _count(self) -> int:
        s, period = self.state, self._period()
        if s.started is None or not period:
            return 0
        elapsed = self._clock.now() - s.started
        if elapsed >= period:
            if not s.lvt[_LVT_TIMER] & _PERIODIC:
                return 0
            elapsed %= period
        return (period - elapsed) * s.initial // period

    def _cancel(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _arm(self, begins: bool = False) -> None:
        """Ask for the moment of the timer's next interrupt, if there is to be one; it may be over where it `begins`."""
        self._cancel()
        s = self.state
        entry = s.lvt[_LVT_TIMER]
        if entry & _MASKED:
            return
        if entry & _TIMER_MODE == _DEADLINE:
            if s.deadline:
                self._alarm = self._clock.at(self._tsc_to_clock(s.deadline), self._expire)
            return
        period = self._period()
        if s.started is None or not period:
            return
        when = s.started + period
        if entry & _PERIODIC:
            # periods that passed unseen are lost, as interrupts are that nobody accepted
            when = max(when, s.started + ((self._clock.now() - s.started) // period + 1) * period)
        elif when <= self._clock.now() and not begins:
            return  # it ended while it was masked
        self._alarm = self._clock.at(when, self._expire)

    def _expire(self) -> None:
        self._alarm = None
        s = self.state
        entry = s.lvt[_LVT_TIMER]
        if entry & _TIMER_MODE == _DEADLINE:
            s.deadline = 0
        elif entry & _PERIODIC:
            self._arm()
        else:
            s.started = None
        self.deliver(entry & 0xFF, False)

    @property
    def deadline(self) -> int:
        """IA32_TSC_DEADLINE: the TSC value at which the timer fires; 0 while it is not armed."""
        return self.state.deadline

    def set_deadline(self, value: int) -> None:
        """IA32_TSC_DEADLINE was written; 0 disarms."""
        if self.state.lvt[_LVT_TIMER] & _TIMER_MODE == _DEADLINE:  # ignored in the other modes
            self.state.deadline = value
            self._arm()

    # -- registers ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        return self._register(offset >> 4) >> (offset & 3) * 8 & ALL_ONES[size] if offset & 0xF < 4 else 0

    def _register(self, register: int) -> int:
        s = self.state
        if register in s.lvt:
            return s.lvt[register]
        for first, bits in ((_ISR, s.isr), (_TMR, s.tmr), (_IRR, s.irr)):
            if first <= register < first + 8:
                return bits >> (register - first) * 32 & 0xFFFF_FFFF
        match register:
            case 0x02:
                return s.id << 24
            case 0x03:
                return _VERSION_VALUE
            case 0x08:
                return s.tpr
            case 0x0A:
                return self._processor_priority()
            case 0x0D:
                return s.ldr
            case 0x0E:
                return s.dfr
            case 0x0F:
                return s.svr
            case 0x28:
                return s.esr
            case 0x30:
                return s.icr & 0xFFFF_FFFF
            case 0x31:
                return s.icr >> 32
            case 0x38:
                return s.initial
            case 0x39:
                return self._count()
            case 0x3E:
                return s.divide
        if register not in (_APR, _EOI, _RRD):
            self._error(_ILLEGAL_REGISTER)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Only whole registers can be written (10.4.1)."""
        if size != 4 or offset & 0xF:
            return
        self._write(offset >> 4, value)
        self._update()

    def _write(self, register: int, value: int) -> None:
        s = self.state
        if register in s.lvt:
            self._write_lvt(register, value)
            return
        match register:
            case 0x02:
                s.id = value >> 24
            case 0x08:
                s.tpr = value & 0xFF
            case 0x0B:
                self._end_of_interrupt()
            case 0x0D:
                s.ldr = value & 0xFF00_0000
            case 0x0E:
                s.dfr = value | 0x0FFF_FFFF
            case 0x0F:
                s.svr = value & 0x1FF
                if not value & _SOFTWARE_ENABLED:
                    for entry in s.lvt:
                        s.lvt[entry] |= _MASKED  # (10.4.7.2)
                    self._arm()
            case 0x28:
                s.esr, s.errors = s.errors, 0
            case 0x30:
                s.icr = s.icr & ~0xFFFF_FFFF | value & ~(1 << 12)  # delivered at once
                self._send(value)
            case 0x31:
                s.icr = s.icr & 0xFFFF_FFFF | (value & 0xFF00_0000) << 32
            case 0x38:
                if s.lvt[_LVT_TIMER] & _TIMER_MODE != _DEADLINE:
                    s.initial, s.started = value, self._clock.now() if value else None
                    self._arm(begins=True)
            case 0x3E:
                s.divide = value & 0xB
                self._arm()
            case 0x03 | 0x39:
                pass
            case _:
                self._error(_ILLEGAL_REGISTER)

    def _write_lvt(self, register: int, value: int) -> None:
        s = self.state
        before = s.lvt[register]
        value &= _LVT_BITS[register]
        if not s.svr & _SOFTWARE_ENABLED:
            value |= _MASKED
        s.lvt[register] = value
        if register == _LVT_TIMER:
            if (before ^ value) & _DEADLINE:  # into or out of TSC-deadline mode: disarmed (10.5.4.1)
                s.deadline, s.started = 0, None
            self._arm()

    def _end_of_interrupt(self) -> None:
        s = self.state
        vector = _highest(s.isr)
        if vector < 0:
            return
        s.isr &= ~(1 << vector)
        if s.tmr >> vector & 1:
            self.on_eoi(vector)
