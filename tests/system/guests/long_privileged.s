; Privileged instructions at level 3 in 64-bit mode (SDM vol. 3, 5.9)
.include "env64.inc"

start:
    xor eax, eax
    xor edx, edx
    mov ecx, 0x10
    user "HLT", 0, {hlt}
    user "CLTS", 0, {clts}
    user "INVD", 0, {invd}
    user "WBINVD", 0, {wbinvd}
    user "LGDT", 0, {lgdt [gdtr]}
    user "LIDT", 0, {lidt [idtr]}
    user "LLDT", 0, {lldt ax}
    user "LTR", 0, {ltr ax}
    user "LMSW", 0, {lmsw ax}
    user "MOV from CR0", 0, {mov rax, cr0}
    user "MOV to CR3", 0, {mov cr3, rax}
    user "MOV from CR8", 0, {mov rax, cr8}
    user "MOV from DR0", 0, {mov rax, dr0}
    user "MOV to DR7", 0, {mov dr7, rax}
    user "RDMSR", 0, {rdmsr}
    user "WRMSR", 0, {wrmsr}
    user "INVLPG", 0, {invlpg [rax]}
    user "SWAPGS", 0, {swapgs}
    user "IN", 0, {in al, 0x80}
    user "OUT by DX", 0, {out dx, eax}
    user "INSB", 0, {insb}
    user "OUTSD", 0, {outsd}
    user "CLI", 0, {cli}
    user "STI", 0, {sti}
    user "MONITOR", 0, {monitor}
    user "RDTSC", 0, {rdtsc}
    user "CPUID", 0, {cpuid}
    user "SYSRET", 0, {.byte 0x48, 0x0f, 0x07}
    mov rax, cr4
    or eax, 4                   ; TSD
    mov cr4, rax
    user "RDTSC with TSD", 0, {rdtsc}
    user "RDTSCP with TSD", 0, {rdtscp}
    try "RDTSC with TSD at level 0", {rdtsc}
    try "MOV from CR1 at level 0", {.byte 0x0f, 0x20, 0xc8}
    try "MOV to CR5 at level 0", {.byte 0x0f, 0x22, 0xe8}
    call finish
