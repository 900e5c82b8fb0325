; SYSCALL and SYSRET: registers, flags, selectors, faults (SDM vol. 2, SYSCALL, SYSRET)
.include "env64.inc"

.macro call_system
    syscall
.endm

start:
    write_msr 0xc0000081, 0, 0x00180008     ; STAR: SYSRET 18h, SYSCALL 08h
    write_msr 0xc0000082, entered, 0        ; LSTAR
    write_msr 0xc0000084, 0x4500, 0         ; FMASK: NT, DF, TF
    mov r11, 0x1111
    user "from level 3", 0x8d7, {call_system}
    user "with DF", 0x4d7, {call_system}
    try "from level 0", {call zero}
    mov byte ptr [wide], 0
    user "back to 32-bit code", 0x46, {call_system}
    mov byte ptr [wide], 1
    user "SYSRET at level 3", 0, {.byte 0x48, 0x0f, 0x07}
    write_msr 0xc0000080, 0xd00, 0          ; without SCE
    try "SYSCALL without SCE", {syscall}
    try "SYSRET without SCE", {.byte 0x48, 0x0f, 0x07}
    user "SYSCALL without SCE at level 3", 0, {syscall}
    call finish

zero:
    pushfq
    push rbx
    mov byte ptr [stay], 1
    syscall
    mov byte ptr [stay], 0
    pop rbx
    popfq
    ret

entered:
    mov r15, rsp
    cmp byte ptr [stay], 0
    jne .own
    mov rsp, STACK0 - 0x800
.own:
    pushfq
    pop r14
    mov eax, cs
    show eax
    mov eax, ss
    show eax
    show64 rcx
    show64 r11
    show64 r14
    show64 r15
    cmp byte ptr [stay], 0
    jne .stays
    mov rsp, r15
    cmp byte ptr [wide], 0
    je .narrow
    .byte 0x48, 0x0f, 0x07      ; sysretq
.narrow:
    mov ecx, in32b
    .byte 0x0f, 0x07            ; sysretl
.stays:
    newline
    push r11
    popfq
    jmp rcx

.align 8
wide:
    .byte 1
stay:
    .byte 0
.mode 32
in32b:
    .byte 0x40, 0x48            ; inc eax; dec eax
    int LEAVE
.mode 64
