; Gates of the IDT: IF, TF and NT on the way in, 16-bit gates, gates that are broken, and broken inner stacks (SDM vol. 3, 6.11, 6.12.1, 6.13); no inner stack that is not present, for which QEMU has #TS in place of #SS
.include "env32.inc"

.equ VECTOR, idt + 0x20 * 8

.macro through name, attributes
    gate VECTOR, CODE, look, \attributes
    try \name, {int 0x20}
.endm

.macro broken name, selector, attributes
    gate VECTOR, \selector, look, \attributes
    try \name, {int 0x20}
.endm

; A gate into level 1 with this stack segment
.macro inner name, stack
    mov dword ptr [main_tss+0x0c], STACK3 + 0x2000
    mov dword ptr [main_tss+0x10], \stack
    user \name, 0x3000, {int 0x20}
.endm

start:
    pushfd
    or dword ptr [esp], 0x4200  ; NT, IF
    popfd
    through "interrupt gate", 0x8e00
    pushfd
    or dword ptr [esp], 0x4200
    popfd
    through "trap gate", 0x8f00
    push 2
    popfd
    through "trap gate, IF clear", 0x8f00
    gate VECTOR, CODE, look, 0xee00
    user "interrupt gate from level 3", 0x200, {int 0x20}
    gate VECTOR, CODE, look, 0xef00
    user "trap gate from level 3", 0x200, {int 0x20}
    gate VECTOR, CODE, look, 0xef1f
    user "low bits of the attributes", 0x200, {int 0x20}

    segment FREE, code16, 0xffff, 0x009b
    mov dword ptr [VECTOR], FREE << 16
    mov dword ptr [VECTOR+4], 0x8700
    try "16-bit trap gate", {int 0x20}
    mov byte ptr [VECTOR+5], 0x86
    push 0x202
    popfd
    try "16-bit interrupt gate", {int 0x20}
    push 2
    popfd
    mov byte ptr [VECTOR+5], 0xe6
    user "16-bit interrupt gate from level 3", 0x202, {int 0x20}

    broken "not present", CODE, 0x0e00
    broken "code null", 0, 0x8e00
    broken "code null with RPL", 3, 0x8e00
    broken "code beyond the GDT", 0x83, 0x8e00
    broken "code in no LDT", 0x0c, 0x8e00
    broken "data segment", DATA, 0x8e00
    broken "system segment", MAIN, 0x8e00
    broken "code of level 3", CODE3, 0x8e00
    broken "code with RPL 3", CODE + 3, 0x8e00
    segment FREE, 0, 0xfffff, 0xc01b
    broken "code not present", FREE, 0x8e00
    segment FREE, 0, 0xfffff, 0xc09f
    broken "conforming code", FREE, 0x8e00
    broken "type 0", CODE, 0x8000
    broken "type 4, a call gate", CODE, 0x8400
    broken "type 9, a TSS", CODE, 0x8900
    broken "type 12, a call gate", CODE, 0x8c00
    broken "a code segment", CODE, 0x9b00
    broken "broken and not present", CODE, 0x0c00
    broken "DPL 3 but not present", CODE, 0x6e00
    mov word ptr [idtr], 0x20 * 8 + 6
    lidt [idtr]
    try "the limit cuts the gate", {int 0x20}
    mov word ptr [idtr], 0x17f
    lidt [idtr]

    segment FREE, 0, 0xfffff, 0xc0bb
    segment FREE2, 0, 0xfffff, 0xc0b3
    gate VECTOR, FREE, look, 0xee00
    inner "level 1", FREE2 + 1
    inner "its stack null", 0
    inner "its stack null with RPL 1", 1
    inner "its stack of level 3", DATA3 + 3
    inner "its stack of level 0", DATA
    inner "its stack with another RPL", FREE2
    inner "its stack code", FREE + 1
    inner "its stack beyond the GDT", 0x81
    inner "its stack a system segment", MAIN + 1
    mov word ptr [gdt+MAIN], 0x0b           ; the TSS ends in front of ESP1
    mov byte ptr [gdt+MAIN+5], 0x89
    mov eax, MAIN
    ltr ax
    inner "the TSS is too short", FREE2 + 1
    jmp finish

look:
    pushfd
    pop eax
    show eax
    show {dword ptr [esp+8]}    ; CS, behind the EAX that `show` pushes
    show {dword ptr [esp+12]}
    iretd

; A handler in 16-bit code: on to 32-bit code, which shows the frame of words
code16:
    .byte 0x66, 0xea
    .long look16
    .word CODE
look16:
    mov ax, ss
    mov ds, ax
    mov ecx, 3
    mov ax, word ptr [esp+2]
    and eax, 3
    jz .level0
    mov ecx, 5
.level0:
    mov esi, esp
.word:
    movzx eax, word ptr [esi]
    add esi, 2
    show eax
    loop .word
    pushfd
    pop eax
    show eax
    mov esp, dword ptr [resume_esp]
    push 2
    popfd
    newline
    jmp dword ptr [resume]
