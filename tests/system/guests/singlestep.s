; TF: single steps over branches, string instructions, POPF, IRET, PUSHF, INT and faults, and the shadow of MOV SS (SDM vol. 3, 17.3.1.4, 6.8.3); no STI, which delays the trap in QEMU alone
.include "env32.inc"

.macro tf_on
    pushfd
    or dword ptr [esp], 0x100
    popfd
.endm
.macro tf_off
    pushfd
    and dword ptr [esp], 0xfffffeff
    popfd
.endm
.macro ud2_with_tf
    tf_on
    ud2
.endm
.macro ss_with_tf
    tf_on
    mov ss, ebx
.endm
.macro steps name
    say \name
    newline
    tf_on
.endm

start:
    steps "jumps and a loop"
    jmp .here
.here:
    mov ecx, 2
.again:
    loop .again
    jecxz .there
    nop
.there:
    call .routine
    tf_off
    jmp .next
.routine:
    ret
.next:
    steps "strings"
    mov esi, words
    mov edi, words + 16
    mov ecx, 3
    rep movsb
    xor ecx, ecx
    rep movsb
    tf_off
    steps "PUSHF and POPF"
    pushfd
    pop eax
    push 0x102
    popfd
    nop
    push 2
    popfd
    nop
    show eax
    newline
    steps "IRET"
    call iret_case
    tf_off
    steps "INT and a fault"
    int 0x20
    mov eax, ds
    mov ds, eax
    mov ss, eax
    nop
    tf_off
    say "a fault\n"
    mov ebx, 0
    try "UD2", {ud2_with_tf}
    try "a trapping load of SS that faults", {ss_with_tf}
    say "level 3\n"
    mov dword ptr [next_dr6], 0xffff0ff0
    user "level 3, TF by IRET", 0x100, {nop}
    user "level 3, CPUID", 0x100, {cpuid}
    user "level 3, IN that faults", 0x100, {in al, 0x80}
    user "level 3, INT3 with DPL 0", 0x100, {int3}
    mov byte ptr [idt+3*8+5], 0xee
    user "level 3, INT3 with DPL 3", 0x100, {int3}
    jmp finish

iret_case:
    pushfd
    push CODE
    push behind
    iretd
behind:
    nop
    ret

.align 8
words:
    .long 0x01020304, 0x05060708, 0, 0, 0, 0, 0, 0
