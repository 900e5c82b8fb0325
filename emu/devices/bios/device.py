"""The BIOS as a device: the service port behind the ROM's stubs, and what it sets up before a real-mode guest runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from emu.bus import ALL_ONES, Bus
from emu.clock import Clock
from emu.devices.bios import bda
from emu.devices.bios.call import Call, Cpu, Memory
from emu.devices.bios.disk import FIRST, FLOPPY, Disk
from emu.devices.bios.keyboard import Keyboard
from emu.devices.bios.rom import ROM_SEGMENT
from emu.devices.bios.system import System
from emu.devices.bios.time import Time
from emu.devices.bios.video import Video
from emu.disk_image import BlockImage
from isa.x86.state import CS, RAX, RDX

SERVICE_PORT: Final = 0xBE  # nothing of a PC answers there; the ROM writes the number of the service to it
_BOOT_ADDRESS: Final = 0x7C00
_FAULTS: Final = {0: "divide error", 6: "invalid opcode", 7: "no floating-point unit"}

# Port writes that leave the chips as a PC's firmware does.
_CHIP_SETUP: Final = (
    # 8259A: ICW1-ICW4, vectors 08h and 70h, cascade on line 2, then the masks: IRQ 0, 1, 2 and 8 open
    (0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01),
    (0xA0, 0x11), (0xA1, 0x70), (0xA1, 0x02), (0xA1, 0x01),
    (0x21, 0xF8), (0xA1, 0xFE),
    # 8254: channel 0 counts 65536 in mode 3, 18.2 ticks a second
    (0x43, 0x36), (0x40, 0x00), (0x40, 0x00),
    # 8042: command byte with interrupt on key, system flag, mouse off, translation to scan code set 1
    (0x64, 0x60), (0x60, 0x65),
)  # fmt: skip


class Bios:
    """Performs the services of INT 10h to 1Ah for real-mode code; attach it to the port bus at SERVICE_PORT.

    It addresses memory by segment base and offset, so a guest that pages virtual-8086 code gets no services.
    """

    name = "bios"

    def __init__(
        self,
        cpu: Cpu,
        memory: Memory,
        ports: Bus,
        clock: Clock,
        console: Callable[[bytes], None],
        disk: BlockImage | None = None,
        *,
        floppy: BlockImage | None = None,
        more_disks: Sequence[BlockImage] = (),
    ) -> None:
        """`console` takes what the guest prints by INT 10h; `disk` is drive 80h, `floppy` 00h, the rest 81h and on."""
        self._cpu = cpu
        self._memory = memory
        self._ports = ports
        self.video = Video(memory, ports, console)
        self.keyboard = Keyboard(memory)
        hard = [*(() if disk is None else (disk,)), *more_disks]
        drives = {FIRST + at: image for at, image in enumerate(hard)}
        self.disk = Disk(memory, drives if floppy is None else {FLOPPY: floppy} | drives)
        self.system = System(memory, ports)
        self.time = Time(memory, ports, clock)
        self._services: dict[int, Callable[[Call], None]] = {
            0x00: lambda call: self._fatal(call, 0),
            0x06: lambda call: self._fatal(call, 6),
            0x07: lambda call: self._fatal(call, 7),
            0x09: lambda call: self.keyboard.scan(call.high(RAX)),
            0x10: self.video.call,
            0x11: self.system.equipment,
            0x12: self.system.memory_size,
            0x13: self.disk.call,
            0x15: self.system.extended,
            0x16: self.keyboard.call,
            0x18: self._no_boot_device,
            0x19: self._bootstrap,
            0x1A: self.time.call,
            0x86: self.time.begin_wait,
            0x87: self.time.poll_wait,
        }

    def install(self) -> None:
        """Write vectors, BIOS data and ROM to memory, clear the screen, and program the chips as after a power-on."""
        bda.install_vectors(self._memory)
        drives = sorted(self.disk.drives.items())
        hard = [image.geometry() for number, image in drives if number >= FIRST]
        bda.install_data(self._memory, hard, floppies=len(drives) - len(hard))
        bda.install_rom(self._memory)
        for port, value in _CHIP_SETUP:
            self._ports.write(port, 1, value)
        self.video.clear()

    @property
    def boot_drive(self) -> int | None:
        """What a boot sector finds in DL: the number of the drive it was read from; None without a bootable one."""
        return self.disk.first()

    def read(self, offset: int, size: int) -> int:
        return ALL_ONES[size]

    def write(self, offset: int, size: int, value: int) -> None:
        """Perform service `value`, if the ROM asks for it: an OUT by other code has no caller's frame on its stack."""
        state = self._cpu.state
        service = self._services.get(value & 0xFF)
        if service is not None and state.segs[CS].base == ROM_SEGMENT << 4:
            service(Call(state, self._memory))

    def _fatal(self, call: Call, vector: int) -> None:
        cs, ip = call.where()
        self.video.print(f"\r\nBIOS: {_FAULTS[vector]} at {cs:04x}:{ip:04x}, halted\r\n".encode())

    def _no_boot_device(self, call: Call) -> None:
        self.video.print(b"\r\nBIOS: no bootable disk, halted\r\n")

    def _bootstrap(self, call: Call) -> None:
        drive = self.disk.boot(_BOOT_ADDRESS)
        if drive is not None:
            call.set_word(RDX, drive)
        call.answer(int(drive is not None))
