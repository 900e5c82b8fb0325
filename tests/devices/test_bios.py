"""The BIOS services one by one, called as the ROM calls them: through the service port, with a caller's frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emu.bus import ALL_ONES, Bus
from emu.clock import Clock
from emu.devices.bios import SERVICE_PORT, Bios, bda
from emu.disk_image import BlockImage
from emu.memory import EBDA, MIB, GuestMemory
from isa.x86.state import CF, CS, DS, ES, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, SS, ZF, Segment, X86State

REGS = {"ax": RAX, "bx": RBX, "cx": RCX, "dx": RDX, "si": RSI, "di": RDI, "bp": RBP}
SEGS = {"ds": DS, "es": ES}
STACK = 0x7000


class Registers:
    """A chip of index and data ports (the clock at 70h, the display at 3D4h), or of plain ports."""

    def __init__(self, name: str, indexed: bool) -> None:
        self.name = name
        self.values: dict[int, int] = {}
        self._indexed = indexed
        self._index = 0

    def read(self, offset: int, size: int) -> int:
        return self.values.get(self._index if self._indexed else offset, ALL_ONES[size])

    def write(self, offset: int, size: int, value: int) -> None:
        if not self._indexed:
            self.values[offset] = value
        elif offset == 0:
            self._index = value
        else:
            self.values[self._index] = value


class Ticker:
    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time


class Board:
    """Memory, chips and a BIOS, without a CPU: `call` plays the ROM's stub."""

    def __init__(self, disk: BlockImage | None, floppy: BlockImage | None = None) -> None:
        self.memory = GuestMemory(32 * MIB, Bus("memory"))
        self.state = X86State()
        self.ports = Bus("ports")
        self.cmos = Registers("cmos", indexed=True)
        self.crtc = Registers("crtc", indexed=True)
        self.port92 = Registers("port 92h", indexed=False)
        self.pic = Registers("pic", indexed=False)
        for start, length, chip in ((0x70, 2, self.cmos), (0x3D4, 2, self.crtc), (0x92, 1, self.port92)):
            self.ports.attach(start, length, chip)
        self.ports.attach(0x20, 2, self.pic, 0x20)
        self.ports.attach(0xA0, 2, self.pic, 0xA0)
        self.time = Ticker()
        self.printed = bytearray()
        self.bios = Bios(self, self.memory, self.ports, Clock(self.time), self.printed.extend, disk, floppy=floppy)
        self.ports.attach(SERVICE_PORT, 1, self.bios)
        self.bios.install()
        self.state.segs[SS] = Segment(0, 0)
        self.state.segs[CS] = Segment(0xF000, 0xF0000)

    def call(self, service: int, **registers: int) -> dict[str, int]:
        """INT `service` with 16- or 32-bit `registers`; gives them back with the flags `cf` and `zf`."""
        for name, value in registers.items():
            if name in SEGS:
                self.state.segs[SEGS[name]] = Segment(value, value << 4)
            else:
                self.state.regs[REGS[name]] = value
        self.state.regs[RSP] = STACK - 8
        frame = struct.pack("<4H", self.state.regs[RAX] & 0xFFFF, 0x1234, 0x0050, 0x0202 | CF | ZF)
        self.memory.write_bytes(STACK - 8, frame)
        self.state.regs[RAX] = self.state.regs[RAX] & ~0xFF | service
        self.ports.write(SERVICE_PORT, 1, service)
        ax, ip, cs, flags = struct.unpack("<4H", self.memory.read_bytes(STACK - 8, 8))
        assert (ip, cs, flags & 0x200) == (0x1234, 0x0050, 0x200)
        self.state.regs[RAX] = self.state.regs[RAX] & ~0xFFFF | ax
        result = {name: self.state.regs[number] for name, number in REGS.items()}
        return result | {"cf": flags & CF, "zf": flags >> 6 & 1}

    def row(self, number: int, page: int = 0) -> bytes:
        raw = self.memory.read_bytes(0xB8000 + page * 0x1000 + number * 160, 160)
        return raw[::2].rstrip()

    def type(self, *codes: int) -> None:
        for code in codes:
            self.call(0x09, ax=code << 8)


def image(sectors: int) -> bytes:
    return b"".join(bytes((number & 0xFF,)) * 512 for number in range(sectors))


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board(BlockImage(image(2 * 1008)))
    yield made
    made.memory.close()


# -- what is in memory at boot ------------------------------------------------------------------------------------


