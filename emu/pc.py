"""The board `pc`: builds its devices for a configuration, wires their interrupts and attaches them to the buses."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from emu import boards
from emu.bus import Bus, Device
from emu.cards import Cards
from emu.clock import Clock
from emu.config import MachineConfig
from emu.devices.bios import SERVICE_PORT, Bios
from emu.devices.chipset import HostBridge, PowerFunction, isa_bridge, piix3_ide
from emu.devices.debugcon import DebugConsole
from emu.devices.debugexit import DebugExit
from emu.devices.i8042 import I8042
from emu.devices.ide import CONTROL, IdeChannel
from emu.devices.ioapic import SIZE as IO_APIC_SIZE
from emu.devices.ioapic import IoApic
from emu.devices.lapic import SIZE as LOCAL_APIC_SIZE
from emu.devices.lapic import LocalApic
from emu.devices.pci import PciConfig
from emu.devices.pic import PicPair
from emu.devices.pit import Pit, PortB
from emu.devices.pm import PowerManagement, SmiCommand
from emu.devices.port92 import Port92
from emu.devices.post import PostCode
from emu.devices.reset import ResetControl
from emu.devices.rtc import Rtc
from emu.devices.serial import Serial
from emu.devices.vga import Vga
from emu.devices.virtio import VirtioBlock, VirtioConsole, VirtioRng
from emu.disk_image import BlockImage
from emu.irq import IrqLine
from emu.memory import GuestMemory
from isa.x86.cpu import Cpu

_FIXED_START: Final = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)  # the clock's date under --deterministic
# Level-triggered interrupts of PCI and ACPI: IRQ 9, 10 and 11.
_AS_FIRMWARE_LEAVES_IT: Final = ((boards.PIC_ELCR + 1, 0x0E),)
_M64: Final = 0xFFFF_FFFF_FFFF_FFFF
_A20_BIT: Final = 1 << 20
_ISA_BRIDGE: Final = 1  # PCI slot, with IDE and power management as functions 1 and 3 of the same chip


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where what the guest does to the board's outside goes."""

    com1: Callable[[bytes], None]
    com2: Callable[[bytes], None]
    virtio: Callable[[bytes], None]
    debug: Callable[[bytes], None]
    bios: Callable[[bytes], None]
    debug_exit: Callable[[int], None]
    reset: Callable[[], None]
    power_off: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Drives:
    """The disks of a machine, None where there is none; `virtio` is a PCI card.

    `hard` and `second` are master and slave of the first IDE channel, and drives 80h and 81h of the BIOS.
    """

    hard: BlockImage | None = None
    second: BlockImage | None = None
    virtio: BlockImage | None = None
    floppy: BlockImage | None = None


@dataclass(frozen=True, slots=True)
class _StateOf:
    """The CPU as the BIOS services see it."""

    state: Cpu


