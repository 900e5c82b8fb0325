; Hardware breakpoints in 64-bit mode, 8 bytes among them (SDM vol. 3, 17.2)
.include "env64.inc"

start:
    mov qword ptr [keep_flags], -1
    mov eax, .here
    mov dr0, rax
    mov eax, 0x401
    mov dr7, rax
    mov rax, dr7
    show64 rax
    mov rax, dr6
    show64 rax
    newline
    nop
    mov eax, PAGES
    mov dr1, rax
    mov eax, 0x900404           ; DR1: writes, 8 bytes ... of which LEN = 2
    mov dr7, rax
    say "writes\n"
    mov dword ptr [PAGES+4], 1
    mov byte ptr [PAGES+7], 1
    mov byte ptr [PAGES+8], 1
    mov eax, dword ptr [PAGES]
    mov eax, 0xb00404           ; DR1: reads and writes, 8 bytes
    mov dr7, rax
    say "reads and writes\n"
    mov eax, dword ptr [PAGES+4]
    mov rax, qword ptr [PAGES-4]
    mov al, byte ptr [PAGES-1]
    push qword ptr [PAGES]
    pop rax
    mov eax, 0x400
    mov dr7, rax
    mov eax, dword ptr [PAGES]
.here:
    mov rax, dr1
    show64 rax
    mov rax, 0x100000000
    try "upper half of DR7", {mov dr7, rax}
    try "upper half of DR6", {mov dr6, rax}
    mov rax, -1
    mov dr2, rax
    mov rax, dr2
    show64 rax
    newline
    call finish