def test_vectors_data_area_and_rom(board: Board) -> None:
    memory = board.memory
    assert memory.read(0x10 * 4 + 2, 2) == 0xF000
    assert memory.read(0x10 * 4, 2) == memory.read(0xF0000 + 0x20, 2)
    assert memory.read(0x1F * 4, 4) == 0
    assert memory.read(0x400, 2) == 0x3F8
    assert memory.read(0x40E, 2) << 4 == EBDA == bda.EBDA
    assert memory.read(0x413, 2) == 639
    assert memory.read(0x475, 1) == 1
    assert memory.read(0x41A, 2) == memory.read(0x41C, 2) == 0x1E
    assert memory.read(0xFFFF0, 1) == 0xEA
    assert memory.read(0xFFFFE, 1) == 0xFC
    memory.write(0xF0000, 4, 0)
    assert memory.read(0xF0000, 2) != 0
    assert board.row(0) == b""
    assert board.pic.values == {0x20: 0x11, 0x21: 0xF8, 0xA0: 0x11, 0xA1: 0xFE}


def test_the_service_port_answers_only_the_rom(board: Board) -> None:
    board.state.segs[CS] = Segment(0, 0)
    assert board.call(0x12, ax=0x5555)["ax"] == 0x5555
    board.state.segs[CS] = Segment(0xF000, 0xF0000)
    assert board.call(0x12, ax=0x5555)["ax"] == 639
    assert board.call(0xEE, ax=0x5555)["ax"] == 0x5555
    assert board.ports.read(SERVICE_PORT, 1) == 0xFF


# -- INT 10h ------------------------------------------------------------------------------------------------------


def say(board: Board, text: bytes) -> None:
    for character in text:
        board.call(0x10, ax=0x0E00 | character, bx=7)


def test_teletype_writes_screen_console_and_cursor(board: Board) -> None:
    say(board, b"one\r\ntwo\x08W\x07")
    assert (board.row(0), board.row(1)) == (b"one", b"twW")
    assert bytes(board.printed) == b"one\r\ntwo\x08W\x07"
    assert board.memory.read(0x450, 2) == 0x0103
    assert (board.crtc.values[0x0E], board.crtc.values[0x0F]) == (0, 83)
    assert board.call(0x10, ax=0x0300, bx=0)["dx"] == 0x0103


def test_teletype_wraps_and_scrolls(board: Board) -> None:
    say(board, b"x" * 81)
    assert (len(board.row(0)), board.row(1)) == (80, b"x")
    say(board, b"\r\n" + b"\r\n".join(b"line %d" % number for number in range(30)))
    assert board.row(24) == b"line 29"
    assert board.row(0) == b"line 5"
    assert board.memory.read(0x450, 2) == 24 << 8 | 7


def test_cells_are_written_and_read_at_the_cursor(board: Board) -> None:
    board.call(0x10, ax=0x0200, bx=0, dx=0x0A4E)
    board.call(0x10, ax=0x0941, bx=0x001F, cx=3)
    assert board.memory.read_bytes(0xB8000 + (10 * 80 + 78) * 2, 6) == b"A\x1fA\x1fA\x1f"
    assert board.call(0x10, ax=0x0800, bx=0)["ax"] == 0x1F41
    board.call(0x10, ax=0x0A42, bx=0x0070, cx=1)
    assert board.call(0x10, ax=0x0800, bx=0)["ax"] == 0x1F42
    assert board.memory.read(0x450, 2) == 0x0A4E
    assert board.printed == b"\x1b[11;79HAAA\x1b[11;79HB"


def test_windows_scroll_both_ways_and_clear(board: Board) -> None:
    say(board, b"aaaa\r\nbbbb\r\ncccc")
    board.call(0x10, ax=0x0601, bx=0x2000, cx=0x0001, dx=0x0202)
    assert [board.row(i) for i in range(3)] == [b"abba", b"bccb", b"c  c"]
    assert board.memory.read(0xB8000 + (2 * 80 + 1) * 2, 2) == 0x2020
    board.call(0x10, ax=0x0701, bx=0x0700, cx=0x0000, dx=0x0203)
    assert [board.row(i) for i in range(3)] == [b"", b"abba", b"bccb"]
    board.call(0x10, ax=0x0600, bx=0x0700, cx=0, dx=0xFFFF)
    assert all(board.row(i) == b"" for i in range(25))
    board.call(0x10, ax=0x0601, bx=0x0700, cx=0x0505, dx=0x0000)  # an empty window


