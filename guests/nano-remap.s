; guest: nano-remap
; summary: nanobenchmark: a page mapped elsewhere: a store to its entry, INVLPG, and a load through it
; format: multiboot
; mode: 32
; org: 0x100000
; tags: nano
; scale: offset 32 default 2000 small 50 bench 20000
; expect:
;   begin
;   empty
;   event
;   right
; expect-small:
;   begin
;   empty
;   event
;   right

.equ COUNT, 2000
.equ divide_error, NONE
.equ page_fault, NONE
.equ system_call, NONE
.include "nano.inc"

.macro event
    xor eax, 0x1000             ; the other frame
    mov qword ptr [rdi], rax
    invlpg [rsi]
    add r15d, dword ptr [rsi]
.endm

empty_loop:                     ; EBX: rounds
    dec ebx
    jnz empty_loop
    ret
event_loop:
    mov edi, TABLE
    mov esi, WINDOW
    mov eax, FRAME + 0x67
.next:
    event
    dec ebx
    jnz .next
    ret

prepare:
    mov dword ptr [FRAME], 1
    mov dword ptr [FRAME + 0x1000], 3
    ret
check:                          ; half of the rounds, an even number, saw 1 and half of them 3
    shl ebx, 1
    cmp r15d, ebx
    ret
