; The local APIC: an interrupt to oneself, priorities by CR8, the timer (SDM vol. 3, 10.5.4, 10.6, 10.8)
.include "env64.inc"

.equ APIC, 0xfee00000

.macro register offset
    mov eax, dword ptr [rbx+\offset]
    show eax
.endm
.macro state
    register 0x80
    register 0xa0
    register 0x110
    register 0x210
    newline
.endm
.macro self vector
    mov dword ptr [rbx+0x300], 0x40000 + \vector
.endm

start:
    mov dword ptr [PDPT+24], 0x204003
    mov edi, 0x204000
    xor eax, eax
    mov ecx, 512
    rep stosq
    mov dword ptr [0x204000+8*0x1f7], 0xfee0009b
    mov ebx, APIC
    mov edi, idt + 0x31 * 16
    mov eax, handler
    call write_gate
    mov edi, idt + 0x3e * 16
    mov eax, handler
    call write_gate
    mov dword ptr [rbx+0xf0], 0x1ff
    register 0xf0
    state
    self 0x31
    say "waiting "
    state
    sti
    nop
    say "after STI "
    state
    mov eax, 3
    mov cr8, rax
    say "TPR by CR8 "
    register 0x80
    self 0x31
    nop
    say "held "
    state
    xor eax, eax
    mov cr8, rax
    nop
    say "released "
    state
    mov dword ptr [rbx+0x80], 0x55
    mov rax, cr8
    show64 rax
    newline
    mov dword ptr [rbx+0x80], 0
    cli
    self 0x31
    self 0x3e
    self 0x31
    sti
    nop
    nop
    say "the higher first "
    state
    say "timer "
    mov dword ptr [rbx+0x3e0], 0x0b         ; every tick
    mov dword ptr [rbx+0x320], 0x31
    mov dword ptr [rbx+0x380], 1000         ; 1 us, which may be over at once
.wait:
    cmp byte ptr [handled], 5
    jb .wait
    register 0x390
    register 0x320
    newline
    mov dword ptr [rbx+0x320], 0x10031      ; masked
    register 0x320
    state
    mov dword ptr [rbx+0xf0], 0xff
    register 0x320
    newline
    call finish

handled:
    .byte 0
handler:
    inc byte ptr [handled]
    say "handler "
    mov eax, dword ptr [rbx+0x110]
    show eax
    mov dword ptr [rbx+0xb0], 0
    newline
    iretq
