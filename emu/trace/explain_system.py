"""Explanations of exits that one sensitive instruction or an event of the CPU causes."""

from __future__ import annotations

from typing import Final

from emu.trace.explanation import Explanation

_CALLOUT: Final = "One callout: leave the cache, emulate one instruction, come back into the same block."
_ENDING: Final = (
    "One callout, and the block ends there: the next one is looked up by address and mode before the guest goes on."
)
_UNDEFINED: Final = "One callout and the delivery of an exception."
_NO_HARDWARE_EXIT: Final = "Under hardware virtualization it does not leave the guest; here the monitor must see it"

SYSTEM: Final[dict[str, Explanation]] = {
    "IO_INSTRUCTION": Explanation(
        "The guest read or wrote an I/O port.",
        "Ports belong to the board: the monitor checks IOPL and the I/O permission bitmap and asks the virtual device.",
        "IN, OUT, INS, OUTS; with REP each element is an access",
        f"{_CALLOUT} The device's own work comes on top, as its own part.",
        "Touch ports less: leave the UART's FIFO to collect bytes and do not poll its status before each one, mask "
        "timers that are not needed, or use a virtio device, which moves many bytes for one access.",
        "in",
    ),
    "HLT": Explanation(
        "The guest waits for an interrupt.",
        "The monitor sleeps until a device has something to say; its time is idle time, not work.",
        "HLT",
        "The sleep itself, which ends with the next timer or input; then the delivery of the interrupt.",
        "Nothing is wrong with it: a guest that spins instead costs the host a whole CPU. Slower timer ticks wake it "
        "less often.",
    ),
    "CPUID": Explanation(
        "The guest asked what the CPU can do.",
        "The answer must describe the virtual CPU, not the host's; Popek and Goldberg call such an instruction "
        "sensitive, and it is not privileged.",
        "CPUID",
        _CALLOUT,
        "Ask once and keep the answer; as a serializing instruction, use another one (MFENCE, LFENCE, or IRET on the "
        "way out of a handler).",
    ),
    "SERIALIZE": Explanation(
        "The guest had everything before this point completed.",
        "Translated code runs nothing ahead, so there is nothing to do; the processor underneath may not know the "
        "instruction.",
        "SERIALIZE",
        "Nothing under translation: no code is made for it. The interpreter does no more.",
        "Use it: it is cheaper here than CPUID or IRET, which serialize as well.",
    ),
    "MSR_READ": Explanation(
        "The guest read a model-specific register.",
        "MSRs hold the virtual CPU's own state (EFER, FS and GS bases, the APIC's base, TSC deadline).",
        "RDMSR",
        _CALLOUT,
        "Keep a copy of what only the guest itself changes, such as the GS base.",
    ),
    "MSR_WRITE": Explanation(
        "The guest wrote a model-specific register.",
        "The value may change mode, address translation or a timer, so what follows may have to be translated anew.",
        "WRMSR",
        _ENDING,
        "Write only what changes; program the timer once a tick, not more often.",
    ),
    "CR_ACCESS": Explanation(
        "The guest read or changed a control register.",
        "CR0, CR3 and CR4 steer address translation and protection, which the monitor's shadow page tables must "
        "follow; CR8 is the APIC's task priority.",
        "MOV from and to CR0, CR2, CR3, CR4, CR8; LMSW; CLTS",
        f"{_ENDING} A new CR3 or a change of paging bits also makes the shadow tables follow, which later shows as "
        "SHADOW_PAGE_FAULT.",
        "Switch address spaces only where they differ; keep copies of CR0 and CR4 instead of reading them; mark kernel "
        "pages global (CR4.PGE), and use INVLPG where single pages change.",
        "CR8 write",
    ),
    "DR_ACCESS": Explanation(
        "The guest read or changed a debug register.",
        "Breakpoints are the interpreter's to watch for: while one is on, the guest runs one instruction at a time.",
        "MOV from and to DR0 to DR7",
        _ENDING,
        "Switch debug registers only for tasks that use them, and leave DR7's enable bits clear.",
    ),
    "GDTR_IDTR": Explanation(
        "The guest loaded or stored the address of its descriptor or interrupt table.",
        "The machine's real tables are the monitor's; storing is allowed in user mode and would show those.",
        "LGDT, LIDT, SGDT, SIDT",
        _CALLOUT,
        "Load them once; CR4.UMIP keeps programs from storing them.",
    ),
    "LDTR_TR": Explanation(
        "The guest loaded or stored the selector of its local descriptor table or of its task state segment.",
        "As with GDTR_IDTR: the machine's own registers hold the monitor's values.",
        "LLDT, LTR, SLDT, STR",
        _CALLOUT,
        "Share one task state segment and change the stack pointer within it; leave LDTs alone.",
    ),
    "RDTSC": Explanation(
        "The guest read the time-stamp counter.",
        "Guest time is the monitor's: it stands still while the guest does, and with --deterministic it counts "
        "instructions.",
        "RDTSC",
        _CALLOUT,
        "Read it less often: once a scheduling decision, not once a loop of a delay; a timer is cheaper than spinning.",
    ),
    "RDTSCP": Explanation(
        "The guest read the time-stamp counter and the processor's number.",
        "As RDTSC; the number comes from IA32_TSC_AUX.",
        "RDTSCP",
        _CALLOUT,
        "As for RDTSC; the number of the CPU is also in the guest's own per-CPU data.",
    ),
    "RDPMC": Explanation(
        "The guest read a performance counter.",
        "The virtual CPU has none, and CPUID says so; the guest gets an exception.",
        "RDPMC",
        _UNDEFINED,
        "Ask CPUID leaf 0Ah first.",
    ),
    "RDRAND": Explanation(
        "The guest asked for a random number.",
        "CPUID does not show the feature, because a run must be repeatable; the guest gets an exception.",
        "RDRAND",
        _UNDEFINED,
        "Ask CPUID first; take randomness from the virtio entropy device.",
    ),
    "RDSEED": Explanation(
        "The guest asked for a random seed.",
        "As RDRAND: the feature is not shown.",
        "RDSEED",
        _UNDEFINED,
        "Ask CPUID first; take randomness from the virtio entropy device.",
    ),
    "INVLPG": Explanation(
        "The guest flushed one page from the translation buffer.",
        "It says that a page-table entry changed: the shadow entry and code looked up through it must go.",
        "INVLPG",
        f"{_ENDING} The next access to the page is a SHADOW_PAGE_FAULT.",
        "Flush only entries that were present: those that were not are never remembered.",
        "page-table modification",
    ),
    "INVPCID": Explanation(
        "The guest asked to flush translations of some address spaces.",
        "CPUID does not show the instruction; the guest gets an exception.",
        "INVPCID",
        _UNDEFINED,
        "Ask CPUID first; use INVLPG.",
    ),
    "INVD": Explanation(
        "The guest dropped the CPU's caches.",
        "It is privileged, so the monitor has to look at it; there is nothing to drop.",
        "INVD",
        _CALLOUT,
        "Firmware aside, no guest needs it.",
    ),
    "WBINVD": Explanation(
        "The guest wrote the CPU's caches back.",
        "It is privileged, so the monitor has to look at it; memory is always up to date.",
        "WBINVD",
        _CALLOUT,
        "CLFLUSH does it for single lines and stays in the cache.",
    ),
    "XSETBV": Explanation(
        "The guest chose which vector state is on.",
        "CPUID does not show XSAVE; the guest gets an exception.",
        "XSETBV",
        _UNDEFINED,
        "Ask CPUID (OSXSAVE) first.",
    ),
    "MONITOR_INSTRUCTION": Explanation(
        "The guest named an address to wait for a store to.",
        "CPUID does not show the instruction; the guest gets an exception.",
        "MONITOR",
        _UNDEFINED,
        "Ask CPUID first; idle with HLT.",
    ),
    "MWAIT_INSTRUCTION": Explanation(
        "The guest waits for a store or an interrupt.",
        "CPUID does not show the instruction; the guest gets an exception.",
        "MWAIT",
        _UNDEFINED,
        "Ask CPUID first; idle with HLT.",
    ),
    "EXTERNAL_INTERRUPT": Explanation(
        "A device's interrupt was delivered to the guest.",
        "The interrupt controller has one for the CPU, interrupts are on, and the monitor enters the guest's handler: "
        "the frame is pushed and the gate checked by the interpreter.",
        "none: it comes from a timer, a UART, a disk ...; STI, POPF or IRET may be what lets it in",
        "The delivery, and the dispatch to the handler; the handler's own exits (end of interrupt, IRET) are counted "
        "apart.",
        "Fewer interrupts: a slower or a tickless timer, FIFOs, virtio with its notifications suppressed.",
    ),
    "PREEMPTION_TIMER": Explanation(
        "The monitor took the guest off the CPU to look around.",
        "A time or an instruction limit was reached, or a device's timer is due.",
        "none",
        "Saving and restoring the state at a block's boundary.",
        "Nothing: it keeps time right.",
    ),
    "SMSW": Explanation(
        "The guest read the lower half of CR0 without privilege.",
        f"{_NO_HARDWARE_EXIT}, because the machine's CR0 is the monitor's.",
        "SMSW",
        _CALLOUT,
        "In a kernel read CR0 once and keep it; CR4.UMIP keeps programs from it.",
    ),
    "INTERRUPT_FLAG": Explanation(
        "The guest changed or read the interrupt flag where that could not be done within the cache.",
        "The flag is virtual. Usually a short sequence in the cache stands for these instructions; it cannot where "
        "the privilege level or IOPL forbids them, in some operand sizes, and where an interrupt waits to be let in.",
        "CLI, STI, PUSHF, POPF",
        _CALLOUT,
        "Fewer critical sections that switch interrupts off and on; POPF where flags have changed only.",
    ),
    "SOFTWARE_INTERRUPT": Explanation(
        "The guest called an interrupt handler.",
        "The gate is in the guest's own table, and the target's privilege and stack differ.",
        "INT n, INT3, INTO, INT1",
        f"{_ENDING} The interpreter checks the gate and pushes the frame.",
        "SYSCALL is shorter than INT n; BIOS services that move many bytes at once are cheaper than one call a byte.",
        "syscall",
    ),
    "IRET": Explanation(
        "The guest returned from a handler.",
        "It may change privilege, segments, flags and mode at once; translated code knows only one of each.",
        "IRET, IRETD, IRETQ",
        _ENDING,
        "Return from system calls by SYSRET, and from nested kernel code by RET with POPF.",
        "syscall",
    ),
    "FAR_TRANSFER": Explanation(
        "The guest jumped, called or returned to another code segment.",
        "The selector is looked up in the guest's descriptor table, and a gate or a task may be behind it.",
        "JMP, CALL and RET far",
        _ENDING,
        "Near transfers within one flat code segment.",
    ),
    "SYSTEM_CALL": Explanation(
        "A program entered the kernel.",
        "Privilege, code and stack segments and, as a rule, GS change: the guest's kernel runs at another real "
        "privilege level than it thinks (ring compression).",
        "SYSCALL, SYSENTER",
        _ENDING,
        "Fewer, larger system calls; time and the like from a page shared with the kernel.",
        "syscall",
    ),
    "SYSTEM_RETURN": Explanation(
        "The kernel returned to a program.",
        "As SYSTEM_CALL, the other way.",
        "SYSRET, SYSEXIT",
        _ENDING,
        "As for SYSTEM_CALL.",
        "syscall",
    ),
    "SEGMENT_LOAD": Explanation(
        "The guest loaded a segment register.",
        f"{_NO_HARDWARE_EXIT}: the descriptor comes from the guest's table, and blocks depend on bases and limits.",
        "MOV to, and POP of, DS, ES, SS, FS, GS; LDS, LES, LFS, LGS, LSS",
        _ENDING,
        "Set segments up once and stay flat; 64-bit kernels need not reload DS and ES at each entry.",
    ),
    "SEGMENT_STORE": Explanation(
        "The guest read a segment register.",
        f"{_NO_HARDWARE_EXIT}: the machine's selectors are the monitor's, with another privilege level in them.",
        "MOV from, and PUSH of, a segment register",
        _CALLOUT,
        "In 32-bit code, do not save segments that never change at each entry.",
    ),
    "SEGMENT_QUERY": Explanation(
        "The guest asked about a descriptor.",
        f"{_NO_HARDWARE_EXIT}: the answer lies in the guest's tables, and privilege levels count.",
        "LAR, LSL, VERR, VERW, ARPL",
        _CALLOUT,
        "LSL is sometimes used to read the CPU's number: RDTSCP or per-CPU data do as well; VERW also serves to clear "
        "CPU buffers (mitigations=off in Linux).",
    ),
    "SEGMENT_BASE": Explanation(
        "The guest read or changed the base of FS or GS where it may not, or to what is no address.",
        "In 64-bit code the machine's bases are the guest's, and these instructions stay in the cache; but the machine "
        "would not refuse what the guest's CPU must.",
        "SWAPGS outside CPL 0; RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE without CR4.FSGSBASE or with a base that is not "
        "canonical",
        "One callout, and the exception.",
        "Set CR4.FSGSBASE where CPUID has it, and check bases that come from users.",
    ),
    "SMAP_FLAG": Explanation(
        "The guest opened or closed a window for the kernel to reach user memory.",
        "The instructions are privileged and change EFLAGS.AC, on which accesses to user memory depend.",
        "STAC, CLAC in code of 16 bits, or whose stack segment is not flat; elsewhere they stay in the cache",
        _CALLOUT,
        "Use a flat stack segment.",
    ),
    "XGETBV": Explanation(
        "The guest asked which vector state is on.",
        "CPUID does not show XSAVE; the guest gets an exception.",
        "XGETBV",
        _UNDEFINED,
        "Ask CPUID (OSXSAVE) first.",
    ),
    "XSAVE": Explanation(
        "The guest saved or restored extended state.",
        "CPUID does not show XSAVE; the guest gets an exception.",
        "XSAVE, XRSTOR and their kin",
        _UNDEFINED,
        "Use FXSAVE and FXRSTOR, which are copied into the cache as they are.",
    ),
    "PROTECTION_KEY": Explanation(
        "The guest read or changed the rights of protection keys.",
        "CPUID does not show them; the guest gets an exception.",
        "RDPKRU, WRPKRU",
        _UNDEFINED,
        "Ask CPUID first.",
    ),
    "UNDEFINED_INSTRUCTION": Explanation(
        "The guest executed an instruction that this CPU does not have.",
        "It is undefined everywhere (UD2, LOCK where it is not allowed), or belongs to a feature that CPUID does not "
        "show, and must not run by accident because the host has it.",
        "UD0, UD1, UD2, undefined bytes; AVX, AES, SHA, VMX, RSM ...",
        "One callout and the delivery of #UD.",
        "Ask CPUID before using a feature. UD2 as an assertion costs only when it fails.",
    ),
    "FPU_UNAVAILABLE": Explanation(
        "The guest used the FPU or a vector register while CR0.TS or CR0.EM forbids it.",
        "Guests switch floating-point state lazily that way, and the exception must be raised exactly there.",
        "any x87, MMX or SSE instruction",
        "One callout and the delivery of #NM; the handler's CLTS is a CR_ACCESS.",
        "Switch the state eagerly, as kernels do today.",
    ),
    "EXCEPTION_NMI": Explanation(
        "Translated code raised an exception in the machine that runs it.",
        "The interpreter repeats the instruction on the guest's state, and finds whether the guest gets the exception.",
        "whatever may fault: DIV and IDIV (#DE), non-canonical addresses (#GP), #AC, #MF, #XM",
        "The machine's own exception, one emulated instruction and, as a rule, an EXCEPTION_DELIVERY.",
        "Test divisors instead of catching #DE.",
        "divide by zero",
    ),
    "EXCEPTION_DELIVERY": Explanation(
        "The guest got an exception and entered its handler.",
        "The interpreter goes through the guest's gate: checks, stack switch, frame, error code.",
        "whatever faults or traps; for page faults, accesses to pages the guest's own tables do not allow",
        "The delivery and the dispatch to the handler; the exit that found the fault is counted apart.",
        "Touch memory in larger pieces, or map it beforehand, where page faults are many.",
        "page fault",
    ),
}
