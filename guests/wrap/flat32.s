; A multiboot kernel that sets up what a flat 32-bit guest expects and starts the guest that lies behind it.
; ORG and SIZE, the guest's address and length, are defined by the caller.
.include "wrap/multiboot.inc"

multiboot_entry:
    cld
    cli
    mov esi, guest
    mov edi, ORG
    mov ecx, SIZE
    rep movsb
    lgdt [gdtr]
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, 0x9f000
    mov eax, 0x11               ; PE, ET
    mov cr0, eax
    ljmp 8:ORG

.align 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    ; 08: 32-bit code, 4 GiB
    .quad 0x00cf93000000ffff    ; 10: data
gdtr:
    .word $ - gdt - 1
    .long gdt
guest:
