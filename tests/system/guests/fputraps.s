; CR0.TS, EM, MP and NE with x87, MMX, SSE and WAIT: #NM, #UD and #MF (SDM vol. 3, 2.5, 13.1, 6.15; vol. 1, 8.7); what QEMU lacks is left out: #NM of EMMS, #UD before #NM, #MF by anything but WAIT, #XM
.include "env32.inc"

.equ MP, 2
.equ EM, 4
.equ TS, 8
.equ NE, 0x20

.macro cr0_bits bits
    mov eax, 0x11 + \bits
    mov cr0, eax
.endm
.macro cr4_bits bits
    mov eax, \bits
    mov cr4, eax
.endm
.macro all name, bits
    say \name
    newline
    cr0_bits \bits
    try " x87", {fld1}
    try " WAIT", {fwait}
    try " FNINIT", {fninit}
    try " MMX", {movq mm0, mm1}
    try " SSE", {movaps xmm0, xmm1}
    try " SSE2", {pxor xmm0, xmm1}
    try " LDMXCSR", {ldmxcsr dword ptr [mxcsr]}
    try " MOVNTI", {.byte 0x0f, 0xc3, 0x03}
    try " PREFETCH", {prefetcht0 byte ptr [ebx]}
    cr0_bits 0
.endm
.macro divide_by_zero
    fninit
    fldcw word ptr [unmasked]
    fld1
    fldz
    fdiv st(1), st(0)           ; QEMU's FDIVP pops although nothing may change (SDM vol. 1, 8.5.3)
.endm
.macro divide_then
    divide_by_zero
    fwait
.endm
.macro mxcsr_is value
    mov dword ptr [mxcsr], \value
    ldmxcsr dword ptr [mxcsr]
.endm
.macro sse name, value, body
    mxcsr_is \value
    try \name, {\body}
    stmxcsr dword ptr [mxcsr]
    show {dword ptr [mxcsr]}
    newline
.endm

start:
    mov ebx, area
    cr4_bits 0x600
    all "none", 0
    all "TS", TS
    all "MP", MP
    all "TS and MP", TS + MP
    all "EM", EM
    cr4_bits 0
    all "OSFXSR clear", 0
    cr4_bits 0x600
    say "NE\n"
    cr0_bits NE
    fninit
    try "unmasked division by zero, then WAIT", {divide_then}
    fnstsw ax
    movzx eax, ax
    show eax
    newline
    try "pending: FNINIT", {fninit}
    try "FLD again", {fld1}

    fninit
    sse "MXCSR with a flag set", 0x1fbf, {nop}
    try "MOVUPS not aligned", {movups xmm0, xmmword ptr [area+4]}
    try "FXSAVE not aligned", {fxsave [area+8]}
    user "level 3: SSE", 0, {movaps xmm0, xmm1}
    cr0_bits TS
    user "level 3 with TS: SSE", 0, {movaps xmm0, xmm1}
    user "level 3 with TS: x87", 0, {fld1}
    jmp finish

unmasked:
    .word 0x37b
mxcsr:
    .long 0x1f80
.align 16
area:
    .space 528
