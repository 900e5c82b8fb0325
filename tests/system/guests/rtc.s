; The MC146818 clock: its RAM, registers A to D, setting and reading the time in both formats (Motorola MC146818A data sheet)
.include "env32.inc"

.macro write register, value
    mov al, \register
    out 0x70, al
    mov al, \value
    out 0x71, al
.endm
.macro read register
    mov al, \register
    out 0x70, al
    in al, 0x71
    movzx eax, al
    show eax
.endm
.macro date_and_time
    read 0
    read 2
    read 4
    read 6
    read 7
    read 8
    read 9
    newline
.endm
; Register B with SET and the format, then a time
.macro set_time b, second, minute, hour, day, date, month, year
    write 0x0b, \b
    write 0, \second
    write 2, \minute
    write 4, \hour
    write 6, \day
    write 7, \date
    write 8, \month
    write 9, \year
.endm

start:
    write 0x0a, 0x26
    read 0x0a
    write 0x0b, 0x82
    read 0x0b
    read 0x0d
    newline
    say "RAM: "
    write 0x50, 0x5a
    write 0x51, 0xa5
    read 0x50
    read 0x51
    newline
    say "BCD, 24 hours: "
    set_time 0x82, 0x10, 0x59, 0x23, 0x02, 0x28, 0x02, 0x24
    date_and_time
    say "going: "
    write 0x0b, 0x02
    read 2
    read 4
    read 7
    read 8
    read 9
    newline
    say "binary, 24 hours: "
    set_time 0x86, 10, 59, 23, 2, 28, 2, 24
    date_and_time
    say "binary, 12 hours: "
    set_time 0x84, 10, 30, 0x8b, 2, 28, 2, 24
    date_and_time
    say "BCD, 12 hours: "
    set_time 0x80, 0x10, 0x30, 0x92, 2, 0x28, 2, 0x24
    date_and_time
    say "alarm: "
    write 1, 0x11
    write 3, 0xc0
    write 5, 0xff
    read 1
    read 3
    read 5
    newline
    say "C and D are read-only: "
    write 0x0c, 0xff
    write 0x0d, 0
    mov al, 0x0c
    out 0x70, al
    in al, 0x71
    and eax, 0x0f               ; the flags above depend on time
    show eax
    read 0x0d
    newline
    jmp finish
