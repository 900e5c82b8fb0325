; INT n, INT3, INTO and BOUND: gate privilege, error codes and the return addresses (SDM vol. 2, INT, BOUND; vol. 3, 6.12.1)
.include "env32.inc"

.equ IOPL3, 0x3000

.macro bound16 at
    .byte 0x66, 0x62, 0x05
    .long \at
.endm

start:
    mov dword ptr [resume], 0
    say "INT3 returns behind it: "
    int3
    .byte 0xcd, 3               ; the 2-byte form
    say "INTO without OF: "
    xor eax, eax
    into
    say "and with OF: "
    mov al, 0x7f
    inc al
    into
    say "INT 20h\n"
    int 0x20
    int 2
    mov eax, 5
    try "BOUND inside", {bound eax, qword ptr [bounds]}
    mov eax, -3
    try "BOUND at the lower end", {bound eax, qword ptr [bounds]}
    mov eax, -4
    try "BOUND below", {bound eax, qword ptr [bounds]}
    mov eax, 9
    try "BOUND at the upper end", {bound eax, qword ptr [bounds]}
    mov eax, 10
    try "BOUND above", {bound eax, qword ptr [bounds]}
    mov eax, 0x80000000
    try "BOUND is signed", {bound eax, qword ptr [bounds]}
    mov eax, 0x12340004
    try "BOUND of 16 bits, inside", {bound16 bounds16}
    mov eax, 0x00048000
    try "BOUND of 16 bits, below", {bound16 bounds16}
    try "BOUND of a register", {.byte 0x62, 0xc0}

    user "INT3 at level 3, DPL 0", 0, {int3}
    user "INT 3 at level 3, DPL 0", 0, {.byte 0xcd, 3}
    user "INTO at level 3, DPL 0", 0x800, {into}
    user "INTO at level 3, DPL 0, without OF", 0, {into}
    user "INT 20h at level 3, DPL 0", IOPL3, {int 0x20}
    user "INT 0", 0, {int 0}
    user "INT 8", 0, {int 8}
    user "INT 14", 0, {int 14}
    mov eax, 99
    user "BOUND at level 3, DPL 0", 0, {bound eax, qword ptr [bounds]}
    mov byte ptr [idt+3*8+5], 0xee
    mov byte ptr [idt+4*8+5], 0xee
    mov byte ptr [idt+0x20*8+5], 0xee
    user "INT3 at level 3, DPL 3", 0, {int3}
    user "INT 3 at level 3, DPL 3", 0, {.byte 0xcd, 3}
    user "INTO at level 3, DPL 3", 0x800, {into}
    user "INT 20h at level 3, DPL 3", IOPL3, {int 0x20}
    mov byte ptr [idt+0x20*8+5], 0xce
    user "INT 20h at level 3, DPL 2", 0, {int 0x20}
    user "INT beyond the IDT", 0, {int 0x30}
    try "INT beyond the IDT at level 0", {int 0xff}
    jmp finish

bounds:
    .long -3, 9
bounds16:
    .word -3, 9
