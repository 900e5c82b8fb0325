; The 8259A pair: initialization, masks, requests and service, EOI, poll and automatic EOI, driven by the PIT; the shadows of STI and MOV SS (Intel 8259A data sheet; SDM vol. 3, 6.8.3)
.include "env32.inc"

.macro port number, value
    mov al, \value
    out \number, al
.endm
.macro read_port number
    in al, \number
    movzx eax, al
    show eax
.endm

start:
    port 0x20, 0x11             ; ICW1: edges, cascade, ICW4
    port 0x21, 0x20             ; vectors 20h
    port 0x21, 0x04
    port 0x21, 0x01
    port 0xa0, 0x11
    port 0xa1, 0x28
    port 0xa1, 0x02
    port 0xa1, 0x01
    port 0x21, 0xff
    port 0xa1, 0xff
    port 0x20, 0x0b             ; what was latched before the masks is gone with ICW1
    call tell
    gate idt + 0x20 * 8, CODE, timer, 0x8e00
    port 0x43, 0x30             ; counter 0, mode 0: one edge
    port 0x40, 0x10
    port 0x40, 0x00
    call wait
    say "requested, masked: "
    call tell
    say "STI: "
    sti
    nop
    nop
    cli
    call tell
    say "unmasked, IF clear: "
    port 0x21, 0xfe
    call tell
    say "delivered: "
    sti
    nop
    nop
    cli
    call tell
    say "EOI: "
    port 0x20, 0x20
    call tell
    say "specific EOI in the handler's place: "
    call edge
    sti
    nop
    nop
    cli
    call tell
    port 0x20, 0x60
    call tell
    say "a second edge while in service: "
    call edge
    sti
    nop
    nop
    call edge
    cli
    call tell
    port 0x20, 0x20
    call tell
    sti
    nop
    nop
    cli
    call tell
    port 0x20, 0x20
    say "STI holds interrupts off for one instruction: "
    call edge
    mov dword ptr [where], 0
    sti
after_sti:
    nop
behind_nop:
    cli
    mov eax, dword ptr [where]
    sub eax, after_sti
    show eax
    newline
    port 0x20, 0x20
    say "MOV SS as well: "
    call edge
    push 0x202
    mov ebx, ss
    cli
    sti
    mov ss, ebx
    cli
    mov eax, dword ptr [ticks]
    show eax
    pop eax
    newline
    port 0x20, 0x20
    say "poll: "
    port 0x20, 0x20
    call edge
    port 0x20, 0x0c
    in al, 0x20
    movzx eax, al
    show eax
    call tell
    port 0x20, 0x20
    port 0x20, 0x0c
    in al, 0x20
    and eax, 0x80
    show eax
    newline
    say "masks: "
    port 0x21, 0x5a
    port 0xa1, 0xa5
    read_port 0x21
    read_port 0xa1
    newline
    say "automatic EOI: "
    port 0x20, 0x11
    port 0x21, 0x20
    port 0x21, 0x04
    port 0x21, 0x03
    port 0x21, 0xfe
    call edge
    sti
    nop
    nop
    cli
    call tell
    say "ticks "
    show {dword ptr [ticks]}
    newline
    jmp finish

; One rising edge of IRQ 0, waited for
edge:
    port 0x43, 0x30
    port 0x40, 0x10
    port 0x40, 0x00
wait:                           ; until the output is high
    port 0x43, 0xe2             ; status of counter 0
    in al, 0x40
    test al, 0x80
    jz wait
.latched:                       ; ... and the PIC has seen it, which may be later
    port 0x20, 0x0a
    in al, 0x20
    test al, 1
    jz .latched
    ret

timer:
    push eax
    mov eax, dword ptr [esp+4]
    mov dword ptr [where], eax
    inc dword ptr [ticks]
    pop eax
    iretd

tell:
    port 0x20, 0x0a
    in al, 0x20
    and eax, 1
    show eax
    port 0x20, 0x0b
    in al, 0x20
    movzx eax, al
    show eax
    read_port 0x21
    show {dword ptr [ticks]}
    newline
    ret

ticks:
    .long 0
where:
    .long 0
