; Single-stepping in 64-bit mode (SDM vol. 3, 17.3.1.4)
.include "env64.inc"

start:
    say "straight on\n"
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    nop
    mov eax, 1
    jmp .next
    nop
.next:
    call .routine
    mov ecx, 2
    mov edi, PAGES
    rep stosb
    pushfq
    and dword ptr [rsp], 0xfffffeff
    popfq
    newline
    say "at level 3\n"
    mov qword ptr [keep_flags], 0xfffffffffffffeff
    user2 "one step", 0x100, {nop}, {nop}
    mov qword ptr [keep_flags], -1
    say "INT clears TF\n"
    pushfq
    or dword ptr [rsp], 0x100
    mov qword ptr [keep_flags], 0xfffffffffffffeff
    popfq
    nop
    nop
    mov qword ptr [keep_flags], -1
    say "with a fault\n"
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    try "UD2", {ud2}
    call finish
.routine:
    ret