def test_strings_with_and_without_attributes(board: Board) -> None:
    board.memory.write_bytes(0x8000, b"hi")
    board.call(0x10, ax=0x1301, bx=0x004E, cx=2, dx=0x0305, es=0x800, bp=0)
    assert board.row(3) == b"     hi"
    assert board.memory.read(0xB8000 + (3 * 80 + 5) * 2 + 1, 1) == 0x4E
    assert board.memory.read(0x450, 2) == 0x0307
    board.memory.write_bytes(0x8000, b"x\x11y\x22")
    board.call(0x10, ax=0x1302, bx=0, cx=2, dx=0x0400, es=0x800, bp=0)
    assert board.memory.read_bytes(0xB8000 + 4 * 160, 4) == b"x\x11y\x22"
    assert board.memory.read(0x450, 2) == 0x0307


def test_palette_and_adapter(board: Board) -> None:
    colours = [board.call(0x10, ax=0x1007, bx=number)["bx"] >> 8 for number in range(16)]
    assert colours == [0, 1, 2, 3, 4, 5, 0x14, 7, *range(0x38, 0x40)]
    assert board.call(0x10, ax=0x1003, bx=0x0001)["bx"] == 1  # set: ignored
    told = board.call(0x10, ax=0x1200, bx=0x0010)
    assert (told["bx"], told["cx"]) == (3, 9)
    assert board.call(0x10, ax=0x1201, bx=0x0033)["ax"] == 0x1212
    assert board.call(0x10, ax=0x1201, bx=0x0099)["ax"] == 0x1201


def test_painting_reaches_the_console(board: Board) -> None:
    say(board, b"boot\r\n")
    board.call(0x10, ax=0x0600, bx=0x0700, cx=0, dx=0x184F)
    board.call(0x10, ax=0x0200, bx=0, dx=0x0102)
    board.call(0x10, ax=0x0941, bx=0x0007, cx=2)
    board.call(0x10, ax=0x0601, bx=0x0700, cx=0x0102, dx=0x0203)
    assert bytes(board.printed) == b"boot\r\n\x1b[H\x1b[2J\x1b[2;3HAA\x1b[2;3H  \x1b[3;3H  "
    assert board.row(1) == b""


def test_modes_pages_and_cursor_shape(board: Board) -> None:
    shown = board.call(0x10, ax=0x0F00, bx=0x1111)
    assert (shown["ax"], shown["bx"]) == (0x5003, 0x0011)
    say(board, b"page 0")
    board.call(0x10, ax=0x0501)
    say(board, b"page 1")
    assert (board.row(0), board.row(0, page=1)) == (b"page 0", b"page 1")
    assert (board.crtc.values[0x0C], board.crtc.values[0x0D]) == (0x08, 0x00)
    board.call(0x10, ax=0x0100, cx=0x2000)
    assert board.call(0x10, ax=0x0300, bx=0)["cx"] == 0x2000
    assert board.crtc.values[0x0A] == 0x20
    board.call(0x10, ax=0x0013)  # no graphics
    assert board.call(0x10, ax=0x0F00)["ax"] == 0x5003
    board.call(0x10, ax=0x0083)
    assert board.row(0) == b"page 0"
    board.call(0x10, ax=0x0003)
    assert board.row(0) == board.row(0, page=1) == b""
    assert board.call(0x10, ax=0x1A00)["ax"] == 0x1A1A
    assert board.call(0x10, ax=0x4F00)["ax"] == 0x4F00


# -- INT 13h ------------------------------------------------------------------------------------------------------


def test_sectors_by_track(board: Board) -> None:
    done = board.call(0x13, ax=0x0202, bx=0x10, cx=0x013F, dx=0x0280, es=0x1000)  # cylinder 1, head 2, sector 63
    lba = (1 * 16 + 2) * 63 + 62
    assert (done["cf"], done["ax"]) == (0, 0x0002)
    assert board.memory.read_bytes(0x10010, 1024) == image(2 * 1008)[lba * 512 : (lba + 2) * 512]
    board.memory.write_bytes(0x9000, b"W" * 512)
    assert board.call(0x13, ax=0x0301, bx=0x9000, cx=0x0005, dx=0x0080, es=0)["cf"] == 0
    assert board.bios.disk.drives[0x80].read(3, 3) == b"\3" * 512 + b"W" * 512 + b"\5" * 512


