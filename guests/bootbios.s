; guest: bootbios
; summary: a boot sector that lives on BIOS services: teletype, memory sizes, disk, keyboard
; format: boot
; mode: 16
; org: 0x7c00
; tags: system
; newline: crlf
; expect:
;   Hello from the boot sector
;   drive 80
;   conventional memory: ok
;   extended memory: ok
;   second sector: read from disk
;   sectors that do not exist: refused
;   keyboard: no key waiting

.equ DEBUG_EXIT, 0xf4
.equ SECTOR_AT, 0x7e00          ; where the second sector goes
.equ SCRATCH, 0x8000

_start:
    ljmp 0:main                 ; some firmware starts at 07c0:0000
main:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    cld
    mov byte ptr [drive], dl

    mov si, text_hello
    call puts
    mov al, byte ptr [drive]
    shr al, 4
    call put_digit
    mov al, byte ptr [drive]
    and al, 15
    call put_digit

    mov si, text_conventional
    int 0x12                    ; AX: KiB below 640 KiB, less what the firmware keeps
    cmp ax, 600
    jb fail
    cmp ax, 640
    ja fail
    call puts_ok

    mov si, text_extended
    mov ah, 0x88                ; AX: KiB above 1 MiB
    stc
    int 0x15
    jc fail
    cmp ax, 15 * 1024
    jb fail
    call puts_ok

    mov si, text_second
    call puts
    mov bx, SECTOR_AT
    mov cx, 2                   ; cylinder 0, sector 2
    call read_sector
    jc fail
    test ah, ah
    jnz fail
    cmp al, 1
    jne fail
    mov si, SECTOR_AT
    call puts

    mov si, text_absent
    call puts
    mov bx, SCRATCH
    mov cx, 0                   ; sectors count from 1
    call read_sector
    jnc fail
    test ah, ah
    jz fail
    mov si, text_refused
    call puts

    mov ah, 1
    int 0x16                    ; ZF: no key waiting
    jnz fail
    mov si, text_no_key
    call puts
    mov al, 0x10
finish:
    out DEBUG_EXIT, al
.stop:
    cli
    hlt
    jmp .stop

fail:
    mov si, text_fail
    call puts
    mov al, 1
    jmp finish

read_sector:                    ; CX: cylinder and sector of head 0, ES:BX: where to
    mov ax, 0x0201
    mov dh, 0
    mov dl, byte ptr [drive]
    int 0x13
    ret

put_digit:                      ; AL: 0..15
    add al, '0'
    cmp al, '9'
    jbe putc
    add al, 7
putc:                           ; AL: character; the teletype keeps all but, on some firmware, BP
    mov ah, 0x0e
    mov bx, 7
    int 0x10
    ret

puts_ok:
    call puts
    mov si, text_ok
puts:                           ; SI: zero-terminated text
    lodsb
    test al, al
    jz .done
    call putc
    jmp puts
.done:
    ret

drive:
    .byte 0
text_hello:
    .asciz "Hello from the boot sector\r\ndrive "
text_conventional:
    .asciz "\r\nconventional memory: "
text_extended:
    .asciz "extended memory: "
text_ok:
    .asciz "ok\r\n"
text_second:
    .asciz "second sector: "
text_absent:
    .asciz "sectors that do not exist: "
text_refused:
    .asciz "refused\r\n"
text_no_key:
    .asciz "keyboard: no key waiting\r\n"
text_fail:
    .asciz "FAILED\r\n"

.org 0x7dfe
    .word 0xaa55

    .asciz "read from disk\r\n"
