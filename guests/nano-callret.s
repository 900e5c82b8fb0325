; guest: nano-callret
; summary: nanobenchmark: CALL and RET of an empty routine, eight times a round
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
    call leaf
    call leaf
    call leaf
    call leaf
    call leaf
    call leaf
    call leaf
    call leaf
.endm
    loops

leaf:
    ret
prepare:
    ret
check:
    cmp eax, eax
    ret
