"""IRQ 1 and INT 16h: scan codes of set 1 to the keyboard buffer in the BIOS data area, and out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.devices.bios import bda
from emu.devices.bios.call import Call, Memory
from isa.x86.state import RAX, RBX, RCX

# Bits of the shift flags at 40:17.
_RIGHT_SHIFT, _LEFT_SHIFT, _CTRL, _ALT = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_SCROLL_LOCK, _NUM_LOCK, _CAPS_LOCK, _INSERT = 1 << 4, 1 << 5, 1 << 6, 1 << 7
_SHIFT: Final = _RIGHT_SHIFT | _LEFT_SHIFT
_HELD: Final = {0x36: _RIGHT_SHIFT, 0x2A: _LEFT_SHIFT, 0x1D: _CTRL, 0x38: _ALT}
# Which of the two control and alt keys is held: bits of 40:18 for the left ones, of 40:96 for the right ones; the bits
# of 40:18 for the lock keys while they are down.
_LEFT_HELD: Final = {0x1D: 1 << 0, 0x38: 1 << 1, 0x46: 1 << 4, 0x45: 1 << 5, 0x3A: 1 << 6, 0x52: 1 << 7}
_RIGHT_HELD: Final = {0x1D: 1 << 2, 0x38: 1 << 3}
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
# F11 and F12: plain, with shift, with control, with alt.
_F11_F12: Final = {0x57: (0x85, 0x87, 0x89, 0x8B), 0x58: (0x86, 0x88, 0x8A, 0x8C)}
# The cursor keys with control, and (the grey ones) with alt.
_CTRL_CURSOR: Final = {
    0x47: 0x77, 0x48: 0x8D, 0x49: 0x84, 0x4B: 0x73, 0x4C: 0x8F, 0x4D: 0x74, 0x4F: 0x75, 0x50: 0x91, 0x51: 0x76,
    0x52: 0x92, 0x53: 0x93,
}  # fmt: skip
_ALT_CURSOR: Final = {code: code + 0x50 for code in (0x47, 0x48, 0x49, 0x4B, 0x4D, 0x4F, 0x50, 0x51, 0x52, 0x53)}
# INT 16h AH=09h: which functions there are: 0Ah, 10h to 12h; AH=0Ah: an enhanced keyboard behind an 8042.
_FUNCTIONS: Final = 0x30
_KEYBOARD: Final = 0x41AB


class Keyboard:
    """The services of INT 16h and the work behind the keyboard interrupt."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._functions: dict[int, Callable[[Call], None]] = {
            0x00: self._fetch,
            0x01: self._peek,
            0x02: self._shift_flags,
            0x05: self._store,
            0x09: lambda call: call.set_low(RAX, _FUNCTIONS),
            0x0A: lambda call: call.set_word(RBX, _KEYBOARD),
            0x10: self._fetch_extended,
            0x11: self._peek_extended,
            0x12: self._extended_shift_flags,
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
        released = bool(code & _RELEASED)
        if extended and key in _RIGHT_HELD:
            self._mark(bda.KEY_STATE, _RIGHT_HELD[key], not released)
        elif key in _LEFT_HELD:
            self._mark(bda.SHIFT_FLAGS_2, _LEFT_HELD[key], not released)
        if key in _HELD:
            self._mark(bda.SHIFT_FLAGS, _HELD[key], not released or self._other_held(key))
        elif not released:
            self._press(key, self._memory.read(bda.SHIFT_FLAGS, 1), extended)

    def _mark(self, at: int, mask: int, on: bool) -> None:
        flags = self._memory.read(at, 1)
        self._memory.write(at, 1, flags | mask if on else flags & ~mask)

    def _other_held(self, key: int) -> bool:
        """Whether control or alt is still held after one of the two was released."""
        left, right = self._memory.read(bda.SHIFT_FLAGS_2, 1), self._memory.read(bda.KEY_STATE, 1)
        return key in _RIGHT_HELD and bool(left & _LEFT_HELD[key] | right & _RIGHT_HELD[key])

    def _press(self, key: int, flags: int, extended: bool) -> None:
        if key in _TOGGLED and not extended:
            self._memory.write(bda.SHIFT_FLAGS, 1, flags ^ _TOGGLED[key])
            return
        if key == _INSERT_KEY and (extended or not flags & _NUM_LOCK):
            self._memory.write(bda.SHIFT_FLAGS, 1, flags ^ _INSERT)
        word = _extended_word(key, flags) if extended else _word(key, flags)
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

    def _extended_shift_flags(self, call: Call) -> None:
        """AH=12h: 40:17 in AL; in AH what 40:18 tells, with the right control and alt keys in bits 2 and 3."""
        left, right = self._memory.read(bda.SHIFT_FLAGS_2, 1), self._memory.read(bda.KEY_STATE, 1)
        self._shift_flags(call)
        call.set_high(RAX, left & 0xF3 | right & 0x0C)

    def _store(self, call: Call) -> None:
        call.set_low(RAX, 0 if self._push(call.word(RCX)) else 1)


def _compatible(word: int) -> int:
    """An entry as the functions of the 83-key keyboard give it: the marks of grey keys removed."""
    if word >> 8 == _PREFIX:
        return (_KEYPAD_ENTER if word & 0xFF in (0x0A, 0x0D) else _KEYPAD_SLASH) << 8 | word & 0xFF
    return word & 0xFF00 if word & 0xFF == _PREFIX else word


def _extended_word(key: int, flags: int) -> int | None:
    """The entry of a key behind an E0 prefix: Enter and / of the keypad, or a grey cursor key."""
    if key in (_KEYPAD_ENTER, _KEYPAD_SLASH):
        if flags & _ALT:
            return (0xA6 if key == _KEYPAD_ENTER else 0xA4) << 8
        if flags & _CTRL:
            return _PREFIX << 8 | 0x0A if key == _KEYPAD_ENTER else 0x9500
        return _PREFIX << 8 | (0x0D if key == _KEYPAD_ENTER else ord("/"))
    if key not in _KEYPAD:
        return None
    if flags & _ALT:
        return _ALT_CURSOR[key] << 8 if key in _ALT_CURSOR else None
    if flags & _CTRL:
        return _CTRL_CURSOR[key] << 8 | _PREFIX if key in _CTRL_CURSOR else None
    return key << 8 | _PREFIX


def _word(key: int, flags: int) -> int | None:
    """The entry (scan code in the high byte, character in the low) of a key pressed with `flags`, or None."""
    shift = bool(flags & _SHIFT)
    if _F1 <= key <= _F10:
        first = _F1_ALT if flags & _ALT else _F1_CTRL if flags & _CTRL else _F1_SHIFT if shift else _F1
        return (key - _F1 + first) << 8
    if key in _F11_F12:
        return _F11_F12[key][3 if flags & _ALT else 2 if flags & _CTRL else int(shift)] << 8
    if flags & _CTRL and key in _CTRL_CURSOR:
        return _CTRL_CURSOR[key] << 8
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
