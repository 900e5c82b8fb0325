; FS and GS bases: MSRs, SWAPGS, FSGSBASE instructions, loads of selectors (SDM vol. 3, 3.4.4; vol. 2, SWAPGS, RDFSBASE)
.include "env64.inc"

.macro bases
    push rax
    push rcx
    push rdx
    read_msr 0xc0000100
    show edx
    show eax
    read_msr 0xc0000101
    show edx
    show eax
    read_msr 0xc0000102
    show edx
    show eax
    pop rdx
    pop rcx
    pop rax
    newline
.endm

start:
    xor eax, eax
    mov fs, eax
    mov gs, eax
    write_msr 0xc0000100, PAGES, 0
    write_msr 0xc0000101, PAGES + 0x1000, 0
    write_msr 0xc0000102, PAGES + 0x2000, 0xffff8000
    bases
    mov dword ptr [PAGES+0x10], 0x1111
    mov dword ptr [PAGES+0x1010], 0x2222
    mov eax, dword ptr fs:[0x10]
    show eax
    mov eax, dword ptr gs:[0x10]
    show eax
    newline
    swapgs
    bases
    swapgs
    user "SWAPGS at level 3", 0, {swapgs}
    try "SWAPGS", {nop}
    try "RDFSBASE without FSGSBASE", {rdfsbase rax}
    mov rax, cr4
    or eax, 0x10000
    mov cr4, rax
    rdfsbase rax
    show64 rax
    rdgsbase eax
    show64 rax
    newline
    mov rax, 0x00007ffffffff000
    wrfsbase rax
    mov rax, 0xffffffff12345678
    wrgsbase eax
    bases
    user "WRGSBASE at level 3", 0, {wrgsbase eax}
    bases
    mov rcx, 0x123456789abc
    mov rdx, 0xffff900000000000
    mov r9, 0x7fffffffffff
    wrgsbase rcx
    wrfsbase rdx
    swapgs
    show64 rcx
    show64 rdx
    bases
    wrgsbase r9
    wrfsbase r9d
    swapgs
    bases
    rdgsbase r10
    rdfsbase ecx
    show64 r10
    show64 rcx
    newline
    mov eax, PAGES + 0x1000
    mov ebx, PAGES
    mov ecx, 1000
over:
    wrgsbase rbx                                ; many times over, each change seen by the next access
    mov esi, dword ptr gs:[0x10]
    swapgs
    wrgsbase rax
    add esi, dword ptr gs:[0x10]
    swapgs
    add esi, dword ptr gs:[0x10]
    dec ecx
    jnz over
    show esi
    bases
    mov dword ptr [gdt+FREE], 0x5678ffff
    mov dword ptr [gdt+FREE+4], 0x12cf9334
    mov eax, FREE
    mov fs, eax
    mov gs, eax
    bases
    mov rax, cr4
    and eax, 0xfffeffff
    mov cr4, rax
    call finish
