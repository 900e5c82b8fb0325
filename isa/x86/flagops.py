"""CLI, STI, PUSHF, POPF, STAC, CLAC, HLT and the software interrupts INT n, INT3, INT1 and INTO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isa.base import GuestFault
from isa.x86 import cpuid, stack
from isa.x86.debug import DR6_BS
from isa.x86.fartransfer import following
from isa.x86.interrupts import Event, deliver
from isa.x86.privilege import require_cpl0, require_iopl
from isa.x86.returns import flags_from
from isa.x86.segments import in_vm86
from isa.x86.state import AC, BP, DB, GP, IF, IOPL, OF, OF_TRAP, RF, UD, VM

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu
    from isa.x86.decode import Insn


def _require_vm86_iopl(cpu: Cpu) -> None:
    """PUSHF, POPF and INT n are IOPL-sensitive in virtual-8086 mode only (SDM vol. 3, 20.2.7)."""
    if in_vm86(cpu) and cpu.rflags & IOPL != IOPL:
        raise GuestFault(GP, 0, note="IOPL-sensitive instruction in virtual-8086 mode")


def cli(cpu: Cpu, insn: Insn) -> None:
    require_iopl(cpu)
    cpu.system_flags &= ~IF


def sti(cpu: Cpu, insn: Insn) -> None:
    """Sets IF; when it was clear, no interrupt is taken before the next instruction has retired."""
    require_iopl(cpu)
    if not cpu.system_flags & IF:
        cpu.system_flags |= IF
        cpu.shadow, cpu.stack_shadow = True, False


def pushf(cpu: Cpu, insn: Insn) -> None:
    _require_vm86_iopl(cpu)
    stack.push(cpu, cpu.rflags & ~(VM | RF), stack.stack_size(insn))


def popf(cpu: Cpu, insn: Insn) -> None:
    _require_vm86_iopl(cpu)
    size = stack.stack_size(insn)
    image = stack.pop(cpu, size)
    cpu.rflags = flags_from(cpu, image, size) & ~RF


def _change_ac(cpu: Cpu, value: int) -> None:
    if cpu.cpl != 0 or not cpuid.has("smap"):
        raise GuestFault(UD)
    cpu.set_ac(value)


def stac(cpu: Cpu, insn: Insn) -> None:
    _change_ac(cpu, AC)


def clac(cpu: Cpu, insn: Insn) -> None:
    _change_ac(cpu, 0)


def hlt(cpu: Cpu, insn: Insn) -> None:
    """Stops the CPU; the runner moves RIP behind the instruction, where an interrupt returns to."""
    require_cpl0(cpu)
    cpu.halted = True


def _interrupt(cpu: Cpu, insn: Insn, vector: int, event: Event) -> None:
    deliver(cpu, vector, None, event, following(cpu, insn))
    cpu.debug_pending &= ~DR6_BS  # clearing TF, it is not followed by a single-step trap (SDM vol. 3, 17.3.1.4)
    cpu.transferred = True


def int_n(cpu: Cpu, insn: Insn) -> None:
    _require_vm86_iopl(cpu)
    _interrupt(cpu, insn, insn.raw[insn.size - 1], Event.SOFTWARE)


def int3(cpu: Cpu, insn: Insn) -> None:
    _interrupt(cpu, insn, BP, Event.TRAP)


def int1(cpu: Cpu, insn: Insn) -> None:
    """Opcode F1: a #DB that looks like one of an external debugger: no gate DPL check, no DR6 bit."""
    _interrupt(cpu, insn, DB, Event.TRAP)


def into(cpu: Cpu, insn: Insn) -> None:
    if cpu.mode == 64:
        raise GuestFault(UD)
    if cpu.rflags & OF:
        _interrupt(cpu, insn, OF_TRAP, Event.TRAP)
