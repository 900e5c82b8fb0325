; Presence, writability and privilege of pages under 4-level paging (SDM vol. 3, 4.6, 4.7)
.include "env64.inc"

.macro all name
    say \name
    newline
    try "read at 0", {mov eax, dword ptr [PAGES+0x1004]}
    try "write at 0", {mov dword ptr [PAGES+0x1004], eax}
    user "read at 3", 0, {mov eax, dword ptr [PAGES+0x1004]}
    user "write at 3", 0, {mov dword ptr [PAGES+0x1004], eax}
    user "execute at 3", 0, {call code}
.endm

start:
    mov byte ptr [PAGES+0x1100], 0xc3
    page 1, 0
    all "nothing"
    page 1, PRESENT
    all "present"
    page 1, PRESENT+WRITABLE
    all "writable"
    page 1, PRESENT+USER
    all "user"
    page 1, PRESENT+WRITABLE+USER
    all "writable, user"
    and byte ptr [DIRECTORY+8*3], 0xf9
    mov rax, cr3
    mov cr3, rax
    all "neither in the directory"
    or byte ptr [DIRECTORY+8*3], 6
    mov rax, cr0
    or eax, 0x10000
    mov cr0, rax
    mov rax, cr3
    mov cr3, rax
    page 1, PRESENT+USER
    try "write to read-only, with WP", {mov dword ptr [PAGES+0x1004], eax}
    mov rax, cr0
    and eax, 0xfffeffff
    mov cr0, rax
    try "without WP", {mov dword ptr [PAGES+0x1004], eax}
    call finish

code:
    mov eax, PAGES + 0x1100
    jmp rax
