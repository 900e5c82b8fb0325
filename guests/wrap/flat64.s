; A multiboot kernel that sets up what a flat 64-bit guest expects and starts the guest that lies behind it.
; ORG, ENTRY and SIZE, the guest's address, entry and length, are defined by the caller.
.equ TABLES, 0x1000             ; PML4, PDPT, four page directories

.include "wrap/multiboot.inc"

multiboot_entry:
    cld
    cli
    mov esi, guest
    mov edi, ORG
    mov ecx, SIZE
    rep movsb
    mov edi, TABLES
    xor eax, eax
    mov ecx, 6 * 1024
    rep stosd
    mov dword ptr [TABLES], TABLES + 0x1003
    mov eax, TABLES + 0x2003
    mov edi, TABLES + 0x1000
    mov ecx, 4
pdpt:
    mov dword ptr [edi], eax
    add eax, 0x1000
    add edi, 8
    dec ecx
    jnz pdpt
    mov eax, 0x83               ; present, writable, 2 MiB
    mov edi, TABLES + 0x2000
    mov ecx, 2048
directory:
    mov dword ptr [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz directory
    mov eax, 0x20               ; PAE
    mov cr4, eax
    mov eax, TABLES
    mov cr3, eax
    mov ecx, 0xc0000080         ; EFER.LME (SDM vol. 4, table 2-2)
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, 0x80000011         ; PG, ET, PE
    mov cr0, eax
    lgdt [gdtr]
    ljmp 8:long_mode

.mode 64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, 0x9f000
    mov eax, ENTRY
    jmp rax

.align 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    ; 08: 64-bit code
    .quad 0x00cf93000000ffff    ; 10: data
gdtr:
    .word $ - gdt - 1
    .long gdt
guest:
