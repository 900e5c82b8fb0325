"""The interpreter: binds decoded instructions to their semantics, one at a time or as blocks that it remembers."""

from __future__ import annotations

from collections.abc import Mapping
from operator import length_hint
from typing import Final

from isa.base import Flow, GuestFault, Unimplemented
from isa.x86 import (
    alu,
    bcd,
    bits,
    bound,
    branch,
    debug,
    exchange,
    move,
    muldiv,
    native,
    segments,
    sensitive,
    shifts,
    stack,
    strings,
    system,
)
from isa.x86.blocks import Block, BlockKey, BlockStore
from isa.x86.cpu import MASK32, MASK64, Cpu
from isa.x86.decode import MAX_LENGTH, Decoder, Insn
from isa.x86.operands import Binder, Op
from isa.x86.state import CS, GP, IF, RF, TF, UD

VEX: Final = 1 << 24  # added to the opcode of a VEX-encoded instruction in the keys of BINDERS
MAX_BLOCK: Final = 64
_BOUND_LIMIT: Final = 50_000
_PREFIXES: Final = frozenset((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65))
_MEANINGLESS: Final = frozenset((0xF0, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65))  # for the length of an instruction


def merge(*families: Mapping[int, Binder]) -> dict[int, Binder]:
    """One table of all families; ValueError where two of them claim an opcode."""
    merged: dict[int, Binder] = {}
    for family in families:
        twice = merged.keys() & family.keys()
        if twice:
            raise ValueError(f"opcodes bound by two families: {', '.join(f'{key:#x}' for key in sorted(twice))}")
        merged.update(family)
    return merged


_GROUP3: Final = (0xF6, 0xF7)  # by ModRM.reg in two families: TEST, NOT, NEG; and multiplications and divisions


def _group3(insn: Insn, pc: int) -> Op:
    binder = alu.GROUP3.get(insn.reg_field)
    return (muldiv.BINDERS[insn.opcode] if binder is None else binder)(insn, pc)


BINDERS: Final[dict[int, Binder]] = merge(
    alu.BINDERS, move.BINDERS, stack.BINDERS, branch.BINDERS, strings.BINDERS, shifts.BINDERS, bits.BINDERS,
    bcd.BINDERS, bound.BINDERS, exchange.BINDERS, dict.fromkeys(_GROUP3, _group3),
    {opcode: binder for opcode, binder in muldiv.BINDERS.items() if opcode not in _GROUP3},
)  # fmt: skip


def _undefined(cpu: Cpu) -> None:
    raise GuestFault(UD)


def _system(insn: Insn, pc: int, name: str) -> Op:
    perform = system.SYSTEM.get(name)
    if perform is None:
        raise Unimplemented(f"system instruction {name!r} ({insn.text()}) at {pc:#x}")
    following = pc + insn.size & (MASK64 if insn.mode == 64 else MASK32)

    def sensitive_op(cpu: Cpu) -> None:
        cpu.rip = pc
        perform(cpu, insn)
        if cpu.transferred:
            cpu.transferred = False
        elif cpu.rip == pc:
            cpu.rip = following

    return sensitive_op


def _no_instruction(cpu: Cpu, pc: int) -> None:
    """#GP for an instruction longer than 15 bytes (SDM vol. 3, 6.15, #GP), #UD for all else that is none."""
    code = cpu.fetch(cpu.code_linear(pc))
    if len(code) == MAX_LENGTH and _goes_on(code, cpu.mode):
        raise GuestFault(GP, 0, note="instruction longer than 15 bytes")
    raise GuestFault(UD)


def _goes_on(code: bytes, mode: int) -> bool:
    """True where 15 bytes are the beginning of an instruction: the same with fewer prefixes is one, and as long."""
    prefixes = next((at for at, byte in enumerate(code) if byte not in _PREFIXES), MAX_LENGTH)
    if prefixes >= MAX_LENGTH - 1:
        return True
    kept = bytes(dict.fromkeys(byte for byte in code[:prefixes] if byte not in _MEANINGLESS))
    insn = Decoder(mode).decode((kept + code[prefixes:]).ljust(2 * MAX_LENGTH, b"\0"))
    if insn is None or insn.flow is Flow.INVALID:
        return False
    return insn.size + prefixes - len(kept) > MAX_LENGTH


