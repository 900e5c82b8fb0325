; guest: memwalk
; summary: chases pointers and strides through 4096 pages, more than a TLB holds, with loads and stores
; format: flat
; mode: 64
; org: 0x100000
; memory: 32
; tags: compute
; scale: offset 8 default 2500000 small 1000 bench 12500000
; note: a run of fewer than 4096 steps uses the largest power of two of pages not above its steps
; expect:
;   2500000 steps, checksum 0bd21250
; expect-small:
;   1000 steps, checksum 000980c0

.equ PAGES, 0x800000            ; 16 MiB up to 0x1800000
.equ PAGE, 4096

_start:
    jmp main
.align 8
steps:
    .long 2500000

main:
    mov r12d, dword ptr [steps]
    mov r15d, 4096              ; pages in use
shrink:
    cmp r15d, r12d
    jbe link
    shr r15d, 1
    jmp shrink

link:                           ; page p points to page (1229 p + 7) mod pages: one cycle through all of them
    lea r14d, [r15-1]
    xor ecx, ecx
next_link:
    imul eax, ecx, 1229
    add eax, 7
    and eax, r14d
    shl eax, 12
    add eax, PAGES
    mov edx, ecx
    shl edx, 12
    mov qword ptr [rdx+PAGES], rax
    mov dword ptr [rdx+PAGES+72], ecx
    mov dword ptr [rdx+PAGES+2056], 0
    inc ecx
    cmp ecx, r15d
    jne next_link

    mov edi, PAGES              ; pointer chase: load the link, change a word of the page
    xor ebx, ebx
    mov ecx, r12d
chase:
    mov rdi, qword ptr [rdi]
    mov eax, dword ptr [rdi+72]
    add ebx, eax
    lea eax, [rax+rcx]
    mov dword ptr [rdi+72], eax
    dec ecx
    jne chase

    mov r8d, r15d               ; strided walk: a word of every page, round and round
    shl r8d, 12
    lea r9d, [r8-1]             ; wraps an offset
    xor esi, esi
    mov ecx, r12d
stride:
    mov eax, dword ptr [rsi+PAGES+2056]
    add eax, ecx
    xor ebx, eax
    mov dword ptr [rsi+PAGES+2056], eax
    add esi, PAGE
    and esi, r9d
    dec ecx
    jne stride

    mov eax, r12d
    call putdec
    lea rsi, [text_steps]
    call puts
    mov eax, ebx
    call puthex
    mov al, 10
    call putc
    jmp finish

text_steps:
    .asciz " steps, checksum "

.include "console64.inc"
