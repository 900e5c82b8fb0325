; Execute-disable (SDM vol. 3, 4.6, 4.7)
.include "env64.inc"

.macro nx entry, on
    mov dword ptr [\entry+4], \on
    mov rax, cr3
    mov cr3, rax
.endm

start:
    mov byte ptr [PAGES+0x1000], 0xc3
    mov byte ptr [PAGES+0x1ffe], 0x90
    mov byte ptr [PAGES+0x1fff], 0xb8       ; MOV eax, imm32 across pages
    mov dword ptr [PAGES+0x2000], 0x12345678
    mov byte ptr [PAGES+0x2004], 0xc3
    mov ebx, PAGES + 0x1000
    mov r12, PAGES + 0x1ffe
    try "execute", {call rbx}
    nx TABLE+8, 0x80000000
    try "NX in the entry", {call rbx}
    user "at level 3", 0, {call rbx}
    try "read", {mov al, byte ptr [rbx]}
    nx TABLE+8, 0
    try "again without", {call rbx}
    try "across pages", {call r12}
    nx TABLE+16, 0x80000000
    try "NX in the second", {call r12}
    nx TABLE+16, 0
    nx DIRECTORY+24, 0x80000000
    try "NX in the directory", {call rbx}
    nx DIRECTORY+24, 0
    page 2, 0
    try "the second not present", {call r12}
    page 2, PRESENT+WRITABLE
    user "the second not the user's", 0, {call r12}
    page 2, PRESENT+WRITABLE+USER
    page 1, PRESENT+WRITABLE
    user "not the user's", 0, {call rbx}
    page 1, PRESENT+WRITABLE+USER
    call finish
