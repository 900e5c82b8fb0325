"""INT 10h: the text screen at B8000 and its cursor; what is written by it also goes to the console."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emu.bus import Bus
from emu.devices.bios import bda
from emu.devices.bios.call import Call, Memory
from emu.devices.bios.mirror import Mirror
from isa.x86.state import ES, RAX, RBP, RBX, RCX, RDX

TEXT: Final = 0xB8000
COLUMNS: Final = 80
ROWS: Final = 25
PAGES: Final = 8
_BLANK: Final = 0x0720
_PALETTE: Final = (*range(6), 0x14, 7, *range(0x38, 0x40))
_TEXT_MODES: Final = frozenset((0, 1, 2, 3, 7))
_KEEP_SCREEN: Final = 0x80  # added to a mode number: do not clear
_BEL, _BS, _LF, _CR = 7, 8, 10, 13
_CURSOR_START, _START_ADDRESS, _CURSOR_LOCATION = 0x0A, 0x0C, 0x0E  # CRT controller registers, each with its successor


class Video:
    """The services of INT 10h for an 80x25 text screen; functions it lacks leave all registers as they are."""

    def __init__(self, memory: Memory, ports: Bus, console: Callable[[bytes], None]) -> None:
        self._memory = memory
        self._ports = ports
        self._mirror = Mirror(console, ROWS, COLUMNS)
        self._functions: dict[int, Callable[[Call], None]] = {
            0x00: self._set_mode,
            0x01: self._set_shape,
            0x02: self._set_cursor,
            0x03: self._get_cursor,
            0x05: self._select_page,
            0x06: self._scroll_up,
            0x07: self._scroll_down,
            0x08: self._read_cell,
            0x09: self._write_cells,
            0x0A: self._write_characters,
            0x0E: self._teletype,
            0x0F: self._get_mode,
            0x10: self._palette,
            0x12: self._alternate,
            0x13: self._write_string,
            0x1A: self._display_combination,
        }

    def call(self, call: Call) -> None:
        function = self._functions.get(call.high(RAX))
        if function is not None:
            function(call)

    def print(self, text: bytes) -> None:
        """Write `text` at the active page's cursor and to the console."""
        for character in text:
            self._put(character, self._memory.read(bda.ACTIVE_PAGE, 1) % PAGES, None)

    def clear(self, keep: bool = False) -> None:
        """Set mode 3: all cursors home, page 0 shown, and unless `keep` all pages blank."""
        self._memory.write(bda.VIDEO_MODE, 1, 3)
        self._memory.write_bytes(bda.CURSORS, bytes(2 * PAGES))
        if not keep:
            self._mirror.cleared()
            self._memory.write_bytes(TEXT, _BLANK.to_bytes(2, "little") * (0x8000 // 2))
        self._activate(0)

    # -- modes, pages, cursor -----------------------------------------------------------------------------------

    def _set_mode(self, call: Call) -> None:
        mode = call.low(RAX)
        if mode & ~_KEEP_SCREEN not in _TEXT_MODES:
            return  # AH=0Fh then tells that the mode did not change
        self.clear(keep=bool(mode & _KEEP_SCREEN))

    def _get_mode(self, call: Call) -> None:
        call.set_word(RAX, COLUMNS << 8 | self._memory.read(bda.VIDEO_MODE, 1))
        call.set_high(RBX, self._memory.read(bda.ACTIVE_PAGE, 1))

    def _select_page(self, call: Call) -> None:
        if call.low(RAX) < PAGES:
            self._activate(call.low(RAX))

    def _activate(self, page: int) -> None:
        self._memory.write(bda.ACTIVE_PAGE, 1, page)
        self._memory.write(bda.PAGE_START, 2, page * 0x1000)
        self._crtc(_START_ADDRESS, page * 0x1000 // 2)
        self._move(page, *self._cursor(page))

    def _set_shape(self, call: Call) -> None:
        self._memory.write(bda.CURSOR_SHAPE, 2, call.word(RCX))
        self._crtc(_CURSOR_START, call.word(RCX))

    def _set_cursor(self, call: Call) -> None:
        self._move(call.high(RBX) % PAGES, call.high(RDX), call.low(RDX))

    def _get_cursor(self, call: Call) -> None:
        row, column = self._cursor(call.high(RBX) % PAGES)
        call.set_word(RDX, row << 8 | column)
        call.set_word(RCX, self._memory.read(bda.CURSOR_SHAPE, 2))

    def _cursor(self, page: int) -> tuple[int, int]:
        both = self._memory.read(bda.CURSORS + 2 * page, 2)
        return both >> 8, both & 0xFF

    def _move(self, page: int, row: int, column: int) -> None:
        self._memory.write(bda.CURSORS + 2 * page, 2, row << 8 | column)
        if page == self._memory.read(bda.ACTIVE_PAGE, 1):
            self._crtc(_CURSOR_LOCATION, page * 0x1000 // 2 + row * COLUMNS + column)

    def _crtc(self, register: int, value: int) -> None:
        """Write a 16-bit value to two CRT controller registers, the high byte first."""
        for index, octet in ((register, value >> 8), (register + 1, value)):
            self._ports.write(0x3D4, 1, index)
            self._ports.write(0x3D5, 1, octet & 0xFF)

    # -- cells --------------------------------------------------------------------------------------------------

    @staticmethod
    def _cell(page: int, row: int, column: int) -> int:
        """Address of a cell; rows and columns beyond the screen wrap inside the page, as on the card."""
        return TEXT + page * 0x1000 + (row * COLUMNS + column) * 2 % 0x1000

    def _read_cell(self, call: Call) -> None:
        page = call.high(RBX) % PAGES
        call.set_word(RAX, self._memory.read(self._cell(page, *self._cursor(page)), 2))

    def _write_cells(self, call: Call) -> None:
        self._repeat(call, call.low(RBX))

    def _write_characters(self, call: Call) -> None:
        self._repeat(call, None)

    def _repeat(self, call: Call, attribute: int | None) -> None:
        page = call.high(RBX) % PAGES
        row, column = self._cursor(page)
        count = min(call.word(RCX), COLUMNS * ROWS)
        for step in range(count):
            self._store(self._cell(page, row, column + step), call.low(RAX), attribute)
        if count and page == self._memory.read(bda.ACTIVE_PAGE, 1):
            self._mirror.glyphs(bytes((call.low(RAX),)) * count, row, column)

    def _store(self, at: int, character: int, attribute: int | None) -> None:
        self._memory.write(at, 1, character)
        if attribute is not None:
            self._memory.write(at + 1, 1, attribute)

    def _scroll_up(self, call: Call) -> None:
        self._scroll_window(call, 1)

    def _scroll_down(self, call: Call) -> None:
        self._scroll_window(call, -1)

    def _scroll_window(self, call: Call, direction: int) -> None:
        page = self._memory.read(bda.ACTIVE_PAGE, 1) % PAGES
        top, left = call.high(RCX), call.low(RCX)
        bottom, right = min(call.high(RDX), ROWS - 1), min(call.low(RDX), COLUMNS - 1)
        by = call.low(RAX)
        self._scroll(page, (top, left, bottom, right), by, direction, call.high(RBX))
        if top > bottom or left > right:
            return
        whole = (top, left, bottom, right) == (0, 0, ROWS - 1, COLUMNS - 1)
        if whole and not 0 < by < ROWS:
            self._mirror.cleared()
        elif whole and direction > 0:
            self._mirror.scrolled(by)
        else:
            for row in range(top, bottom + 1):
                cells = self._memory.read_bytes(self._cell(page, row, left), (right - left + 1) * 2)
                self._mirror.glyphs(cells[::2], row, left)

    def _scroll(self, page: int, window: tuple[int, int, int, int], by: int, direction: int, attribute: int) -> None:
        """Move the rows of a window up (direction 1) or down (-1) by `by` rows, 0 for all of them; blank the rest."""
        top, left, bottom, right = window
        if top > bottom or left > right:
            return
        width = (right - left + 1) * 2
        rows = [self._memory.read_bytes(self._cell(page, row, left), width) for row in range(top, bottom + 1)]
        blank = [bytes((0x20, attribute)) * (width // 2)] * (min(by, len(rows)) or len(rows))
        kept = len(rows) - len(blank)
        moved = rows[len(blank) :] + blank if direction > 0 else blank + rows[:kept]
        for row, cells in enumerate(moved, top):
            self._memory.write_bytes(self._cell(page, row, left), cells)

    # -- text ---------------------------------------------------------------------------------------------------

    def _teletype(self, call: Call) -> None:
        self._put(call.low(RAX), self._memory.read(bda.ACTIVE_PAGE, 1) % PAGES, None)

    def _put(self, character: int, page: int, attribute: int | None) -> None:
        """Teletype one character: obey BEL, BS, LF and CR, wrap and scroll."""
        row, column = self._cursor(page)
        self._mirror.teletype(character, row, column)
        if character == _BEL:
            return
        if character == _BS:
            column = max(column - 1, 0)
        elif character == _LF:
            row += 1
        elif character == _CR:
            column = 0
        else:
            self._store(self._cell(page, row, column), character, attribute)
            column += 1
        if column >= COLUMNS:
            row, column = row + 1, 0
        if row >= ROWS:
            colour = self._memory.read(self._cell(page, ROWS - 1, column) + 1, 1)
            self._scroll(page, (0, 0, ROWS - 1, COLUMNS - 1), 1, 1, colour)
            row = ROWS - 1
        self._move(page, row, column)

    def _write_string(self, call: Call) -> None:
        """CX characters at ES:BP; AL bit 0 moves the cursor behind them, bit 1: each has its attribute behind it."""
        page, mode = call.high(RBX) % PAGES, call.low(RAX)
        saved = self._cursor(page)
        self._move(page, call.high(RDX), call.low(RDX))
        at = call.address(ES, RBP)
        for _ in range(call.word(RCX)):
            attribute = self._memory.read(at + 1, 1) if mode & 2 else call.low(RBX)
            self._put(self._memory.read(at, 1), page, attribute)
            at += 2 if mode & 2 else 1
        if not mode & 1:
            self._move(page, *saved)

    # -- what the adapter is ------------------------------------------------------------------------------------

    def _palette(self, call: Call) -> None:
        """AH=10h: colours are the display's own; what can be read reads as a VGA's default."""
        match call.low(RAX):
            case 0x07:  # one palette register: EGA's sixteen colours, brown and the bright ones moved
                register = call.low(RBX)
                call.set_high(RBX, _PALETTE[register] if register < len(_PALETTE) else 0)
            case 0x08:
                call.set_high(RBX, 0)  # the border
            case 0x1A:
                call.set_word(RBX, 0)  # paging of the colour registers: mode 0, page 0

    def _alternate(self, call: Call) -> None:
        """AH=12h: what the adapter is; the settings that a text screen of one size knows are accepted and ignored."""
        function = call.low(RBX)
        if function == 0x10:  # EGA information: colour, 256 KiB
            call.set_word(RBX, 0x0003)
            call.set_word(RCX, 0x0009)
        elif 0x30 <= function <= 0x36:
            call.set_low(RAX, 0x12)

    def _display_combination(self, call: Call) -> None:
        if call.low(RAX) == 0:
            call.set_low(RAX, 0x1A)
            call.set_word(RBX, 0x0008)  # VGA with an analogue colour display
