"""Costs of single events in processor time: a port callout, CLI and STI in the cache, and translation.

The guests are loops of a few bytes; the same loop without the event is measured beside it and subtracted.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

from emu import Machine, MachineConfig

_EXIT = bytes.fromhex("b010e6f4faf4")  # mov al, 10h; out F4h, al; cli; hlt
_PORT = bytes.fromhex("e480")  # in al, 80h
_CLI_STI = bytes.fromhex("fafb")
_NOTHING = b""


@dataclass(frozen=True, slots=True)
class Micro:
    """Nanoseconds per event (per pair for CLI and STI), and microseconds per translated guest instruction."""

    port_callout_ns: float
    cli_sti_ns: float
    translation_us: float
    expansion: float  # bytes of host code per byte of guest code


def _loop(event: bytes, count: int) -> bytes:
    """mov ecx, count; again: event; dec ecx; jnz again; leave."""
    return b"\xb9" + struct.pack("<I", count) + event + b"\xff\xc9\x75" + struct.pack("<b", -(len(event) + 4)) + _EXIT


def _seconds(event: bytes, count: int) -> float:
    config = MachineConfig(_loop(event, count), format="flat", mode=64, memory=16 << 20)
    with Machine(config) as machine:
        started = time.process_time()
        machine.run()
        return time.process_time() - started


def _per_event(event: bytes, count: int, repeats: int = 3) -> float:
    """Nanoseconds; the best of several runs, each with its own empty loop."""
    return min((_seconds(event, count) - _seconds(_NOTHING, count)) / count for _ in range(repeats)) * 1e9


def _translation() -> tuple[float, float]:
    """Translate 4,000 different straight-line instructions once: mov, add, load, store, compare and branch."""
    code = bytearray()
    for number in range(800):
        code += b"\x05" + struct.pack("<I", number)  # add eax, n
        code += b"\x8b\x8c\x24" + struct.pack("<i", -4 * number)  # mov ecx, [rsp - 4n]
        code += b"\x48\x89\xc2"  # mov rdx, rax
        code += b"\x81\xfa" + struct.pack("<I", number)  # cmp edx, n
        code += b"\x75\x00"  # jnz to the next instruction
    config = MachineConfig(bytes(code) + _EXIT, format="flat", mode=64, memory=16 << 20)
    with Machine(config) as machine:
        stats = machine.run().stats
    per_insn = stats.translation_seconds / stats.translated_instructions * 1e6
    return per_insn, stats.host_bytes / stats.guest_bytes


def measure() -> Micro:
    """Measure all; takes a few seconds."""
    best = min(_translation() for _ in range(3))
    return Micro(_per_event(_PORT, 100_000), _per_event(_CLI_STI, 5_000_000), *best)