def bind(insn: Insn, pc: int) -> Op:
    """The closure that performs `insn` at offset `pc` of its code segment on a `Cpu`.

    It raises GuestFault with nothing changed. Control transfers and system instructions leave the next offset in
    `cpu.rip`; all others leave `cpu.rip` alone. Bytes that are no instruction give a closure that raises #UD.
    """
    if insn.flow is Flow.INVALID:
        return lambda cpu: _no_instruction(cpu, pc)
    if not sensitive.lock_is_legal(insn):
        return _undefined
    row = sensitive.row_of(insn)
    if row is not None:
        return _system(insn, pc, row.name)
    if insn.opcode == 0x0FAE and not insn.vex:
        fence = move.fence(insn, pc)
        if fence is not None:
            return fence
    if insn.rep == 0xF2 and insn.opcode in (0x0F38F0, 0x0F38F1):
        return bits.crc32(insn, pc)  # without the prefix these opcodes are MOVBE
    binder = BINDERS.get(insn.opcode | VEX if insn.vex else insn.opcode)
    if binder is not None:
        return binder(insn, pc)
    return native.bind(insn, pc) or _undefined


class Interpreter:
    """Executes guest instructions on one `Cpu`.

    `written` and `invalidate` keep the remembered blocks coherent with memory and are to be called after every write to
    a page that this object asked `cpu.memory` to watch (by the guest, a device or the monitor).
    """

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self._decoders = {mode: Decoder(mode) for mode in (16, 32, 64)}
        self._bound: dict[tuple[bytes, int, int], tuple[Op, int]] = {}
        self._store = BlockStore(self._watch, cpu.memory.unwatch)
        self._flushes = cpu.flushes

    # -- coherency ----------------------------------------------------------------------------------------------

    def written(self, gpa: int, size: int) -> None:
        """Bytes [gpa, gpa+size) of a watched page changed: drop the blocks made from them, at once."""
        self._store.written(gpa, size)

    def invalidate(self, page: int) -> None:
        """Drop every block made from guest-physical page number `page`."""
        self._store.written(page << 12, 0x1000)

    # -- one instruction ----------------------------------------------------------------------------------------

    def step(self) -> None:
        """Execute exactly one instruction at `cpu.rip`; raises GuestFault with `cpu.rip` on it and nothing changed.

        A fault with `behind` set is the exception: it comes after the instruction, as traps of single steps (TF) and
        breakpoints do.
        """
        try:
            if self.cpu.watching:
                self._check_breakpoints()
            operation, size = self._bound_at(self.cpu.rip)
        except GuestFault:
            self.cpu.shadow = False  # delivering the fault ends it
            raise
        self.perform(operation, size)

    def perform(self, operation: Op, size: int) -> None:
        """`step` for an instruction that is known already: what `bound` gave for it at `cpu.rip`."""
        cpu = self.cpu
        pc, shadow, flags = cpu.rip, cpu.shadow, cpu.system_flags
        if flags & (TF | RF):
            cpu.system_flags = flags & ~RF  # at once, so that an instruction that loads RF keeps it
            if flags & TF:
                cpu.debug_pending |= debug.DR6_BS
        try:
            operation(cpu)
        except GuestFault as fault:
            cpu.transferred = cpu.shadow = False
            if fault.behind:
                cpu.retired += 1
            else:
                cpu.rip = pc
                cpu.system_flags |= flags & RF
            cpu.debug_pending = 0
            raise
        if size:
            cpu.rip = pc + size & (MASK64 if cpu.mode == 64 else MASK32)
        cpu.retired += 1
        if shadow:
            cpu.shadow = False
        if cpu.debug_pending and not (cpu.shadow and cpu.stack_shadow):
            raise debug.exception(cpu, True)

    def _check_breakpoints(self) -> None:
        """Raise the #DB that comes before the instruction at RIP, or before it is even fetched (SDM vol. 3, 6.9)."""
        cpu = self.cpu
        if cpu.shadow and cpu.stack_shadow:
            return  # SDM vol. 3, 6.8.3
        if cpu.debug_pending:  # met while an event was delivered, or by the task switch that did so
            raise debug.exception(cpu, True)
        if not cpu.system_flags & RF:
            cpu.debug_pending = debug.instruction_hits(cpu, cpu.code_linear(cpu.rip))
            if cpu.debug_pending:
                raise debug.exception(cpu, False)

    def bound(self, insn: Insn, pc: int) -> tuple[Op, int]:
        """The closure that executes `insn` at `pc`, and its size where it is straight-line code (else 0)."""
        ends = insn.flow is not Flow.NEXT or sensitive.row_of(insn) is not None
        return bind(insn, pc), 0 if ends else insn.size

    def _bound_at(self, pc: int) -> tuple[Op, int]:
        """The closure of the instruction at `pc`, and its size where it is straight-line code (else 0)."""
        cpu = self.cpu
        code = self._code(pc)
        key = (code, pc, cpu.mode)
        found = self._bound.get(key)
        if found is None:
            found = self.bound(self._decode(code, pc), pc)
            if len(self._bound) >= _BOUND_LIMIT:
                self._bound.clear()
            self._bound[key] = found
        return found

    def _code(self, pc: int) -> bytes:
        """The bytes at `pc`, up to 15, within the limit of CS and the canonical range."""
        cpu = self.cpu
        if cpu.mode == 64:
            if not segments.canonical(pc):
                raise GuestFault(GP, 0)
            return cpu.fetch(pc)
        segment = cpu.segs[CS]
        room = segment.limit - pc + 1
        if room <= 0:
            raise GuestFault(GP, 0, note=f"execution at {pc:#x}, beyond the limit of CS")
        return cpu.fetch(segment.base + pc & MASK32)[:room]

    def _decode(self, code: bytes, pc: int) -> Insn:
        cpu = self.cpu
        insn = self._decoders[cpu.mode].decode(code)
        if insn is None:  # the instruction goes on where nothing can be fetched
            if cpu.mode != 64 and pc + len(code) > cpu.segs[CS].limit:
                raise GuestFault(GP, 0, note=f"instruction at {pc:#x} crosses the limit of CS")
            cpu.fetch_check(cpu.code_linear(pc + len(code)))
            raise GuestFault(UD)  # the page came within reach after all, but what was there is no instruction
        return insn

    # -- many instructions --------------------------------------------------------------------------------------

    def run(self, limit: int) -> int:
        """Execute up to `limit` instructions; returns how many retired.

        Returns early when `cpu.stop_requested` is set (seen at the end of a block), after HLT, when interrupts became
        possible (IF went from 0 to 1, or an interrupt shadow ended), so that the caller can deliver one. A GuestFault
        leaves with `cpu.rip` on the faulting instruction and `cpu.retired` counting those before it.
        """
        cpu, store = self.cpu, self._store
        start, end = cpu.retired, cpu.retired + limit
        while cpu.retired < end:
            if cpu.shadow or cpu.system_flags & (TF | RF) or cpu.watching:
                shadow, interrupts = cpu.shadow, cpu.system_flags & IF
                self.step()
                if shadow or cpu.stop_requested or cpu.halted or cpu.system_flags & IF & ~interrupts:
                    break
                continue
            if cpu.flushes != self._flushes:
                self._flushes = cpu.flushes
                store.unlink_all()
            interrupts = cpu.system_flags & IF
            self._run_blocks(end)
            if cpu.stop_requested or cpu.halted or cpu.system_flags & IF & ~interrupts:
                break
        return cpu.retired - start

    def _run_blocks(self, end: int) -> None:
        """Run blocks until `cpu.retired` is `end`, a system instruction retired, or a stop was asked for."""
        cpu, store = self.cpu, self._store
        code = cpu.segs[CS]
        key = (cpu.mode, code.base, code.limit, cpu.cpl == 3)
        reachable = store.space(key)
        while True:
            block = reachable.get(cpu.rip)
            if block is None:
                block = self._find(cpu.rip)
                if block.spans:
                    store.link(key, cpu.rip, block)
            operations, count = block.operations, block.count
            left = end - cpu.retired
            if count > left:
                operations, count = operations[:left], left
            cpu.rip = block.pcs[count]
            store.running, store.operations = block, operations
            # A write that changes this very block shortens `operations` behind the instruction that wrote it: the
            # list's own iterator tells how far it has come, so that the loop itself need not count.
            store.cursor = cursor = iter(operations)
            try:
                for operation in cursor:
                    operation(cpu)
            except GuestFault as fault:
                done = len(operations) - length_hint(cursor) - 1
                cpu.transferred = False
                cpu.retired += done
                if fault.behind:
                    cpu.retired += 1
                else:
                    cpu.rip = block.pcs[done]
                raise
            finally:
                store.running = None
            ran = len(operations)
            cpu.retired += ran
            if ran != count:
                cpu.rip = block.pcs[ran]
                continue
            if block.system or cpu.stop_requested or cpu.retired >= end:
                return

    def _watch(self, page: int) -> None:
        self.cpu.memory.watch(page)
        self.cpu.page_watched(page)

    def _find(self, pc: int) -> Block:
        """The block at `pc`, from the store or made now; raises the GuestFault of fetching its first instruction."""
        cpu = self.cpu
        code = self._code(pc)
        linear = cpu.code_linear(pc)
        gpa = cpu.fetch_check(linear)
        key = (gpa, pc, cpu.mode, 0 if cpu.mode == 64 else cpu.segs[CS].limit)
        block = self._store.get(key)
        if block is not None:
            if block.second < 0 or block.second == cpu.fetch_check((linear | 0xFFF) + 1):
                return block
            self._store.drop(block)
        block = self._build(key, code)
        end = gpa + (block.pcs[-1] - pc & MASK32)
        if cpu.memory.ram_offset(gpa) < 0:
            return block  # MMIO: writes cannot be traced, so nothing is remembered
        block.spans.append((gpa, min(end, (gpa | 0xFFF) + 1)))
        over = end - (gpa | 0xFFF) - 1
        if over > 0:
            block.second = cpu.fetch_check((linear | 0xFFF) + 1)
            if cpu.memory.ram_offset(block.second) < 0:
                block.spans.clear()
                return block
            block.spans.append((block.second, block.second + over))
        self._store.add(block)
        return block

    def _build(self, key: BlockKey, code: bytes) -> Block:
        """Bind instructions from the offset in `key` on, up to a control transfer, the end of the page or MAX_BLOCK.

        A system instruction, and one that reaches into the next page, makes a block of its own.
        """
        gpa, pc, mode, _ = key
        wrap = MASK64 if mode == 64 else MASK32
        operations: list[Op] = []
        pcs, at, room, system = [pc], pc, 0x1000 - (gpa & 0xFFF), False
        while True:
            insn = self._decode(code, at)
            system = sensitive.row_of(insn) is not None
            if operations and (system or insn.size > room):
                system = False
                break
            operations.append(bind(insn, at))
            at = at + insn.size & wrap
            pcs.append(at)
            room -= insn.size
            if system or room <= 0 or insn.flow is not Flow.NEXT or len(operations) == MAX_BLOCK:
                break
            try:
                code = self._code(at)
                if self._decoders[mode].decode(code) is None:
                    break
            except GuestFault:
                break  # raised again when execution gets there
        return Block(key, operations, pcs, system)