@pytest.mark.parametrize(
    ("registers", "status"),
    [
        ({"ax": 0x0201, "cx": 0x0000}, 0x04),  # sector 0
        ({"ax": 0x0201, "cx": 0x0540}, 0x04),  # no such cylinder
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x1080}, 0x04),  # no such head
        ({"ax": 0x0202, "cx": 0x013F, "dx": 0x0F80}, 0x04),  # past the end
        ({"ax": 0x0200, "cx": 0x0001}, 0x01),
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x0000}, 0x01),  # a floppy disk
        ({"ax": 0x0201, "cx": 0x0001, "es": 0xA000}, 0x09),
        ({"ax": 0x9900}, 0x01),
        ({"ax": 0x0C00, "cx": 0x0501}, 0x04),  # seek to no such cylinder
        ({"ax": 0x1800}, 0x01),  # a floppy's function
        ({"ax": 0x4100, "bx": 0}, 0x01),
    ],
)
def test_bad_requests_have_their_status(board: Board, registers: dict[str, int], status: int) -> None:
    done = board.call(0x13, **({"dx": 0x0080, "bx": 0, "es": 0x2000} | registers))
    assert (done["cf"], done["ax"] >> 8) == (1, status)
    drive = registers.get("dx", 0x80) & 0x80
    again = board.call(0x13, ax=0x0100, dx=drive)
    assert (again["cf"], again["ax"] >> 8) == (1, status)
    assert board.call(0x13, ax=0x0000, dx=0x80)["cf"] == 0
    assert board.call(0x13, ax=0x0100, dx=0x80)["cf"] == 0


def test_geometry_and_type(board: Board) -> None:
    told = board.call(0x13, ax=0x0800, dx=0x80, bx=0x1234)
    assert (told["cf"], told["ax"], told["cx"], told["dx"]) == (0, 0, 0x013F, 0x0F01)
    told = board.call(0x13, ax=0x1500, dx=0x80)
    assert (told["cf"], told["ax"] >> 8, told["cx"] << 16 | told["dx"]) == (0, 3, 2016)


def test_sectors_by_packet(board: Board) -> None:
    told = board.call(0x13, ax=0x4100, bx=0x55AA, dx=0x80)
    assert (told["cf"], told["ax"] >> 8, told["bx"], told["cx"]) == (0, 0x21, 0xAA55, 1)
    board.memory.write_bytes(0x6000, struct.pack("<BBHHHQ", 16, 0, 3, 0x0008, 0x1000, 7))
    assert board.call(0x13, ax=0x4200, dx=0x80, ds=0x600, si=0)["cf"] == 0
    assert board.memory.read_bytes(0x10008, 1536) == image(10)[7 * 512 :]
    board.memory.write_bytes(0x6000, struct.pack("<BBHHHQ", 16, 0, 1, 0x0008, 0x1000, 100))
    assert board.call(0x13, ax=0x4300, dx=0x80, ds=0x600, si=0)["cf"] == 0
    assert board.bios.disk.drives[0x80].read(100, 1) == b"\7" * 512
    board.memory.write_bytes(0x6000, struct.pack("<BBHHHQ", 16, 0, 1, 0x0008, 0x1000, 1 << 40))
    failed = board.call(0x13, ax=0x4200, dx=0x80, ds=0x600, si=0)
    assert (failed["cf"], failed["ax"] >> 8, board.memory.read(0x6002, 2)) == (1, 4, 0)
    board.memory.write_bytes(0x6000, struct.pack("<H", 26))
    assert board.call(0x13, ax=0x4800, dx=0x80, ds=0x600, si=0)["cf"] == 0
    assert struct.unpack("<HHIIIQH", board.memory.read_bytes(0x6000, 26)) == (26, 2, 2, 16, 63, 2016, 512)


@pytest.fixture
def with_floppy() -> Iterator[Board]:
    made = Board(BlockImage(image(2 * 1008)), BlockImage(image(2880)))
    yield made
    made.memory.close()


