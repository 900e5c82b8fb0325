"""A bare vCPU with an engine and no board, for tests of the engines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from emu.backends.unicorn import UnicornBackend
from emu.bus import Bus
from emu.engines.base import Engine
from emu.engines.interpret import InterpretEngine
from emu.engines.translate import TranslateEngine
from emu.memory import GuestMemory
from emu.monitor import Ports
from guests.encode import raw
from isa.x86.cpu import Cpu
from isa.x86.state import CS, DS, ES, FS, GS, SS, Segment

ORG = 0x100000


def asm(text: str, mode: int = 32, at: int = ORG) -> bytes:
    return raw(text, mode, at)


@dataclass
class World:
    """A vCPU in flat 32-bit protected mode without paging, at ORG, with 4 MiB of RAM."""

    cpu: Cpu
    memory: GuestMemory
    engine: Engine

    def put(self, text: str, at: int = ORG) -> int:
        """Assemble at `at`; returns the address behind."""
        code = asm(text, 32, at)
        self.memory.write_bytes(at, code)
        return at + len(code)

    def run(self, limit: int = 10_000_000) -> object:
        return self.engine.run(limit)


def build(kind: str, exact: bool = False, cache_limit: int | None = None) -> World:
    memory = GuestMemory(4 << 20, Bus("memory"))
    ports = Ports(Bus("port"))
    cpu = Cpu(memory, ports, None)
    cpu.cr0 |= 1
    cpu.segs[CS] = Segment(8, 0, 0xFFFFFFFF, 0xC09B)
    for seg in (ES, SS, DS, FS, GS):
        cpu.segs[seg] = Segment(16, 0, 0xFFFFFFFF, 0xC093)
    cpu.mode, cpu.rip, cpu.regs[4] = 32, ORG, 0x9F000
    engine: Engine
    if kind == "translate":
        backend = UnicornBackend(memory)
        cpu.native = backend.native
        engine = TranslateEngine(cpu, memory, backend, exact=exact, cache_limit=cache_limit)
    else:
        cpu.native = UnicornBackend().native
        engine = InterpretEngine(cpu, memory)
    ports.engine = engine
    return World(cpu, memory, engine)


@pytest.fixture
def make() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def factory(kind: str = "translate", **options: bool | int) -> World:
        world = build(kind, **options)  # type: ignore[arg-type]
        worlds.append(world)
        return world

    yield factory
    for world in worlds:
        world.engine.close()
        world.memory.close()
