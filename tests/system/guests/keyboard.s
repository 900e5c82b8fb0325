; The 8042 keyboard controller: self tests, command byte, the keyboard's own commands, and its status (IBM PS/2 technical reference; 8042 commands AA, AB, AD, AE, 20, 60, D2); nothing of the mouse, which this board has not
.include "env32.inc"

.macro command value
    call writable
    mov al, \value
    out 0x64, al
.endm
.macro data value
    call writable
    mov al, \value
    out 0x60, al
.endm
.macro answer
    call readable
    in al, 0x60
    movzx eax, al
    show eax
.endm

start:
    call drain
    command 0xaa
    answer
    command 0xab
    answer
    newline
    say "command byte "
    command 0x60
    data 0x30                   ; no interrupts, both ports disabled, no translation
    command 0x20
    answer
    command 0x60
    data 0x00
    command 0x20
    answer
    newline
    say "AD and AE "
    command 0xad
    command 0x20
    answer
    command 0xae
    command 0x20
    answer
    newline
    say "a byte of its own "
    command 0xd2
    data 0x5a
    call readable
    in al, 0x64
    and eax, 0x21
    show eax
    in al, 0x60
    movzx eax, al
    show eax
    in al, 0x64
    and eax, 1
    show eax
    newline
    say "the keyboard: echo "
    data 0xee
    answer
    say "identity "
    data 0xf2
    answer
    answer
    answer
    say "lights "
    data 0xed
    answer
    data 7
    answer
    say "scan code set "
    data 0xf0
    answer
    data 0
    answer
    answer
    say "disable, enable "
    data 0xf5
    answer
    data 0xf4
    answer
    say "reset "
    data 0xff
    answer
    answer
    newline
    jmp finish

writable:
    in al, 0x64
    test al, 2
    jnz writable
    ret
readable:
    push ecx
    mov ecx, 100000
.wait:
    in al, 0x64
    test al, 1
    jnz .there
    loop .wait
    say "nothing "
.there:
    pop ecx
    ret
drain:
    in al, 0x64
    test al, 1
    jz .none
    in al, 0x60
    jmp drain
.none:
    ret
