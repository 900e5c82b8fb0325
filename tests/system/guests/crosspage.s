; Accesses across a page boundary whose second page faults: CR2, and nothing stored or changed (SDM vol. 3, 4.7, 6.5 on faults); no instructions that read and write, whose fault QEMU calls a read, no 16-byte stores, of which it stores the first half
.include "env32.inc"
.include "paging32.inc"

.equ EDGE, TESTS + 0x1000       ; the end of page 0 and the start of page 1
.equ BEFORE, FRAMES + 0xff8     ; what lies in front of it

; Both pages as new; what became of the bytes in front
.macro edge name, body
    call fresh
    user \name, 0, {\body}
    call tell
.endm
.macro at_esp where, body
    mov esp, \where
    \body
.endm
.macro strings to, from
    mov edi, \to
    mov esi, \from
    movsd
.endm
.macro floating
    fninit
    fld1
    fstp qword ptr [EDGE-4]
.endm

start:
    call paging_on
    edge "MOV dword, 2 bytes in each", {mov dword ptr [EDGE-2], 0x12345678}
    edge "MOV word", {mov word ptr [EDGE-1], 0x1234}
    edge "MOV dword, 3 bytes in front", {mov dword ptr [EDGE-3], 0x12345678}
    edge "MOV that reads", {mov eax, dword ptr [EDGE-1]}
    edge "MOVSD to it", {strings EDGE - 2, STACK2 - 64}
    edge "PUSH", {at_esp EDGE + 2, {push 5}}
    edge "POP", {at_esp EDGE - 2, {pop eax}}
    edge "POP to memory", {pop dword ptr [EDGE-2]}
    edge "CALL", {at_esp EDGE + 2, {call $ + 5}}
    edge "FSTP of 8 bytes", {floating}
    mov dword ptr [TABLE], 0                ; now the first page is missing
    call flush
    user "the first page missing", 0, {mov dword ptr [EDGE-2], 0x12345678}
    mov dword ptr [TABLE+4], 0
    call flush
    user "both missing", 0, {mov dword ptr [EDGE-2], 0x12345678}
    page 0, FRAMES + 7
    page 1, FRAMES + 0x1005
    user "the second read-only", 0, {mov dword ptr [EDGE-2], 0x12345678}
    call tell
    page 1, FRAMES + 0x1003
    user "the second for level 0", 0, {mov dword ptr [EDGE-2], 0x12345678}
    call tell
    page 0, FRAMES + 5
    page 1, FRAMES + 0x1007
    user "the first read-only", 0, {mov dword ptr [EDGE-2], 0x12345678}
    show {dword ptr [FRAMES+0x1000]}
    newline
    page 0, FRAMES + 7
    user "neither", 0, {mov dword ptr [EDGE-2], 0x12345678}
    call tell
    show {dword ptr [FRAMES+0x1000]}
    newline
    jmp finish

fresh:
    mov dword ptr [BEFORE], 0xa5a5a5a5
    mov dword ptr [BEFORE+4], 0xa5a5a5a5
    page 0, FRAMES + 7
    page 1, 0
    mov eax, cr4
    or eax, 0x200
    mov cr4, eax
    mov eax, 0x11111111
    ret
tell:
    show {dword ptr [BEFORE]}
    show {dword ptr [BEFORE+4]}
    show_fault R_ESP
    show_fault R_EAX
    show_fault R_EDI
    newline
    ret
