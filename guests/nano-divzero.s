; guest: nano-divzero
; summary: nanobenchmark: a division by zero, whose handler skips the instruction
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
.equ page_fault, NONE
.equ system_call, NONE
.include "nano.inc"

.macro event
    div ecx
.endm
    loops

divide_error:
    inc r15d
    add qword ptr [rsp], 2      ; behind DIV
    iretq

prepare:
    xor ecx, ecx
    ret
check:
    cmp r15d, ebx
    ret
