; guest: sieve
; summary: counts primes with the sieve of Eratosthenes, a byte to a number
; format: flat
; mode: 64
; org: 0x100000
; tags: compute
; scale: offset 8 default 3000000 small 2000 bench 15000000
; expect:
;   primes below 3000000: 216816
; expect-small:
;   primes below 2000: 303

.equ FLAGS, 0x200000            ; one byte to a number: 1 where it is composite

_start:
    jmp main
.align 8
limit:
    .long 3000000

main:
    mov r12d, dword ptr [limit]
    mov edi, FLAGS
    mov ecx, r12d
    shr ecx, 3
    inc ecx
    xor eax, eax
    rep stosq

    mov ebx, 2                  ; candidate
outer:
    mov eax, ebx
    imul rax, rbx               ; first multiple without a smaller prime factor
    cmp rax, r12
    jae count
    cmp byte ptr [rbx+FLAGS], 0
    jne next
strike:
    mov byte ptr [rax+FLAGS], 1
    add rax, rbx
    cmp rax, r12
    jb strike
next:
    inc ebx
    jmp outer

count:
    xor r13d, r13d
    mov eax, 2
tally:
    cmp eax, r12d
    jae report
    cmp byte ptr [rax+FLAGS], 1 ; carry: the flag is 0
    adc r13d, 0
    inc eax
    jmp tally

report:
    lea rsi, [text_below]
    call puts
    mov eax, r12d
    call putdec
    lea rsi, [text_colon]
    call puts
    mov eax, r13d
    call putdec
    mov al, 10
    call putc
    jmp finish

text_below:
    .asciz "primes below "
text_colon:
    .asciz ": "

.include "console64.inc"
