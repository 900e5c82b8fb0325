; guest: hello64
; summary: prints a greeting from 64-bit long mode
; format: flat
; mode: 64
; org: 0x100000
; tags: system
; expect:
;   Hello from 64-bit mode

_start:
    lea rsi, [message]
    call puts
    jmp finish

message:
    .asciz "Hello from 64-bit mode\n"

.include "console64.inc"
