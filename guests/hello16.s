; guest: hello16
; summary: prints a greeting from real mode
; format: flat
; mode: 16
; org: 0x7c00
; tags: system
; expect:
;   Hello from 16-bit mode

_start:
    mov si, message
    call puts
    jmp finish

message:
    .asciz "Hello from 16-bit mode\n"

.include "console16.inc"
