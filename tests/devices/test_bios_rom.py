"""The BIOS ROM: its bytes against its source, and its code run on a real-mode CPU with the services behind it."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import emu.devices.bios.rom as rom
from emu.bus import ALL_ONES, Bus
from emu.clock import Clock
from emu.devices.bios import SERVICE_PORT, Bios
from emu.disk_image import BlockImage
from emu.memory import MIB, GuestMemory
from guests.encode import raw
from isa.x86.state import CS, DS, ES, IF, RSP, SS, X86State

unicorn = pytest.importorskip("unicorn")
x86 = pytest.importorskip("unicorn.x86_const")

REGISTERS = [getattr(x86, f"UC_X86_REG_{name}") for name in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")]
SEGMENTS = {ES: x86.UC_X86_REG_ES, CS: x86.UC_X86_REG_CS, SS: x86.UC_X86_REG_SS, DS: x86.UC_X86_REG_DS}


def assemble(text: str, at: int = 0) -> bytes:
    lines = "\n".join(line.split("#")[0] for line in text.splitlines())
    return raw(lines, 16, at)


def test_the_rom_is_its_source_assembled() -> None:
    source = Path(rom.__file__).with_name("rom.asm").read_text(encoding="utf-8")
    assert assemble(source) == rom.ROM


def test_every_vector_points_into_the_rom_behind_the_table() -> None:
    assert len(rom.VECTORS) == 0x78
    for number, offset in enumerate(rom.VECTORS):
        assert (offset == 0) == (number in (0x1D, 0x1F, 0x41, 0x43, 0x44, 0x46))
        assert offset == 0 or 2 * 0x78 <= offset < len(rom.ROM)
    assert rom.ROM[rom.VECTORS[0x1C]] == 0xCF  # iret


class Chips:
    """The ports the ROM itself uses: end-of-interrupt commands, the keyboard's data, the clock's registers."""

    name = "chips"

    def __init__(self) -> None:
        self.writes: list[tuple[int, int]] = []
        self.scan_codes: deque[int] = deque()
        self.on_clock_read: Callable[[], None] | None = None

    def read(self, offset: int, size: int) -> int:
        if offset == 0x71 and self.on_clock_read is not None:
            self.on_clock_read()
        return self.scan_codes.popleft() if offset == 0x60 else ALL_ONES[size]

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, value))


class Ticker:
    """A time source the test turns."""

    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time

    def advance(self, ns: int) -> None:
        self.time += ns


class Board:
    """A real-mode CPU with the BIOS and nothing else: HLT takes the next interrupt of a list, or ends the run."""

    def __init__(self, code: str, sectors: bytes = b"") -> None:
        self.memory = GuestMemory(2 * MIB, Bus("memory"))
        self.state = X86State()
        self.ports = Bus("ports")
        self.chips = Chips()
        self.time = Ticker()
        self.printed = bytearray()
        boot = assemble(code, 0x7C00).ljust(510, b"\0") + b"\x55\xaa"
        self.bios = Bios(
            self, self.memory, self.ports, Clock(self.time), self.printed.extend, BlockImage(boot + sectors)
        )
        self.ports.attach(SERVICE_PORT, 1, self.bios)
        for start, length in ((0x20, 2), (0x60, 1), (0x64, 1), (0x70, 2), (0xA0, 2)):
            self.ports.attach(start, length, self.chips, start)
        self.bios.install()
        self.memory.write_bytes(0x7C00, boot)
        self.chips.writes.clear()
        self.interrupts: deque[int] = deque()
        self.halts = 0
        self._vector: int | None = None
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_16)
        for region in self.memory.regions():
            whole = bytes(self.memory.ram[region.offset : region.offset + region.length])
            self.cpu.mem_map(region.gpa, region.length)
            self.cpu.mem_write(region.gpa, whole)
        self.cpu.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.cpu.hook_add(unicorn.UC_HOOK_INSN, self._in, aux1=x86.UC_X86_INS_IN)
        self.cpu.hook_add(unicorn.UC_HOOK_INSN, self._out, aux1=x86.UC_X86_INS_OUT)

    def _interrupt(self, cpu: Any, vector: int, data: Any) -> None:
        self._vector = vector
        cpu.emu_stop()

    def _in(self, cpu: Any, port: int, size: int, data: Any) -> int:
        return self.ports.read(port, size)

    def _out(self, cpu: Any, port: int, size: int, value: int, data: Any) -> None:
        self._copy(to_bios=True)
        self.ports.write(port, size, value)
        self._copy(to_bios=False)

    def _copy(self, to_bios: bool) -> None:
        """Registers and the first MiB between the two worlds."""
        for number, name in enumerate(REGISTERS):
            if to_bios:
                self.state.regs[number] = self.cpu.reg_read(name)
            else:
                self.cpu.reg_write(name, self.state.regs[number])
        for number, name in SEGMENTS.items():
            selector = self.cpu.reg_read(name)
            self.state.segs[number].selector, self.state.segs[number].base = selector, selector << 4
        for start, end in ((0, 0xA0000), (0xB8000, 0xC0000)):
            if to_bios:
                self.memory.ram[start:end] = bytes(self.cpu.mem_read(start, end - start))
            else:
                self.cpu.mem_write(start, bytes(self.memory.ram[start:end]))

    def _deliver(self, vector: int) -> None:
        sp = self.cpu.reg_read(x86.UC_X86_REG_SP) - 6 & 0xFFFF
        flags = self.cpu.reg_read(x86.UC_X86_REG_EFLAGS)
        frame = struct.pack(
            "<HHH", self.cpu.reg_read(x86.UC_X86_REG_IP), self.cpu.reg_read(x86.UC_X86_REG_CS), flags & 0xFFFF
        )
        self.cpu.mem_write((self.cpu.reg_read(x86.UC_X86_REG_SS) << 4) + sp, frame)
        self.cpu.reg_write(x86.UC_X86_REG_SP, sp)
        self.cpu.reg_write(x86.UC_X86_REG_EFLAGS, flags & ~IF)
        ip, cs = struct.unpack("<HH", self.cpu.mem_read(vector * 4, 4))
        self.cpu.reg_write(x86.UC_X86_REG_CS, cs)
        self.cpu.reg_write(x86.UC_X86_REG_IP, ip)

    def run(self, *interrupts: int) -> None:
        """Run from 0:7C00 until HLT finds no interrupt left or interrupts off."""
        self.interrupts.extend(interrupts)
        self.cpu.reg_write(x86.UC_X86_REG_SP, 0x7C00)
        self.cpu.reg_write(x86.UC_X86_REG_IP, 0x7C00)
        self.cpu.reg_write(x86.UC_X86_REG_EDX, 0x80)
        self.cpu.reg_write(x86.UC_X86_REG_EFLAGS, 0x202)
        for _ in range(2000):
            start = (self.cpu.reg_read(x86.UC_X86_REG_CS) << 4) + self.cpu.reg_read(x86.UC_X86_REG_IP)
            self._vector = None
            self.cpu.emu_start(start, 0xFFFFF, count=100000)
            if self._vector is not None:
                self._deliver(self._vector)
                continue
            self.halts += 1
            if not self.interrupts or not self.cpu.reg_read(x86.UC_X86_REG_EFLAGS) & IF:
                self._copy(to_bios=True)
                return
            self._deliver(self.interrupts.popleft())
        raise AssertionError("the guest did not come to an end")


def test_a_boot_sector_prints_and_reads_its_second_sector() -> None:
    board = Board(
        """
        mov ax, 0x0201
        mov cx, 2
        mov dh, 0
        mov bx, 0x8000
        int 0x13
        jc failed
        mov si, 0x8000
    next:
        mov al, byte ptr [si]
        inc si
        test al, al
        jz done
        mov ah, 0x0E
        int 0x10
        jmp next
    failed:
        mov al, 0x21
        mov ah, 0x0E
        int 0x10
    done:
        cli
        hlt
        """,
        b"Hello from sector 2\r\n".ljust(512, b"\0"),
    )
    board.run()
    assert bytes(board.printed) == b"Hello from sector 2\r\n"
    assert board.memory.read_bytes(0xB8000, 10) == b"H\x07e\x07l\x07l\x07o\x07"
    assert board.state.regs[RSP] == 0x7C00


def test_a_failed_read_sets_carry_in_the_callers_flags_and_spares_its_other_registers() -> None:
    board = Board(
        """
        stc
        mov ax, 0x0201
        mov cx, 0x1234
        int 0x13
        pushf
        pop word ptr [0x600]
        mov word ptr [0x602], ax
        mov word ptr [0x604], cx
        mov ah, 0x00
        int 0x13
        pushf
        pop word ptr [0x606]
        hlt
        """
    )
    board.run()
    assert board.memory.read(0x600, 2) & 0x201 == 0x201  # carry, and interrupts still enabled
    assert (board.memory.read(0x602, 2), board.memory.read(0x604, 2)) == (0x0400, 0x1234)
    assert board.memory.read(0x606, 2) & 1 == 0


def test_waiting_for_a_key_halts_until_the_keyboard_interrupts() -> None:
    board = Board(
        """
        mov bx, 0x5555
        mov ah, 0
        int 0x16
        mov word ptr [0x600], ax
        mov ah, 1
        int 0x16
        jz empty
        mov byte ptr [0x604], 1
    empty:
        mov word ptr [0x602], bx
        cli
        hlt
        """
    )
    board.chips.scan_codes.extend((0x2A, 0x1E, 0x9E, 0xAA))  # shift down, a down, both up
    board.run(9, 9, 9, 9)
    assert board.memory.read(0x600, 2) == 0x1E41
    assert board.memory.read(0x602, 2) == 0x5555
    assert board.memory.read(0x604, 1) == 0
    assert board.halts == 3  # two waits, and the last instruction
    assert board.chips.writes == [(0x20, 0x20)] * 2


def test_the_timer_counts_calls_the_hook_and_starts_over_at_midnight() -> None:
    board = Board(
        """
        mov word ptr [0x70], 0x7C80
        mov word ptr [0x72], 0
        mov dword ptr [0x46C], 0x1800AE
    again:
        hlt
        jmp again
        """
    )
    board.cpu.mem_write(0x7C80, assemble("inc word ptr cs:[0x610]\niret"))
    board.run(8, 8, 8)
    assert board.memory.read(0x610, 2) == 3
    assert board.memory.read(0x46C, 4) == 1
    assert board.memory.read(0x470, 1) == 1
    assert board.chips.writes == [(0x20, 0x20)] * 3


@pytest.mark.parametrize(
    ("vector", "ends"),
    [(0x0C, [(0x20, 0x20)]), (0x75, [(0xA0, 0x20), (0x20, 0x20)]), (0x70, [(0x70, 0x0C), (0xA0, 0x20), (0x20, 0x20)])],
)
def test_interrupts_without_a_driver_are_ended(vector: int, ends: list[tuple[int, int]]) -> None:
    board = Board("mov ax, 0x1234\nagain: hlt\njmp again")
    board.run(vector)
    assert board.chips.writes == ends
    assert board.state.regs[0] == 0x1234


def test_the_wait_halts_until_its_time_has_passed() -> None:
    board = Board(
        """
        mov ah, 0x86
        mov cx, 0
        mov dx, 1000
        int 0x15
        setc byte ptr [0x600]
        cli
        hlt
        """
    )
    board.cpu.mem_write(0x600, b"\x07")
    board.chips.on_clock_read = lambda: board.time.advance(250_000)  # twice at the start, once an interrupt
    board.run(0x70, 0x70, 0x70, 0x70, 0x70, 0x70)
    assert board.memory.read(0x600, 1) == 0
    assert board.halts == 3  # two for the wait, and the last instruction
    assert (0x71, 0xFF & ~0x40) in board.chips.writes  # the periodic interrupt is off again


def test_int_19h_boots_the_disk_again() -> None:
    board = Board(
        """
        inc word ptr [0x600]
        cmp word ptr [0x600], 3
        je done
        mov ax, 0x1000
        mov ss, ax
        mov word ptr [0x7C00], 0
        int 0x19
    done:
        mov word ptr [0x602], dx
        hlt
        """
    )
    board.run()
    assert board.memory.read(0x600, 2) == 3
    assert board.memory.read(0x602, 2) == 0x80
    assert board.state.segs[SS].base == 0


def test_tables_come_in_segment_registers() -> None:
    board = Board(
        """
        stc
        mov ah, 0xC0
        int 0x15
        setc byte ptr [0x600]
        mov word ptr [0x602], es
        mov word ptr [0x604], bx
        mov byte ptr [0x606], ah
        mov ah, 0xC1
        int 0x15
        mov word ptr [0x608], es
        mov dl, 0
        mov ah, 8
        int 0x13
        mov word ptr [0x60A], es
        mov word ptr [0x60C], di
        mov ax, 0x1130
        int 0x10
        mov word ptr [0x60E], cx
        mov byte ptr [0x610], dl
        cli
        hlt
        """
    )
    board.bios.disk.drives[0] = BlockImage(bytes(2880 * 512))
    board.run()

    def word(at: int) -> int:
        return board.memory.read(at, 2)

    assert (board.memory.read(0x600, 1), board.memory.read(0x606, 1)) == (0, 0)
    configuration = board.memory.read_bytes((word(0x602) << 4) + word(0x604), 10)
    assert configuration[:3] == b"\x08\0\xfc"
    assert configuration[5] & 0x64 == 0x64
    assert word(0x608) == 0x9FC0
    assert (word(0x60C), word(0x60A)) == (word(0x1E * 4), word(0x1E * 4 + 2))
    diskette = board.memory.read_bytes((word(0x60A) << 4) + word(0x60C), 11)
    assert (diskette[3], diskette[4]) == (2, 18)  # 512 bytes, 18 sectors
    assert (word(0x60E), board.memory.read(0x610, 1)) == (16, 24)


def test_the_alarm_calls_its_handler() -> None:
    board = Board("mov word ptr [0x128], 0x7C80\nmov word ptr [0x12A], 0\nagain: hlt\njmp again")
    board.cpu.mem_write(0x7C80, assemble("inc word ptr cs:[0x610]\niret"))
    board.run(0x70)  # register C reads as all ones, alarm and all
    assert board.memory.read(0x610, 2) == 1
    assert board.chips.writes == [(0x70, 0x0C), (0xA0, 0x20), (0x20, 0x20)]


def test_without_a_bootable_disk_the_machine_stops_and_says_so() -> None:
    board = Board("int 0x19")
    board.bios.disk.drives[0x80] = BlockImage(bytes(512))
    board.run()
    assert b"no bootable disk" in board.printed


def test_a_divide_error_is_named_with_its_place() -> None:
    board = Board("nop\nxor cx, cx\ndiv cx\nhlt")
    board.run()
    assert b"divide error at 0000:7c03, halted" in board.printed