def test_a_floppy_is_drive_0_with_its_own_geometry(with_floppy: Board) -> None:
    board = with_floppy
    assert board.memory.read(0x410, 2) & 0xC1 == 0x01
    done = board.call(0x13, ax=0x0203, bx=0, cx=0x0111, dx=0x0100, es=0x1000)  # cylinder 1, head 1, sector 17
    assert (done["cf"], done["ax"]) == (0, 3)
    lba = (1 * 2 + 1) * 18 + 16
    assert board.memory.read_bytes(0x10000, 1536) == image(2880)[lba * 512 : (lba + 3) * 512]
    told = board.call(0x13, ax=0x0800, dx=0x00)
    assert (told["cf"], told["ax"], told["bx"], told["cx"], told["dx"]) == (0, 0, 4, 0x4F12, 0x0101)
    told = board.call(0x13, ax=0x0800, dx=0x80)
    assert (told["cx"], told["dx"]) == (0x013F, 0x0F01)
    assert board.call(0x13, ax=0x1500, dx=0x00)["ax"] >> 8 == 1
    assert board.call(0x13, ax=0x1600, dx=0x00)["cf"] == 0
    for asked in (0x4100, 0x4200, 0x1000):
        assert board.call(0x13, ax=asked, bx=0x55AA, dx=0x00)["cf"] == 1
    assert (board.memory.read(0x441, 1), board.memory.read(0x474, 1)) == (1, 0)
    assert board.call(0x13, ax=0x0201, cx=1, dx=0x01)["cf"] == 1  # no second drive


def test_a_track_is_formatted(with_floppy: Board) -> None:
    board = with_floppy
    assert board.call(0x13, ax=0x1800, cx=0x4F12, dx=0)["cf"] == 0
    assert board.call(0x13, ax=0x1800, cx=0x4F0F, dx=0)["ax"] >> 8 == 0x0C
    assert board.call(0x13, ax=0x0512, cx=0x0201, dx=0x0100)["cf"] == 0
    first = (2 * 2 + 1) * 18
    disk = board.bios.disk.drives[0]
    assert disk.read(first, 18) == b"\xf6" * 18 * 512
    assert (disk.read(first - 1, 1)[0], disk.read(first + 18, 1)[0]) == (first - 1, first + 18)
    assert board.call(0x13, ax=0x0512, cx=0x5001, dx=0)["cf"] == 1


def test_the_floppy_is_booted_before_the_disk_where_it_is_signed(with_floppy: Board) -> None:
    board = with_floppy
    assert board.bios.boot_drive is None
    board.bios.disk.drives[0x80].write(0, bytes(510) + b"\x55\xaa")
    assert board.bios.boot_drive == 0x80
    board.bios.disk.drives[0].write(0, b"F" * 510 + b"\x55\xaa")
    assert board.bios.boot_drive == 0
    board.call(0x19, dx=0x1234)
    assert board.state.regs[RDX] & 0xFFFF == 0
    assert board.memory.read_bytes(0x7C00, 2) == b"FF"


def test_disk_tables_in_the_extended_data_area(board: Board) -> None:
    offset, segment = struct.unpack("<HH", board.memory.read_bytes(0x41 * 4, 4))
    assert segment << 4 == EBDA
    table = board.memory.read_bytes((segment << 4) + offset, 16)
    assert (table[0] | table[1] << 8, table[2], table[8], table[14]) == (2, 16, 8, 63)
    assert board.memory.read(EBDA, 1) == 1
    assert board.memory.read(0x46 * 4, 4) == 0  # no second disk


def test_seeks(board: Board) -> None:
    assert board.call(0x13, ax=0x0C00, cx=0x0101, dx=0x0F80)["cf"] == 0
    board.memory.write_bytes(0x6000, struct.pack("<BBHHHQ", 16, 0, 0, 0, 0, 2015))
    assert board.call(0x13, ax=0x4700, dx=0x80, ds=0x600, si=0)["cf"] == 0
    board.memory.write(0x6008, 8, 2016)
    assert board.call(0x13, ax=0x4700, dx=0x80, ds=0x600, si=0)["ax"] >> 8 == 4


def test_a_read_only_disk_refuses_writes() -> None:
    board = Board(BlockImage(bytes(1024), read_only=True))
    failed = board.call(0x13, ax=0x0301, bx=0, cx=1, dx=0x80, es=0x1000)
    assert (failed["cf"], failed["ax"] >> 8) == (1, 3)


# -- INT 11h, 12h, 15h, 1Ah ---------------------------------------------------------------------------------------


def test_memory_sizes_agree_with_each_other(board: Board) -> None:
    assert board.call(0x12)["ax"] == 639
    assert board.call(0x11)["ax"] & 0x30 == 0x20
    told = board.call(0x15, ax=0x8800)
    assert (told["cf"], told["ax"]) == (0, 31 * 1024)
    told = board.call(0x15, ax=0xE801)
    assert (told["cf"], told["ax"], told["bx"], told["cx"], told["dx"]) == (0, 15 * 1024, 256, 15 * 1024, 256)
    wide = board.call(0x15, ax=0xE881, bx=0xAAAA0000, cx=0xAAAA0000, dx=0xAAAA0000)
    assert (wide["cf"], wide["bx"], wide["cx"], wide["dx"]) == (0, 256, 15 * 1024, 256)


