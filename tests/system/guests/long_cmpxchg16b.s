; CMPXCHG16B and CMPXCHG8B: result, flags, alignment (SDM vol. 2, CMPXCHG8B)
.include "env64.inc"

.macro set low, high
    mov rax, \low
    mov qword ptr [PAGES], rax
    mov rax, \high
    mov qword ptr [PAGES+8], rax
.endm
.macro result
    pushfq
    pop r8
    show64 rax
    show64 rdx
    show64 {qword ptr [PAGES]}
    show64 {qword ptr [PAGES+8]}
    show64 r8
    newline
.endm

start:
    mov rbx, 0x1111111122222222
    mov rcx, 0x3333333344444444
    mov edi, PAGES
    set 0x5555555566666666, 0x7777777788888888
    mov rdx, 0x7777777788888888
    mov rax, 0x5555555566666666
    cmp edi, 0
    lock cmpxchg16b xmmword ptr [rdi]
    result
    cmp edi, 0
    cmpxchg16b xmmword ptr [rdi]
    result
    cmpxchg16b xmmword ptr [rdi]
    result
    cmpxchg8b qword ptr [rdi]
    result
    lock cmpxchg8b qword ptr [rdi+4]
    result
    try "unaligned", {cmpxchg16b xmmword ptr [rdi+8]}
    try "unaligned CMPXCHG8B across pages", {cmpxchg8b qword ptr [rdi+0xffc]}
    page 1, 0
    page 1, PRESENT+USER
    user "read-only at level 3", 0, {cmpxchg16b xmmword ptr [rdi+0x1000]}
    try "register", {.byte 0x0f, 0xc7, 0xc9}
    try "LOCK of a register", {.byte 0xf0, 0x0f, 0xc7, 0xc9}
    call finish
