"""The power management registers of a PIIX4: PM1 events and control, PM timer, SMI command port.

ACPI specification 6.4, 4.8.3; Intel 82371AB (PIIX4) datasheet, 7.2. Offsets from the PM base:
0 PM1 status, 2 PM1 enable, 4 PM1 control, 8 timer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emu.bus import ALL_ONES
from emu.clock import Alarm, Clock
from emu.irq import IrqLine

TIMER_HZ: Final = 3_579_545
ACPI_ENABLE: Final = 0xF1  # SMI commands
ACPI_DISABLE: Final = 0xF0
SOFT_OFF: Final = 0  # SLP_TYP of S5, the only sleep state of the board

_SECOND: Final = 1_000_000_000
_TIMER_MASK: Final = (1 << 24) - 1
_HALF_TURN: Final = 23  # the timer's highest bit, each change of which is an event

_TIMER, _GLOBAL, _POWER_BUTTON, _CLOCK_ALARM = 1 << 0, 1 << 5, 1 << 8, 1 << 10  # status, and enable alike
_ENABLES: Final = _TIMER | _GLOBAL | _POWER_BUTTON | _CLOCK_ALARM
_SCI_ENABLE, _BUS_MASTER_RELOAD, _SLEEP_ENABLE = 1 << 0, 1 << 1, 1 << 13
_SLEEP_TYPE_AT, _SLEEP_TYPE = 10, 7 << 10
# What a control read gives back: SLP_EN and the global release only act when written.
_CONTROL_KEPT: Final = _SCI_ENABLE | _BUS_MASTER_RELOAD | _SLEEP_TYPE
# Offsets in bits of the registers in the block, and what lies in and behind it that answers nothing.
_ENABLE_AT, _CONTROL_AT, _TIMER_AT = 16, 32, 64
_NOTHING: Final = 0xFFFF << 48 | 0xFFFF_FFFF_FFFF_FFFF << 96


@dataclass(slots=True)
class PmState:
    """The PM1 registers; `half_turns` of the timer have been seen by the status register."""

    status: int = 0
    enable: int = 0
    control: int = 0
    half_turns: int = 0


class PowerManagement:
    """Drives `sci` while an enabled event stands and SCI_EN is set; `power_off` is called when the guest enters S5.

    Other sleep types do nothing: no sleep state of theirs is described to the guest. With SCI_EN clear events would
    call the firmware by an SMI, of which the board has none.
    """

    name = "power management"

    def __init__(self, clock: Clock, sci: IrqLine, power_off: Callable[[], None]) -> None:
        self._clock, self._sci, self._power_off = clock, sci, power_off
        self.state = PmState(half_turns=self._ticks() >> _HALF_TURN)
        self._alarm: Alarm | None = None

    def press_power_button(self) -> None:
        """The fixed power button (4.8.2.2.1.1): sets its status bit, and the guest gets an SCI if it asked for one."""
        self.state.status |= _POWER_BUTTON
        self._update()

    def smi_command(self, value: int) -> None:
        """What firmware does for a command at the SMI port: hand the events to ACPI, or take them back."""
        if value == ACPI_ENABLE:
            self.state.control |= _SCI_ENABLE
        elif value == ACPI_DISABLE:
            self.state.control &= ~_SCI_ENABLE
        else:
            return
        self._collect()
        self._update()

    # -- events ------------------------------------------------------------------------------------------------

    def _ticks(self) -> int:
        """Timer ticks since guest time 0, not cut to the timer's width."""
        return self._clock.now() * TIMER_HZ // _SECOND

    def _collect(self) -> None:
        """Set the timer's status if its highest bit changed since the last time, enabled or not."""
        half_turns = self._ticks() >> _HALF_TURN
        if half_turns != self.state.half_turns:
            self.state.half_turns = half_turns
            self.state.status |= _TIMER

    def _update(self) -> None:
        """Drive the SCI, and ask for the time of the timer's next event if that could change it."""
        s = self.state
        enabled = bool(s.control & _SCI_ENABLE)
        self._sci.set(enabled and bool(s.status & s.enable))
        when = None
        if enabled and s.enable & ~s.status & _TIMER:
            when = -(-(s.half_turns + 1 << _HALF_TURN) * _SECOND // TIMER_HZ)
        if self._alarm is not None and self._alarm.when != when:
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None and when is not None:
            self._alarm = self._clock.at(when, self._event)

    def _event(self) -> None:
        self._alarm = None
        self._collect()
        self._update()

    # -- registers ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        self._collect()
        s = self.state
        block = s.status | s.enable << _ENABLE_AT | s.control << _CONTROL_AT | _NOTHING
        block |= (self._ticks() & _TIMER_MASK) << _TIMER_AT
        return block >> min(offset, 12) * 8 & ALL_ONES[size]

    def write(self, offset: int, size: int, value: int) -> None:
        self._collect()
        s = self.state
        written, data = ALL_ONES[size] << offset * 8, (value & ALL_ONES[size]) << offset * 8
        s.status &= ~data  # a one clears the event
        mask = written >> _ENABLE_AT & _ENABLES
        s.enable = s.enable & ~mask | data >> _ENABLE_AT & mask
        mask = written >> _CONTROL_AT & _CONTROL_KEPT
        s.control = s.control & ~mask | data >> _CONTROL_AT & mask
        self._update()
        if data >> _CONTROL_AT & _SLEEP_ENABLE and s.control >> _SLEEP_TYPE_AT & 7 == SOFT_OFF:
            self._power_off()


class SmiCommand:
    """The advanced power management ports: offset 0 takes commands, offset 1 holds a byte for whoever answers them."""

    name = "SMI command"

    def __init__(self, management: PowerManagement) -> None:
        self._management = management
        self.value = bytearray(2)

    def read(self, offset: int, size: int) -> int:
        held = int.from_bytes(self.value, "little") | ALL_ONES[8] << 16
        return held >> offset * 8 & ALL_ONES[size]

    def write(self, offset: int, size: int, value: int) -> None:
        for at, byte in enumerate(value.to_bytes(size, "little"), offset):
            if at < len(self.value):
                self.value[at] = byte
        if offset == 0:
            self._management.smi_command(self.value[0])