def test_the_memory_map_is_told_row_by_row(board: Board) -> None:
    rows, following = [], 0
    for _ in range(20):
        told = board.call(0x15, ax=0xE820, bx=following, cx=24, dx=0x534D4150, es=0x500, di=0x10)
        assert (told["cf"], told["ax"], told["cx"]) == (0, 0x534D4150, 20)
        rows.append(struct.unpack("<QQI", board.memory.read_bytes(0x5010, 20)))
        following = told["bx"]
        if not following:
            break
    assert rows == board.memory.e820()
    for wrong in ({"dx": 0}, {"cx": 16}, {"bx": 9}):
        asked = {"ax": 0xE820, "bx": 0, "cx": 24, "dx": 0x534D4150, "es": 0x500, "di": 0} | wrong
        assert board.call(0x15, **asked)["cf"] == 1


def test_a20_is_gated_by_port_92h(board: Board) -> None:
    board.port92.values[0] = 0x02
    assert board.call(0x15, ax=0x2402)["ax"] == 0x0001
    assert board.call(0x15, ax=0x2400)["cf"] == 0
    assert board.port92.values[0] == 0
    assert board.call(0x15, ax=0x2402)["ax"] == 0x0000
    board.port92.values[0] = 0x01  # bit 0 resets the machine and must not be written back
    assert board.call(0x15, ax=0x2401)["cf"] == 0
    assert board.port92.values[0] == 2
    assert board.call(0x15, ax=0x2403)["bx"] == 2
    assert board.call(0x15, ax=0x2404)["cf"] == 1


def test_block_move(board: Board) -> None:
    board.memory.write_bytes(0x8000, b"payload!")
    source = struct.pack("<HHBBBB", 0xFFFF, 0x8000, 0, 0x93, 0, 0)
    target = struct.pack("<HHBBBB", 0xFFFF, 0x0000, 0x80, 0x93, 0, 1)  # 01800000
    board.memory.write_bytes(0x6010, source + target)
    told = board.call(0x15, ax=0x8700, cx=4, es=0x600, si=0)
    assert (told["cf"], told["ax"] >> 8) == (0, 0)
    assert board.memory.read_bytes(0x1800000, 9) == b"payload!\0"
    board.memory.write(0x601F, 1, 0xF0)
    told = board.call(0x15, ax=0x8700, cx=4, es=0x600, si=0)
    assert (told["cf"], told["ax"] >> 8) == (1, 2)


def test_what_int_15h_lacks_is_carry_and_86h(board: Board) -> None:
    for asked in (0xC200, 0x5300, 0xE802):
        told = board.call(0x15, ax=asked)
        assert (told["cf"], told["ax"] >> 8) == (1, 0x86)


def test_waiting_turns_the_clock_interrupt_on_and_off(board: Board) -> None:
    board.cmos.values[0x0B] = 0x02
    assert board.call(0x86, ax=0x8600, cx=1, dx=0)["cf"] == 0
    assert board.cmos.values[0x0B] == 0x42
    board.call(0x87)
    assert board.state.regs[RAX] & 0xFF != 1
    board.time.time = 65536 * 1000
    board.ports.write(SERVICE_PORT, 1, 0x87)
    assert board.state.regs[RAX] & 0xFF == 1
    assert board.cmos.values[0x0B] == 0x02


def test_ticks_time_and_date(board: Board) -> None:
    board.call(0x1A, ax=0x0100, cx=0x0012, dx=0x3456)
    board.memory.write(0x470, 1, 1)
    told = board.call(0x1A, ax=0x0000)
    assert (told["ax"] & 0xFF, told["cx"], told["dx"]) == (1, 0x12, 0x3456)
    assert board.call(0x1A, ax=0x0000)["ax"] & 0xFF == 0
    board.cmos.values |= {0x0B: 2, 0: 0x59, 2: 0x58, 4: 0x23, 7: 0x31, 8: 0x12, 9: 0x26, 0x32: 0x20}
    told = board.call(0x1A, ax=0x0200)
    assert (told["cf"], told["cx"], told["dx"]) == (0, 0x2358, 0x5900)
    told = board.call(0x1A, ax=0x0400)
    assert (told["cf"], told["cx"], told["dx"]) == (0, 0x2026, 0x1231)
    board.cmos.values |= {0x0B: 6, 0: 59}
    assert board.call(0x1A, ax=0x0200)["dx"] == 0x5900
    assert board.call(0x1A, ax=0xBB00)["cf"] == 1


