; String instructions that fault in their midst: registers and memory so far (SDM vol. 2, REP; vol. 3, 6.5)
.include "env64.inc"

.macro rep_case name, body
    mov esi, PAGES + 0x0ff0
    mov edi, PAGES + 0x2ff0
    mov ecx, 9
    mov rax, 0x5a5a5a5a5a5a5a5a
    try \name, {\body}
    show64 rcx
    show64 rsi
    show64 rdi
    newline
.endm

start:
    page 1, 0
    page 3, 0
    rep_case "REP MOVSQ", {rep movsq}
    rep_case "REP MOVSD", {rep movsd}
    rep_case "REP MOVSB", {rep movsb}
    rep_case "REP STOSQ", {rep stosq}
    rep_case "REP STOSW", {rep stosw}
    rep_case "REP LODSD", {rep lodsd}
    page 1, PRESENT+WRITABLE+USER
    rep_case "only the target absent", {rep movsq}
    show64 {qword ptr [PAGES+0x2ff8]}
    newline
    mov esi, PAGES + 0x2010
    mov edi, PAGES + 0x1010
    mov ecx, 9
    page 2, 0
    std
    try "backwards", {rep movsq}
    cld
    show64 rcx
    show64 rsi
    show64 rdi
    newline
    mov ecx, 0
    mov esi, PAGES + 0x2010
    try "no rounds", {rep movsb}
    mov rcx, 0x100000001
    mov esi, PAGES
    mov edi, PAGES + 0x800
    .byte 0x67, 0xf3, 0xa4      ; ECX, ESI, EDI
    show64 rcx
    show64 rsi
    show64 rdi
    newline
    mov ecx, 5
    mov dword ptr [PAGES], 0x01010101
    mov dword ptr [PAGES+0x800], 0x01020101
    mov esi, PAGES
    mov edi, PAGES + 0x800
    repe cmpsb
    pushfq
    pop rax
    show64 rax
    show64 rcx
    show64 rsi
    newline
    mov al, 2
    mov ecx, 5
    mov edi, PAGES + 0x800
    repne scasb
    show64 rcx
    show64 rdi
    newline
    call finish
