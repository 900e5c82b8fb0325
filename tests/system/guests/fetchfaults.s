; Faults of instruction fetches: across pages, by jumps, calls and returns, and SMEP (SDM vol. 3, 4.6.1, 4.7, 6.15 #PF)
.include "env32.inc"
.include "paging32.inc"

.equ FIRST, FRAMES              ; the frame of the page in front
.equ USE, TESTS + 0x1000        ; the page that goes missing
.equ NEXT, FRAMES + 0x1000

.macro write8 at, low, high
    mov dword ptr [\at], \low
    mov dword ptr [\at+4], \high
.endm
.macro go where
    mov eax, \where
    call eax
.endm
.macro far where
    push CODE
    push \where
    retf
.endm
.macro back where
    push \where
    ret
.endm
.macro iret_to where
    pushfd
    push CODE
    push \where
    iretd
.endm
.macro smep_on
    mov eax, cr4
    or eax, 0x100000
    mov cr4, eax
.endm
.macro missing
    page 1, 0
.endm
.macro there
    page 1, NEXT + 7
.endm

start:
    call paging_on
    write8 FIRST + 0xff8, 0x90909090, 0x90909090    ; nop up to the end
    write8 NEXT, 0x909090c3, 0x90909090             ; ret
    there
    try "on into the next page", {go USE - 4}
    missing
    try "into a missing page", {go USE - 4}
    try "to a missing page", {go USE}
    try "RET to a missing page", {back USE}
    try "RETF to a missing page", {far USE + 8}
    try "IRET to a missing page", {iret_to USE + 12}
    try "JMP to a missing page", {jmp USE + 16}
    mov word ptr [FIRST+0xffe], 0x11b8              ; mov eax, imm32 that straddles
    write8 NEXT, 0xc3992200, 0x90909090
    there
    try "an instruction across", {go USE - 2}
    missing
    try "its second half missing", {go USE - 2}
    mov byte ptr [FIRST+0xfff], 0x66                ; only a prefix in the page
    mov byte ptr [FIRST+0xffe], 0x90
    try "behind a prefix", {go USE - 2}
    mov byte ptr [FIRST+0xffe], 0xeb                ; jmp rel8 at the very end
    mov byte ptr [FIRST+0xfff], 0x80
    mov byte ptr [FIRST+0xf80], 0xc3
    try "a branch at the end that stays", {go USE - 2}
    mov byte ptr [FIRST+0xffe], 0xcc                ; int3: the return address lies in the missing page
    try "INT3 in the last but one byte", {go USE - 2}
    mov byte ptr [FIRST+0xffe], 0x0f
    mov byte ptr [FIRST+0xfff], 0x0b
    try "UD2 at the end", {go USE - 2}
    user "level 3: to a missing page", 0, {go USE}
    mov byte ptr [FIRST], 0xc3
    page 0, FRAMES + 3
    user "level 3: to a page for level 0", 0, {go TESTS}
    page 0, FRAMES + 7
    user "level 3: to its own page", 0, {go TESTS}

    mov edi, LOW_TABLE                              ; no page of this code may be for level 3 now
    mov ecx, 1024
.low:
    and dword ptr [edi], 0xfffffffb
    add edi, 4
    loop .low
    mov eax, cr3
    mov cr3, eax
    smep_on
    try "SMEP: fetch from a page for level 3", {go TESTS}
    try "SMEP: read from it", {mov eax, dword ptr [TESTS]}
    try "SMEP: write to it", {mov dword ptr [TESTS+4], eax}
    page 0, FRAMES + 3
    try "SMEP: fetch from a page for level 0", {go TESTS}
    page 0, 0
    try "SMEP: fetch from a missing page", {go TESTS}
    page 0, FRAMES + 7
    mov dword ptr [DIRECTORY+4], TABLE + 3
    mov eax, cr3
    mov cr3, eax
    try "SMEP: directory for level 0", {go TESTS}
    mov dword ptr [DIRECTORY+4], TABLE + 7
    mov eax, cr4
    and eax, 0xffefffff
    mov cr4, eax
    try "SMEP off again", {go TESTS}
    jmp finish
