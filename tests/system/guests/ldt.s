; LLDT, SLDT, LTR and STR with their faults, and segments of an LDT (SDM vol. 2, LLDT, LTR, SLDT, STR; vol. 3, 3.5.1, 7.2); no LTR of a null selector, which QEMU accepts
.include "env32.inc"

.macro load_ldt name, selector
    mov eax, \selector
    try \name, {lldt ax}
.endm
.macro load_tr name, selector
    mov eax, \selector
    try \name, {ltr ax}
.endm
.macro load_ds name, selector
    mov eax, \selector
    try2 \name, {mov ds, eax}, {call flat_segments}
.endm
.macro registers
    mov eax, 0xffffffff
    sldt ax
    show eax
    mov eax, 0xffffffff
    str ax
    show eax
    mov eax, 0xffffffff
    sldt eax
    show eax
    mov eax, 0xffffffff
    str eax
    show eax
    newline
.endm

start:
    registers
    segment FREE, ldt, 0x1f, 0x0082
    load_ldt "an LDT", FREE
    registers
    load_ldt "an LDT with RPL 3", FREE + 3
    registers
    load_ldt "null", 0
    registers
    load_ldt "null with RPL", 2
    load_ldt "itself", FREE
    load_ldt "in the LDT", 0x0c
    load_ldt "beyond the GDT", 0x80
    load_ldt "data", DATA
    load_ldt "a TSS", MAIN
    registers
    load_ds "the first entry of the LDT", 4
    load_ds "data of the LDT", 0x0c
    load_ds "code of the LDT", 0x14
    load_ds "the last entry of the LDT", 0x1c
    load_ds "beyond the LDT", 0x24
    try "CALL to code of the LDT", {lcall 0x14:behind}
    mov eax, 0x0c
    mov es, eax
    mov eax, dword ptr es:[4]
    show eax
    newline
    call flat_segments
    mov byte ptr [gdt+FREE+5], 0x02
    load_ldt "not present", FREE
    registers
    mov byte ptr [gdt+FREE+5], 0x82
    mov word ptr [gdt+FREE], 0x0b
    load_ldt "shorter", FREE
    load_ds "cut", 0x0c
    xor eax, eax
    lldt ax
    load_ds "without an LDT", 0x0c
    try "SLDT to memory", {sldt word ptr [word_at]}
    try "STR to memory", {str word ptr [word_at+4]}
    show {dword ptr [word_at]}
    show {dword ptr [word_at+4]}
    newline

    load_tr "LTR busy", MAIN
    load_tr "LTR of the LDT", 0x0c
    load_tr "LTR beyond the GDT", 0x80
    load_tr "LTR data", DATA
    load_tr "LTR of an LDT", FREE
    segment FREE2, task_tss, 0x67, 0x0009
    load_tr "LTR not present", FREE2
    mov byte ptr [gdt+FREE2+5], 0x8b
    load_tr "LTR not present and busy", FREE2
    mov byte ptr [gdt+FREE2+5], 0x89
    load_tr "LTR with RPL 3", FREE2 + 3
    show {dword ptr [gdt+FREE2+4]}
    registers
    mov byte ptr [gdt+FREE2+5], 0x81
    load_tr "LTR of a 16-bit TSS", FREE2
    show {dword ptr [gdt+FREE2+4]}
    registers
    mov byte ptr [gdt+MAIN+5], 0x89
    load_tr "LTR of the first again", MAIN
    registers
    user "level 3: LLDT", 0, {lldt ax}
    user "level 3: LTR", 0, {ltr ax}
    user "level 3: SLDT", 0, {sldt eax}
    user "level 3: STR", 0, {str eax}
    jmp finish

behind:
    retf

word_at:
    .long 0xa5a5a5a5, 0x5a5a5a5a
.align 8
ldt:
    .quad 0x00cf93000000ffff
    .quad 0x00cf93100000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00cf92000000ffff
