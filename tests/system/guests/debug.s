; Debug registers: breakpoints on instructions, data and ports, single steps, and the shadow of a load of SS
.include "env32.inc"

.macro breakpoints zero, one, seven
    mov eax, \zero
    mov dr0, eax
    mov eax, \one
    mov dr1, eax
    mov eax, \seven
    mov dr7, eax
.endm

.macro off
    xor eax, eax
    mov dr7, eax
.endm

.equ RF, 0x10000

start:
    mov eax, cr4
    or eax, 8                   ; DE
    mov cr4, eax

    say "instruction breakpoints, global and local\n"
    mov dword ptr [set_flags], RF
    breakpoints here1, here2, 0x402 + 4
    mov ecx, 3
    nop
here1:
    nop
here2:
    loop here1
    off
    say "disabled\n"
    breakpoints here3, here3, 0x400
here3:
    nop
    off

    say "bytes written\n"
    breakpoints data, data + 1, 0x402 + 8 + 0x110000
    mov byte ptr [data], 1
    mov byte ptr [data+1], 1
    mov word ptr [data], 1
    mov eax, dword ptr [data]
    mov dword ptr [data-3], 1
    mov byte ptr [data+2], 1
    inc byte ptr [data]
    off
    say "read or written, 4 and 2 bytes\n"
    breakpoints data, data + 6, 0x402 + 8 + 0x7f0000
    mov al, byte ptr [data+3]
    mov al, byte ptr [data+4]
    mov ax, word ptr [data+7]
    mov eax, dword ptr [data-3]
    push dword ptr [data+2]
    pop dword ptr [data+4]
    mov al, byte ptr [data+8]
    test byte ptr [data], 1
    xchg eax, dword ptr [data]
    off
    say "the stack\n"
    breakpoints STACK - 8, STACK - 100, 0x402 + 0xf0000
    push eax
    push eax
    push eax
    add esp, 4
    off
    breakpoints STACK - 12, STACK - 100, 0x402 + 0x10000
    call .ret
    add esp, 8
    off
    say "strings\n"
    mov esi, data2
    mov edi, data
    mov ecx, 12
    breakpoints data + 4, data2 + 8, 0x402 + 8 + 0x330000 + 0x40000
    rep movsb
    show ecx
    show esi
    newline
    mov edi, data
    mov ecx, 4
    xor eax, eax
    repne scasd
    show ecx
    newline
    off

    say "ports\n"
    breakpoints 0x80, 0x3fb, 0x402 + 8 + 0x220000
    out 0x80, al
    in al, 0x80
    in al, 0x81
    out 0x7f, al
    mov edx, 0x3fb
    in al, dx
    off
    breakpoints 0x80, 0x80, 0x402 + 0xe0000
    out 0x83, al
    out 0x84, al
    off                         ; no REP OUTS: QEMU reports it once and does nothing, against SDM vol. 3, 17.3.1.2

    say "single steps\n"
    pushfd
    or dword ptr [esp], 0x100
    popfd
    nop
    mov eax, 5
    cli                         ; no STI, which delays the trap in QEMU alone
    mov ecx, 2
    mov edi, data
    rep stosb
    int 0x20
    pushfd
    and dword ptr [esp], 0xfffffeff
    popfd
    nop
    say "a load of SS\n"
    mov ebx, DATA
    pushfd
    or dword ptr [esp], 0x100
    popfd
    mov ss, ebx
    nop
    nop
    push ss
    pop ss
    nop
    mov dword ptr [keep_flags], 0xfffffeff
    nop
    nop
    mov dword ptr [keep_flags], 0xffffffff
    jmp .rest
.ret:
    ret
.rest:
    say "user code\n"
    mov dword ptr [set_flags], RF
    breakpoints .user, data, 0x402 + 8 + 0x300000
    push DATA3 + 3
    push STACK2
    push 2
    push CODE3 + 3
    push .user
    iretd
.user:
    mov eax, DATA3 + 3
    mov ds, eax
    mov eax, dword ptr [data]
    mov dword ptr [resume], .end
    mov dword ptr [resume_esp], STACK
    cli
.end:
    off
    call finish

    .space 8
.align 8
data:
    .space 16
data2:
    .space 16