class Pc:
    """All devices. `interrupt_line(level)` is called when the interrupt output towards the CPU changes."""

    def __init__(
        self,
        config: MachineConfig,
        cpu: Cpu,
        memory: GuestMemory,
        ports: Bus,
        mmio: Bus,
        clock: Clock,
        outlets: Outlets,
        interrupt_line: Callable[[bool], None],
        drives: Drives,
        *,
        linux: bool = False,
    ) -> None:
        """`linux` says that the guest is a kernel with virtio drivers."""
        self._linux = linux
        self._cpu, self._memory, self._ports, self._clock = cpu, memory, ports, clock
        self._outlets, self._drives = outlets, drives
        start = _FIXED_START if config.deterministic else datetime.datetime.now(datetime.UTC)
        self._mmio = mmio
        self.pic = PicPair(lambda level: self.apic.external_changed())
        self.apic = LocalApic(clock, interrupt_line, self.pic.pending, self.pic.acknowledge, self._tsc_to_clock)
        self.io_apic = IoApic(self.apic.deliver, self.apic.accepts)
        self.apic.on_eoi, self.apic.on_move = self.io_apic.end_of_interrupt, self._apic_moved
        pit = Pit(clock, self._line(boards.IRQ_TIMER))
        self.serial = Serial(self._line(boards.IRQ_COM1), clock, outlets.com1)
        second = Serial(self._line(boards.IRQ_COM2), clock, outlets.com2, "com2")
        self.keyboard = I8042(self._line(boards.IRQ_KEYBOARD), outlets.reset, self._a20)
        self.vga = Vga(memory.read_bytes)
        self.post = PostCode()
        self._power = PowerManagement(clock, self._line(boards.IRQ_SCI), outlets.power_off)
        debug = DebugConsole(outlets.debug)
        rtc = Rtc(clock, self._line(boards.IRQ_RTC), start, config.memory)
        port_92 = Port92(self._a20, outlets.reset)
        self.pci = PciConfig(ResetControl(outlets.reset), HostBridge(memory))
        attached: list[tuple[int, int, Device, int, int]] = [  # where, length, device, first offset, widest access
            (boards.PIC_MASTER, 2, self.pic, 0, 1),
            (boards.PIC_SLAVE, 2, self.pic, 2, 1),
            (boards.PIC_ELCR, 2, self.pic, 4, 1),
            (boards.PIT, 4, pit, 0, 1),
            (boards.PORT_B, 1, PortB(pit, clock), 0, 1),
            (boards.KEYBOARD_DATA, 1, self.keyboard, 0, 1),
            (boards.KEYBOARD_STATUS, 1, self.keyboard, 4, 1),
            (boards.RTC, 2, rtc, 0, 1),
            (boards.POST, 1, self.post, 0, 1),
            (boards.SMI_COMMAND, 2, SmiCommand(self._power), 0, 2),
            (boards.POWER_MANAGEMENT, boards.POWER_MANAGEMENT_SIZE, self._power, 0, 4),
            (boards.PORT_92, 1, port_92, 0, 1),
            (boards.DEBUGCON, 1, debug, 0, 1),
            (boards.DEBUG_EXIT, 4, DebugExit(outlets.debug_exit), 0, 4),
            (boards.VGA, 0x20, self.vga, 0, 1),
            (boards.COM1, 8, self.serial, 0, 1),
            (boards.COM2, 8, second, 0, 1),
            (boards.PCI, 8, self.pci, 0, 4),
        ]
        if config.format == "firmware":
            attached.append((boards.FIRMWARE_DEBUG, 1, debug, 0, 1))
        self.pci.add(_ISA_BRIDGE, isa_bridge(boards.PCI_ROUTES))
        for at, control, irq, disks in (
            (boards.IDE, boards.IDE_CONTROL, boards.IRQ_IDE, (drives.hard, drives.second)),
            (boards.IDE_2, boards.IDE_2_CONTROL, boards.IRQ_IDE_2, (None, None)),
        ):
            channel = IdeChannel(clock, self._line(irq), *disks)
            attached += [(at, 8, channel, 0, 4), (control, 1, channel, CONTROL, 1)]
        self.pci.add(_ISA_BRIDGE, piix3_ide(), 1)
        self.pci.add(_ISA_BRIDGE, PowerFunction(boards.POWER_MANAGEMENT, boards.IRQ_SCI, self._power_moved), 3)
        for where, length, device, base, width in attached:
            ports.attach(where, length, device, base, width)
        self.virtio_console = self._add_cards(config)
        mmio.attach(boards.IO_APIC, IO_APIC_SIZE, self.io_apic)
        mmio.attach(boards.LOCAL_APIC, LOCAL_APIC_SIZE, self.apic)
        if config.format != "firmware":
            for where, value in _AS_FIRMWARE_LEAVES_IT:
                ports.write(where, 1, value)
            self.apic.enable()

    def install_bios(self) -> int | None:
        """Write the BIOS to memory and set the chips as it leaves them; the number of the drive to boot, or None."""
        drives = self._drives
        bios = Bios(
            _StateOf(self._cpu), self._memory, self._ports, self._clock, self._outlets.bios, drives.hard,
            floppy=drives.floppy, more_disks=() if drives.second is None else (drives.second,),
        )  # fmt: skip
        self._ports.attach(SERVICE_PORT, 1, bios, width=1)
        bios.install()
        return bios.boot_drive

    def _add_cards(self, config: MachineConfig) -> VirtioConsole | None:
        """The virtio devices: what is asked for, and entropy for the kernels that know how to use it."""
        placed = config.format != "firmware"
        cards = Cards(self.pci, self._ports, self._mmio, self._memory, self._line, placed)
        if self._drives.virtio is not None:
            cards.add(VirtioBlock(self._drives.virtio))
        console = None
        if config.console == "virtio":
            console = VirtioConsole(self._outlets.virtio)
            cards.add(console)
        if self._drives.virtio is not None or console is not None or self._linux:
            cards.add(VirtioRng(config.entropy("virtio")))
        return console

    def _line(self, number: int) -> IrqLine:
        """An ISA interrupt: it reaches the 8259A pair and the I/O APIC, and the guest masks what it does not use."""
        pic = self.pic.line(number)
        io_apic = self.io_apic.line(boards.TIMER_INPUT if number == boards.IRQ_TIMER else number)

        def changed(level: bool) -> None:
            pic.set(level)
            io_apic.set(level)

        return IrqLine(changed, number)

    def _tsc_to_clock(self, value: int) -> int:
        """Guest time at which the TSC has this value; now for one that is past."""
        distance = value - self._cpu.outside.timestamp() - self._cpu.tsc_offset & _M64
        return self._clock.now() + (distance if distance >> 63 == 0 else 0)

    def _apic_moved(self, base: int | None) -> None:
        self._mmio.detach(self.apic)
        if base is not None:
            with suppress(ValueError):  # something else is there already: it stays
                self._mmio.attach(base, LOCAL_APIC_SIZE, self.apic)

    def _power_moved(self, base: int | None) -> None:
        self._ports.detach(self._power)
        if base is not None:
            with suppress(ValueError):  # something else is there already: it stays
                self._ports.attach(base, boards.POWER_MANAGEMENT_SIZE, self._power, width=4)

    def _a20(self, enabled: bool) -> None:
        """The A20 gate: whichever port was written last decides, as in QEMU. Page tables are read past the gate."""
        mask = -1 if enabled else ~_A20_BIT
        if mask != self._cpu.address_mask:
            self._cpu.address_mask = mask
            self._cpu.flush_tlb(None)
            self._cpu.outside.mapping_changed(None)
