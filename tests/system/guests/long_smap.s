; Supervisor-mode access prevention (SDM vol. 3, 4.6.1): EFLAGS.AC opens user pages to supervisor code
.include "env64.inc"


start:
    mov byte ptr [PAGES+0x1000], 0xc3
    mov ebx, PAGES + 0x1000
    and byte ptr [DIRECTORY], 0xfb          ; our own code and data are the supervisor's
    and byte ptr [DIRECTORY+8], 0xfb        ; and so are the tables
    mov rax, cr3
    mov cr3, rax
    try "read without SMAP", {mov al, byte ptr [rbx]}
    mov rax, cr4
    or eax, 0x200000
    mov cr4, rax
    try "read", {mov al, byte ptr [rbx]}
    try "write", {mov byte ptr [rbx], 0xc3}
    try "a call", {call rbx}
    try2 "STAC and read", {stac}, {mov al, byte ptr [rbx]}
    try "still open", {mov byte ptr [rbx], 0xc3}
    try2 "CLAC and read", {clac}, {mov al, byte ptr [rbx]}
    page 1, PRESENT+WRITABLE
    try "a supervisor's page", {mov al, byte ptr [rbx]}
    page 1, PRESENT+USER
    try "a user's read-only page", {mov byte ptr [rbx], 0xc3}
    try2 "with AC", {stac}, {mov byte ptr [rbx], 0xc3}
    mov rax, cr0
    and eax, 0xfffeffff                     ; WP: the supervisor writes to read-only pages
    mov cr0, rax
    try "without WP", {mov byte ptr [rbx], 0xc3}
    clac
    try "without WP or AC", {mov byte ptr [rbx], 0xc3}
    try "a read without WP or AC", {mov al, byte ptr [rbx]}
    mov rax, cr0
    or eax, 0x10000
    mov cr0, rax
    page 1, PRESENT+WRITABLE+USER
    pushfq
    or dword ptr [rsp], 0x40000
    try2 "POPF sets AC", {popfq}, {mov al, byte ptr [rbx]}
    pushfq
    and dword ptr [rsp], 0xfffbffff
    try2 "POPF clears AC", {popfq}, {mov al, byte ptr [rbx]}
    mov edi, PAGES + 0x2000
    mov rsi, rbx
    mov ecx, 4
    try "a string", {rep movsb}
    mov rsi, rbx
    mov ecx, 4
    stac
    try "a string with AC", {rep movsb}
    cmp eax, eax
    stc
    stac                                    ; keeps the other flags
    pushfq
    clac
    pushfq
    pop rcx
    pop rax
    say "flags: "
    show eax
    show ecx
    newline
    try "after it", {mov al, byte ptr [rbx]}
    mov rax, cr4
    and eax, 0xffdfffff
    mov cr4, rax
    try "SMAP off", {mov al, byte ptr [rbx]}
    try "STAC", {stac}
    try "CLAC", {clac}
    call finish
