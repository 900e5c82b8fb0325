; guest: quicksort
; summary: sorts an array of pseudo-random 32-bit numbers
; format: flat
; mode: 64
; org: 0x100000
; tags: compute
; scale: offset 8 default 300000 small 200 bench 1500000
; expect:
;   sorted 300000 in order, checksum df3f07a7
; expect-small:
;   sorted 200 in order, checksum 979301c9

.equ ARRAY, 0x200000

_start:
    jmp main
.align 8
count:
    .long 300000

main:
    mov r12d, dword ptr [count]
    mov eax, 12345              ; x' = 1664525 x + 1013904223 mod 2^32
    xor ecx, ecx
fill:
    imul eax, eax, 1664525
    add eax, 1013904223
    mov dword ptr [rcx*4+ARRAY], eax
    inc ecx
    cmp ecx, r12d
    jne fill

    mov edi, ARRAY
    lea esi, [r12*4+ARRAY-4]
    call sort

    mov ebx, 1                  ; checksum: h' = 31 h + x, and whether the order holds
    xor ecx, ecx
    xor edx, edx
verify:
    mov eax, dword ptr [rcx*4+ARRAY]
    cmp eax, edx
    jb disorder
    mov edx, eax
    imul ebx, ebx, 31
    add ebx, eax
    inc ecx
    cmp ecx, r12d
    jne verify

    lea rsi, [text_sorted]
    call puts
    mov eax, r12d
    call putdec
    lea rsi, [text_sum]
    call puts
    mov eax, ebx
    call puthex
    mov al, 10
    call putc
    jmp finish

disorder:
    lea rsi, [text_disorder]
    call puts
    jmp finish

; RDI: first element, RSI: last element (Hoare's partition around the middle one)
sort:
    cmp rdi, rsi
    jae .done
    push rbx
    push rbp
    push r14
    mov r14, rsi
    mov rbx, rdi                ; i
    mov rbp, rsi                ; j
    mov rax, rsi
    sub rax, rdi
    shr rax, 3
    mov ecx, dword ptr [rdi+rax*4]
.up:
    mov eax, dword ptr [rbx]
    cmp eax, ecx
    jae .down
    add rbx, 4
    jmp .up
.down:
    mov edx, dword ptr [rbp]
    cmp edx, ecx
    jbe .meet
    sub rbp, 4
    jmp .down
.meet:
    cmp rbx, rbp
    ja .split
    mov dword ptr [rbx], edx
    mov dword ptr [rbp], eax
    add rbx, 4
    sub rbp, 4
    cmp rbx, rbp
    jbe .up
.split:
    mov rsi, rbp
    call sort
    mov rdi, rbx
    mov rsi, r14
    call sort
    pop r14
    pop rbp
    pop rbx
.done:
    ret

text_sorted:
    .asciz "sorted "
text_sum:
    .asciz " in order, checksum "
text_disorder:
    .asciz "not in order\n"

.include "console64.inc"
