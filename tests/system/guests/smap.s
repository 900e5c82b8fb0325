; Supervisor-mode access prevention with 32-bit paging (SDM vol. 3, 4.6.1), also through segments that are not flat
.include "env32.inc"
.include "paging32.inc"

.macro read_ds
    mov ax, ds
    push eax
    mov ax, FREE
    mov ds, ax
    mov al, byte ptr [0x10]
    pop ecx
    mov ds, cx
.endm

start:
    call paging_on
    and dword ptr [DIRECTORY], 0xfffffffb   ; our own code and data are the supervisor's
    mov edi, LOW_TABLE
    mov ecx, 1024
.supervisor:
    and dword ptr [edi], 0xfffffffb
    add edi, 4
    loop .supervisor
    call flush
    mov ebx, TESTS
    try "read without SMAP", {mov al, byte ptr [ebx]}
    mov eax, cr4
    or eax, 0x200000
    mov cr4, eax
    try "read", {mov al, byte ptr [ebx]}
    try "write", {mov byte ptr [ebx], 0xc3}
    stac
    try "read after STAC", {mov al, byte ptr [ebx]}
    try "write after STAC", {mov byte ptr [ebx+5], 0xc3}
    try "read-modify-write after STAC", {inc dword ptr [ebx]}
    clac
    try "read after CLAC", {mov al, byte ptr [ebx]}
    page 1, FRAMES + 3
    try "a supervisor's page", {mov al, byte ptr [ebx+0x1000]}
    pushfd
    or dword ptr [esp], 0x40000
    popfd
    try "POPF sets AC", {mov al, byte ptr [ebx]}
    pushfd
    and dword ptr [esp], 0xfffbffff
    popfd
    try "POPF clears AC", {mov al, byte ptr [ebx]}
    mov ecx, 4
    mov esi, ebx
    mov edi, FRAMES + 0x8000
    try "a string", {rep movsb}
    show ecx
    try "an LGDT from a user page", {lgdt [ebx]}
    segment FREE, TESTS, 0xfff, 0x4093      ; data
    try "through a small segment", {read_ds}
    mov eax, DATA
    mov ds, eax
    stac
    try "the same after STAC", {read_ds}
    mov eax, DATA
    mov ds, eax
    clac
    mov eax, cr4
    and eax, 0xffdfffff
    mov cr4, eax
    try "SMAP off", {mov al, byte ptr [ebx]}
    call finish
