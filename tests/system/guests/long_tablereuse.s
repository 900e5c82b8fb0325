; A page table that one address space gave up, changed, serves another one: no flush is due (SDM vol. 3, 4.10.2, 4.10.4.3)
.include "env64.inc"

.equ PML4_2, 0x204000           ; a second address space: as the first, but without PAGES
.equ PDPT_2, 0x205000
.equ DIRECTORY_2, 0x206000

.macro look name
    say \name
    newline
    try "data", {mov eax, dword ptr [PAGES+0x1000]}
    show eax
    newline
    try "more data", {mov ecx, dword ptr [PAGES+0x10000]}
    show ecx
    newline
    try "code", {call code}
    show eax
    newline
.endm

start:
    mov dword ptr [PAGES+0x1000], 0x11111111
    mov dword ptr [PAGES+0x1100], 0x000001b8    ; mov eax, 1; ret
    mov word ptr [PAGES+0x1104], 0xc300
    mov dword ptr [PAGES+0x2000], 0x22222222
    mov dword ptr [PAGES+0x2100], 0x000002b8    ; mov eax, 2; ret
    mov word ptr [PAGES+0x2104], 0xc300
    mov dword ptr [PAGES+0x10000], 0x10101010
    mov dword ptr [PAGES+0x20000], 0x20202020
    mov dword ptr [PAGES+0x30000], 0x30303030
    look "the first space"

    mov edi, PML4_2
    mov ecx, 0x800
    xor eax, eax
    rep stosd
    mov dword ptr [PML4_2], PDPT_2 + 7
    mov dword ptr [PDPT_2], DIRECTORY_2 + 7
    mov esi, DIRECTORY
    mov edi, DIRECTORY_2
    mov ecx, 512
    rep movsq
    mov qword ptr [DIRECTORY_2+8*3], 0
    mov eax, PML4_2
    mov cr3, rax
    look "the second space, without the table"
    mov qword ptr [TABLE+8], PAGES + 0x2000 + 7
    mov qword ptr [TABLE+8*0x10], PAGES + 0x20000 + 7
    mov qword ptr [TABLE+8*0x30], 0
    mov qword ptr [DIRECTORY_2+8*3], TABLE + 7
    look "with it"
    mov dword ptr [PAGES+0x1000], 0x33333333
    try "what was mapped in the first", {mov eax, dword ptr [PAGES+0x30000]}
    mov dword ptr [PAGES+0x10000], 0x44444444
    mov eax, dword ptr [PAGES+0x20000]
    show eax
    mov eax, dword ptr [PAGES+0x2000]
    show eax
    newline

    mov eax, PML4                               ; the directory goes the same way
    mov cr3, rax
    mov qword ptr [PDPT_2], 0
    look "the first space again"
    mov eax, PML4_2 + 0x3000                    ; a third one, on the first two's tables
    mov edi, eax
    mov ecx, 0x800
    xor eax, eax
    rep stosd
    mov dword ptr [PML4_2+0x3000], PML4_2 + 0x4000 + 7
    mov dword ptr [PML4_2+0x4000], DIRECTORY + 7
    mov eax, PML4_2 + 0x3000
    mov cr3, rax
    mov qword ptr [TABLE+8], PAGES + 0x1000 + 7
    mov qword ptr [TABLE+8*0x10], PAGES + 0x10000 + 7
    mov qword ptr [PML4_2+0x4000+8], DIRECTORY_2 + 7
    try "through the second's directory", {mov eax, dword ptr [0x40000000+PAGES+0x1000]}
    show eax
    mov eax, dword ptr [0x40000000+PAGES+0x10000]
    show eax
    newline
    call finish

code:
    mov eax, PAGES + 0x1100
    jmp rax
