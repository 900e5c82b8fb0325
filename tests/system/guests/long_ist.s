; Stacks of interrupts in 64-bit mode: alignment, RSP0, the interrupt stack table (SDM vol. 3, 6.14.2 to 6.14.5)
.include "env64.inc"

.equ GATE, idt + 0x30 * 16

start:
    mov edi, GATE
    mov eax, handler
    call write_gate
    mov byte ptr [GATE+5], 0xee
    say "same level: "
    mov rbx, rsp
    int 0x30
    say "same level, unaligned: "
    sub rsp, 5
    int 0x30
    add rsp, 5
    mov byte ptr [GATE+4], 1
    say "IST1: "
    int 0x30
    mov dword ptr [tss+0x24], STACK_IST - 7
    say "IST1, unaligned: "
    int 0x30
    mov dword ptr [tss+0x24], STACK_IST
    mov byte ptr [GATE+4], 7
    mov dword ptr [tss+0x54], STACK_IST + 0x800
    say "IST7: "
    int 0x30
    mov byte ptr [GATE+4], 0
    arm "from level 3", .back
    to_user 0, .user
.user:
    int 0x30
    int LEAVE
.back:
    mov byte ptr [GATE+4], 1
    arm "from level 3 by IST1", .back2
    to_user 0, .user2
.user2:
    int 0x30
    int LEAVE
.back2:
    mov qword ptr [resume], 0
    call finish

handler:
    mov rax, rsp
    show64 rax
    show64 {qword ptr [rsp+24]}
    show {dword ptr [rsp+32]}
    newline
    iretq
