"""IRQ 1 and INT 16h: scan codes of set 1 to the keyboard buffer in the BIOS data area, and out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.devices.bios import bda
from emu.devices.bios.call import Call, Memory
from isa.x86.state import RAX, RCX

# Bits of the shift flags at 40:17.
_RIGHT_SHIFT, _LEFT_SHIFT, _CTRL, _ALT = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_SCROLL_LOCK, _NUM_LOCK, _CAPS_LOCK, _INSERT = 1 << 4, 1 << 5, 1 << 6, 1 << 7
_SHIFT: Final = _RIGHT_SHIFT | _LEFT_SHIFT
_HELD: Final = {0x36: _RIGHT_SHIFT, 0x2A: _LEFT_SHIFT, 0x1D: _CTRL, 0x38: _ALT}
_TOGGLED: Final = {0x46: _SCROLL_LOCK, 0x45: _NUM_LOCK, 0x3A: _CAPS_LOCK}
_INSERT_KEY: Final = 0x52

_PREFIX: Final = 0xE0
_AFTER_PREFIX: Final = 1 << 1  # bit of 40:96: the last byte was E0
_RELEASED: Final = 0x80

# Runs of keys of the US layout: first scan code, plain characters, shifted ones.
_ROWS: Final = (
    (0x01, "\x1b1234567890-=\b\t", "\x1b!@#$%^&*()_+\b\0"),
    (0x10, "qwertyuiop[]\r", "QWERTYUIOP{}\r"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x37, "*", "*"),
    (0x39, " ", " "),
    (0x4A, "-", "-"),
    (0x4E, "+", "+"),
)
_PLAIN: Final = {first + i: ord(c) for first, plain, _ in _ROWS for i, c in enumerate(plain)}
_SHIFTED: Final = {first + i: ord(c) for first, _, shifted in _ROWS for i, c in enumerate(shifted)}
_KEYPAD: Final = {0x47 + i: ord(c) for i, c in enumerate("789-456+1230.")}
_CTRL_SPECIAL: Final = {0x01: 0x1B, 0x0E: 0x7F, 0x1C: 0x0A, 0x1A: 0x1B, 0x2B: 0x1C, 0x1B: 0x1D, 0x39: 0x20}
_KEYPAD_ENTER, _KEYPAD_SLASH = 0x1C, 0x35
# Codes of the function keys F1-F10 (scan codes 3B-44) plain, with shift, with control, with alt.
_F1, _F10 = 0x3B, 0x44
_F1_SHIFT, _F1_CTRL, _F1_ALT = 0x54, 0x5E, 0x68
_ALT_DIGITS: Final = {0x02 + i: 0x78 + i for i in range(12)}


class Keyboard:
    """The services of INT 16h and the work behind the keyboard interrupt."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._functions: dict[int, Callable[[Call], None]] = {
            0x00: self._fetch,
            0x01: self._peek,
            0x02: self._shift_flags,
            0x05: self._store,
            0x10: self._fetch_extended,
            0x11: self._peek_extended,
            0x12: self._shift_flags,
        }

    def call(self, call: Call) -> None:
        function = self._functions.get(call.high(RAX))
        if function is not None:
            function(call)

    def scan(self, code: int) -> None:
        """Take one byte from the keyboard (scan code set 1)."""
        state = self._memory.read(bda.KEY_STATE, 1)
        if code == _PREFIX:
            self._memory.write(bda.KEY_STATE, 1, state | _AFTER_PREFIX)
            return
        self._memory.write(bda.KEY_STATE, 1, state & ~_AFTER_PREFIX)
        extended = bool(state & _AFTER_PREFIX)
        key = code & ~_RELEASED
        if extended and key in (0x2A, 0x36):
            return  # a shift the keyboard makes up around grey keys
        flags = self._memory.read(bda.SHIFT_FLAGS, 1)
        if key in _HELD:
            flags = flags & ~_HELD[key] if code & _RELEASED else flags | _HELD[key]
            self._memory.write(bda.SHIFT_FLAGS, 1, flags)
        elif not code & _RELEASED:
            self._press(key, flags, extended)

    def _press(self, key: int, flags: int, extended: bool) -> None:
        if key in _TOGGLED and not extended:
            self._memory.write(bda.SHIFT_FLAGS, 1, flags ^ _TOGGLED[key])
            return
        if key == _INSERT_KEY and (extended or not flags & _NUM_LOCK):
            self._memory.write(bda.SHIFT_FLAGS, 1, flags ^ _INSERT)
        word = _extended_word(key) if extended else _word(key, flags)
        if word is not None:
            self._push(word)

    # -- the ring at 40:1E --------------------------------------------------------------------------------------

    def _push(self, word: int) -> bool:
        """Append an entry; False when the ring is full (15 entries)."""
        tail = self._memory.read(bda.KEY_TAIL, 2)
        following = self._after(tail)
        if following == self._memory.read(bda.KEY_HEAD, 2):
            return False
        self._memory.write(bda.BASE + tail, 2, word)
        self._memory.write(bda.KEY_TAIL, 2, following)
        return True

    def _after(self, pointer: int) -> int:
        following = pointer + 2
        return self._memory.read(bda.KEY_START, 2) if following >= self._memory.read(bda.KEY_END, 2) else following

    def _front(self) -> int | None:
        head = self._memory.read(bda.KEY_HEAD, 2)
        return None if head == self._memory.read(bda.KEY_TAIL, 2) else self._memory.read(bda.BASE + head, 2)

    # -- INT 16h ------------------------------------------------------------------------------------------------

    def _take(self, call: Call, extended: bool) -> None:
        word = self._front()
        if word is None:
            return  # the ROM waited for an entry; only a guest that enters it elsewhere comes here
        self._memory.write(bda.KEY_HEAD, 2, self._after(self._memory.read(bda.KEY_HEAD, 2)))
        call.set_word(RAX, word if extended else _compatible(word))

    def _show(self, call: Call, extended: bool) -> None:
        word = self._front()
        call.zero(word is None)
        if word is not None:
            call.set_word(RAX, word if extended else _compatible(word))

    def _fetch(self, call: Call) -> None:
        self._take(call, extended=False)

    def _fetch_extended(self, call: Call) -> None:
        self._take(call, extended=True)

    def _peek(self, call: Call) -> None:
        self._show(call, extended=False)

    def _peek_extended(self, call: Call) -> None:
        self._show(call, extended=True)

    def _shift_flags(self, call: Call) -> None:
        call.set_low(RAX, self._memory.read(bda.SHIFT_FLAGS, 1))

    def _store(self, call: Call) -> None:
        call.set_low(RAX, 0 if self._push(call.word(RCX)) else 1)


