; Gates of the 64-bit IDT: presence, privilege, target segments, table limit (SDM vol. 3, 6.14.1; vol. 2, INT n)
.include "env64.inc"

.equ GATE, idt + 0x30 * 16
.equ FOREIGN, 0x30

.macro gate low, high           ; of vector 30h: offset 15-0 and selector, attributes
    mov dword ptr [GATE], \low
    mov dword ptr [GATE+4], \high
    mov dword ptr [GATE+8], 0
.endm

start:
    try "INT 30h", {int 0x30}
    gate CODE*0x10000, 0x0e00
    try "not present", {int 0x30}
    gate 0xfff80000, 0x8e00
    try "selector beyond the table", {int 0x30}
    gate 0, 0x8e00
    try "null selector", {int 0x30}
    gate DATA*0x10000, 0x8e00
    try "data segment", {int 0x30}
    gate CODE32*0x10000, 0x8e00
    try "32-bit code segment", {int 0x30}
    gate CODE*0x10000, 0x8500
    try "task gate", {int 0x30}
    gate CODE*0x10000, 0x8600
    try "16-bit interrupt gate", {int 0x30}
    gate CODE*0x10000, 0x8c00
    try "call gate", {int 0x30}
    mov edi, GATE
    mov eax, stubs + 0x30 * 8
    call write_gate
    user "INT 30h of DPL 0 from level 3", 0, {int 0x30}
    user "INT 3 of DPL 0 from level 3", 0, {int3}
    mov byte ptr [GATE+5], 0xee
    user "INT 30h of DPL 3 from level 3", 0, {int 0x30}
    user "RFLAGS.IF from level 3", 0x200, {int 0x30}
    mov byte ptr [GATE+5], 0xef
    user "trap gate from level 3", 0x200, {int 0x30}
    mov word ptr [GATE+2], CODE3
    user "to level 3", 0, {int 0x30}
    try "from level 0 to level 3", {int 0x30}
    mov word ptr [GATE+2], CODE
    try "INT 80h beyond the table", {int 0x80}
    user "INT 80h beyond the table from level 3", 0, {int 0x80}
    call finish
