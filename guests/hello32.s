; guest: hello32
; summary: prints a greeting from 32-bit protected mode
; format: flat
; mode: 32
; org: 0x100000
; tags: system
; expect:
;   Hello from 32-bit mode

_start:
    mov esi, message
    call puts
    jmp finish

message:
    .asciz "Hello from 32-bit mode\n"

.include "console32.inc"
