; RDTSC and RDTSCP by CR4.TSD, RDPMC by CR4.PCE, and EFLAGS.AC without CR0.AM (SDM vol. 3, 2.5); no alignment checks, which QEMU has not
.include "env32.inc"

.macro cr4_bits bits
    mov eax, \bits
    mov cr4, eax
.endm

start:
    try "RDTSC", {rdtsc}
    user "level 3: RDTSC", 0, {rdtsc}
    cr4_bits 4
    try "RDTSC, TSD", {rdtsc}
    user "level 3: RDTSC, TSD", 0x3000, {rdtsc}
    user "level 3: RDTSCP, TSD", 0x3000, {.byte 0x0f, 0x01, 0xf9}
    cr4_bits 0
    user "level 3: RDTSCP", 0, {.byte 0x0f, 0x01, 0xf9}
    user "level 3: RDPMC", 0, {rdpmc}
    rdtsc
    mov ebx, eax
    mov esi, edx
    rdtsc
    sub eax, ebx
    sbb edx, esi
    show edx                    ; it goes up, and by less than 2**32
    newline
    try "AC without AM", {mov eax, dword ptr [words+1]}
    user "level 3: AC without AM", 0x40000, {mov eax, dword ptr [words+1]}
    jmp finish

.align 4
words:
    .long 0, 0
