; PAE paging: page-directory pointers, 4 KiB and 2 MiB pages, rights of both levels, NX with EFER.NXE, loads of CR3 (SDM vol. 3, 4.4); no reserved bits, for which QEMU leaves P clear in the error code
.include "env32.inc"

.equ POINTERS, 0x200000
.equ DIRECTORY, 0x201000
.equ TABLE, 0x202000            ; maps the 2 MiB at TESTS
.equ HIGH, 0x203000             ; the directory of the last GiB
.equ TESTS, 0x400000
.equ EFER, 0xc0000080

.macro entry low, high
    mov dword ptr [TABLE], \low
    mov dword ptr [TABLE+4], \high
    call flush
.endm
.macro run where
    mov eax, \where
    call eax
.endm

start:
    mov edi, POINTERS
    xor eax, eax
    mov ecx, 0x1000
    rep stosd
    mov dword ptr [POINTERS], DIRECTORY + 1
    mov dword ptr [POINTERS+24], HIGH + 1
    mov dword ptr [DIRECTORY], 0x87         ; 0 to 4 MiB in large pages
    mov dword ptr [DIRECTORY+8], 0x200087
    mov dword ptr [DIRECTORY+16], TABLE + 7
    mov dword ptr [DIRECTORY+24], 0x600087
    mov dword ptr [HIGH+0xff8], 0x600087
    mov byte ptr [0x600000], 0xc3
    mov dword ptr [0x600010], 0x06060606
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, POINTERS
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov eax, cr4
    show eax
    newline
    entry 0x600007, 0
    try "read", {mov ebx, dword ptr [TESTS+0x10]}
    show ebx
    call tell
    try "write", {mov dword ptr [TESTS+0x14], eax}
    call tell
    try "fetch", {run TESTS}
    try "the last GiB", {mov ebx, dword ptr [0xffe00010]}
    show ebx
    newline
    try "its end", {mov ebx, dword ptr [0xfffffffc]}
    try "no directory entry", {mov ebx, dword ptr [0x800000]}
    try "no table entry", {mov ebx, dword ptr [TESTS+0x1000]}
    try "no pointer", {mov ebx, dword ptr [0x40000000]}
    entry 0x600005, 0
    try "read-only, WP clear", {mov dword ptr [TESTS+0x14], eax}
    user "read-only at level 3", 0, {mov dword ptr [TESTS+0x14], eax}
    entry 0x600003, 0
    user "for level 0", 0, {mov eax, dword ptr [TESTS+0x14]}
    mov eax, cr0
    or eax, 0x10000
    mov cr0, eax
    entry 0x600005, 0
    try "read-only, WP set", {mov dword ptr [TESTS+0x14], eax}
    mov dword ptr [DIRECTORY+16], TABLE + 5
    entry 0x600007, 0
    try "directory read-only, WP set", {mov dword ptr [TESTS+0x14], eax}
    mov dword ptr [DIRECTORY+16], TABLE + 7

    mov ecx, EFER
    rdmsr
    or eax, 0x800               ; NXE
    wrmsr
    rdmsr
    show eax
    newline
    entry 0x600007, 0x80000000
    try "NX: read", {mov ebx, dword ptr [TESTS+0x10]}
    try "NX: fetch", {run TESTS}
    user "NX: fetch at level 3", 0, {run TESTS}
    entry 0x600003, 0x80000000
    user "NX and for level 0: fetch at level 3", 0, {run TESTS}
    entry 0x600006, 0x80000000
    try "NX and not present: fetch", {run TESTS}
    entry 0x600007, 0
    mov dword ptr [DIRECTORY+20], 0x80000000
    call flush
    try "NX in the directory: fetch", {run TESTS}
    mov dword ptr [DIRECTORY+20], 0
    mov dword ptr [DIRECTORY+28], 0x80000000
    call flush
    try "NX of a large page: fetch", {run 0x600000}
    try "NX of a large page: write", {mov dword ptr [0x600014], 0}
    mov eax, dword ptr [DIRECTORY+24]
    show eax
    newline

    mov dword ptr [POINTERS+8], DIRECTORY + 1   ; no pointer is read again before CR3 is loaded
    try "a pointer, not loaded", {mov ebx, dword ptr [0x40200010]}
    call flush
    try "a pointer, loaded", {mov ebx, dword ptr [0x40600010]}
    show ebx
    newline
    mov dword ptr [POINTERS+8], DIRECTORY
    call flush
    try "a pointer not present", {mov ebx, dword ptr [0x40600010]}
    jmp finish

flush:
    push eax
    mov eax, cr3
    mov cr3, eax
    pop eax
    ret
tell:
    show {dword ptr [TABLE]}
    show {dword ptr [TABLE+4]}
    newline
    ret
