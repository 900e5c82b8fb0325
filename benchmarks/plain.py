"""Plain Unicorn as the baseline: the same guest code, flat, at CPL 0, without a monitor."""

from __future__ import annotations

import time

import unicorn
from unicorn import x86_const as ux

from guests import Guest

MEMORY = 64 << 20
_UART_STATUS, _UART_DATA, _DEBUG_EXIT = 0x3FD, 0x3F8, 0xF4


def run_plain(guest: Guest, scale: int | None) -> tuple[float, str]:
    """Run a 64-bit flat guest; returns seconds from its first to its last instruction and its console text."""
    assert guest.mode == 64
    assert guest.org is not None
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    machine.ctl_set_cpu_model(ux.UC_CPU_X86_BROADWELL)
    machine.mem_map(0, MEMORY)
    machine.mem_write(guest.org, guest.image(scale))
    machine.reg_write(ux.UC_X86_REG_RSP, 0x9F000)
    machine.reg_write(ux.UC_X86_REG_CR4, 1 << 9 | 1 << 10)
    console = bytearray()

    def port_in(_machine: unicorn.Uc, port: int, _size: int, _data: object) -> int:
        return 0x60 if port == _UART_STATUS else 0xFF

    def port_out(engine: unicorn.Uc, port: int, _size: int, value: int, _data: object) -> None:
        if port == _UART_DATA:
            console.append(value & 0xFF)
        elif port == _DEBUG_EXIT:
            engine.emu_stop()

    machine.hook_add(unicorn.UC_HOOK_INSN, port_in, None, 1, 0, ux.UC_X86_INS_IN)
    machine.hook_add(unicorn.UC_HOOK_INSN, port_out, None, 1, 0, ux.UC_X86_INS_OUT)
    started = time.perf_counter()
    machine.emu_start(guest.org, 0)
    return time.perf_counter() - started, console.decode("latin-1")
