; SYSENTER and SYSEXIT in 64-bit mode (SDM vol. 2, SYSENTER, SYSEXIT)
.include "env64.inc"

; SYSENTER wants code, data, 32-bit code 3, data 3, 64-bit code 3 in a row: 08h to 28h are
start:
    try "SYSENTER with a null selector", {sysenter}
    try "SYSEXIT with a null selector", {.byte 0x48, 0x0f, 0x35}
    write_msr 0x174, CODE, 0
    write_msr 0x175, STACK0 - 0x800, 0
    write_msr 0x176, entered, 0
    read_msr 0x175
    show eax
    show edx
    newline
    user "from level 3", 0x8d7, {sysenter}
    mov byte ptr [wide], 0
    user "back to 32-bit code", 0, {sysenter}
    mov byte ptr [wide], 1
    arm "from compatibility mode", .compat
    push DATA3 + 3
    push STACK3
    push 2
    push CODE3_32 + 3
    push in32
    iretq
.compat:
    mov qword ptr [resume], 0
    user "SYSEXIT at level 3", 0, {.byte 0x48, 0x0f, 0x35}
    call finish

entered:
    pushfq
    pop r14
    mov eax, cs
    show eax
    mov eax, ss
    show eax
    mov rax, rsp
    show64 rax
    show64 r14
    mov ecx, STACK3 - 0x100
    cmp byte ptr [wide], 0
    je .narrow
    mov edx, out64
    .byte 0x48, 0x0f, 0x35
.narrow:
    mov edx, out32
    .byte 0x0f, 0x35

out64:
    mov eax, cs
    mov ebx, ss
    mov r9, rsp
    ud2
.align 8
wide:
    .byte 1
.mode 32
in32:
    sysenter
out32:
    .byte 0x40, 0x48
    ud2
.mode 64
