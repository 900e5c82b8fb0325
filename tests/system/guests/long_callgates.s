; 64-bit call gates (SDM vol. 3, 5.8.3.1, 5.8.5.1; vol. 2, CALL)
.include "env64.inc"

.macro gate low, high           ; at FREE: offset 15-0 and selector, attributes
    mov dword ptr [gdt+FREE], \low
    mov dword ptr [gdt+FREE+4], \high
    mov qword ptr [gdt+FREE+8], 0
.endm

.macro through_gate             ; far CALL by memory
    .byte 0xff, 0x1c, 0x25
    .long pointer
.endm

start:
    mov eax, entered
    and eax, 0xffff
    or eax, CODE * 0x10000
    mov r12d, eax
    mov eax, entered
    and eax, 0xffff0000
    mov r13d, eax
    or eax, 0xec00
    gate r12d, eax
    try "CALL from level 0", {through_gate}
    user "CALL from level 3", 0, {through_gate}
    mov eax, r13d
    or eax, 0x8c00
    gate r12d, eax
    user "gate of DPL 0 from level 3", 0, {through_gate}
    try "gate of DPL 0", {through_gate}
    mov eax, r13d
    or eax, 0x6c00
    gate r12d, eax
    try "not present", {through_gate}
    mov eax, r13d
    or eax, 0xe400
    gate r12d, eax
    try "16-bit gate", {through_gate}
    mov eax, r13d
    or eax, 0xec00
    gate r12d, eax
    mov word ptr [gdt+FREE+2], CODE32
    try "to 32-bit code", {through_gate}
    mov word ptr [gdt+FREE+2], DATA
    try "to data", {through_gate}
    mov word ptr [gdt+FREE+2], 0
    try "to null", {through_gate}
    mov word ptr [gdt+FREE+2], CODE
    mov dword ptr [gdt+FREE+12], 0x0c00
    try "upper half with a type", {through_gate}
    mov dword ptr [gdt+FREE+12], 0
    arm "JMP", back
    .byte 0xff, 0x2c, 0x25      ; far JMP by memory
    .long pointer
back:
    mov qword ptr [resume], 0
    call finish

entered:
    mov eax, cs
    show eax
    mov eax, ss
    show eax
    mov rax, rsp
    show64 rax
    show64 {qword ptr [rsp+8]}
    cmp dword ptr [rsp+8], CODE3 + 3
    jne .same
    show64 {qword ptr [rsp+16]}
    show64 {qword ptr [rsp+24]}
.same:
    newline
    cmp qword ptr [resume], back
    je back
    .byte 0x48, 0xcb            ; far RET with REX.W
pointer:
    .long 0
    .word FREE
