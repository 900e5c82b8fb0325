; guest: strings
; summary: copies, fills, compares and scans text with string instructions and byte loops
; format: flat
; mode: 64
; org: 0x100000
; tags: compute
; scale: offset 8 default 4000 small 2 bench 40000
; expect:
;   4000 rounds, checksum 506193f8
; expect-small:
;   2 rounds, checksum 48a52907

.equ SOURCE, 0x200000
.equ TARGET, 0x204000
.equ UPPER, 0x208000
.equ SIZE, 1024
.equ TEXT, 256                  ; length of the string the byte loops work on

_start:
    jmp main
.align 8
rounds:
    .long 4000

main:
    cld
    mov r12d, dword ptr [rounds]
    xor r13d, r13d              ; checksum
    xor r14d, r14d              ; round
round:
    mov edi, SOURCE             ; letters a..z, shifted by one place every round, a zero at the end
    mov ecx, r14d
    xor edx, edx
    mov eax, ecx
    mov esi, 26
    div esi
    add edx, 'a'
    mov ecx, TEXT
letters:
    mov byte ptr [rdi], dl
    inc edx
    cmp edx, 'z'
    jbe in_alphabet
    mov edx, 'a'
in_alphabet:
    inc rdi
    dec ecx
    jne letters
    xor eax, eax
    mov ecx, SIZE - TEXT
    rep stosb

    mov edi, TARGET             ; fill, then copy over it
    mov rax, 0x2e2e2e2e2e2e2e2e
    mov ecx, SIZE / 8
    rep stosq
    mov esi, SOURCE
    mov edi, TARGET
    mov ecx, SIZE
    rep movsb
    mov esi, SOURCE             ; equal up to the byte that is changed here
    mov edi, TARGET
    mov eax, r14d
    and eax, SIZE - 1
    inc byte ptr [rdi+rax]
    mov ecx, SIZE
    repe cmpsb
    sub ecx, SIZE
    neg ecx
    imul r13d, r13d, 31
    add r13d, ecx
    mov edi, SOURCE             ; length of the string
    xor eax, eax
    mov ecx, SIZE
    repne scasb
    sub ecx, SIZE
    neg ecx
    imul r13d, r13d, 31
    add r13d, ecx

    mov edi, SOURCE             ; the same by a byte loop
    call length
    imul r13d, r13d, 31
    add r13d, eax
    mov esi, SOURCE             ; upper case of all but every fifth letter
    mov edi, UPPER
    call upper
    mov edi, UPPER              ; reversed in place, and a hash of it
    mov esi, TEXT
    call reverse
    mov edi, UPPER
    call hash
    imul r13d, r13d, 31
    add r13d, eax

    inc r14d
    cmp r14d, r12d
    jne round

    mov eax, r12d
    call putdec
    lea rsi, [text_rounds]
    call puts
    mov eax, r13d
    call puthex
    mov al, 10
    call putc
    jmp finish

length:                         ; RDI: string; EAX: its length
    mov rax, rdi
.next:
    cmp byte ptr [rax], 0
    je .done
    inc rax
    jmp .next
.done:
    sub rax, rdi
    ret

upper:                          ; RSI: string, RDI: where its upper case goes
    movzx eax, byte ptr [rsi]
    inc rsi
    lea edx, [rax-'a']
    cmp edx, 25
    ja .store
    lea ecx, [rax-32]
    cmp al, 'e'
    cmovne eax, ecx
.store:
    mov byte ptr [rdi], al
    inc rdi
    test al, al
    jne upper
    ret

reverse:                        ; RDI: bytes, ESI: how many
    lea rsi, [rdi+rsi-1]
.next:
    cmp rdi, rsi
    jae .done
    mov al, byte ptr [rdi]
    mov dl, byte ptr [rsi]
    mov byte ptr [rsi], al
    mov byte ptr [rdi], dl
    inc rdi
    dec rsi
    jmp .next
.done:
    ret

hash:                           ; RDI: string; EAX: h' = 33 h xor byte, from 5381
    mov eax, 5381
.next:
    movzx edx, byte ptr [rdi]
    test edx, edx
    je .done
    mov ecx, eax
    shl eax, 5
    add eax, ecx
    xor eax, edx
    inc rdi
    jmp .next
.done:
    ret

text_rounds:
    .asciz " rounds, checksum "

.include "console64.inc"
