; A page of code that was only ever fetched is mapped elsewhere; pages beside it are used before the flush, others after
.include "env64.inc"

.equ USED, 0x67                 ; present, writable, level 3, accessed, dirty

.macro look name
    try \name, {call code}
    show eax
    newline
.endm

.macro flush
    mov rax, cr3
    mov cr3, rax
.endm

start:
    mov dword ptr [PAGES+0x1100], 0x000001b8    ; mov eax, 1; ret
    mov word ptr [PAGES+0x1104], 0xc300
    mov dword ptr [PAGES+0x2100], 0x000002b8    ; mov eax, 2; ret
    mov word ptr [PAGES+0x2104], 0xc300
    mov qword ptr [TABLE+8], 0
    mov qword ptr [TABLE+16], 0
    flush
    mov qword ptr [TABLE+8], PAGES + 0x1000 + USED
    flush
    look "the first"
    look "again"
    mov qword ptr [TABLE+8], PAGES + 0x2000 + USED
    mov qword ptr [TABLE+8*3], PAGES + 0x3000 + USED
    mov dword ptr [PAGES+0x3000], 3
    flush
    look "the second"
    mov qword ptr [TABLE+8], PAGES + 0x1000 + USED
    flush
    mov dword ptr [PAGES+0x4000], 4
    look "the first, once more"
    call finish

code:
    mov eax, PAGES + 0x1100
    jmp rax
