; Faults of instructions that use the stack: CALL, RET, PUSH, POP, ENTER, LEAVE; ESP and EBP stay (SDM vol. 1, 6.2 to 6.4); no PUSHA and POPA, where QEMU goes by another order, no far transfers, which it lets use the stack as level 0, and no ENTER that stores in part
.include "env32.inc"
.include "paging32.inc"

.equ TOP, TESTS + 0x1000        ; the page below it is there, the one above is not

.macro stack name, at, body
    user2 \name, 0x3000, {mov_esp \at}, {\body}
    call tell
.endm
.macro mov_esp at
    mov ebp, \at + 0x40
    mov esp, \at
    mov ecx, 0x11111111
.endm
.macro indirect
    call dword ptr [pointer]
.endm

start:
    call paging_on
    page 0, 0
    page 1, FRAMES + 0x1007
    page 2, 0
    stack "ENTER at the edge", TOP, {enter 0, 0}
    stack "CALL", TOP, {call target}
    stack "CALL through memory", TOP, {indirect}
    stack "RET", TOP + 0xffe, {ret}
    stack "PUSHF", TOP, {pushfd}
    stack "POPF", TOP + 0xffe, {popfd}
    stack "PUSH of memory", TOP, {push dword ptr [pointer]}
    stack "POP to memory", TOP + 0xfff, {pop dword ptr [pointer]}
    stack "POP DS", TOP + 0xffe, {pop ds}
    stack "PUSH ESP", TOP + 2, {push esp}
    stack "POP ESP", TOP + 0x1000, {pop esp}
    stack "LEAVE", TOP + 0xfc0, {leave}
    say "INT into a handler with no stack: "
    mov dword ptr [main_tss+4], TESTS + 8
    mov dword ptr [idt+8*8], TASK << 16
    mov dword ptr [idt+8*8+4], 0x8500
    mov eax, task_tss
    mov ebx, 0x67
    mov ecx, 0x89
    mov edx, TASK
    call descriptor
    mov dword ptr [task_tss+0x1c], DIRECTORY
    mov dword ptr [task_tss+0x20], doubled
    mov dword ptr [task_tss+0x24], 2
    mov dword ptr [task_tss+0x38], STACK3
    mov dword ptr [task_tss+0x48], DATA
    mov dword ptr [task_tss+0x4c], CODE
    mov dword ptr [task_tss+0x50], DATA
    mov dword ptr [task_tss+0x54], DATA
    user "page fault, then a double fault", 0, {ud2}
    jmp finish

doubled:
    pop eax
    say "double fault "
    show eax
    mov eax, cr2
    show eax
    show {dword ptr [main_tss+0x38]}
    show {dword ptr [main_tss+0x20]}
    newline
    jmp finish

target:
    int LEAVE
pointer:
    .long target

tell:
    show_fault R_EBP
    show_fault R_ECX
    show {dword ptr [FRAMES+0x1000]}
    show {dword ptr [FRAMES+0x1008]}
    newline
    mov dword ptr [FRAMES+0x1000], 0
    mov dword ptr [FRAMES+0x1008], 0
    ret
