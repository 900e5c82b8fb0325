; SGDT, SIDT, LGDT and LIDT: both operand sizes, what limits cut off, and their faults (SDM vol. 2, LGDT, SGDT; vol. 3, 2.4)
.include "env32.inc"

start:
    call store
    mov dword ptr [pseudo], 0x1234abcd
    mov dword ptr [pseudo+4], 0xfedc5678
    .byte 0x66, 0x0f, 0x01, 0x15            ; lgdt of 16 bits: 24 bits of the base
    .long pseudo
    call store
    lgdt [pseudo]
    call store
    .byte 0x66, 0x0f, 0x01, 0x1d            ; lidt of 16 bits
    .long pseudo
    call store
    lidt [pseudo]
    call store
    lgdt [gdtr]
    lidt [idtr]
    .byte 0x66, 0x0f, 0x01, 0x05            ; sgdt of 16 bits stores all 32 bits of the base
    .long stored
    call print
    try "SGDT of a register", {.byte 0x0f, 0x01, 0xc0}
    try "SIDT of a register", {.byte 0x0f, 0x01, 0xc8}
    try "LGDT of a register", {.byte 0x0f, 0x01, 0xd7}
    try "LIDT of a register", {.byte 0x0f, 0x01, 0xdf}
    mov word ptr [gdtr], 0x3f
    lgdt [gdtr]
    mov eax, DATA3
    try "inside a shorter GDT", {mov fs, eax}
    mov eax, FREE2
    try "beyond a shorter GDT", {mov fs, eax}
    mov word ptr [gdtr], 0x46
    lgdt [gdtr]
    mov eax, FREE2
    try "one byte too short", {mov fs, eax}
    mov word ptr [gdtr], 0x7f
    lgdt [gdtr]
    segment FREE, data, 0xffff, 0x0093
    mov eax, FREE
    mov fs, eax
    say "through FS: "
    .byte 0x64, 0x0f, 0x01, 0x0d            ; sidt fs:[8]
    .long 8
    call flat_segments
    show {dword ptr [data+8]}
    show {dword ptr [data+12]}
    newline
    user "level 3: SGDT", 0x3000, {sgdt [stored]}
    user "level 3: SIDT", 0x3000, {sidt [stored]}
    user "level 3: LGDT", 0x3000, {lgdt [gdtr]}
    user "level 3: LIDT", 0x3000, {lidt [idtr]}
    mov eax, cr4
    or eax, 0x800
    mov cr4, eax
    user "level 3 with UMIP: SGDT", 0x3000, {sgdt [stored]}
    user "level 3 with UMIP: SIDT", 0x3000, {sidt [stored]}
    user "level 3 with UMIP: SLDT", 0x3000, {sldt eax}
    user "level 3 with UMIP: STR", 0x3000, {str eax}
    user "level 3 with UMIP: SMSW", 0x3000, {smsw eax}
    try "level 0 with UMIP: SMSW", {smsw eax}
    show eax
    newline
    jmp finish

store:
    mov dword ptr [stored], 0xa5a5a5a5
    mov dword ptr [stored+4], 0xa5a5a5a5
    sgdt [stored]
    call print
    mov dword ptr [stored+4], 0xa5a5a5a5
    sidt [stored]
    call print
    newline
    ret
print:
    show {dword ptr [stored]}
    show {dword ptr [stored+4]}
    ret

stored:
    .long 0, 0
pseudo:
    .long 0, 0
data:
    .long 0, 0, 0, 0
