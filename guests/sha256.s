; guest: sha256
; summary: hashes a message of that many 64-byte blocks with SHA-256 (FIPS 180-4)
; format: flat
; mode: 64
; org: 0x100000
; tags: compute
; scale: offset 8 default 12000 small 5 bench 200000
; note: byte i of the message is (7 * i + 3) mod 256
; expect:
;   sha256 of 12000 blocks
;   04ab70055c9863f5e87f3cd1f03efc80d28b12616936061c69d3e5611ba2dc4f
; expect-small:
;   sha256 of 5 blocks
;   7551f21161f49a5505ac642fa2983e09138a9dee81c6cd4133bcc9422d329227

.equ MESSAGE, 0x200000          ; 256 bytes, the period of the message
.equ SCHEDULE, 0x201000         ; 64 words
.equ LAST, 0x202000             ; the padding block

_start:
    jmp main
.align 8
blocks:
    .long 12000

main:
    mov ebp, MESSAGE            ; fill the message's period
    xor ecx, ecx
    mov eax, 3
fill:
    mov byte ptr [rbp+rcx], al
    add eax, 7
    inc ecx
    cmp ecx, 256
    jne fill

    xor r15d, r15d              ; block number
message:
    cmp r15d, dword ptr [blocks]
    jae pad
    mov edi, r15d
    and edi, 3
    shl edi, 6
    add edi, MESSAGE
    call compress
    inc r15d
    jmp message

pad:
    mov edi, LAST               ; 80h, zeros, the length in bits, big-endian (FIPS 180-4, 5.1.1)
    xor eax, eax
    mov ecx, 8
    rep stosq
    mov byte ptr [LAST], 0x80
    mov eax, dword ptr [blocks]
    shl rax, 9
    bswap rax
    mov qword ptr [LAST+56], rax
    mov edi, LAST
    call compress

    lea rsi, [text_of]
    call puts
    mov eax, dword ptr [blocks]
    call putdec
    lea rsi, [text_blocks]
    call puts
    xor ebx, ebx
digest:
    mov eax, dword ptr [rbx*4+state]
    call puthex
    inc ebx
    cmp ebx, 8
    jne digest
    mov al, 10
    call putc
    jmp finish

; RDI: a block of 64 bytes. The eight working variables a..h live in
; EAX EBX ECX EDX R8D R9D R10D R11D; clobbers everything but R15.
compress:
    push rbp
    mov esi, SCHEDULE
    xor ecx, ecx
load:
    mov eax, dword ptr [rdi+rcx*4]
    bswap eax
    mov dword ptr [rsi+rcx*4], eax
    inc ecx
    cmp ecx, 16
    jne load
expand:
    mov eax, dword ptr [rsi+rcx*4-60]
    mov edx, eax
    mov ebx, eax
    ror eax, 7
    ror edx, 18
    shr ebx, 3
    xor eax, edx
    xor eax, ebx
    mov edx, dword ptr [rsi+rcx*4-8]
    mov ebx, edx
    mov ebp, edx
    ror edx, 17
    ror ebx, 19
    shr ebp, 10
    xor edx, ebx
    xor edx, ebp
    add eax, edx
    add eax, dword ptr [rsi+rcx*4-64]
    add eax, dword ptr [rsi+rcx*4-28]
    mov dword ptr [rsi+rcx*4], eax
    inc ecx
    cmp ecx, 64
    jne expand

    mov eax, dword ptr [state]
    mov ebx, dword ptr [state+4]
    mov ecx, dword ptr [state+8]
    mov edx, dword ptr [state+12]
    mov r8d, dword ptr [state+16]
    mov r9d, dword ptr [state+20]
    mov r10d, dword ptr [state+24]
    mov r11d, dword ptr [state+28]
    xor edi, edi
round:
    mov r12d, r8d               ; t1 = h + S1(e) + Ch(e,f,g) + K + W
    mov r13d, r8d
    ror r12d, 6
    ror r13d, 11
    xor r12d, r13d
    ror r13d, 14
    xor r12d, r13d
    add r11d, r12d
    mov r12d, r9d
    xor r12d, r10d
    and r12d, r8d
    xor r12d, r10d
    add r11d, r12d
    add r11d, dword ptr [rdi*4+constants]
    add r11d, dword ptr [rsi+rdi*4]
    mov r12d, eax               ; t2 = S0(a) + Maj(a,b,c)
    mov r13d, eax
    ror r12d, 2
    ror r13d, 13
    xor r12d, r13d
    ror r13d, 9
    xor r12d, r13d
    mov r13d, eax
    mov r14d, eax
    or r13d, ebx
    and r14d, ebx
    and r13d, ecx
    or r13d, r14d
    add r12d, r13d
    add edx, r11d               ; d + t1 becomes e
    add r12d, r11d              ; t1 + t2 becomes a
    mov r11d, r10d
    mov r10d, r9d
    mov r9d, r8d
    mov r8d, edx
    mov edx, ecx
    mov ecx, ebx
    mov ebx, eax
    mov eax, r12d
    inc edi
    cmp edi, 64
    jne round

    add dword ptr [state], eax
    add dword ptr [state+4], ebx
    add dword ptr [state+8], ecx
    add dword ptr [state+12], edx
    add dword ptr [state+16], r8d
    add dword ptr [state+20], r9d
    add dword ptr [state+24], r10d
    add dword ptr [state+28], r11d
    pop rbp
    ret

text_of:
    .asciz "sha256 of "
text_blocks:
    .asciz " blocks\n"

.align 4096, 0               ; variables on a page of their own, as a linker would place them
state:                          ; FIPS 180-4, 5.3.3
    .long 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a
    .long 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
constants:                      ; FIPS 180-4, 4.2.2
    .long 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5
    .long 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5
    .long 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3
    .long 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174
    .long 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc
    .long 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da
    .long 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7
    .long 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967
    .long 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13
    .long 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85
    .long 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3
    .long 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070
    .long 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5
    .long 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3
    .long 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208
    .long 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2

.include "console64.inc"