def test_the_clock_is_set_while_it_stands_in_bcd_and_24_hours(board: Board) -> None:
    board.cmos.values |= {0x0B: 0x46}  # binary, with the periodic interrupt on
    assert board.call(0x1A, ax=0x0300, cx=0x2358, dx=0x5901)["cf"] == 0
    assert board.call(0x1A, ax=0x0500, cx=0x2031, dx=0x1224)["cf"] == 0
    assert board.cmos.values == {
        0x0B: 0x43, 0: 0x59, 2: 0x58, 4: 0x23, 7: 0x24, 8: 0x12, 9: 0x31, 0x32: 0x20,
    }  # fmt: skip
    told = board.call(0x1A, ax=0x0200)
    assert (told["cx"], told["dx"]) == (0x2358, 0x5901)


def test_an_alarm_is_set_once(board: Board) -> None:
    board.cmos.values |= {0x0B: 0x02}
    assert board.call(0x1A, ax=0x0600, cx=0x0102, dx=0x0300)["cf"] == 0
    assert (board.cmos.values[5], board.cmos.values[3], board.cmos.values[1]) == (1, 2, 3)
    assert board.cmos.values[0x0B] == 0x22
    assert board.pic.values[0x21] & 4 == board.pic.values[0xA1] & 1 == 0
    assert board.call(0x1A, ax=0x0600, cx=0, dx=0)["cf"] == 1
    assert board.call(0x1A, ax=0x0700)["cf"] == 0
    assert board.cmos.values[0x0B] == 0x02


