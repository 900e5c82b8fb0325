"""The engine that runs guest code by binary translation: dispatch, and exits from the cache."""

from __future__ import annotations

from collections.abc import Callable

from emu.backends.base import LEAVE, Backend, Trap
from emu.dbt.block import Block
from emu.dbt.store import TranslationStore
from emu.engines.base import EngineCounters
from emu.engines.finder import BlockFinder
from emu.engines.light import LightExits
from emu.exits import Budget, Exit, Fault, Halt
from emu.memory import GuestMemory
from isa.base import Flow, GuestFault, Interrupted
from isa.x86.code import Piece, Site, SiteKind
from isa.x86.cpu import Cpu
from isa.x86.emit import BUDGET, PENDING
from isa.x86.incache import LOOKUP_END, LOOKUP_END_64, LOOKUP_SPILLS
from isa.x86.interp import Interpreter
from isa.x86.operands import Op
from isa.x86.rewrite import BlockMode, ends_block, traits
from isa.x86.segments import canonical
from isa.x86.sensitive import CHANGES_OF_BASES, IN_CACHE
from isa.x86.state import CS, IF, PAGE_FAULT, RCX, RDX, RF, TF
from isa.x86.views import Modes

_MAX_BUDGET = (1 << 23) - 1  # what the budget test of translated code can tell from an overdrawn one
# IN, OUT, RDTSC and plain moves: emulating them does not concern the arithmetic flags.
_QUIET = frozenset((0xE4, 0xE5, 0xE6, 0xE7, *range(0xEC, 0xF0), 0x0F31, *range(0x88, 0x8C), 0xC6, 0xC7, 0x0FB6, 0x0FB7))
_DELIVERIES = 1000  # faults delivered in a run of the cache, before somebody else has a look
_STRAY_STEPS = 64  # instructions interpreted at once where code cannot be translated
_REDISPATCHED = CHANGES_OF_BASES | {"popf"}  # emulated, they change what the machine must show
_LOOKED_UP = (Flow.RETURN, Flow.INDIRECT_JUMP, Flow.INDIRECT_CALL)
_M32 = 0xFFFFFFFF


