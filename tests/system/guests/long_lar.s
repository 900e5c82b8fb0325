; LAR, LSL, VERR and VERW in 64-bit mode on every type of descriptor (SDM vol. 2, LAR, LSL, VERR)
.include "env64.inc"

start:
    xor ebx, ebx

.type:                          ; 1 and 3 to 5 are none in 64-bit mode (SDM vol. 2, LAR), but are to QEMU
    mov eax, 0x3a
    bt eax, ebx
    jc .next
    mov eax, ebx
    shl eax, 8
    or eax, 0x8000              ; present, DPL 0
    mov dword ptr [gdt+FREE+4], eax
    mov dword ptr [gdt+FREE], 0x3456
    mov qword ptr [gdt+FREE+8], 0
    mov ecx, FREE
    call ask
.next:
    inc ebx
    cmp ebx, 32
    jb .type
    say "null: "
    xor ecx, ecx
    call ask
    say "beyond: "
    mov ecx, 0xff8
    call ask
    say "not present: "
    mov dword ptr [gdt+FREE+4], 0x00c01300
    mov ecx, FREE
    call ask
    say "RPL 3 of DPL 0: "
    mov ecx, DATA + 3
    call ask
    say "RPL 3 of DPL 3: "
    mov ecx, DATA3 + 3
    call ask
    say "code: "
    mov ecx, CODE
    call ask
    mov rax, -1
    lar ax, cx
    show64 rax
    mov rax, -1
    lsl eax, ecx
    show64 rax
    newline
    call finish

ask:                            ; ECX: selector
    mov rax, 0x5555555566666666
    lar rax, ecx
    setz dl
    and eax, 0xfff0ffff         ; undefined (SDM vol. 2, LAR)
    show64 rax
    mov rax, 0x5555555566666666
    .byte 0x48, 0x0f, 0x03, 0xc1    ; lsl rax, ecx
    setz dh
    show64 rax
    verr cx
    setz al
    movzx eax, al
    shl eax, 16
    verw cx
    setz al
    shl eax, 8
    movzx edx, dx
    add eax, edx
    show eax
    newline
    ret
