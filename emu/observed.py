"""A machine that is looked at from outside while it runs: where the guest is, and what it did so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from emu.backends.unicorn import UnicornBackend
from emu.bus import Bus
from emu.config import MachineConfig
from emu.dbt.block import Block
from emu.engines.base import Engine
from emu.engines.observed import ObservedTranslateEngine
from emu.listing import covers, guest_text
from emu.machine import Machine
from emu.stopwatch import mode_name
from emu.top.sample import HotBlock, Snapshot
from isa.x86 import paging
from isa.x86.decode import Decoder
from isa.x86.state import CS

_HOT: Final = 8  # places looked at for a snapshot
_MOST_PLACES: Final = 1 << 14  # remembered
_CODE: Final = 15  # bytes of the longest instruction
_NOBODY: Final = "no device"
_Place = tuple[int, int]  # bits of the mode, linear address


class CountingBus(Bus):
    """A bus that counts the accesses to each device."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.counts: Counter[str] = Counter()

    def read(self, address: int, size: int) -> int:
        self._count(address)
        return super().read(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        self._count(address)
        super().write(address, size, value)

    def _count(self, address: int) -> None:
        found = self.find(address)
        self.counts[_NOBODY if found is None else found.device.name] += 1


class ObservedMachine(Machine):
    """A `Machine` of which `submit` has samples and snapshots taken, by the thread that runs it."""

    def __init__(self, config: MachineConfig, **options: Any) -> None:
        self._places: Counter[_Place] = Counter()  # since the last snapshot
        self._earlier: Counter[_Place] = Counter()
        self._samples = self._idle = 0
        self._started = time.perf_counter()
        super().__init__(config, **options)

    def _bus(self, name: str) -> Bus:
        return CountingBus(name)

    def _translating(self, exact: bool, observe: Callable[[Block], None] | None) -> Engine:
        backend = UnicornBackend(self.memory)
        self.state.native = backend.native
        return ObservedTranslateEngine(
            self.state, self.memory, backend, exact=exact, observe=observe, store=self._store()
        )

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work` done between two instructions of the guest soon, as long as it runs. Callable from any thread."""
        self._monitor.submit(work)

    def sample(self) -> None:
        """Note where the guest is."""
        cpu = self.state
        self._samples += 1
        if cpu.halted:
            self._idle += 1
        else:
            self._places[cpu.mode, (0 if cpu.mode == 64 else cpu.segs[CS].base) + cpu.rip] += 1

    def snapshot(self, console: tuple[str, ...] = (), *, whole: bool = False) -> Snapshot:
        """The figures so far; hot blocks are those of the samples since the last snapshot, or (`whole`) of all."""
        stats, engine = self.stats(), self._engine
        devices: Counter[str] = Counter()
        for bus in (self.ports, self.mmio):
            assert isinstance(bus, CountingBus)
            devices += bus.counts
        hot = self._hot(self._places + self._earlier if whole else self._places)
        self._earlier += self._places
        self._places.clear()
        if len(self._earlier) > _MOST_PLACES:
            self._earlier = Counter(dict(self._earlier.most_common(_MOST_PLACES // 2)))
        return Snapshot(
            time.perf_counter() - self._started,
            self.clock.now() / 1e9,
            f"{mode_name(self.state)} cpl{self.state.cpl}",
            stats.instructions,
            stats.native_instructions,
            stats.translation_seconds,
            stats.blocks,
            stats.flushes,
            stats.exits,
            devices,
            self._samples,
            self._idle,
            hot,
            engine.occupancy() if isinstance(engine, ObservedTranslateEngine) else None,
            console,
        )

    def _hot(self, places: Counter[_Place]) -> tuple[HotBlock, ...]:
        """The blocks that hold the most samples; an instruction where there is no block."""
        top = places.most_common(_HOT)
        pages = {linear >> 12 for (_, linear), _ in top}
        near = [b for b in self._engine.blocks() if b.linear >> 12 in pages or b.linear + b.size >> 12 in pages]
        found: dict[int, HotBlock] = {}
        for (mode, linear), count in top:
            block = next((b for b in near if b.mode.mode == mode and covers(b, linear)), None)
            start = linear if block is None else block.linear
            held = found.get(start)
            if held is None:
                code = self._instruction(mode, linear) if block is None else _code_of(block)
                found[start] = HotBlock(count, self.name_of(start), code)
            else:
                found[start] = HotBlock(held.samples + count, held.name, held.code)
        return tuple(sorted(found.values(), key=lambda block: -block.samples))

    def _instruction(self, mode: int, linear: int) -> tuple[str, ...]:
        """The one instruction at a linear address, where it can be read."""
        mapping = paging.probe(self.state, linear)
        if mapping is None or self.memory.ram_offset(mapping.gpa) < 0:
            return ()
        size = min(_CODE, 0x1000 - (linear & 0xFFF))
        insn = Decoder(mode).decode(self.memory.read_bytes(mapping.gpa, size))
        return () if insn is None else (f"{linear:x}  {guest_text(insn, linear)}",)


def _code_of(block: Block) -> tuple[str, ...]:
    pc, lines = block.pc, []
    for insn in block.insns:
        lines.append(f"{pc:x}  {guest_text(insn, pc)}")
        pc += insn.size
    return tuple(lines)
