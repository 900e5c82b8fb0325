; IOPL and the I/O permission map in 64-bit mode (SDM vol. 1, 18.5; vol. 2, POPF, CLI)
.include "env64.inc"

.equ IOPL1, 0x1000
.equ IOPL3, 0x3000

start:
    mov dx, 0x80
    user "IN at IOPL 0", 0, {in al, 0x80}
    user "IN at IOPL 1", IOPL1, {in al, 0x80}
    user "IN at IOPL 3", IOPL3, {in al, 0x80}
    user "CLI at IOPL 3", IOPL3, {cli}
    user "STI at IOPL 3", IOPL3, {sti}
    user "STI at IOPL 1", IOPL1, {sti}
    user "HLT at IOPL 3", IOPL3, {hlt}
    user2 "POPF at IOPL 0", 0, {call .all_flags}, {ud2}
    user2 "POPF at IOPL 1", IOPL1, {call .all_flags}, {ud2}
    user2 "POPF at IOPL 3", IOPL3, {call .all_flags}, {ud2}
    user2 "POPF clears IF at IOPL 0", 0x200, {call .no_flags}, {ud2}
    user2 "POPF clears IF at IOPL 3", IOPL3+0x200, {call .no_flags}, {ud2}
    mov word ptr [gdt+TSS], 0xff            ; a map of ports 0 to 3BFh behind the TSS
    mov word ptr [tss+0x66], 0x68
    and byte ptr [gdt+TSS+5], 0xfd
    mov eax, TSS
    ltr ax
    mov dword ptr [tss+0x68+0x10], 0xfffffffe   ; port 80h
    mov dword ptr [tss+0x68+0x14], 0
    mov byte ptr [tss+0x100], 0xff
    user "allowed", 0, {in al, 0x80}
    user "forbidden", 0, {in al, 0x81}
    user "16 bits, half forbidden", 0, {in ax, 0x80}
    user "by DX", 0, {in al, dx}
    user "32 bits allowed", 0, {in eax, 0xa0}
    mov dx, 0x4b8
    user "beyond the map", 0, {in al, dx}
    mov dx, 0xffff
    user "the last port", 0, {in al, dx}
    call finish

.all_flags:
    push 0x3ed7 - 0x400
    popfq
    ret
.no_flags:
    push 2
    popfq
    ret
