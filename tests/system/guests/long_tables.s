; Descriptor-table registers in 64-bit mode, and what level 3 gets (SDM vol. 2, SGDT, SIDT, SLDT, STR, SMSW, LLDT, LTR)
.include "env64.inc"

start:
    mov rdi, PAGES
    mov rax, 0xaaaaaaaaaaaaaaaa
    mov qword ptr [rdi], rax
    mov qword ptr [rdi+8], rax
    sgdt [rdi]
    show64 {qword ptr [rdi]}
    show64 {qword ptr [rdi+8]}
    newline
    sidt [rdi]
    show64 {qword ptr [rdi]}
    show64 {qword ptr [rdi+8]}
    newline
    mov rax, -1
    sldt rax
    show64 rax
    mov rax, -1
    sldt ax
    show64 rax
    mov rax, -1
    str eax
    show64 rax
    mov rax, -1
    str ax
    show64 rax
    mov rax, -1
    smsw ax
    show64 rax
    mov rax, -1
    .byte 0x48, 0x0f, 0x01, 0xe0    ; smsw rax
    show64 rax
    mov qword ptr [rdi], -1
    smsw word ptr [rdi]
    show64 {qword ptr [rdi]}
    newline
    mov dword ptr [gdt+FREE], 0x4000017   ; an LDT of three descriptors at PAGES + 4
    mov dword ptr [gdt+FREE+4], 0x00008200
    mov eax, PAGES + 0x400
    mov word ptr [gdt+FREE+2], ax
    shr eax, 16
    mov byte ptr [gdt+FREE+4], al
    mov qword ptr [gdt+FREE+8], 0
    mov eax, FREE
    try "LLDT", {lldt ax}
    sldt ecx
    show ecx
    newline
    mov rax, qword ptr [gdt+DATA]
    mov qword ptr [PAGES+0x408], rax
    mov rax, qword ptr [gdt+DATA3]
    mov qword ptr [PAGES+0x410], rax
    mov eax, 12
    try "DS from the LDT", {mov ds, eax}
    mov eax, 0x1c
    try "beyond the LDT", {mov ds, eax}
    mov eax, 4
    try "the LDT's first", {mov ds, eax}
    xor eax, eax
    try "LLDT null", {lldt ax}
    mov eax, TSS
    try "LLDT of a TSS", {lldt ax}
    mov eax, 0xff0
    try "LLDT beyond the table", {lldt ax}
    mov eax, 12
    try "LLDT from the LDT", {lldt ax}
    mov byte ptr [gdt+FREE+5], 0x02
    mov eax, FREE
    try "LLDT not present", {lldt ax}
    mov eax, TSS
    try "LTR of the busy one", {ltr ax}
    mov eax, DATA
    try "LTR of data", {ltr ax}
    show {dword ptr [gdt+TSS+4]}
    newline
    user "SGDT at level 3", 0, {sgdt [PAGES]}
    user "SLDT at level 3", 0, {sldt eax}
    user "SMSW at level 3", 0, {smsw ax}
    mov rax, cr4
    or eax, 0x800
    mov cr4, rax
    user "SGDT at level 3 with UMIP", 0, {sgdt [PAGES]}
    user "SIDT at level 3 with UMIP", 0, {sidt [PAGES]}
    user "SLDT at level 3 with UMIP", 0, {sldt eax}
    user "STR at level 3 with UMIP", 0, {str eax}
    user "SMSW at level 3 with UMIP", 0, {smsw ax}
    try "SGDT at level 0 with UMIP", {sgdt [PAGES]}
    user "LGDT at level 3", 0, {lgdt [gdtr]}
    user "LIDT at level 3", 0, {lidt [idtr]}
    user "LLDT at level 3", 0, {lldt ax}
    user "LTR at level 3", 0, {ltr ax}
    call finish
