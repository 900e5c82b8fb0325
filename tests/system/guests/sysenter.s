; SYSENTER and SYSEXIT: the MSRs, selectors, flags and faults (SDM vol. 2, SYSENTER, SYSEXIT; vol. 3, 5.8.7)
.include "env32.inc"

.equ SYSTEM, FREE               ; four descriptors in a row: code and data of level 0, code and data of level 3

.macro wmsr number, value
    mov ecx, \number
    mov eax, \value
    xor edx, edx
    wrmsr
.endm
.macro enter_system
    mov ecx, 0x33333333
    mov edx, 0x44444444
    sysenter
.endm
.macro exit_to
    mov ecx, STACK2
    mov edx, outside
    .byte 0x0f, 0x35
.endm

start:
    segment SYSTEM, 0, 0xfffff, 0xc09b
    segment SYSTEM + 8, 0, 0xfffff, 0xc093
    segment SYSTEM + 16, 0, 0xfffff, 0xc0fb
    segment SYSTEM + 24, 0, 0xfffff, 0xc0f3
    try "SYSENTER with a null selector", {enter_system}
    try "SYSEXIT with a null selector", {exit_to}
    wmsr 0x174, SYSTEM
    wmsr 0x175, STACK3
    wmsr 0x176, entered
    mov ecx, 0x174
    rdmsr
    show eax
    show edx
    mov ecx, 0x176
    rdmsr
    show eax
    newline
    user "SYSENTER from level 3", 0x3200, {enter_system}
    user "SYSENTER with AC and DF", 0x40400, {enter_system}
    try "SYSENTER from level 0", {enter_system}
    try "SYSEXIT", {exit_to}
    call behind
    sti
    try "SYSEXIT with IF", {exit_to}
    cli
    call behind
    user "SYSEXIT from level 3", 0x3000, {exit_to}
    wmsr 0x174, SYSTEM + 3                  ; its low bits do not matter
    user "SYSENTER, RPL in the MSR", 0, {enter_system}
    try "SYSEXIT, RPL in the MSR", {exit_to}
    jmp finish

tell:
    push eax
    mov eax, cs
    show eax
    mov eax, ss
    show eax
    mov eax, ds
    show eax
    show ecx
    show edx
    pop eax
    ret

behind:
    show ebx
    show ebp
    show esi
    newline
    ret

entered:
    show esp
    pushfd
    pop eax
    push DATA
    pop ds
    cld
    show eax
    call tell
    newline
    mov esp, dword ptr [resume_esp]
    ljmp CODE:.flat
.flat:
    call flat_segments
    push 2
    popfd
    jmp dword ptr [resume]

outside:                        ; level 3: no I/O here
    mov ebx, cs
    mov ebp, ss
    mov esi, esp
    mov eax, DATA3 + 3
    mov ds, eax
    int LEAVE