class TranslateEngine(LightExits):
    """See `emu.engines.base.Engine`. With `exact`, `run(limit)` stops after exactly `limit` instructions.

    `observe` is called before each block, with the guest's state in the `Cpu`; blocks are then not chained.
    """

    name = "translate"

    def __init__(
        self,
        cpu: Cpu,
        memory: GuestMemory,
        backend: Backend,
        *,
        exact: bool = False,
        cache_limit: int | None = None,
        observe: Callable[[Block], None] | None = None,
        store: TranslationStore | None = None,
    ) -> None:
        exact = exact or not backend.stops_whole
        super().__init__(cpu, backend, BlockFinder(cpu, memory, backend, cache_limit, store, apart=observe is not None))
        self.cache = self._finder.cache
        self._interpreter = Interpreter(cpu)
        memory.on_watch_change.append(cpu.page_watched)
        memory.on_watched_write = self._written
        self._modes = Modes(exact)
        self._observe = observe
        self._mode = self._modes.mode(cpu)
        self._end = 0  # `cpu.retired` when the budget of this run is spent
        self._exit: Exit | None = None
        self._deferred: tuple[Block, int, int] | None = None  # a vector instruction to emulate outside the handler
        self._remainder = 0  # instructions to interpret because the budget does not cover the next block
        self.on_fault: Callable[[Fault], Exit | None] | None = None
        self._faulted = -1  # `cpu.retired` when a fault was last delivered without leaving the cache
        # Where an access was last tried again, and its address, nothing having happened since. Some never get through:
        # Unicorn's x87 loads do not wrap around at 4 GiB.
        self._retried: tuple[int, int] | None = None
        self._deliveries = 0  # faults that may still be delivered so in this run

    # -- the seam ----------------------------------------------------------------------------------------------

    def run(self, limit: int) -> Exit:
        cpu = self._cpu
        end = cpu.retired + limit
        while cpu.retired < end and not self._interrupted and not cpu.stop_requested:
            if self._one_by_one() or cpu.shadow:
                out = self.step()
            else:
                out = self._run_cache(min(end - cpu.retired, _MAX_BUDGET))
            if out is not None and not isinstance(out, Budget):
                return out
            if self._words[PENDING >> 2] and cpu.system_flags & IF:
                break
        self._interrupted = False
        return Budget()

    def step(self) -> Exit | None:
        cpu = self._cpu
        try:
            self._interpreter.step()
        except Interrupted:
            self._interrupted = True
            return None
        except GuestFault as fault:
            return self._fault_exit(fault)
        self._counters.emulated += 1
        return Halt(bool(cpu.system_flags & IF)) if cpu.halted else None

    def interrupt(self) -> None:
        self._interrupted = True
        if self._backend.stops_whole:
            self._backend.stop()

    def set_pending(self, pending: bool) -> None:
        self._words[PENDING >> 2] = int(pending)

    def mapping_changed(self, linear: int | None) -> None:
        self._finder.stale.append(linear)

    def blocks(self) -> list[Block]:
        return self.cache.blocks()

    def code(self, block: Block) -> bytes:
        return bytes(self._backend.code[block.start : block.end])

    def close(self) -> None:
        # What is left of a machine knows itself in circles, so that Python keeps it until it looks for them.
        self._finder.flush()
        self._finder.translator.forget()
        self._backend.close()

    def counters(self) -> EngineCounters:
        counters, cache = self._counters, self.cache.counters
        counters.blocks, counters.links, counters.direct_exits = cache.blocks, cache.links, cache.sites
        counters.translated_instructions, counters.guest_bytes = cache.guest_instructions, cache.guest_bytes
        counters.reused_instructions = self._finder.translator.reused
        counters.translation_seconds = self._finder.seconds
        counters.host_bytes, counters.invalidated, counters.flushes = cache.host_bytes, cache.invalidated, cache.flushes
        return counters

    def _one_by_one(self) -> bool:
        """True where something must be looked at behind each instruction: the interpreter executes it.

        RF alone, without breakpoints for it to mask, only has to be gone behind the next instruction (SDM vol. 3,
        17.3.1.1): `_pull` sees to that, because nobody looks before.
        """
        cpu = self._cpu
        flags = cpu.system_flags
        if flags & RF:
            self._resumed = cpu.retired
        return bool(flags & TF) or cpu.watching

    # -- entering and leaving the cache ------------------------------------------------------------------------

    def _run_cache(self, limit: int) -> Exit | None:
        """Run translated code from `cpu.rip`; None where nothing needs the monitor."""
        cpu, backend = self._cpu, self._backend
        self._exit, self._remainder, self._deliveries = None, 0, _DELIVERIES
        self._end = cpu.retired + limit
        try:
            pc = self._dispatch()
        except GuestFault as fault:
            return self._fault_exit(fault)
        if pc < 0:
            return self._stray()
        self._begin(limit)
        self._push()
        while True:
            pc = backend.run(pc, self._trap)
            if pc >= 0:  # somebody asked for a stop
                pc = self._stopped(pc)
                if pc < 0:
                    break
            elif self._deferred is not None:
                block, index, behind = self._deferred
                self._deferred = None
                pc = self._emulate(block, index, behind)
                if pc < 0:
                    break
                self._show(self._mode)  # the native unit changed it
            else:
                break
        for _ in range(self._remainder):
            out = self.step()
            if out is not None or cpu.stop_requested:
                return out
        return self._exit

    def _stray(self) -> Exit | None:
        """Interpret where translation is impossible: code outside RAM."""
        for _ in range(_STRAY_STEPS):
            out = self.step()
            if out is not None:
                return out
            if self._cpu.stop_requested:
                break
        return None

    def _fault_exit(self, fault: GuestFault) -> Fault:
        return Fault(fault.vector, fault.error, fault.cr2, self._cpu.rip, fault.note)

    def _finish(self, out: Exit | None) -> int:
        """Leave the cache with `out`, the `Cpu` holding the state."""
        self._exit = out
        return -1

    # -- traps -------------------------------------------------------------------------------------------------

    def _trap(self, trap: Trap) -> int:
        if trap.vector == LEAVE:
            self._retried = None
            found = self.cache.site(trap.pc)
            assert found is not None
            block, site = found
            match site.kind:
                case SiteKind.LINK:
                    return self._follow(block, site, trap.pc)
                case SiteKind.CALLOUT:
                    return self._callout(block, site.index, trap.pc)
                case SiteKind.BUDGET:
                    return self._overdrawn(block, site.index, trap.pc)
                case SiteKind.ALIGNMENT:
                    return self._align(block, site.index, trap.pc)
                case SiteKind.READ:
                    return self._read(block, site, trap.pc)
                case SiteKind.ROOT:
                    return self._load_root(block, site, trap.pc)
                case SiteKind.EXCEPTIONS | SiteKind.CONTROL:
                    return self._floating(block, site, trap.pc)
        if trap.vector == PAGE_FAULT and trap.cr2 in self._backend.layout.void.values():
            found = self.cache.site(trap.pc)
            if found is not None and found[1].kind is SiteKind.LOOKUP:
                if self._look_up_again(found[0].mode):
                    self._counters.exits["link"] += 1
                    return trap.pc
                return self._looked_up(*found)
        block_hit = self.cache.block_at(trap.pc)
        if block_hit is None:
            raise RuntimeError(f"trap {trap.vector} at cache offset {trap.pc:#x}, where no block lies")
        at_void = trap.vector == PAGE_FAULT and trap.cr2 == self._backend.layout.void[block_hit.mode.mode]
        if at_void and self._at_lookup(block_hit, trap.pc) and self._look_up_again(block_hit.mode):
            self._counters.exits["indirect"] += 1
            return trap.pc
        index = block_hit.piece_at(trap.pc)
        if at_void:
            return self._indirect(block_hit, index, trap.pc)
        if trap.vector == PAGE_FAULT and (trap.pc, trap.cr2) != self._retried and self._resolve(trap, block_hit):
            self._retried = trap.pc, trap.cr2
            self._counters.exits["hidden page fault"] += 1
            if block_hit.valid:
                return trap.pc
            self._pull(block_hit, index, trap.pc)  # setting an A or D bit dropped the block
            self._settle(block_hit, index)
            return self._go_on()
        self._retried = None
        self._pull(block_hit, index, trap.pc, True)
        self._counters.exits["memory" if trap.vector == PAGE_FAULT else f"trap {trap.vector}"] += 1
        pieces = block_hit.pieces
        behind = pieces[index + 1].start if index + 1 < len(pieces) else -1
        return self._emulate_or_defer(block_hit, index, behind)

    def _resolve(self, trap: Trap, block: Block) -> bool:
        """True where a page fault of translated code was the monitor's own, and the access can be tried again."""
        linear = trap.cr2 if block.mode.mode == 64 else trap.cr2 & _M32
        if self._cpu.smap and not block.mode.user:
            self._cpu.set_ac(self._backend.flags())
        try:
            return self._finder.mmu.resolve(linear, bool(trap.error & 2), block.mode.user)
        except GuestFault:
            return False  # the interpreter raises it again, with the state in place

    def _at_lookup(self, block: Block, at: int) -> bool:
        """True for the instruction that ends a lookup; a guest's own access may meet the void address too."""
        code = self._backend.code
        if block.mode.mode == 64:  # what is behind it tells, so that nothing of the block need be unpacked
            return LOOKUP_END_64.match(code, at) is not None
        if bytes(code[at : at + len(LOOKUP_END)]) != LOOKUP_END:
            return False
        return block.pieces[block.piece_at(at)].insn.flow in _LOOKED_UP

    def _look_up_again(self, mode: BlockMode) -> bool:
        """A jump table had no entry: True where it has one now.

        The lookup then goes on as if it had found it: with no difference in RCX.
        """
        regs, tables = self._machine_regs, self.cache.tables
        self._backend.pull(regs)
        target = tables.wanted(mode, regs[RDX], regs[RCX])
        if not (tables.fetch(mode, target) or (self._make_target(mode, target) and tables.fetch(mode, target))):
            return False
        self._backend.set_register(RCX, 0)
        return True

    def _make_target(self, mode: BlockMode, target: int) -> bool:
        """Translate the target of a jump by code that runs, and publish it.

        False where the jump must be executed by the interpreter: it may fault, or the monitor is waited for.
        """
        cpu, finder = self._cpu, self._finder
        legal = canonical(target) if mode.mode == 64 else mode.mode == 32 and cpu.segs[CS].limit == _M32
        if not legal or finder.stale or cpu.stop_requested or self._interrupted or self._observe is not None:
            return False
        flushes = self.cache.counters.flushes
        try:
            found = finder.find(mode, target)
        except GuestFault:
            return False
        if found is None or self.cache.counters.flushes != flushes:
            return False
        self._counters.dispatches += 1
        finder.translator.publish(found)
        return True

    def _callout(self, block: Block, index: int, behind: int) -> int:
        self._pull(block, index, behind - self._leave_size, True)
        pieces = block.pieces
        reason = pieces[index].reason
        self._counters.exits[reason] += 1
        if reason in IN_CACHE:  # the exit lies inside the sequence that the interpreter now replaces
            behind = pieces[index + 1].start if index + 1 < len(pieces) and reason not in _REDISPATCHED else -1
        return self._emulate_or_defer(block, index, behind)

    def _emulate_or_defer(self, block: Block, index: int, behind: int) -> int:
        piece = block.pieces[index]
        if piece.bound is None:
            self._bind(piece)
        if piece.vector:  # its native unit is this very machine, which is running
            self._deferred = (block, index, behind)
            return -1
        return self._emulate(block, index, behind)

    def _bind(self, piece: Piece) -> tuple[Op, int]:
        insn = piece.insn
        piece.bound = self._interpreter.bound(insn, piece.guest_pc)
        piece.quiet = insn.opcode in _QUIET
        piece.vector, piece.ends = traits(insn).vector, piece.last and ends_block(insn)
        return piece.bound

    def _emulate(self, block: Block, index: int, behind: int) -> int:
        """Execute instruction `index` of `block` by the interpreter and go on: at cache offset `behind` if possible."""
        cpu = self._cpu
        piece = block.pieces[index]
        start = piece.guest_pc
        bound = piece.bound or self._bind(piece)
        try:
            self._interpreter.perform(*bound)
        except GuestFault as fault:
            self._settle_flags()
            if not fault.behind:
                self._account(block, index)
                self._settle(block, index)
                if isinstance(fault, Interrupted):
                    self._interrupted = True  # so that the monitor gets to see what the time is
                    return self._finish(Budget())
                return self._raise(fault)
            self._settle(block, index + 1)
            return self._raise(fault)
        self._counters.emulated += 1
        if cpu.halted:
            self._settle_flags()
            self._settle(block, index + 1)
            return self._finish(Halt(bool(cpu.system_flags & IF)))
        waiting = self._words[PENDING >> 2] and cpu.system_flags & IF
        if cpu.stop_requested or self._interrupted or waiting:
            self._settle_flags()
            self._settle(block, index + 1)
            return self._finish(Budget())
        cpu.shadow = False  # no interrupt can arrive before the next instruction has run
        if piece.vector and self._modes.unmasked(cpu) != block.mode.unmasked:
            behind = -1
        if behind >= 0 and block.valid and not piece.ends and not self._finder.stale:
            size = len(piece.raw)
            if cpu.rip == (start + size if block.mode.mode == 64 else start + size & _M32):
                self._push()
                return behind
        self._settle_flags()
        self._settle(block, index + 1)
        return self._go_on()

    def _go_on(self) -> int:
        cpu = self._cpu
        if self._one_by_one() or cpu.retired >= self._end:
            return self._finish(Budget())
        try:
            pc = self._dispatch()
        except GuestFault as fault:
            return self._raise(fault)
        if pc < 0:
            return self._finish(Budget())
        self._push()
        return pc

    def _raise(self, fault: GuestFault) -> int:
        """Have a fault delivered, with the state in the `Cpu`, and go on at its handler.

        The monitor must see a guest that faults again and again, which takes long although few instructions retire.
        """
        cpu, out = self._cpu, self._fault_exit(fault)
        if self.on_fault is None or cpu.retired == self._faulted or not self._deliveries:
            return self._finish(out)
        self._faulted = cpu.retired
        self._deliveries -= 1
        over = self.on_fault(out)
        if over is not None:
            return self._finish(over)
        if cpu.stop_requested or self._interrupted or (self._words[PENDING >> 2] and cpu.system_flags & IF):
            return self._finish(Budget())
        return self._go_on()

    def _follow(self, block: Block, site: Site, behind: int) -> int:
        """A direct branch left the cache because it is not chained: find its target, chain, go on there."""
        cpu = self._cpu
        self._counters.dispatches += 1
        self._counters.exits["link"] += 1
        if cpu.stop_requested or self._interrupted:
            return self._leave_at(block, site.target)
        if self._observe is not None:
            self._leave_at(block, site.target)
            return self._go_on()
        flushes = self.cache.counters.flushes
        try:
            target = self._finder.find(self._mode, site.target)
        except GuestFault as fault:
            self._leave_at(block, site.target)
            return self._raise(fault)
        if target is None:
            return self._leave_at(block, site.target)
        if block.valid and self.cache.counters.flushes == flushes:
            self._finder.chain(behind, block, target)
        return target.entry

    def _looked_up(self, block: Block, site: Site) -> int:
        """A direct branch of user code to another page found no entry in the jump table: make one, and go on there."""
        self._leave_at(block, site.target)
        self._pull_spilled(block, LOOKUP_SPILLS)
        self._counters.exits["link"] += 1
        pc = self._go_on()
        if pc >= 0 and self._observe is None:
            self._finder.publish(pc)
        return pc

    def _leave_at(self, block: Block, pc: int) -> int:
        """Leave the cache behind `block`, which is complete, with the guest at `pc`."""
        self._pull(block, block.code.charge - 1, -1)
        self._cpu.retired = self._harvest()  # nothing of what was charged is left over
        self._cpu.system_flags &= ~RF
        self._cpu.rip = pc
        return self._finish(Budget())

    def _indirect(self, block: Block, index: int, host: int) -> int:
        """A jump table had no entry: execute the transfer, then fill the table for the next time."""
        self._pull(block, index, host)
        self._counters.exits["indirect"] += 1
        self._counters.dispatches += 1
        pc = self._emulate(block, index, -1)
        if pc >= 0 and self._observe is None:
            self._finder.publish(pc)
        return pc

    def _overdrawn(self, block: Block, index: int, behind: int) -> int:
        """The budget does not cover this block: interpret what is left of it."""
        self._pull(block, index, behind - self._leave_size)
        self._settle(block, index)
        self._remainder = self._words[BUDGET >> 2]
        return self._finish(None)

    def _stopped(self, pc: int) -> int:
        """The machine stopped at cache offset `pc`: the offset to go on at to reach a guest instruction, or -1."""
        exit_site = self.cache.site(pc + self._leave_size)
        if exit_site is not None and exit_site[1].kind is SiteKind.LINK and exit_site[1].stub == pc:
            return self._leave_at(exit_site[0], exit_site[1].target)
        block = self.cache.block_at(pc)
        if block is None:
            return pc
        index = block.piece_at(pc)
        piece = block.pieces[index]
        if pc != piece.start and not (index == 0 and pc == block.entry):
            return pc  # in the middle of an emulated sequence: the next stop finds a better place
        cpu = self._cpu
        resuming = cpu.system_flags & RF
        self._pull(block, index, pc)
        cpu.retired = self._harvest() + index - (block.code.charge if index > block.code.counted_at else 0)
        if cpu.retired == self._resumed:
            cpu.system_flags |= resuming
        cpu.shadow = index > 0 and block.pieces[index - 1].reason == "sti"
        return self._finish(Budget())

    # -- dispatch ----------------------------------------------------------------------------------------------

    def _dispatch(self) -> int:
        """Cache offset of the block at `cpu.rip` in the present mode, which becomes the machine's view; -1: none."""
        cpu, finder = self._cpu, self._finder
        if finder.stale:
            finder.settle()
        self._mode = self._modes.mode(cpu)
        if self._mode.mode != 64 and not finder.mmu.window.wanted and cpu.long_mode:
            finder.mmu.want_window()
        self._counters.dispatches += 1
        block = finder.find(self._mode, cpu.rip)
        if block is not None and self._observe is not None:
            self._observe(block)
        if self._mode.user:
            self.cache.tables.select(self._mode)
        self._show(self._mode)
        return -1 if block is None else block.entry

    def _written(self, gpa: int, size: int) -> None:
        if self._finder.written(gpa, size):
            self._counters.exits["code write"] += 1
