; guest: bytecode
; summary: interprets a small register-machine program through a jump table
; format: flat
; mode: 64
; org: 0x100000
; tags: compute
; scale: offset 8 default 700000 small 400 bench 3500000
; note: an operation is four bytes: opcode, destination, source, signed immediate
; expect:
;   700000 turns, result 0d6201a9
; expect-small:
;   400 turns, result 2178fffc

.equ REGISTERS, 0x200000        ; sixteen 32-bit registers of the interpreted machine

_start:
    jmp main
.align 8
turns:
    .long 700000

main:
    mov edi, REGISTERS
    xor eax, eax
    mov ecx, 8
    rep stosq
    mov ebp, REGISTERS
    mov eax, dword ptr [turns]
    mov dword ptr [rbp+4], eax  ; register 1 counts down
    lea rbx, [program]

dispatch:
    movzx eax, byte ptr [rbx]
    movzx ecx, byte ptr [rbx+1]
    movzx edx, byte ptr [rbx+2]
    add rbx, 4
    jmp qword ptr [rax*8+table]

op_add:
    mov eax, dword ptr [rbp+rdx*4]
    add dword ptr [rbp+rcx*4], eax
    jmp dispatch
op_xor:
    mov eax, dword ptr [rbp+rdx*4]
    xor dword ptr [rbp+rcx*4], eax
    jmp dispatch
op_mul:
    movsx eax, byte ptr [rbx-1]
    imul eax, dword ptr [rbp+rdx*4]
    mov dword ptr [rbp+rcx*4], eax
    jmp dispatch
op_addi:
    movsx eax, byte ptr [rbx-1]
    add dword ptr [rbp+rcx*4], eax
    jmp dispatch
op_shr:
    mov eax, dword ptr [rbp+rdx*4]
    mov edx, ecx
    movzx ecx, byte ptr [rbx-1]
    shr eax, cl
    mov dword ptr [rbp+rdx*4], eax
    jmp dispatch
op_move:
    mov eax, dword ptr [rbp+rdx*4]
    mov dword ptr [rbp+rcx*4], eax
    jmp dispatch
op_branch:                      ; to the operation `immediate` further when the register is not zero
    cmp dword ptr [rbp+rcx*4], 0
    je dispatch
    movsx rax, byte ptr [rbx-1]
    lea rbx, [rbx+rax*4]
    jmp dispatch
op_halt:
    lea rsi, [text_result]
    mov eax, dword ptr [turns]
    call putdec
    call puts
    mov eax, dword ptr [rbp]
    call puthex
    mov al, 10
    call putc
    jmp finish

.align 8
table:
    .quad op_halt, op_add, op_xor, op_mul, op_addi, op_shr, op_move, op_branch

; acc = acc * 31 + i; acc ^= acc >> 7; acc is register 0, i register 1
program:
    .byte 3, 0, 0, 31           ; mul  r0, r0, 31
    .byte 1, 0, 1, 0            ; add  r0, r1
    .byte 6, 2, 0, 0            ; move r2, r0
    .byte 5, 2, 2, 7            ; shr  r2, r2, 7
    .byte 2, 0, 2, 0            ; xor  r0, r2
    .byte 4, 1, 0, -1           ; addi r1, -1
    .byte 7, 1, 0, -7           ; branch r1, to the first operation
    .byte 0, 0, 0, 0            ; halt

text_result:
    .asciz " turns, result "

.include "console64.inc"
