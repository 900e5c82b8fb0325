; guest: fib
; summary: computes a Fibonacci number by plain recursion
; format: flat
; mode: 64
; org: 0x100000
; tags: compute
; scale: offset 8 default 31 small 15 bench 35
; expect:
;   fib(31) = 1346269
; expect-small:
;   fib(15) = 610

_start:
    jmp main
.align 8
index:
    .long 31

main:
    mov edi, dword ptr [index]
    call fib
    mov ebx, eax
    lea rsi, [text_fib]
    call puts
    mov eax, dword ptr [index]
    call putdec
    lea rsi, [text_is]
    call puts
    mov eax, ebx
    call putdec
    mov al, 10
    call putc
    jmp finish

fib:                            ; EDI: n; EAX: the n-th Fibonacci number
    cmp edi, 1
    jbe .small
    push rbp
    push rbx
    mov ebp, edi
    lea edi, [rbp-1]
    call fib
    mov ebx, eax
    lea edi, [rbp-2]
    call fib
    add eax, ebx
    pop rbx
    pop rbp
    ret
.small:
    mov eax, edi
    ret

text_fib:
    .asciz "fib("
text_is:
    .asciz ") = "

.include "console64.inc"
