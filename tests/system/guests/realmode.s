; From protected mode to real mode and back: segment limits that stay ("unreal mode"), CS, the vector table, 16-bit IP and SP that wrap, and interrupts of real mode (SDM vol. 3, 9.9, 20.1)
.include "env32.inc"

.equ LOW, 0x8000                ; where the 16-bit code is copied to, in segment LOW / 16
.equ RESULTS, 0x9000
.equ CODE16, FREE
.equ DATA16, FREE2

start:
    segment CODE16, LOW, 0xffff, 0x009b
    segment DATA16, 0, 0xffff, 0x0093
    mov esi, code16
    mov edi, LOW
    mov ecx, code16_end - code16
    rep movsb
    mov dword ptr [big], 0x13572468
    mov dword ptr [6*4], undefined16 - code16 + LOW * 0x1000
    mov dword ptr [0x21*4], vector21 - code16 + LOW * 0x1000
    mov dword ptr [0*4], divide16 - code16 + LOW * 0x1000
    mov edi, RESULTS
    mov ecx, 32
    xor eax, eax
    rep stosd
    mov ecx, DATA               ; FS and GS keep 4 GiB
    mov fs, ecx
    mov gs, ecx
    mov ecx, DATA16
    mov ds, ecx
    mov es, ecx
    mov ss, ecx
    ljmp CODE16:0
back:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, STACK
    lidt [idtr]
    mov esi, RESULTS
    mov ecx, 20
.next:
    lodsd
    show eax
    loop .next
    newline
    try "an exception in protected mode again", {ud2}
    jmp finish

big:
    .long 0

.mode 16
code16:
    .byte 0x66, 0x2e, 0x0f, 0x01, 0x1e   ; lidt cs:[real16]
    .word real16 - code16
    mov eax, cr0
    and eax, 0xfffffffe
    mov cr0, eax
    .byte 0xea
    .word real - code16
    .word LOW / 16
real16:
    .word 0x3ff
    .long 0
real:
    mov ax, 0
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7000
    mov ax, cs
    mov word ptr [RESULTS], ax
    mov eax, cr0
    mov dword ptr [RESULTS+4], eax
    mov ax, 0x10                ; the selector, and its base, but not the limit
    mov fs, ax
    .byte 0x67, 0x64, 0x66, 0xa1 ; mov eax, fs:[big - 100h]
    .long big - 0x100
    mov dword ptr [RESULTS+8], eax
    int 0x21
    mov word ptr [RESULTS+16], sp
    ud2
    xor cx, cx
    mov ax, 1
    div cl
    mov sp, 0                   ; SP wraps to FFFEh
    push ax
    mov word ptr [RESULTS+32], sp
    pop bx
    mov word ptr [RESULTS+34], sp
    mov sp, 0x7000
    pushf
    pop ax
    mov word ptr [RESULTS+36], ax
    mov si, 0xffff
    lodsb                       ; SI wraps
    mov word ptr [RESULTS+38], si
    mov ax, 0x1234
    mov ds, ax
    mov word ptr [0x10], ax     ; at 12350h, in two segments
    mov ax, 0x1000
    mov ds, ax
    mov dx, word ptr [0x2350]
    mov ax, 0xffff
    mov ds, ax
    mov eax, dword ptr [0x10]   ; linear 100000h: the multiboot header
    mov bx, 0
    mov ds, bx
    mov dword ptr [RESULTS+40], eax
    mov word ptr [RESULTS+44], dx
    .byte 0x66, 0x0f, 0x01, 0x16 ; lgdt of 32 bits
    .word gdtr16 - code16 + LOW
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long back
    .word CODE
gdtr16:
    .word 0x7f
    .long gdt
vector21:                       ; the frame of real mode: IP, CS, FLAGS
    mov bp, sp
    mov ax, word ptr [bp]
    mov word ptr [RESULTS+12], ax
    mov ax, word ptr [bp+2]
    mov word ptr [RESULTS+14], ax
    .byte 0xcf
undefined16:
    mov bp, sp
    mov ax, word ptr [bp]
    mov word ptr [RESULTS+20], ax
    add word ptr [bp], 2
    .byte 0xcf
divide16:
    mov bp, sp
    mov ax, word ptr [bp]
    mov word ptr [RESULTS+24], ax
    mov ax, word ptr [bp+4]
    and ax, 0x300
    mov word ptr [RESULTS+26], ax
    add word ptr [bp], 2
    .byte 0xcf
code16_end:
.mode 32