def _compatible(word: int) -> int:
    """An entry as the functions of the 83-key keyboard give it: the marks of grey keys removed."""
    if word >> 8 == _PREFIX:
        return (_KEYPAD_ENTER if word & 0xFF in (0x0A, 0x0D) else _KEYPAD_SLASH) << 8 | word & 0xFF
    return word & 0xFF00 if word & 0xFF == _PREFIX else word


def _extended_word(key: int) -> int | None:
    """The entry of a key behind an E0 prefix: Enter and / of the keypad, or a grey cursor key."""
    if key == _KEYPAD_ENTER:
        return _PREFIX << 8 | 0x0D
    if key == _KEYPAD_SLASH:
        return _PREFIX << 8 | ord("/")
    return key << 8 | _PREFIX if key in _KEYPAD else None


def _word(key: int, flags: int) -> int | None:
    """The entry (scan code in the high byte, character in the low) of a key pressed with `flags`, or None."""
    shift = bool(flags & _SHIFT)
    if _F1 <= key <= _F10:
        first = _F1_ALT if flags & _ALT else _F1_CTRL if flags & _CTRL else _F1_SHIFT if shift else _F1
        return (key - _F1 + first) << 8
    if key in _KEYPAD and key not in _PLAIN:
        digits = shift != bool(flags & _NUM_LOCK)
        return key << 8 | (_KEYPAD[key] if digits else 0)
    if key not in _PLAIN:
        return None
    character = _PLAIN[key]
    letter = chr(character).isalpha()
    if flags & _ALT:
        return _ALT_DIGITS.get(key, key) << 8
    if flags & _CTRL:
        control = character & 0x1F if letter else _CTRL_SPECIAL.get(key)
        return None if control is None else key << 8 | control
    if shift != (letter and bool(flags & _CAPS_LOCK)):
        character = _SHIFTED[key]
    return key << 8 | character
