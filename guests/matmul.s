; guest: matmul
; summary: multiplies two square matrices of doubles with SSE2
; format: flat
; mode: 64
; org: 0x100000
; tags: compute
; scale: offset 8 default 224 small 16 bench 384
; note: the order must be even; all values are whole, so the results are exact
; expect:
;   matrix of order 224: trace 2408313, checksum 2433fba4
; expect-small:
;   matrix of order 16: trace 11913, checksum e0480daf

.equ A, 0x200000
.equ B, 0x400000
.equ C, 0x600000

_start:
    jmp main
.align 8
order:
    .long 224

main:
    mov rax, cr4                ; the SSE state belongs to us (SDM vol. 3, 14.1.1): OSFXSR, OSXMMEXCPT
    or eax, 0x600
    mov cr4, rax

    mov r12d, dword ptr [order]
    lea r13d, [r12*8]           ; bytes in a row
    mov rdi, A                  ; A[i][j] = (3 i + 5 j) mod 17, B[i][j] = (7 i + j) mod 13, C = 0
    xor r8d, r8d
fill_row:
    xor r9d, r9d
fill_element:
    lea eax, [r8+r8*2]
    lea eax, [rax+r9*4]
    add eax, r9d
    xor edx, edx
    mov ecx, 17
    div ecx
    cvtsi2sd xmm0, edx
    movsd qword ptr [rdi], xmm0
    lea eax, [r8*8]
    sub eax, r8d
    add eax, r9d
    xor edx, edx
    mov ecx, 13
    div ecx
    cvtsi2sd xmm0, edx
    movsd qword ptr [rdi+B-A], xmm0
    mov qword ptr [rdi+C-A], 0
    add rdi, 8
    inc r9d
    cmp r9d, r12d
    jne fill_element
    inc r8d
    cmp r8d, r12d
    jne fill_row

    mov edi, C                  ; row i of C
    mov esi, A                  ; walks A from element to element
    mov r8d, r12d
row:
    mov r10d, B                 ; row k of B
    mov r9d, r12d
column:
    movsd xmm2, qword ptr [rsi]
    unpcklpd xmm2, xmm2
    xor eax, eax
inner:
    movapd xmm0, xmmword ptr [r10+rax]
    mulpd xmm0, xmm2
    addpd xmm0, xmmword ptr [rdi+rax]
    movapd xmmword ptr [rdi+rax], xmm0
    add rax, 16
    cmp rax, r13
    jne inner
    add rsi, 8
    add r10, r13
    dec r9d
    jne column
    add rdi, r13
    dec r8d
    jne row

    xor r8d, r8d                ; trace
    xorpd xmm1, xmm1
    mov edi, C
trace:
    addsd xmm1, qword ptr [rdi]
    lea rdi, [rdi+r13+8]
    inc r8d
    cmp r8d, r12d
    jne trace
    cvttsd2si rbp, xmm1

    mov ecx, r12d               ; checksum: h' = 31 h + element
    imul ecx, ecx
    mov edi, C
    mov ebx, 1
checksum:
    cvttsd2si eax, qword ptr [rdi]
    imul ebx, ebx, 31
    add ebx, eax
    add rdi, 8
    dec ecx
    jne checksum

    lea rsi, [text_order]
    call puts
    mov eax, r12d
    call putdec
    lea rsi, [text_trace]
    call puts
    mov rax, rbp
    call putdec
    lea rsi, [text_sum]
    call puts
    mov eax, ebx
    call puthex
    mov al, 10
    call putc
    jmp finish

text_order:
    .asciz "matrix of order "
text_trace:
    .asciz ": trace "
text_sum:
    .asciz ", checksum "

.include "console64.inc"
