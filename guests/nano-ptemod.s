; guest: nano-ptemod
; summary: nanobenchmark: a store to a page-table entry in use, eight times a round; nothing is flushed
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

.macro event                    ; eight of them: one alone is lost in what the loop around it costs
    mov qword ptr [rdi], rax
    mov qword ptr [rdi], rdx
    mov qword ptr [rdi], rax
    mov qword ptr [rdi], rdx
    mov qword ptr [rdi], rax
    mov qword ptr [rdi], rdx
    mov qword ptr [rdi], rax
    mov qword ptr [rdi], rdx
.endm

empty_loop:                     ; EBX: rounds
    dec ebx
    jnz empty_loop
    ret
event_loop:
    mov edi, TABLE
    mov eax, FRAME + 0x67
    mov edx, FRAME + 0x267      ; with a bit that the CPU ignores
.next:
    event
    dec ebx
    jnz .next
    ret

prepare:
    mov dword ptr [FRAME], 0xcafe
    mov eax, dword ptr [WINDOW] ; the entry is in use
    ret
check:
    cmp dword ptr [WINDOW], 0xcafe
    ret
