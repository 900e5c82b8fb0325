"""The 8042 keyboard controller and an AT keyboard (IBM PC AT technical reference); no mouse is connected."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from emu.irq import IrqLine

_STATUS_FULL, _STATUS_SYSTEM, _STATUS_COMMAND, _STATUS_UNLOCKED = 0x01, 0x04, 0x08, 0x10
_CB_IRQ1, _CB_SYSTEM, _CB_DISABLED, _CB_TRANSLATE = 0x01, 0x04, 0x10, 0x40
_OUT_RESET, _OUT_A20 = 0x01, 0x02
_ACK, _RESEND, _PASSED, _ECHO = 0xFA, 0xFE, 0xAA, 0xEE

# Set 1 make codes of a US keyboard: character -> (code, with shift).
_KEYS: dict[str, tuple[int, bool]] = {}
for _row, _first in (("1234567890-=", 0x02), ("qwertyuiop[]", 0x10), ("asdfghjkl;'`", 0x1E), ("\\zxcvbnm,./", 0x2B)):
    for _at, _char in enumerate(_row):
        _KEYS[_char] = (_first + _at, False)
for _row, _first in (("!@#$%^&*()_+", 0x02), ("QWERTYUIOP{}", 0x10), ('ASDFGHJKL:"~', 0x1E), ("|ZXCVBNM<>?", 0x2B)):
    for _at, _char in enumerate(_row):
        _KEYS[_char] = (_first + _at, True)
_KEYS |= {" ": (0x39, False), "\n": (0x1C, False), "\r": (0x1C, False), "\t": (0x0F, False), "\x1b": (0x01, False)}
_KEYS |= {"\x08": (0x0E, False), "\x7f": (0x0E, False)}
_LEFT_SHIFT, _CTRL = 0x2A, 0x1D


@dataclass(slots=True)
class ControllerState:
    """`command` is the controller command whose parameter comes next (0: none), `keyboard` the keyboard's."""

    config: int = _CB_IRQ1 | _CB_SYSTEM | _CB_TRANSLATE
    output_port: int = _OUT_RESET | _OUT_A20
    command: int = 0
    keyboard: int = 0
    last_was_command: bool = False
    scanning: bool = True
    scan_set: int = 2
    leds: int = 0


class I8042:
    """Data register at offset 0 (60h), status and commands at offset 4 (64h)."""

    name = "8042"

    def __init__(self, line: IrqLine, reset: Callable[[], None], a20: Callable[[bool], None]) -> None:
        self._line, self._reset, self._a20 = line, reset, a20
        self.state = ControllerState()
        self._queue: deque[int] = deque()  # bytes on their way to the output buffer
        self._held: deque[int] = deque()  # scan codes that wait in the keyboard while its interface is disabled

    # -- typing ------------------------------------------------------------------------------------------------

    def key(self, codes: bytes) -> None:
        """Send raw scan-code bytes of set 1."""
        if self.state.scanning:
            self._held.extend(codes)
            self._update()

    def type_text(self, text: str) -> None:
        """Press and release the keys that give `text` on a US keyboard; unknown characters are skipped."""
        for char in text:
            if char in _KEYS:
                code, shift = _KEYS[char]
                held = _LEFT_SHIFT if shift else 0
            elif 1 <= ord(char) <= 26:
                code, held = _KEYS[chr(ord(char) + 96)][0], _CTRL
            else:
                continue
            press = bytes((held, code, code | 0x80, held | 0x80)) if held else bytes((code, code | 0x80))
            self.key(press)

    # -- the output buffer -------------------------------------------------------------------------------------

    def _answer(self, *values: int) -> None:
        self._queue.extend(values)
        self._update()

    def _update(self) -> None:
        if not self.state.config & _CB_DISABLED:
            self._queue.extend(self._held)
            self._held.clear()
        self._line.set(bool(self._queue) and bool(self.state.config & _CB_IRQ1))

    def read(self, offset: int, size: int) -> int:
        s = self.state
        if offset == 4:
            status = _STATUS_UNLOCKED | (_STATUS_FULL if self._queue else 0)
            status |= s.config & _STATUS_SYSTEM | (_STATUS_COMMAND if s.last_was_command else 0)
            return status
        value = self._queue.popleft() if self._queue else 0
        self._line.set(False)  # each byte makes an edge of its own
        self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        s = self.state
        s.last_was_command = offset == 4
        if offset == 4:
            self._command(value)
        elif s.command:
            command, s.command = s.command, 0
            self._parameter(command, value)
        else:
            self._keyboard(value)

    # -- the controller ----------------------------------------------------------------------------------------

    def _command(self, command: int) -> None:
        s = self.state
        s.command = 0
        match command:
            case 0x20:
                self._answer(s.config)
            case 0x60 | 0xD1 | 0xD2 | 0xD3 | 0xD4:
                s.command = command
            case 0xA7 | 0xA8:
                pass  # the auxiliary port has nothing to enable
            case 0xA9:
                self._answer(0x02)  # its clock is stuck: no device
            case 0xAA:
                s.config |= _CB_SYSTEM
                self._answer(0x55)
            case 0xAB:
                self._answer(0x00)
            case 0xAD:
                s.config |= _CB_DISABLED
            case 0xAE:
                s.config &= ~_CB_DISABLED
                self._update()
            case 0xC0:
                self._answer(0x80)  # not locked
            case 0xD0:
                self._answer(s.output_port | (0x10 if self._queue else 0))
            case 0xDD | 0xDF:
                self._set_output(s.output_port & ~_OUT_A20 | (_OUT_A20 if command == 0xDF else 0))
            case _ if command >= 0xF0 and not command & 1:
                self._reset()  # pulses the reset line low

    def _parameter(self, command: int, value: int) -> None:
        s = self.state
        match command:
            case 0x60:
                s.config = value & 0x77
                self._update()
            case 0xD1:
                self._set_output(value)
            case 0xD2:
                self._answer(value)
            case _:
                pass  # the mouse's buffer, and the mouse: nobody there

    def _set_output(self, value: int) -> None:
        s = self.state
        if (value ^ s.output_port) & _OUT_A20:
            self._a20(bool(value & _OUT_A20))
        s.output_port = value
        if not value & _OUT_RESET:
            self._reset()

    # -- the keyboard ------------------------------------------------------------------------------------------

    def _keyboard(self, value: int) -> None:
        s = self.state
        s.config &= ~_CB_DISABLED  # a byte for the keyboard enables its interface
        if s.keyboard:
            command, s.keyboard = s.keyboard, 0
            self._keyboard_parameter(command, value)
            return
        match value:
            case 0xED | 0xF0 | 0xF3:
                s.keyboard = value
                self._answer(_ACK)
            case 0xEE:
                self._answer(_ECHO)
            case 0xF2:
                # an MF2 keyboard's identity, as the controller translates it
                self._answer(_ACK, 0xAB, 0x41 if s.config & _CB_TRANSLATE else 0x83)
            case 0xF4 | 0xF5 | 0xF6:
                s.scanning = value != 0xF5
                self._answer(_ACK)
            case 0xFF:
                s.scanning, s.scan_set, s.leds = True, 2, 0
                self._answer(_ACK, _PASSED)
            case _:
                self._answer(_RESEND)

    def _keyboard_parameter(self, command: int, value: int) -> None:
        s = self.state
        self._answer(_ACK)
        if command == 0xED:
            s.leds = value & 7
        elif command == 0xF0:
            if value == 0:
                self._answer(s.scan_set)
            elif value in (1, 2, 3):
                s.scan_set = value
