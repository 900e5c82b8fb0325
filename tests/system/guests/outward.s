; RETF and IRET to outer levels: the stack, data segments that become null, EFLAGS by level, and invalid frames (SDM vol. 2, RET, IRET; vol. 3, 5.8.6); no SS that is not present, for which QEMU has #NP in place of #SS
.include "env32.inc"

.equ ALL, 0x247fd7              ; every flag but VM, RF, VIF, VIP

.macro frame ss_, esp_, cs_, eip_
    push \ss_
    push \esp_
    push \cs_
    push \eip_
.endm
.macro iret_frame ss_, flags, cs_, eip_
    push \ss_
    push STACK2
    push \flags
    push \cs_
    push \eip_
.endm
.macro retf_to name, ss_, cs_
    try2 \name, {frame \ss_, STACK2, \cs_, level3}, {retf}
.endm
.macro iret_to name, ss_, flags, cs_
    try2 \name, {iret_frame \ss_, \flags, \cs_, level3}, {iretd}
.endm
.macro same_frame flags, cs_
    push \flags
    push \cs_
    push look
.endm
.macro iret_same name, flags, cs_
    try2 \name, {same_frame \flags, \cs_}, {iretd}
.endm
.macro parameters
    push DATA3 + 3
    push STACK2
    push 0x33333333
    push 0x22222222
    push CODE3 + 3
    push level3
    .byte 0xca, 8, 0            ; ret far 8
.endm

start:
    segment FREE, 0, 0xfffff, 0xc0bb        ; code of level 1
    segment FREE2, 0, 0xfffff, 0xc0b3       ; data of level 1
    segment FREE3, 0, 0xfffff, 0xc0f1       ; read-only data of level 3
    segment FREE5, 0, 0xfffff, 0xc09f       ; conforming code of level 0
    segment FREE6, 0, 0xfffff, 0xc07b       ; code of level 3, not present
    gate idt + 0x21 * 8, CODE, shown, 0xee00
    mov eax, DATA3
    mov es, eax
    mov eax, FREE2
    mov fs, eax
    mov eax, FREE5
    mov gs, eax
    retf_to "RETF to level 3", DATA3 + 3, CODE3 + 3
    try "RETF with parameters", {parameters}
    retf_to "RETF to level 1", FREE2 + 1, FREE + 1
    retf_to "RETF, SS null", 0, CODE3 + 3
    retf_to "RETF, SS null with RPL 3", 3, CODE3 + 3
    retf_to "RETF, SS with RPL 0", DATA3, CODE3 + 3
    retf_to "RETF, SS of level 0", DATA, CODE3 + 3
    retf_to "RETF, SS of level 0 with RPL 3", DATA + 3, CODE3 + 3
    retf_to "RETF, SS read-only", FREE3 + 3, CODE3 + 3
    retf_to "RETF, SS code", CODE3 + 3, CODE3 + 3
    retf_to "RETF, SS beyond the GDT", 0x83, CODE3 + 3
    retf_to "RETF, CS not present", DATA3 + 3, FREE6 + 3
    retf_to "RETF, CS of level 0 with RPL 3", DATA3 + 3, CODE + 3
    retf_to "RETF, CS of level 1 with RPL 3", DATA3 + 3, FREE + 3
    retf_to "RETF, conforming CS with RPL 3", DATA3 + 3, FREE5 + 3
    show_fault R_ESP
    newline
    iret_to "IRET to level 3", DATA3 + 3, 2, CODE3 + 3
    iret_to "IRET to level 3, all flags", DATA3 + 3, ALL - 0x4100, CODE3 + 3
    iret_to "IRET to level 1", FREE2 + 1, 0x3002, FREE + 1
    iret_to "IRET, SS null", 3, 2, CODE3 + 3
    iret_to "IRET, SS with RPL 0", DATA3, 2, CODE3 + 3
    iret_to "IRET, CS null", DATA3 + 3, 2, 0
    iret_to "IRET, CS null with RPL", DATA3 + 3, 2, 3
    iret_to "IRET, CS not present", DATA3 + 3, 2, FREE6 + 3
    iret_to "IRET, CS data", DATA3 + 3, 2, DATA3 + 3
    iret_to "IRET, CS of level 0 with RPL 3", DATA3 + 3, 2, CODE + 3
    iret_same "IRET at level 0", ALL - 0x4100, CODE
    iret_same "IRET at level 0, no flags", 0, CODE
    iret_same "IRET at level 0 to conforming code", 2, FREE5
    user2 "level 3: IRET, all flags at IOPL 0", 0, {same_frame ALL - 0x4100, CODE3 + 3}, {iretd}
    user2 "level 3: IRET, no flags at IOPL 0 with IF", 0x200, {same_frame 0, CODE3 + 3}, {iretd}
    user2 "level 3: IRET, IF at IOPL 3", 0x3000, {same_frame 0x202, CODE3 + 3}, {iretd}
    user2 "level 3: IRET of 16 bits", 0x3000, {same_frame 0x202, CODE3 + 3}, {.byte 0x66, 0xcf}
    user2 "level 3: IRET to level 0", 0, {same_frame 2, CODE}, {iretd}
    user2 "level 3: IRET with NT", 0x4000, {same_frame 2, CODE3 + 3}, {iretd}
    jmp finish

look:
level3:
    int 0x21

; The state behind a return: CS, EFLAGS, ESP and SS where they were saved, and DS to GS
shown:
    push ds
    push DATA
    pop ds
    push eax
    mov eax, dword ptr [esp+12]
    test al, 3
    show eax
    pushfd
    mov eax, dword ptr [esp+20]
    show eax
    popfd
    jz .inner
    show {dword ptr [esp+24]}
    show {dword ptr [esp+28]}
.inner:
    pop eax
    pop eax
    and eax, 0xffff
    show eax
    mov eax, es
    show eax
    mov eax, fs
    show eax
    mov eax, gs
    show eax
    newline
    mov esp, dword ptr [resume_esp]
    call flat_segments
    mov eax, DATA3              ; what the next return finds
    mov es, eax
    mov eax, FREE2
    mov fs, eax
    mov eax, FREE5
    mov gs, eax
    push 2
    popfd
    jmp dword ptr [resume]
