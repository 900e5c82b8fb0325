; guest: nano-pgfault
; summary: nanobenchmark: a load from a page that is not present, whose handler skips the instruction
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
.equ system_call, NONE
.include "nano.inc"

.macro event
    mov al, byte ptr [rsi]
.endm

empty_loop:                     ; EBX: rounds
    dec ebx
    jnz empty_loop
    ret
event_loop:
    mov esi, HOLE
.next:
    event
    dec ebx
    jnz .next
    ret

page_fault:
    inc r15d
    add rsp, 8                  ; the error code
    add qword ptr [rsp], 2      ; behind MOV
    iretq

prepare:
    ret
check:
    cmp r15d, ebx
    ret
