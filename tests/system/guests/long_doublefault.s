; Faults while a fault is delivered, in 64-bit mode (SDM vol. 3, 6.15, #DF)
.include "env64.inc"

.macro break vector             ; its gate names no code segment
    mov word ptr [idt+16*\vector+2], DATA
.endm
.macro mend vector
    mov word ptr [idt+16*\vector+2], CODE
.endm

start:
    break 6
    try "#UD, then #GP", {ud2}
    mend 6
    break 14
    try "#PF, then #GP", {mov al, byte ptr [0x40000000]}
    mend 14
    break 13
    try "#GP, then #GP", {mov ds, edi}
    mend 13
    break 0
    xor ecx, ecx
    try "#DE, then #GP", {div ecx}
    mend 0
    call finish
