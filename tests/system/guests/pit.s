; The 8254: status and count read back, latches, access modes, BCD, modes 0 to 4 as far as they do not depend on time, gate and output of counter 2 (Intel 8254 data sheet)
.include "env32.inc"

.macro port number, value
    mov al, \value
    out \number, al
.endm
; Programs counter 2, which stands still with its gate low, and reads its status back
.macro program control, low, high
    port 0x43, \control
    port 0x42, \low
    port 0x42, \high
    port 0x43, 0xe8             ; status of counter 2
    in al, 0x42
    and eax, 0x3f               ; not the output and whether the count is loaded
    show eax
.endm
.macro counter_status
    port 0x43, 0xe8
    in al, 0x42
    and eax, 0xbf
    show eax
    newline
.endm

start:
    in al, 0x61
    and al, 0xfc                ; gate of counter 2 low, speaker off
    out 0x61, al
    in al, 0x61
    and eax, 0x0f
    show eax
    newline
    say "status by mode: "
    program 0xb0, 0x34, 0x12
    program 0xb2, 0x34, 0x12
    program 0xb4, 0x34, 0x12
    program 0xb6, 0x34, 0x12
    program 0xb8, 0x34, 0x12
    program 0xba, 0x34, 0x12
    program 0xbc, 0x34, 0x12
    program 0xbe, 0x34, 0x12
    program 0xb1, 0x34, 0x12
    newline
    say "status by access: "
    port 0x43, 0x90
    port 0x42, 5
    counter_status
    port 0x43, 0xa0
    port 0x42, 5
    counter_status
    say "output after the mode is set: "
    port 0x43, 0xb0
    counter_status
    port 0x43, 0xb6
    counter_status
    say "mode 0 runs out: "
    in al, 0x61
    or al, 1
    out 0x61, al
    port 0x43, 0xb0
    port 0x42, 0x20
    port 0x42, 0
.wait:
    port 0x43, 0xe8
    in al, 0x42
    test al, 0x80
    jz .wait
    in al, 0x61
    and eax, 0x20               ; the output, as this port has it
    show eax
    newline
    say "a latch holds: "
    port 0x43, 0xb4
    port 0x42, 0xff
    port 0x42, 0xff
    port 0x43, 0x80
    in al, 0x42
    mov bl, al
    port 0x43, 0x80             ; a second latch does nothing before the first was read
    in al, 0x42
    mov bh, al
    movzx ebx, bx
    cmp ebx, 0x8000             ; not more than 27 ms later
    setae al
    movzx eax, al
    show eax
    newline
    say "it counts down: "
    call count
    mov ebx, eax
    mov ecx, 1000
.spin:
    in al, 0x61
    loop .spin
    call count
    cmp eax, ebx
    setne al
    movzx eax, al
    show eax
    newline
    say "refresh toggles: "
    in al, 0x61
    mov bl, al
    mov ecx, 100000
.toggle:
    in al, 0x61
    xor al, bl
    test al, 0x10
    jnz .toggled
    loop .toggle
.toggled:
    and eax, 0x10
    show eax
    newline
    jmp finish

count:
    port 0x43, 0x80
    in al, 0x42
    mov ah, al
    in al, 0x42
    xchg al, ah
    movzx eax, ax
    ret
