; Loads of segment registers by MOV, POP, LDS to LGS: checks, error codes, null selectors and the accessed bit (SDM vol. 2, MOV, POP, LDS; vol. 3, 5.4 to 5.7); not the later use of a null selector, which QEMU does not check
.include "env32.inc"

.macro load name, segreg, selector
    mov eax, \selector
    try2 \name, {mov \segreg, eax}, {call flat_segments}
.endm
.macro load3 name, segreg, selector
    mov eax, \selector
    user \name, 0x3000, {mov \segreg, eax}
.endm

start:
    segment FREE, 0x1000, 0xfffff, 0xc013   ; data, not present
    segment FREE2, 0x1000, 0xfffff, 0xc099  ; code, execute-only
    segment FREE3, 0x1000, 0xfffff, 0xc09b  ; code, readable
    segment FREE4, 0x1000, 0xfffff, 0xc09f  ; the same, conforming
    segment FREE5, 0x1000, 0xfffff, 0xc090  ; data, read-only, not accessed
    segment FREE6, 0x1000, 0xfffff, 0xc0b2  ; data of level 1, not accessed
    load "DS null", ds, 0
    load "ES null with RPL", es, 3
    load "SS null", ss, 0
    load "SS null with RPL", ss, 3
    load "DS beyond the GDT", ds, 0x80
    load "FS at the end of the GDT", fs, 0x7b
    load "GS in no LDT", gs, 0x0c
    load "DS a TSS", ds, MAIN
    load "DS not present", ds, FREE
    load "SS not present", ss, FREE
    load "DS execute-only code", ds, FREE2
    load "DS readable code", ds, FREE3
    load "DS readable code with RPL 3", ds, FREE3 + 3
    load "DS conforming code with RPL 3", ds, FREE4 + 3
    load "SS readable code", ss, FREE3
    load "SS read-only", ss, FREE5
    load "SS with RPL 3", ss, DATA + 3
    load "SS of level 3", ss, DATA3
    load "SS of level 3 with RPL 3", ss, DATA3 + 3
    load "ES of level 3", es, DATA3
    load "ES with RPL 3", es, DATA + 3
    load "GS of level 1 with RPL 1", gs, FREE6 + 1
    load "GS of level 1 with RPL 2", gs, FREE6 + 2
    load "FS read-only", fs, FREE5 + 0
    show {dword ptr [gdt+FREE5+4]}
    show {dword ptr [gdt+FREE6+4]}
    newline
    load3 "level 3: DS of level 0", ds, DATA
    load3 "level 3: DS of level 0 with RPL 3", ds, DATA + 3
    load3 "level 3: DS of level 1", ds, FREE6 + 3
    load3 "level 3: DS with RPL 0", ds, DATA3
    load3 "level 3: ES readable code of level 0", es, FREE3
    load3 "level 3: ES conforming code of level 0", es, FREE4
    load3 "level 3: SS null", ss, 3
    load3 "level 3: SS with RPL 0", ss, DATA3
    load3 "level 3: SS of level 0", ss, DATA + 3
    load3 "level 3: DS null", ds, 0

    push 0x93
    try "POP ES, beyond the GDT", {pop es}
    push FREE
    try "POP SS, not present", {pop ss}
    show_fault R_ESP
    newline
    push 0xffff0000 + DATA
    try2 "POP GS, upper half ignored", {pop gs}, {call flat_segments}
    push 0
    try "POP SS, null", {pop ss}
    mov esp, STACK
    mov eax, 0x11111111
    try "LES, not present", {les eax, fword ptr [to_free]}
    show_fault R_EAX
    newline
    mov eax, 0x11111111
    try "LFS", {lfs eax, fword ptr [to_data]}
    jmp finish

to_free:
    .long 0x12345678
    .word FREE
to_data:
    .long 0x12345678
    .word DATA
