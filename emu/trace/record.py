"""One exit as a record; a stream of exits is a sequence of batches, lists of records in the order of the exits."""

from __future__ import annotations

from typing import Final, NamedTuple

NO_OPERAND: Final = -1
NO_BLOCK: Final = -1


class ExitRecord(NamedTuple):
    """One departure from directly executed guest code. Times are in nanoseconds, addresses linear.

    The four costs add up to what the exit took: leaving the code cache (saving state, finding the instruction),
    emulating, the device's own part of that, and coming back (pushing state, finding the next block).
    """

    sequence: int  # counts all exits of a run from 0, those that a filter drops too
    guest_ns: int  # the guest's time when it left
    host_ns: int  # the host's monotonic time when it left
    leave_ns: int
    emulate_ns: int  # without the device
    device_ns: int
    resume_ns: int
    reason: str  # as the engines' and the monitor's counters call it
    pc: int
    operand: int = NO_OPERAND  # port, MSR, address, control register or vector, as `reasons.Cause.space` says
    access: str = ""  # "r" or "w" of the operand, seen from the guest
    size: int = 0  # of the access, in bytes
    block: int = NO_BLOCK  # where the translated block begins, if the exit lies in one
    mode: str = ""  # "real", "prot16", "prot32", "long64", ...
    cpl: int = 0

    @property
    def cost_ns(self) -> int:
        """All four costs together."""
        return self.leave_ns + self.emulate_ns + self.device_ns + self.resume_ns


Batch = list[ExitRecord]
