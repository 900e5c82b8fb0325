; Double faults: which second exceptions make one, and which do not (SDM vol. 3, 6.15, #DF, table 6-5); no error codes with EXT set, which QEMU leaves clear
.include "env32.inc"
.include "paging32.inc"

; The gate of a vector not present (#NP when it is used), or as it was
.macro remove vector
    mov byte ptr [idt+\vector*8+5], 0x0e
.endm
.macro restore vector
    mov byte ptr [idt+\vector*8+5], 0x8e
.endm
.macro twice name, vector, body
    remove \vector
    try \name, {\body}
    restore \vector
.endm
.macro load_bad
    mov eax, 0x80
    mov ds, eax
.endm
.macro divide
    xor ecx, ecx
    div ecx
.endm
.macro not_there
    mov eax, FREE
    mov ds, eax
.endm
start:
    segment FREE, 0, 0xfffff, 0xc013
    twice "#DE with #NP is double", 0, {divide}
    twice "#GP with #NP is double", 13, {load_bad}
    twice "#NP with #NP is double", 11, {not_there}
    twice "INT 13 with #NP is #NP", 13, {int 13}
    twice "INT3 with #NP is #NP", 3, {int3}
    gate idt + 13 * 8, DATA, stub13, 0x8e00
    try "#GP with #GP is double", {load_bad}
    gate idt + 13 * 8, CODE, stub13, 0x8e00
    call paging_on
    remove 14
    try "#PF with #NP is double", {mov eax, dword ptr [TESTS+0x80000]}
    mov eax, cr2
    show eax
    newline
    restore 14
    gate idt + 14 * 8, DATA, stub14, 0x8e00
    try "#PF with #GP is double", {mov eax, dword ptr [TESTS+0x90000]}
    gate idt + 14 * 8, CODE, stub14, 0x8e00
    say "the IDT in a page that is not there\n"
    mov esi, idt
    mov edi, FRAMES + 0x1000 - 13 * 8       ; its entry 13 and all behind it in the second page
    mov ecx, 96
    rep movsd
    mov dword ptr [idtr+2], TESTS + 0x1000 - 13 * 8
    lidt [idtr]
    try "#UD, present", {ud2}
    page 1, 0
    mov dword ptr [idtr+2], idt
    lidt [idtr]
    page 1, FRAMES + 0x1007
    mov dword ptr [idtr+2], TESTS + 0x1000 - 14 * 8
    mov esi, idt
    mov edi, FRAMES + 0x1000 - 14 * 8
    mov ecx, 96
    rep movsd
    lidt [idtr]
    page 0, 0                               ; vectors 0 to 13 gone, 14 is there
    try "#UD with #PF is #PF", {ud2}
    jmp finish
