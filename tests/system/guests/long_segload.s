; Loading segment registers in 64-bit mode (SDM vol. 2, MOV, LSS; vol. 3, 5.4, 5.5)
.include "env64.inc"

.macro load register, selector
    mov eax, \selector
    mov \register, eax
.endm

start:
    xor eax, eax
    lldt ax
    try "DS null", {load ds, 0}
    try "ES null with RPL 3", {load es, 3}
    try "a load with DS null", {mov eax, dword ptr [gdt]}
    try "SS null at level 0", {load ss, 0}
    try "PUSH with SS null", {push rax}
    try "DS beyond the table", {load ds, 0xff8}
    try "DS code", {load ds, CODE}
    try "DS TSS", {load ds, TSS}
    try "SS code", {load ss, CODE}
    try "SS of DPL 3", {load ss, DATA3}
    try "SS of RPL 3", {load ss, DATA+3}
    try "FS of DPL 3", {load fs, DATA3}
    try "GS with RPL 3 of DPL 0", {load gs, DATA+3}
    try "LDT without a table", {load ds, 4}
    mov dword ptr [gdt+FREE], 0
    mov dword ptr [gdt+FREE+4], 0x00c01300
    try "DS not present", {load ds, FREE}
    try "SS not present", {load ss, FREE}
    mov dword ptr [gdt+FREE+4], 0x00c09100
    try "DS read-only", {load ds, FREE}
    try "a store there", {mov dword ptr [PAGES], eax}
    try "SS read-only", {load ss, FREE}
    mov dword ptr [gdt+FREE+4], 0x00c09900
    try "DS execute-only", {load ds, FREE}
    mov dword ptr [gdt+FREE+4], 0x00c09300
    mov dword ptr [gdt+FREE], 0x00000000
    try "DS of limit 0", {load ds, FREE}
    try "a load beyond it", {mov eax, dword ptr [PAGES]}
    mov eax, dword ptr [gdt+FREE+4]
    show eax
    newline
    call flat_segments
    mov dword ptr [PAGES], 0x11112222
    mov word ptr [PAGES+4], DATA3
    lfs eax, fword ptr [PAGES]
    show eax
    mov eax, fs
    show eax
    newline
    try "MOV CS", {.byte 0x8e, 0xc8}
    try "segment 6", {.byte 0x8e, 0xf0}
    user "DS of DPL 0 at level 3", 0, {load ds, DATA}
    user "SS null at level 3", 0, {load ss, 0}
    user "DS null at level 3", 0, {load ds, 0}
    call finish
