; A multiboot kernel that goes back to real mode as a flat 16-bit guest expects it and starts the guest behind it.
; ORG and SIZE, the guest's address and length, are defined by the caller.
.equ LOW, 0x600                 ; where the 16-bit part runs, below every guest

.include "wrap/multiboot.inc"

multiboot_entry:
    cld
    mov esi, guest
    mov edi, ORG
    mov ecx, SIZE
    rep movsb
    mov esi, low_part
    mov edi, LOW
    mov ecx, low_end - low_part
    rep movsb
    lgdt [gdtr]
    ljmp 8:LOW

.align 8
gdt:
    .quad 0
    .quad 0x00009b000000ffff    ; 08: 16-bit code, base 0, limit 64 KiB
    .quad 0x000093000000ffff    ; 10: 16-bit data
gdtr:
    .word $ - gdt - 1
    .long gdt

.mode 16
low_part:
    mov ax, 0x10                ; real mode keeps the 64 KiB limits of the last loaded descriptors
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    ljmp 0:low_real - low_part + LOW
low_real:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, ORG
    lidt [ivtr - low_part + LOW]
    ljmp 0:ORG
ivtr:
    .word 0x3ff
    .long 0
low_end:
guest:
