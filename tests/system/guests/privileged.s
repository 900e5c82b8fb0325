; Privileged instructions at level 3, whatever IOPL says, and those which need none (SDM vol. 3, 5.9)
.include "env32.inc"

.macro denied name, body
    user \name, 0x3000, {\body}
.endm
.macro msr number
    mov ecx, \number
    rdmsr
.endm
.macro wmsr number
    mov ecx, \number
    wrmsr
.endm

start:
    denied "HLT", {hlt}
    denied "MOV from CR0", {mov eax, cr0}
    denied "MOV to CR0", {mov cr0, eax}
    denied "MOV from CR2", {mov eax, cr2}
    denied "MOV to CR2", {mov cr2, eax}
    denied "MOV to CR3", {mov cr3, eax}
    denied "MOV from CR4", {mov eax, cr4}
    denied "MOV from DR0", {mov eax, dr0}
    denied "MOV to DR7", {mov dr7, eax}
    denied "LGDT", {lgdt [gdtr]}
    denied "LIDT", {lidt [idtr]}
    denied "LLDT", {lldt ax}
    denied "LTR", {ltr ax}
    denied "LMSW", {lmsw ax}
    denied "SMSW", {smsw ax}
    denied "CLTS", {clts}
    denied "INVD", {invd}
    denied "WBINVD", {wbinvd}
    denied "INVLPG", {invlpg byte ptr [resume]}
    denied "RDMSR", {msr 0x10}
    denied "RDMSR that is not there", {msr 0x12345678}
    denied "WRMSR", {wmsr 0x10}
    denied "SYSEXIT", {.byte 0x0f, 0x35}
    denied "RDTSC", {rdtsc}
    denied "CPUID", {cpuid}
    try "RDMSR at level 0", {msr 0x174}
    try "INVLPG at level 0", {invlpg byte ptr [resume]}
    try "INVLPG of a register at level 0", {.byte 0x0f, 0x01, 0xf8}
    try "WBINVD at level 0", {wbinvd}
    try "INVD at level 0", {invd}
    try "MOV from CR1", {.byte 0x0f, 0x20, 0xc8}
    try "MOV from CR5", {.byte 0x0f, 0x20, 0xe8}
    try "MOV to CR7", {.byte 0x0f, 0x22, 0xf8}
    try "MOV from CR0 with a memory form of ModRM", {.byte 0x0f, 0x20, 0x03}
    show ebx
    newline
    jmp finish
