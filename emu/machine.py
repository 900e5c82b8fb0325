"""Builds one machine from a configuration and runs it: the only place that names concrete classes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from emu import boards
from emu.backends.unicorn import UnicornBackend
from emu.bus import Bus, Device
from emu.clock import Clock, HostTime, InstructionTime
from emu.config import MachineConfig, read_file, resolve_guest
from emu.dbt.block import Block
from emu.dbt.store import TranslationStore
from emu.disk_image import BlockImage, open_disk
from emu.engines.base import Engine
from emu.engines.interpret import InterpretEngine
from emu.engines.translate import TranslateEngine
from emu.errors import GuestFileError
from emu.exits import Ending, EndReason
from emu.garbage import seldom_collected
from emu.loader import acpi, mptable
from emu.loader.detect import load
from emu.loader.firmware import check_size
from emu.loader.image import GuestImage, LoadedGuest, LoadOptions
from emu.memory import GuestMemory
from emu.monitor import Monitor, Ports
from emu.pc import Drives, Outlets, Pc
from emu.saved_code import SavedCode
from emu.watch import KernelWatch, TextWatch
from isa.x86.cpu import Cpu
from isa.x86.state import RDX

_PANIC_CODE = 14
_MANY_BLOCKS = 10_000
_MANY_REMAINS = 16
_SEED = 32  # bytes: the whole state of the generator of Linux

Output = Callable[[bytes], None]

_LOOK_AT_SCREEN = 50_000_000  # ns of guest time between two looks for awaited text on the VGA screen


@dataclass(slots=True)
class RunStats:
    """Figures of one run; times in seconds, sizes in bytes."""

    instructions: int = 0
    seconds: float = 0.0
    native_instructions: int = 0  # executed as translated code, not by the interpreter
    blocks: int = 0
    links: int = 0  # direct exits chained, re-chained ones counted again
    direct_exits: int = 0
    dispatches: int = 0
    translated_instructions: int = 0
    reused_instructions: int = 0  # of these, whose translation was kept from an earlier run
    guest_bytes: int = 0
    host_bytes: int = 0
    translation_seconds: float = 0.0
    exits: dict[str, int] = field(default_factory=dict)
    flushes: int = 0
    invalidated: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, and its figures."""

    ending: Ending
    stats: RunStats


def _discard(_data: bytes) -> None:
    """Output nobody wants."""


