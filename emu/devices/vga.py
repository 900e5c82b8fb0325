"""The registers of a VGA in colour text mode 3 (IBM VGA technical reference); its text memory is plain guest RAM."""

from __future__ import annotations

from collections.abc import Callable

TEXT = 0xB8000
TEXT_SIZE = 0x8000
COLUMNS, ROWS = 80, 25

_LOW = "\0☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
_CP437 = _LOW + "".join(chr(n) for n in range(32, 127)) + "⌂" + bytes(range(128, 256)).decode("cp437")

# CRT controller values of mode 3, 80 x 25, 9 x 16 cells.
_CRTC = bytes.fromhex("5f4f50825581bf1f004f0d0e0000000000009c8e8f281f96b9a3ff")
_ATTRIBUTES = bytes.fromhex("000102030405140738393a3b3c3d3e3f0c000f0800")
_SEQUENCER = bytes.fromhex("0300030002")
_GRAPHICS = bytes.fromhex("0000000000100e00ff")


class Vga:
    """Ports 3C0h-3DFh at offsets 0 to 1Fh; `read_memory(gpa, length)` gives the text memory."""

    name = "VGA"

    def __init__(self, read_memory: Callable[[int, int], bytes]) -> None:
        self._read_memory = read_memory
        self.crtc = bytearray(_CRTC)
        self.attributes = bytearray(_ATTRIBUTES)
        self.sequencer = bytearray(_SEQUENCER)
        self.graphics = bytearray(_GRAPHICS)
        self.palette = bytearray(768)
        self._crtc_index = self._sequencer_index = self._graphics_index = self._attribute_index = 0
        self._attribute_data = False  # the attribute controller's flip-flop
        self._misc = 0x67
        self._dac_read = self._dac_write = 0
        self._dac_mask = 0xFF
        self._status = 0

    # -- what is shown -----------------------------------------------------------------------------------------

    def cells(self) -> list[list[tuple[str, int]]]:
        """25 rows of 80 (character, attribute)."""
        start = (self.crtc[0x0C] << 8 | self.crtc[0x0D]) * 2 % TEXT_SIZE
        memory = self._read_memory(TEXT, TEXT_SIZE)
        wrapped = (memory[start:] + memory[:start])[: COLUMNS * ROWS * 2]
        rows = []
        for row in range(ROWS):
            line = wrapped[row * COLUMNS * 2 : (row + 1) * COLUMNS * 2]
            rows.append([(_CP437[line[n]], line[n + 1]) for n in range(0, COLUMNS * 2, 2)])
        return rows

    def text(self) -> list[str]:
        """25 lines without trailing blanks; a null character counts as a blank."""
        return ["".join(char for char, _ in row).replace("\0", " ").rstrip() for row in self.cells()]

    def cursor(self) -> tuple[int, int] | None:
        """Column and row of the cursor, None while it is off or elsewhere."""
        if self.crtc[0x0A] & 0x20:
            return None
        place = (self.crtc[0x0E] << 8 | self.crtc[0x0F]) - (self.crtc[0x0C] << 8 | self.crtc[0x0D])
        if not 0 <= place < COLUMNS * ROWS:
            return None
        return place % COLUMNS, place // COLUMNS

    # -- registers ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        match offset:
            case 0x00:
                return self._attribute_index
            case 0x01:
                return self._at(self.attributes, self._attribute_index & 0x1F)
            case 0x04:
                return self._sequencer_index
            case 0x05:
                return self._at(self.sequencer, self._sequencer_index)
            case 0x06:
                return self._dac_mask
            case 0x08:
                return self._dac_write // 3
            case 0x09:
                value = self.palette[self._dac_read]
                self._dac_read = (self._dac_read + 1) % 768
                return value
            case 0x0C:
                return self._misc
            case 0x0E:
                return self._graphics_index
            case 0x0F:
                return self._at(self.graphics, self._graphics_index)
            case 0x14:
                return self._crtc_index
            case 0x15:
                return self._at(self.crtc, self._crtc_index)
            case 0x1A:
                # every read finds the beam elsewhere, so that loops waiting for a retrace end
                self._attribute_data = False
                self._status ^= 0x09
                return self._status
            case _:
                return 0xFF if offset >= 0x10 else 0x00

    @staticmethod
    def _at(registers: bytearray, index: int) -> int:
        return registers[index] if index < len(registers) else 0

    @staticmethod
    def _put(registers: bytearray, index: int, value: int) -> None:
        if index < len(registers):
            registers[index] = value

    def write(self, offset: int, size: int, value: int) -> None:
        match offset:
            case 0x00:
                if self._attribute_data:
                    self._put(self.attributes, self._attribute_index & 0x1F, value)
                else:
                    self._attribute_index = value & 0x3F
                self._attribute_data = not self._attribute_data
            case 0x02:
                self._misc = value
            case 0x04:
                self._sequencer_index = value & 7
            case 0x05:
                self._put(self.sequencer, self._sequencer_index, value)
            case 0x06:
                self._dac_mask = value
            case 0x07:
                self._dac_read = value * 3
            case 0x08:
                self._dac_write = value * 3
            case 0x09:
                self.palette[self._dac_write] = value & 0x3F
                self._dac_write = (self._dac_write + 1) % 768
            case 0x0E:
                self._graphics_index = value & 15
            case 0x0F:
                self._put(self.graphics, self._graphics_index, value)
            case 0x14:
                self._crtc_index = value & 0x1F
            case 0x15:
                if not (self.crtc[0x11] & 0x80 and self._crtc_index < 7):  # write protection of the timing registers
                    self._put(self.crtc, self._crtc_index, value)
