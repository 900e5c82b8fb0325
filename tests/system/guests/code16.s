; 16-bit code and stack segments in protected mode: operand and address sizes, SP and IP that wrap, far transfers between sizes (SDM vol. 1, 3.6, 6.2; vol. 3, 21)
.include "env32.inc"

.equ CODE16, FREE               ; base `code16`, 64 KiB
.equ STACK16, FREE2             ; base 1A0000h, 64 KiB
.equ STACK_BASE, 0x1a0000

; Runs 16-bit code from \at on with ESP = \sp in the 16-bit stack, until it jumps back
.macro sixteen name, at, sp_
    arm \name, .resume\@
    mov ax, STACK16
    mov ss, ax
    mov esp, \sp_
    mov eax, 0x11111111
    mov ebx, 0x22222222
    mov ecx, 0x33333333
    mov edx, 0x44444444
    ljmp CODE16:\at - code16
.resume\@:
    call tell
.endm

start:
    segment CODE16, code16, 0xffff, 0x009b
    segment STACK16, STACK_BASE, 0xffff, 0x0093
    sixteen "PUSH and POP", pushes, 0x12340010
    sixteen "PUSH below 0", pushes, 0x56780002
    sixteen "CALL and RET", calls, 0x100
    sixteen "CALL with operand size 32", calls32, 0x100
    sixteen "PUSHA", pushall, 0xabcd0008
    sixteen "ENTER and LEAVE", enters, 0x12340040
    sixteen "operand size 32", sizes, 0x100
    sixteen "address size 32", addresses, 0x100
    sixteen "LOOP and JCXZ", loops, 0x100
    sixteen "REP STOSB by CX", strings16, 0x100
    sixteen "PUSH of a segment register", segments, 0x100
    jmp finish

back:                           ; 32-bit code again, the registers as the case left them
    mov ebp, esp
    mov di, DATA
    mov ds, di
    mov ss, di
    mov esp, dword ptr [resume_esp]
    jmp dword ptr [resume]

tell:
    show eax
    show ebx
    show ecx
    show edx
    show ebp
    show {dword ptr [STACK_BASE]}
    show {dword ptr [STACK_BASE+0xfffc]}
    show {dword ptr [STACK_BASE+0xfc]}
    newline
    call flat_segments
    mov dword ptr [STACK_BASE], 0
    mov dword ptr [STACK_BASE+0xfffc], 0
    mov dword ptr [STACK_BASE+0xfc], 0
    ret

.mode 16
code16:
pushes:
    mov ax, 0x5678
    push ax
    push bx
    push 0x11
    pop cx
    pop dx
    jmp leave16
calls:
    call sub16
    jmp leave16
sub16:
    mov bp, sp
    mov dx, word ptr [bp]
    sub dx, calls - code16
    ret
calls32:
    .byte 0x66, 0xe8            ; call of 32 bits: a 32-bit return address
    .long 2
    jmp leave16
    mov bp, sp
    mov dx, word ptr [bp+2]
    .byte 0x66, 0xc3
pushall:
    .byte 0x60
    mov ax, 0
    .byte 0x61
    jmp leave16
enters:
    mov bp, 0x5555
    .byte 0xc8, 0x08, 0x00, 0x00
    mov ax, bp
    .byte 0xc9
    mov bx, bp
    jmp leave16
sizes:
    mov eax, 0x87654321
    add ax, 0xbcdf
    mov ecx, eax
    .byte 0x66, 0x50            ; push eax
    pop bx
    pop dx
    cwd
    jmp leave16
addresses:
    .byte 0x67, 0x66, 0x8b, 0x05 ; mov eax, [data32]
    .long data32
    .byte 0x67, 0x8d, 0x1c, 0x09 ; lea bx, [ecx+ecx]
    lea cx, [bx+di+0x7fff]
    jmp leave16
loops:
    mov ecx, 0xffff0003
    mov ax, 0
again16:
    inc ax
    loop again16
    .byte 0xe3, 0x03            ; jcxz
    mov ax, 0xbad
    .byte 0x67, 0xe3, 0x01      ; jecxz: bits 31 to 16 are not 0
    inc ax
    jmp leave16
strings16:
    mov di, 0
    mov ax, ss
    mov es, ax
    mov ax, 0x7777
    mov ecx, 0x10004
    rep stosb
    jmp leave16
segments:
    .byte 0x1e                  ; push ds
    .byte 0x66, 0x1e            ; push ds of 32 bits
    mov ax, sp
    jmp leave16
leave16:
    .byte 0x66, 0xea
    .long back
    .word CODE
.mode 32
data32:
    .long 0xcafebabe
