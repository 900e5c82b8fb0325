; Supervisor-mode execution prevention (SDM vol. 3, 4.6.1)
.include "env64.inc"

start:
    mov byte ptr [PAGES+0x1000], 0xc3
    mov ebx, PAGES + 0x1000
    and byte ptr [DIRECTORY], 0xfb          ; our own code is the supervisor's
    mov rax, cr3
    mov cr3, rax
    try "a user's page without SMEP", {call rbx}
    mov rax, cr4
    or eax, 0x100000
    mov cr4, rax
    try "with SMEP", {call rbx}
    try "read", {mov al, byte ptr [rbx]}
    try "write", {mov byte ptr [rbx], 0xc3}
    page 1, PRESENT+WRITABLE
    try "a supervisor's page", {call rbx}
    page 1, 0
    try "no page", {call rbx}
    page 1, PRESENT+WRITABLE+USER
    try "a user's page again", {call rbx}
    mov rax, cr4
    and eax, 0xffefffff
    mov cr4, rax
    try "SMEP off", {call rbx}
    call finish
