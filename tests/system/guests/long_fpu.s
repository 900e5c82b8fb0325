; CR0.TS, EM and MP, CR4.OSFXSR for x87, MMX and SSE in 64-bit mode (SDM vol. 3, 2.5, 13.1)
.include "env64.inc"

.macro cases name
    say \name
    newline
    try "x87", {fld1}
    try "FNINIT", {fninit}
    try "WAIT", {fwait}
    try "MMX", {paddb mm0, mm1}
    try "SSE", {addps xmm0, xmm1}
    try "SSE2 memory", {movdqu xmm0, xmmword ptr [PAGES]}
    try "SSE3", {haddps xmm0, xmm1}
    try "LDMXCSR", {ldmxcsr dword ptr [one]}
    try "SFENCE", {sfence}
    try "PREFETCH", {prefetchnta [PAGES]}
    try "MOVNTI", {movnti dword ptr [PAGES], eax}
.endm
.macro set_cr0 clear, set
    mov rax, cr0
    and eax, \clear
    or eax, \set
    mov cr0, rax
.endm

start:
    cases "all on"
    set_cr0 0xfffffff1, 8
    cases "TS"
    set_cr0 0xfffffff1, 10
    cases "TS, MP"
    clts
    try "x87 after CLTS", {fld1}
    set_cr0 0xfffffff1, 2
    mov rax, cr4
    and eax, 0xfffffdff
    mov cr4, rax
    cases "without OSFXSR"
    or eax, 0x200
    mov rax, cr4
    or eax, 0x200
    mov cr4, rax
    user "SSE at level 3", 0, {addps xmm0, xmm1}
    call finish
.align 4
one:
    .long 0x1f80
