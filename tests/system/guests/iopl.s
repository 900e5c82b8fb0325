; CLI, STI, POPF and PUSHF by CPL and IOPL, the bits of EFLAGS they change, and both operand sizes (SDM vol. 1, 3.4.3; vol. 2, CLI, STI, POPF, PUSHF)
.include "env32.inc"

.equ ALL, 0x247ed7              ; every flag but TF, RF, VM, VIF, VIP
.equ MOST, 0x243ed7             ; ... and but NT
.macro set flags
    push \flags
    popfd
.endm
.macro flags_now
    pushfd
    pop ebx
.endm
.macro popped name, flags
    try3 \name, {set \flags}, {flags_now}, {set 2}
    call tell
.endm
.macro popped3 name, iopl, flags
    user3 \name, \iopl, {set \flags}, {flags_now}, {set 2}
    call tell
.endm
.macro popw
    push 0xffff
    set 0x40000
    pushfd
    .byte 0x66, 0x68, 0xd7, 0x0e            ; push a word
    .byte 0x66, 0x9d                        ; popf of 16 bits
    pop eax
    pop eax
.endm
.macro pushw
    push 0x12345678
    .byte 0x66, 0x9c
    mov ebx, dword ptr [esp]
    add esp, 6
.endm

start:
    popped "POPF at level 0, all", ALL
    popped "POPF at level 0, none", 0
    popped "POPF at level 0, reserved bits", 0xffc08028
    popped "POPF at level 0, VM, VIF, VIP", 0x1a0002
    try3 "POPF of 16 bits", {popw}, {flags_now}, {set 2}
    call tell
    try2 "PUSHF of 16 bits", {pushw}, {nop}
    call tell
    popped3 "POPF at level 3, IOPL 0, all", 0, MOST
    popped3 "POPF at level 3, IOPL 0 with IF, none", 0x200, 0
    popped3 "POPF at level 3, IOPL 2 with IF, none", 0x2200, 0
    popped3 "POPF at level 3, IOPL 3, all", 0x3000, MOST
    popped3 "POPF at level 3, IOPL 3, none", 0x3200, 0
    user3 "POPF of 16 bits at level 3, IOPL 0", 0x200, {popw}, {flags_now}, {set 2}
    call tell
    try2 "CLI", {cli}, {flags_now}
    call tell
    try3 "STI", {sti}, {flags_now}, {cli}
    call tell
    user "CLI at level 3, IOPL 0", 0x200, {cli}
    user "STI at level 3, IOPL 0", 0, {sti}
    user "CLI at level 3, IOPL 2", 0x2200, {cli}
    user "STI at level 3, IOPL 2", 0x2000, {sti}
    user2 "CLI at level 3, IOPL 3", 0x3200, {cli}, {flags_now}
    call tell
    user2 "STI at level 3, IOPL 3", 0x3000, {sti}, {flags_now}
    call tell
    user "IN at level 3, IOPL 0", 0, {in al, 0x80}
    user "IN at level 3, IOPL 3", 0x3000, {in al, 0x80}
    user "HLT at level 3, IOPL 3", 0x3000, {hlt}
    jmp finish

tell:
    show ebx
    newline
    ret
