"""Explanations of exits that come from memory accesses and from the translator's own way of working."""

from __future__ import annotations

from typing import Final

from emu.trace.explanation import Explanation

MEMORY: Final[dict[str, Explanation]] = {
    "MEMORY_ACCESS": Explanation(
        "The guest accessed memory that is not plain RAM to it: a device, a watched page, or a page it may not touch.",
        "The shadow page tables let only plain accesses through. The rest faults, and the interpreter executes the one "
        "instruction: it asks the device, or finds that the guest's own tables forbid the access (the page fault is "
        "then delivered as EXCEPTION_DELIVERY), or writes to a page whose code was translated (CODE_WRITE).",
        "any load or store; typically those to the local APIC, the I/O APIC and PCI devices",
        "A page fault of the machine, one emulated instruction, and the device's own work.",
        "Touch devices less, as with ports; acknowledge interrupts once; keep data away from code (see CODE_WRITE).",
        "page-table modification",
    ),
    "SHADOW_PAGE_FAULT": Explanation(
        "A hidden page fault: the guest's tables allow the access, the shadow of them lacked the entry.",
        "Shadow entries are made when they are first needed, and dropped when the guest changes or flushes them; a "
        "first store to a page faults once more, so that its dirty bit is set in time.",
        "any load or store to a page not touched since its entry was dropped",
        "A page fault of the machine, a walk of the guest's tables, one shadow entry; nothing is emulated.",
        "Large pages; fewer flushes of everything (CR3, CR4.PGE); a working set that fits.",
        "page fault",
    ),
    "CODE_WRITE": Explanation(
        "The guest wrote to a page that holds code it has executed.",
        "Translations must never be older than the code: such pages are write-protected, the store is emulated, and "
        "the blocks made from the written bytes are dropped.",
        "any store to a page that also holds executed code: self-modifying code, loaders, boot sectors, and plain data "
        "in the same 4 KiB",
        "It comes on top of a MEMORY_ACCESS; dropped blocks must be translated again when they are reached.",
        "Keep data and code in different pages; patch code rarely, and all of it at once.",
    ),
    "BLOCK_LINK": Explanation(
        "A direct jump, call or branch left the cache because it was not chained to its target yet.",
        "Each direct exit of a block leaves once; the target is then translated if need be, and the exit is patched to "
        "go there. It happens again where chaining was undone: a block was dropped or the cache flushed.",
        "JMP, Jcc, CALL, LOOP with a target in the instruction; blocks that simply end",
        "A look-up, and the translation of the target if it is new; once an exit, so it fades as a guest runs.",
        "Nothing in code that runs more than once. Self-modifying code pays again and again (see CODE_WRITE).",
    ),
    "INDIRECT_BRANCH": Explanation(
        "A return or an indirect jump missed the cache's jump table.",
        "The target is known only when it runs; a table in the cache finds it by address. A first visit misses, and "
        "so do two targets that share an entry.",
        "RET, CALL and JMP through a register or memory",
        "A page fault of the machine, one emulated instruction, a look-up; hits stay in the cache and cost no exit.",
        "Fewer different targets in one place: direct calls instead of function pointers in hot loops.",
        "call/ret",
    ),
    "SEGMENT_CHECK": Explanation(
        "An access went through a segment whose limit or type must be checked, or which the machine cannot provide.",
        "Flat segments need no check, and are copied; others are checked by the interpreter. Accesses through CS, and "
        "through GS where the monitor uses it, are its work too.",
        "loads and stores through a segment with a limit, read-only, expand-down or null; with a CS or GS override; "
        "with 32-bit addresses in 16-bit code",
        "One callout for each access.",
        "Flat segments; data out of the code segment, and 16-bit addressing in 16-bit code.",
    ),
    "FPU_STATUS": Explanation(
        "The guest looked at x87 or SSE exception flags, loaded a control word, or computes with exceptions unmasked.",
        "Unicorn keeps these flags to itself: the monitor brings them to the registers before they are seen, and where "
        "exceptions are not masked the interpreter executes each instruction.",
        "FNSTSW, FNSTENV, FNSAVE, FXSAVE, STMXCSR, FNCLEX, FNINIT; FLDCW, FLDENV, FRSTOR, FXRSTOR, LDMXCSR; all x87 or "
        "SSE instructions with unmasked exceptions",
        "A short exit, after which the instruction itself runs in the cache; a callout where exceptions are unmasked.",
        "SSE instead of x87, whose comparisons and conversions go through FNSTSW and FLDCW; masked exceptions.",
    ),
    "ALIGNMENT_CHECK": Explanation(
        "An instruction whose memory operand must be aligned ran for the first time at its place.",
        "The machine does not check alignment. So each such instruction is checked when it runs first, and copied from "
        "then on.",
        "MOVAPS, MOVDQA and the other SSE instructions with 16-byte operands",
        "The address is computed and the exit is patched away; once for each instruction, so it fades as a guest runs.",
        "Nothing in code that runs more than once.",
    ),
    "UNTRANSLATABLE": Explanation(
        "An innocuous instruction that the machine underneath would not execute exactly right.",
        "Some encodings are emulated because Unicorn gets a corner of them wrong, and RIP-relative addresses of 32 "
        "bits have no equivalent in the cache.",
        "BLSI, BZHI, BEXTR, PDEP and PEXT with their kin, MASKMOVDQU, PCMPESTRI and PCMPESTRM, ENTER, RCL and RCR in "
        "memory, POPCNT and MOVBE with unusual operand sizes; [EIP+disp] with an address-size prefix",
        "One callout for each.",
        "Rare in compiled code; leave out -mbmi and -mbmi2 where the first ones show in a hot loop.",
    ),
}
