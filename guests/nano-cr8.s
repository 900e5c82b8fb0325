; guest: nano-cr8
; summary: nanobenchmark: MOV to CR8, the task priority
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
    mov cr8, rdx
.endm
    loops

prepare:
    mov edx, 3
    ret
check:
    mov rax, cr8
    cmp rax, rdx
    ret
