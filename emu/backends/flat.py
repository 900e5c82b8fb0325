"""Plain Unicorn as one first writes it, the baseline of `vemu bench`: flat guest code at CPL 0 without a monitor.

Nothing is hooked but port accesses, so that it runs as fast as Unicorn does. (`plain.py`, the judge, hooks every
instruction instead.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import unicorn
from unicorn import x86_const as ux

MEMORY: Final = 64 << 20
_UART_STATUS, _UART_DATA, _DEBUG_EXIT = 0x3FD, 0x3F8, 0xF4
_EMPTY: Final = 0x60  # line status: the transmitter has nothing to do (PC16550D, 8.4)
_STACK: Final = 0x9F000
_FXSR: Final = 1 << 9 | 1 << 10  # CR4.OSFXSR and OSXMMEXCPT, as a flat guest finds them


class FlatFailed(Exception):
    """The guest needs more of a machine than plain Unicorn is."""


def run_flat(
    image: bytes, mode: int, org: int, timeout: float | None = None, now: Callable[[], float] = time.perf_counter
) -> tuple[float, bytes]:
    """Run a 32- or 64-bit flat image until it writes to the debug exit.

    Returns seconds (of `now`) from its first to its last instruction, and what it wrote to COM1. FlatFailed where it
    raises an exception, halts, or is not done after `timeout` seconds.
    """
    if mode == 16 or org + len(image) > MEMORY:
        raise FlatFailed(f"plain Unicorn is given flat 32- and 64-bit guests below {MEMORY >> 20} MiB only")
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if mode == 64 else unicorn.UC_MODE_32)
    machine.ctl_set_cpu_model(ux.UC_CPU_X86_BROADWELL)
    machine.mem_map(0, MEMORY)
    machine.mem_write(org, image)
    machine.reg_write(ux.UC_X86_REG_RSP if mode == 64 else ux.UC_X86_REG_ESP, _STACK)
    machine.reg_write(ux.UC_X86_REG_CR4, _FXSR)
    console = bytearray()
    left: list[str] = []

    def port_in(_machine: unicorn.Uc, port: int, _size: int, _data: object) -> int:
        return _EMPTY if port == _UART_STATUS else 0xFF

    def port_out(engine: unicorn.Uc, port: int, _size: int, value: int, _data: object) -> None:
        if port == _UART_DATA:
            console.append(value & 0xFF)
        elif port == _DEBUG_EXIT:
            left.append("exit")
            engine.emu_stop()

    def interrupt(engine: unicorn.Uc, vector: int, _data: object) -> None:
        left.append(f"interrupt or exception {vector}")
        engine.emu_stop()

    machine.hook_add(unicorn.UC_HOOK_INSN, port_in, None, 1, 0, ux.UC_X86_INS_IN)
    machine.hook_add(unicorn.UC_HOOK_INSN, port_out, None, 1, 0, ux.UC_X86_INS_OUT)
    machine.hook_add(unicorn.UC_HOOK_INTR, interrupt)
    started = now()
    try:
        machine.emu_start(org, 0, timeout=int((timeout or 0) * 1e6))
    except unicorn.UcError as error:
        left.append(str(error))
    seconds = now() - started
    if left[:1] != ["exit"]:
        raise FlatFailed(f"plain Unicorn stopped: {left[0] if left else 'a halt, or the time-out'}")
    return seconds, bytes(console)
