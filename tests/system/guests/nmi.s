; The non-maskable interrupt: by the local APIC to oneself, whatever IF is, and one at a time until IRET (SDM vol. 3, 6.7, 10.6.1)
.include "env32.inc"

.equ APIC, 0xfee00000

.macro send
    mov dword ptr [APIC+0x300], 0x4400      ; NMI, asserted, to the physical destination 0
    nop
    nop
    nop
.endm

start:
    gate idt+2*8, CODE, handler, 0x8e00
    mov dword ptr [APIC+0xf0], 0x1ff
    mov dword ptr [APIC+0x310], 0
    say "IF clear: "
    send
    call tell
    say "IF set: "
    sti
    send
    cli
    call tell
    say "another one meanwhile: "
    mov dword ptr [more], 1
    send
    nop
    call tell
    say "INT 2: "
    int 2
    call tell
    say "the APIC's state: "
    show {dword ptr [APIC+0x100]}
    show {dword ptr [APIC+0x200]}
    newline
    jmp finish

handler:
    push eax
    inc dword ptr [count]
    inc dword ptr [depth]
    mov eax, dword ptr [depth]
    cmp eax, dword ptr [deepest]
    jbe .shallow
    mov dword ptr [deepest], eax
.shallow:
    mov eax, dword ptr [esp+12]             ; EFLAGS
    and eax, 0x200
    mov dword ptr [flags], eax
    cmp dword ptr [more], 0
    je .enough
    dec dword ptr [more]
    send
    nop
    nop
.enough:
    dec dword ptr [depth]
    pop eax
    iretd

tell:
    show {dword ptr [count]}
    show {dword ptr [deepest]}
    show {dword ptr [flags]}
    newline
    ret

.align 4
count:
    .long 0
depth:
    .long 0
deepest:
    .long 0
flags:
    .long 0
more:
    .long 0