class Configuration:
    """Mechanism 1 over three functions: 0:0.0, and the two of slot 1."""

    name = "pci"

    def __init__(self) -> None:
        self.functions = {0: bytearray(256), 8: bytearray(256), 9: bytearray(256)}
        for place, identity, kind in (
            (0, 0x12378086, 0x06000002),
            (8, 0x70008086, 0x06010000),
            (9, 0x70108086, 0x0101),
        ):
            struct.pack_into("<I4xI", self.functions[place], 0, identity, kind << 16 if place == 9 else kind)
        self.functions[8][0x0E] = 0x80
        self.address = 0

    def read(self, offset: int, size: int) -> int:
        config = self.functions.get(self.address >> 8 & 0xFFFF)
        register = (self.address & 0xFC) + offset - 4
        return ALL_ONES[size] if config is None else int.from_bytes(config[register : register + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.address = value
        else:
            register = (self.address & 0xFC) + offset - 4
            self.functions[self.address >> 8 & 0xFFFF][register : register + size] = value.to_bytes(size, "little")


def test_the_pci_bios(board: Board) -> None:
    config = Configuration()
    board.ports.attach(0xCF8, 8, config)
    told = board.call(0x1A, ax=0xB101, di=0xFFFF)
    assert (told["cf"], told["ax"], told["bx"], told["cx"] & 0xFF) == (0, 0x0001, 0x0210, 0)
    assert told["dx"].to_bytes(4, "little") == b"PCI "
    assert board.call(0x1A, ax=0xB102, cx=0x7010, dx=0x8086, si=0)["bx"] == 9
    for asked, status in (({"cx": 0x7010, "dx": 0x8086, "si": 1}, 0x86), ({"cx": 1, "dx": 0xFFFF, "si": 0}, 0x83)):
        told = board.call(0x1A, ax=0xB102, **asked)
        assert (told["cf"], told["ax"] >> 8) == (1, status)
    assert board.call(0x1A, ax=0xB103, cx=0x010100, si=0)["bx"] == 9
    assert board.call(0x1A, ax=0xB103, cx=0x060000, si=0)["bx"] == 0
    assert board.call(0x1A, ax=0xB108, bx=9, di=2)["cx"] & 0xFF == 0x10
    assert board.call(0x1A, ax=0xB109, bx=9, di=2)["cx"] & 0xFFFF == 0x7010
    assert board.call(0x1A, ax=0xB10A, bx=9, di=0)["cx"] == 0x70108086
    assert board.call(0x1A, ax=0xB10C, bx=9, di=0x42, cx=0x8001)["cf"] == 0
    assert config.functions[9][0x40:0x44] == b"\0\0\x01\x80"
    for asked in ({"ax": 0xB109, "di": 1}, {"ax": 0xB10D, "di": 2}, {"ax": 0xB108, "di": 0x100}):
        assert board.call(0x1A, bx=9, **asked)["ax"] >> 8 == 0x87
    assert board.call(0x1A, ax=0xB10F)["ax"] >> 8 == 0x81


# -- INT 16h ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "word"),
    [
        ((0x1E,), 0x1E61),
        ((0x2A, 0x1E), 0x1E41),  # shift
        ((0x36, 0xB6, 0x1E), 0x1E61),  # shift released
        ((0x3A, 0x1E), 0x1E41),  # caps lock
        ((0x3A, 0x2A, 0x1E), 0x1E61),
        ((0x3A, 0x02), 0x0231),
        ((0x2A, 0x02), 0x0221),
        ((0x1D, 0x2E), 0x2E03),  # control C
        ((0x1D, 0x1C), 0x1C0A),
        ((0x38, 0x10), 0x1000),  # alt
        ((0x38, 0x02), 0x7800),
        ((0x1C,), 0x1C0D),
        ((0x0E,), 0x0E08),
        ((0x39,), 0x3920),
        ((0x3B,), 0x3B00),
        ((0x2A, 0x44), 0x5D00),
        ((0x48,), 0x4800),
        ((0x45, 0x48), 0x4838),  # num lock
        ((0x4A,), 0x4A2D),
        ((0xE0, 0x48), 0x48E0),
        ((0x57,), 0x8500),  # F11
        ((0x38, 0x58), 0x8C00),
        ((0x1D, 0x4B), 0x7300),
        ((0x1D, 0xE0, 0x4D), 0x74E0),
        ((0x38, 0xE0, 0x48), 0x9800),
        ((0xE0, 0x1D, 0x1D, 0x9D, 0x2E), 0x2E03),  # the left control key released, the right one still held
        ((0xE0, 0x2A, 0xE0, 0x4B), 0x4BE0),
        ((0xE0, 0x1C), 0xE00D),
        ((0xE0, 0x35), 0xE02F),
    ],
)
def test_scan_codes_become_entries(board: Board, codes: tuple[int, ...], word: int) -> None:
    board.type(*codes)
    shown = board.call(0x16, ax=0x1100)
    assert (shown["zf"], shown["ax"]) == (0, word)
    assert board.call(0x16, ax=0x1000)["ax"] == word
    assert board.call(0x16, ax=0x1100)["zf"] == 1


def test_the_old_functions_hide_the_marks_of_grey_keys(board: Board) -> None:
    board.type(0xE0, 0x48, 0xE0, 0x1C, 0xE0, 0x35)
    assert board.call(0x16, ax=0x0100)["ax"] == 0x4800
    assert [board.call(0x16, ax=0x0000)["ax"] for _ in range(3)] == [0x4800, 0x1C0D, 0x352F]


def test_the_ring_holds_15_entries_and_goes_round(board: Board) -> None:
    board.type(*[0x1E] * 10)
    assert [board.call(0x16, ax=0)["ax"] for _ in range(10)] == [0x1E61] * 10
    board.type(*range(0x02, 0x0C), *range(0x10, 0x1A))
    taken = []
    while board.call(0x16, ax=0x0100)["zf"] == 0:
        taken.append(board.call(0x16, ax=0)["ax"] & 0xFF)
    assert bytes(taken) == b"1234567890qwert"


def test_left_and_right_keys_are_told_apart(board: Board) -> None:
    board.type(0xE0, 0x1D, 0x38)  # right control, left alt
    assert board.call(0x16, ax=0x1200)["ax"] == 0x060C
    board.type(0xE0, 0x9D)
    assert board.call(0x16, ax=0x1200)["ax"] == 0x0208
    assert board.call(0x16, ax=0x0900)["ax"] & 0xFF == 0x30
    assert board.call(0x16, ax=0x0A00)["bx"] == 0x41AB


def test_shift_flags_and_stored_keys(board: Board) -> None:
    board.type(0x1D, 0x2A)
    assert board.call(0x16, ax=0x0200)["ax"] == 0x0206
    board.type(0x9D, 0xAA)
    assert board.call(0x16, ax=0x1200)["ax"] & 0xFF == 0
    assert board.call(0x16, ax=0x0500, cx=0x1234)["ax"] & 0xFF == 0
    assert board.call(0x16, ax=0x1000)["ax"] == 0x1234
    for _ in range(15):
        board.call(0x16, ax=0x0500, cx=1)
    assert board.call(0x16, ax=0x0500, cx=1)["ax"] & 0xFF == 1
