; Compatibility mode: 32-bit code at levels 3 and 0, and the ways between (SDM vol. 3, 2.1.1, 3.4.5, 5.8.1)
.include "env64.inc"

.macro compat name, at
    arm \name, .resume\@
    push DATA3 + 3
    push STACK3
    push 2
    push CODE3_32 + 3
    push \at
    iretq
.resume\@:
    mov qword ptr [resume], 0
.endm

.macro far_jump                 ; far JMP by memory
    .byte 0xff, 0x2c, 0x25
    .long bad
.endm

start:
    mov rax, 0xffffffff00000007
    compat "INC by one byte", counted
    show64 rax
    newline
    compat "PUSHA", all
    compat "divide error", divided
    compat "page fault", faulted
    compat "HLT", halted
    compat "addresses wrap", wrapped
    compat "far JMP to 64-bit code", far32
    say "level 0: "
    mov eax, CODE32
    push rax
    mov eax, level0
    push rax
    .byte 0x48, 0xcb            ; far RET with REX.W
returned:
    show64 rax
    newline
    try "far JMP to data", {far_jump}
    call finish
bad:
    .long 0
    .word DATA

.mode 32
counted:
    .byte 0x40                  ; inc eax
    int LEAVE
all:
    .byte 0x60, 0x61            ; pusha; popa
    .byte 0x37                  ; aaa
    int LEAVE
divided:
    xor ecx, ecx
    div ecx
faulted:
    mov eax, DATA3 + 3
    mov ds, eax
    mov eax, dword ptr [0x40000000]
halted:
    hlt
wrapped:
    mov eax, DATA3 + 3
    mov ds, eax
    mov ebx, 0xfffffff0
    mov eax, dword ptr [ebx+gdt+0x18]
    int LEAVE
far32:
    .byte 0xea                  ; ljmp CODE3:far64
    .long far64
    .word CODE3 + 3
level0:
    mov eax, 0x12345678
    .byte 0x48, 0x40            ; dec eax; inc eax
    .byte 0xea                  ; ljmp CODE:returned
    .long returned
    .word CODE
.mode 64
far64:
    mov rax, 0x1122334455667788
    int LEAVE
