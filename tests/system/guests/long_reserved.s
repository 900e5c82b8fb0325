; Reserved bits of paging structures (SDM vol. 3, 4.5.4, 4.7)
.include "env64.inc"

.macro high entry, value
    mov dword ptr [\entry+4], \value
    mov rax, cr3
    mov cr3, rax
.endm

start:
    mov ebx, PAGES + 0x1008
    high TABLE+8, 0x00080000                ; bit 51
    try "read, entry", {mov eax, dword ptr [rbx]}
    try "write, entry", {mov dword ptr [rbx], eax}
    user "at level 3", 0, {mov dword ptr [rbx], eax}
    try "execute", {call rbx}
    page 1, 0
    high TABLE+8, 0x00080000
    try "not present", {mov eax, dword ptr [rbx]}
    page 1, PRESENT+WRITABLE+USER
    high TABLE+8, 0x7ff00000                ; what software may use
    try "available bits", {mov eax, dword ptr [rbx]}
    high TABLE+8, 0
    high DIRECTORY+24, 0x00080000
    try "directory", {mov eax, dword ptr [rbx]}
    high DIRECTORY+24, 0
    mov dword ptr [DIRECTORY+8*4], 0x802087 ; bit 13 of a page of 2 MiB
    mov rax, cr3
    mov cr3, rax
    try "large page", {mov eax, dword ptr [0x800000]}
    mov dword ptr [DIRECTORY+8*4], 0x801087 ; bit 12 is PAT
    mov rax, cr3
    mov cr3, rax
    try "large page with PAT", {mov eax, dword ptr [0x800000]}
    mov dword ptr [PML4+8], 0x2010a7        ; PS in the PML4
    mov rdi, 0x8000000000
    try "PS in the PML4", {mov eax, dword ptr [rdi]}
    mov dword ptr [PML4+8], 0
    mov rax, cr3
    mov cr3, rax
    try "an empty PML4 entry", {mov eax, dword ptr [rdi]}
    try "write", {mov dword ptr [rdi], eax}
    call finish
