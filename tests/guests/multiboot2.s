; Multiboot 2 header with addresses; prints the magic value, the command line and the memory below 1 MiB as told
header:
    .long 0xe85250d6
    .long 0
    .long header_end - header
    .long 0 - (0xe85250d6 + header_end - header)
    .word 2                     ; addresses
    .word 0
    .long 24
    .long header, header, 0, 0
    .word 3                     ; entry
    .word 0
    .long 12
    .long entry
    .long 0
    .word 1                     ; wanted: command line, memory sizes, memory map
    .word 0
    .long 20
    .long 1, 4, 6
    .long 0
    .word 0
    .word 0
    .long 8
header_end:
.mode 32
.include "console32.inc"

entry:
    mov esp, 0x180000
    mov ebp, ebx
    call puthex
    mov al, 10
    call putc
    add ebp, 8
.tag:
    mov eax, dword ptr [ebp]
    test eax, eax
    jz .end
    cmp eax, 1
    je .text
    cmp eax, 4
    je .sizes
.next:
    mov eax, dword ptr [ebp+4]
    add eax, 7
    and eax, 0xfffffff8
    add ebp, eax
    jmp .tag
.text:
    lea esi, [ebp+8]
    call puts
    mov al, 10
    call putc
    jmp .next
.sizes:
    mov eax, dword ptr [ebp+8]
    call puthex
    mov al, 10
    call putc
    jmp .next
.end:
    mov al, 0x10
    out 0xf4, al
    hlt
