; The A20 gate: with it closed addresses of odd MiB reach the MiB below, for data and for code
.include "env32.inc"

start:
    mov esp, 0x280000
    mov dword ptr [LOW], 0x11111111
    mov dword ptr [LOW+0x100000], 0x22222222
    say "open "
    call look
    call gate_off
    say "closed "
    call look
    mov dword ptr [LOW+0x100000], 0x33333333
    call look
    call gate_on
    say "open "
    call look
    mov byte ptr [CODE_AT], 0xb0        ; mov al, 1; ret
    mov byte ptr [CODE_AT+1], 1
    mov byte ptr [CODE_AT+2], 0xc3
    mov byte ptr [CODE_AT+0x100000], 0xb0
    mov byte ptr [CODE_AT+0x100001], 2
    mov byte ptr [CODE_AT+0x100002], 0xc3
    call both
    call gate_off
    call both
    mov byte ptr [CODE_AT+0x100001], 3  ; by the alias
    call both
    call gate_on
    call both
    newline
    jmp finish

.equ LOW, 0x200800
.equ CODE_AT, 0x201000

; This code lies in an odd MiB itself: what runs with the gate closed is its copy below
gate_off:
    mov esi, 0x100000
    mov edi, 0
    mov ecx, 0x8000
    rep movsb
    in al, 0x92
    and al, 0xfc
    out 0x92, al
    ret
gate_on:
    in al, 0x92
    and al, 0xfe
    or al, 2
    out 0x92, al
    ret
look:
    show {dword ptr [LOW]}
    show {dword ptr [LOW+0x100000]}
    ret
both:
    mov eax, CODE_AT
    call eax
    movzx eax, al
    show eax
    mov eax, CODE_AT+0x100000
    call eax
    movzx eax, al
    show eax
    ret
