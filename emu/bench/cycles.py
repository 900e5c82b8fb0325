"""How many cycles a nanosecond has here: the rate of the host's time-stamp counter."""

from __future__ import annotations

import ctypes
import mmap
import platform
import time
from collections.abc import Callable
from typing import Final

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_SECONDS: Final = 0.1
_MACHINES: Final = ("x86_64", "AMD64")


def cycles_per_ns(seconds: float = _SECONDS) -> float | None:
    """Ticks of the time-stamp counter (SDM vol. 3, 17.17) per nanosecond, measured for `seconds`.

    None where the host is no x86-64, or refuses memory that can be executed. The counter runs at a constant rate, which
    is not that of a core that saves or boosts.
    """
    if platform.machine() not in _MACHINES:
        return None
    try:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except (OSError, AttributeError, TypeError):
        return None
    code.write(_RDTSC)
    anchor = ctypes.c_char.from_buffer(code)
    read: Callable[[], int] = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
    began, first = time.perf_counter_ns(), read()
    time.sleep(seconds)
    ended, last = time.perf_counter_ns(), read()
    return (last - first) / (ended - began)
