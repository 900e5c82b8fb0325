; The I/O permission bitmap at level 3: widths, string instructions, where the TSS ends and where the map begins (SDM vol. 1, 18.5.2); no REP with ECX = 0, for which QEMU looks at the map
.include "env32.inc"

; The map: ports 80h to 87h but 82h are allowed, those of byte 11h of it are not
.macro bitmap limit, base
    mov word ptr [gdt+MAIN], \limit
    mov byte ptr [gdt+MAIN+5], 0x89
    mov word ptr [main_tss+0x66], \base
    mov eax, MAIN
    ltr ax
.endm
.macro dx_port number, body
    mov edx, \number
    \body
.endm

start:
    mov byte ptr [main_tss+0x68+0x10], 4
    mov byte ptr [main_tss+0x68+0x11], 0xff
    bitmap 0x79, 0x68
    user "OUT 80h", 0, {out 0x80, al}
    user "OUT 82h", 0, {out 0x82, al}
    user "IN 82h", 0, {in al, 0x82}
    user "IN 81h", 0, {in al, 0x81}
    user "OUT 81h, a word", 0, {out 0x81, ax}
    user "OUT 83h, a word", 0, {out 0x83, ax}
    user "OUT 83h, a doubleword", 0, {out 0x83, eax}
    user "OUT 80h, a doubleword", 0, {out 0x80, eax}
    user "OUT 87h", 0, {out 0x87, al}
    user "OUT 87h, a word", 0, {out 0x87, ax}
    user "OUT 88h", 0, {out 0x88, al}
    user "OUT 90h, beyond the map", 0, {out 0x90, al}
    user "OUT DX of 80h", 0, {dx_port 0x80, {out dx, al}}
    user "OUT DX of 8080h", 0, {dx_port 0x8080, {out dx, al}}
    user "IN DX of 82h", 0, {dx_port 0x82, {in eax, dx}}
    user "OUTS to 82h", 0, {dx_port 0x82, {outsb}}
    user "INS from 82h", 0, {dx_port 0x82, {insb}}
    user "OUT 82h with IOPL 3", 0x3000, {out 0x82, al}
    user "OUT 82h with IOPL 2", 0x2000, {out 0x82, al}
    try "OUT 82h at level 0", {out 0x82, al}
    bitmap 0x78, 0x68                       ; both bytes must lie inside the limit
    user "OUT 80h, the next byte beyond the limit", 0, {out 0x80, al}
    bitmap 0x67, 0x68
    user "OUT 0, the map beyond the limit", 0, {out 0, al}
    bitmap 0x79, 0x69
    user "OUT 79h, the map one byte on", 0, {out 0x79, al}
    user "OUT 7Ah, the map one byte on", 0, {out 0x7a, al}
    bitmap 0x79, 0xffff
    user "OUT 80h, no map", 0, {out 0x80, al}
    jmp finish