class Machine:
    """One virtual PC with one vCPU.

    `console` receives what the guest writes to the console that `config.console` selects; `serial`, where given,
    what it writes to COM1 while the console is the VGA screen. `observe` is called before each translated block, with
    the guest's state in place; blocks are then not chained.
    """

    _remains = 0  # machines closed in this process since Python last looked for circular garbage

    _unit_machine: UnicornBackend | None = None  # which executes x87 and SSE instructions for the interpreter

    def __init__(
        self,
        config: MachineConfig,
        *,
        console: Output | None = None,
        serial: Output | None = None,
        observe: Callable[[Block], None] | None = None,
    ) -> None:
        config.validate()
        self.config = config
        guest = resolve_guest(config)
        self._console = console or _discard
        self._serial_out = serial or _discard
        self._watch = TextWatch(config.expect, config.fail_on, self._expected, self._failed)
        self._kernel = KernelWatch(self._panicked)
        self.mmio, self.ports = self._bus("memory"), self._bus("port")
        rom = check_size(guest) if config.format == "firmware" else 0
        self.memory = GuestMemory(config.memory, self.mmio, rom)
        self._outside = Ports(self.ports)
        self._saved = self._saved_code(guest, observe)
        self.state = Cpu(self.memory, self._outside, None)
        self._engine = self._build_engine(observe)
        source = InstructionTime(lambda: self.state.retired) if config.deterministic else HostTime()
        self.clock = Clock(source)
        self._outside.clock, self._outside.engine = self.clock, self._engine
        self.guest = self._load(guest)
        self._monitor = Monitor(
            self.state, self._engine, self.clock, self._interrupt_pending, self._acknowledge, self.name_of
        )
        self.clock.changed = self._monitor.alarm_set
        self._disk: BlockImage | None = None
        self._board = self._build_board(guest)
        self._outside.apic = self._board.apic
        if config.console == "vga" and self._watch.wanted:
            self.clock.at(_LOOK_AT_SCREEN, self._look_at_screen)
        self._seconds = 0.0

    # -- construction ------------------------------------------------------------------------------------------

    def _bus(self, name: str) -> Bus:
        return Bus(name)

    def _build_engine(self, observe: Callable[[Block], None] | None) -> Engine:
        config = self.config
        if config.engine == "interpret":
            self._unit_machine = UnicornBackend()
            self.state.native = self._unit_machine.native
            return self._interpreting()
        return self._translating(config.deterministic or config.max_instructions is not None, observe)

    def _interpreting(self) -> Engine:
        return InterpretEngine(self.state, self.memory)

    def _translating(self, exact: bool, observe: Callable[[Block], None] | None) -> Engine:
        backend = UnicornBackend(self.memory)
        self.state.native = backend.native
        return TranslateEngine(self.state, self.memory, backend, exact=exact, observe=observe, store=self._store())

    def _store(self) -> TranslationStore | None:
        """Where the engine finds and leaves translations, if they are kept."""
        return self._saved.store if self._saved is not None else None

    def _saved_code(self, guest: GuestImage, observe: object) -> SavedCode | None:
        """Translations of earlier runs; none where they would make the exits of two runs differ, or show in them."""
        config = self.config
        if config.cache is None or config.engine != "translate" or config.deterministic or observe is not None:
            return None
        return SavedCode(config.cache, guest.data)

    def _load(self, image: GuestImage) -> LoadedGuest:
        config = self.config
        initrd = None
        if config.initrd is not None:
            initrd = read_file(config.initrd, "initrd")
        rsdp = None
        if config.format != "firmware":  # which makes its own tables
            rsdp = acpi.place(self.memory)
            mptable.place(self.memory)
        options = LoadOptions(
            format=config.format,
            mode=config.mode,
            org=config.org,
            append=config.append,
            initrd=initrd,
            boot_stub=config.boot_stub,
            rsdp=rsdp or 0,
            seed=config.entropy("boot")(_SEED),
        )
        return load(image, self.memory, self.state, options)

    def _build_board(self, image: GuestImage) -> Pc:
        outlets = Outlets(
            com1=self._serial_written,
            com2=_discard,
            virtio=self._console_written,
            debug=self._console_written,
            bios=self._bios_written,
            debug_exit=self._debug_exit,
            reset=self._reset,
            power_off=self._power_off,
        )
        drives = self._drives(image)
        line = self._monitor.interrupt_line
        board = Pc(
            self.config, self.state, self.memory, self.ports, self.mmio, self.clock, outlets, line, drives,
            linux=self._is_linux(),
        )  # fmt: skip
        board.apic.on_nmi = self._monitor.nmi
        if self.guest.bios or self._room_for_bios():
            boots = board.install_bios()
            if self.guest.format == "boot" and boots is not None:
                self.state.regs[RDX] = boots
        return board

    def _drives(self, image: GuestImage) -> Drives:
        """The disks: that of --disk, and what a boot sector was the first sector of, floppy disk or first hard disk.

        A boot sector alone is no disk where there is another one.
        """
        config = self.config
        hard = None
        if config.disk is not None:
            hard = open_disk(config.disk, writable=config.disk_writable)
            self._disk = hard
            if (config.disk_interface or ("virtio" if self._is_linux() else "ide")) == "virtio":
                return Drives(virtio=hard)
        if self.guest.format != "boot":
            return Drives(hard)
        own = BlockImage(image.data)
        if own.is_floppy():
            return Drives(hard, floppy=own)
        return Drives(own, hard) if hard is None or own.sectors > 1 else Drives(hard)

    def _is_linux(self) -> bool:
        return self.guest.format in ("linux", "pvh")

    def _room_for_bios(self) -> bool:
        """True where the guest left the BIOS's memory alone: kernels look there, and some go back to real mode."""
        if self.guest.format == "firmware":
            return False
        places = ((0, boards.BIOS_DATA_END), (boards.BIOS_ROM, boards.BIOS_ROM_SIZE))
        return not any(any(self.memory.read_bytes(start, length)) for start, length in places)

    def add_port_device(self, start: int, length: int, device: Device) -> None:
        """Attach a device to I/O ports [start, start+length); raises ValueError where another one sits."""
        self.ports.attach(start, length, device)

    def add_memory_device(self, start: int, length: int, device: Device) -> None:
        """Attach a device to guest-physical [start, start+length), which must not be RAM (ValueError)."""
        if any(self.memory.ram_offset(page) >= 0 for page in range(start & -0x1000, start + length, 0x1000)):
            raise ValueError(f"memory device {device.name} at {start:#x}+{length:#x} overlaps RAM")
        self.mmio.attach(start, length, device)

    # -- what devices report -----------------------------------------------------------------------------------

    def _interrupt_pending(self) -> bool:
        return self._board.apic.pending()

    def _acknowledge(self) -> int:
        return self._board.apic.acknowledge()

    def _serial_written(self, data: bytes) -> None:
        if self.config.console == "serial":
            self._console_written(data)
        else:
            self._serial_out(data)

    def _bios_written(self, data: bytes) -> None:
        if self.config.console == "serial":
            self._console_written(data)

    def _console_written(self, data: bytes) -> None:
        self._console(data)
        self._watch.feed(data)
        if self._is_linux():
            self._kernel.feed(data)

    def _debug_exit(self, value: int) -> None:
        status = value << 1 | 1
        code = 0 if self.config.success_code == status else status & 0xFF
        self._monitor.end(Ending(EndReason.DEBUG_EXIT, code, f"the guest left with value {value:#x} (status {status})"))

    def _expected(self, text: str) -> None:
        self._monitor.end(Ending(EndReason.EXPECTED, 0, f"the console showed {text!r}"))

    def _failed(self, text: str) -> None:
        self._monitor.end(Ending(EndReason.FAILED_ON, 10, f"the console showed {text!r} (--fail-on)"))

    def _panicked(self, message: str) -> None:
        self._monitor.end(Ending(EndReason.PANIC, _PANIC_CODE, f"the guest's kernel says: {message}"))

    def _look_at_screen(self) -> None:
        self._watch.look("\n".join(self._board.vga.text()))
        self.clock.at(self.clock.now() + _LOOK_AT_SCREEN, self._look_at_screen)

    def _reset(self) -> None:
        if self._kernel.panic is not None:
            self._panicked(self._kernel.panic)
        self._monitor.end(Ending(EndReason.RESET, 0, "the guest reset the machine"))

    def _power_off(self) -> None:
        if self._kernel.panic is not None:
            self._panicked(self._kernel.panic)
        self._monitor.end(Ending(EndReason.POWER_OFF, 0, "the guest switched the machine off"))

    # -- running -----------------------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run until the guest ends, a limit is reached or `stop` is called."""
        started = time.perf_counter()
        with seldom_collected():
            ending = self._monitor.run(self.config.timeout, self.config.max_instructions)
        if ending.reason is EndReason.HALTED and self._kernel.halted:
            ending = Ending(EndReason.POWER_OFF, 0, "the guest's kernel says that it halted the system")
        self._seconds += time.perf_counter() - started
        return RunResult(ending, self.stats())

    def run_to(self, retired: int) -> Ending | None:
        """Run until `retired` instructions have retired in all; None, or how the guest ended before."""
        return self._monitor.run_to(retired)

    def step(self) -> Ending | None:
        """Execute one instruction, or deliver its fault."""
        return self._monitor.step()

    def stop(self) -> None:
        """End the run; callable from a thread or a signal handler."""
        self._monitor.end(Ending(EndReason.INTERRUPTED, 130, "stopped"))
        self._engine.interrupt()

    def send_input(self, data: bytes) -> None:
        """Type `data` on the selected console; callable from any thread."""
        if self.config.console == "serial":
            self._monitor.submit(lambda: self._board.serial.receive(data))
            if self.guest.bios:
                self._monitor.submit(lambda: self._board.keyboard.type_text(data.decode("latin-1")))
        elif (console := self._board.virtio_console) is not None:
            self._monitor.submit(lambda: console.receive(data))
        else:
            self._monitor.submit(lambda: self._board.keyboard.type_text(data.decode("latin-1")))

    def screenshot(self) -> bytes:
        """The VGA text screen as a PNG."""
        from emu.screen import render_png  # here: only a screenshot needs the imaging library

        return render_png(self._board.vga)

    def screen_text(self) -> list[str]:
        return self._board.vga.text()

    def blocks(self) -> list[Block]:
        """Translated blocks in order of translation; none under `interpret`."""
        return self._engine.blocks()

    def code(self, block: Block) -> bytes:
        """The host code of a translated block."""
        return self._engine.code(block)

    def name_of(self, address: int) -> str:
        """A guest address with its symbol, where the guest has symbols."""
        found = self.guest.symbols.lookup(address)
        if found is None:
            return f"{address:#x}"
        name, offset = found
        return f"{address:#x} ({name}+{offset:#x})" if offset else f"{address:#x} ({name})"

    def stats(self) -> RunStats:
        """Figures so far."""
        counters = self._engine.counters()
        exits = counters.exits + self._monitor.exits
        if self.config.engine == "interpret":  # a translated port access counts as its instruction's callout
            exits += self._outside.exits
        retired = self.state.retired
        return RunStats(
            instructions=retired,
            seconds=self._seconds,
            native_instructions=max(retired - counters.emulated, 0),
            blocks=counters.blocks,
            links=counters.links,
            direct_exits=counters.direct_exits,
            dispatches=counters.dispatches,
            translated_instructions=counters.translated_instructions,
            reused_instructions=counters.reused_instructions,
            guest_bytes=counters.guest_bytes,
            host_bytes=counters.host_bytes,
            translation_seconds=counters.translation_seconds,
            exits=dict(exits.most_common()),
            flushes=counters.flushes,
            invalidated=counters.invalidated,
        )

    def save_translations(self) -> None:
        """Keep this run's translations for the next one, where the configuration names a folder for them.

        Raises GuestFileError where they cannot be written; the folder is as it was then.
        """
        saved, self._saved = self._saved, None
        if saved is not None:
            saved.save()

    def close(self) -> None:
        """Give the host's memory back; the machine cannot run again."""
        with suppress(GuestFileError):  # who wants to know saves before
            self.save_translations()
        Machine._remains += 1
        if Machine._remains > _MANY_REMAINS or (
            Machine._remains > 1 and self._engine.counters().blocks >= _MANY_BLOCKS
        ):
            gc.collect()  # the remains of machines before this one, which are circular
            Machine._remains = 1
        self._engine.close()
        if self._unit_machine is not None:
            self._unit_machine.close()
        self.memory.close()
        if self._disk is not None:
            self._disk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
