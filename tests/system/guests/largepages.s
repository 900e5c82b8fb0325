; 4 MiB pages: CR4.PSE, access rights, accessed and dirty bits, and global pages (SDM vol. 3, 4.3, 4.10.2.4); no reserved bits, for which QEMU leaves P clear in the error code
.include "env32.inc"
.include "paging32.inc"

.equ LARGE, 0x800000            ; linear address of directory entry 2
.equ ENTRY, DIRECTORY + 8

.macro large value
    mov dword ptr [ENTRY], \value
    call flush
.endm

start:
    mov dword ptr [0xc00010], 0x0c0c0c0c
    mov dword ptr [0x800010], 0x08080808
    mov dword ptr [0xc00000], 0x00000007    ; also a page-table entry: page frame 0
    mov byte ptr [0xc00020], 0xc3
    call paging_on
    say "PS without CR4.PSE means nothing: "
    large 0xc00087
    try "read", {mov eax, dword ptr [LARGE+0x10]}
    call tell
    mov eax, cr4
    or eax, 0x10
    mov cr4, eax
    large 0xc00087
    try "read", {mov ebx, dword ptr [LARGE+0x10]}
    show ebx
    call tell
    try "write", {mov dword ptr [LARGE+0x14], 0x12345678}
    call tell
    try "the last word", {mov dword ptr [LARGE+0x3ffffc], 0x12345678}
    try "behind it", {mov eax, dword ptr [LARGE+0x400000]}
    try "across its end", {mov eax, dword ptr [LARGE+0x3ffffe]}
    large 0xc00085
    try "read-only, WP clear", {mov dword ptr [LARGE+0x18], eax}
    call tell
    user "read-only at level 3", 0, {mov dword ptr [LARGE+0x18], eax}
    mov eax, cr0
    or eax, 0x10000
    mov cr0, eax
    large 0xc00085
    try "read-only, WP set", {mov dword ptr [LARGE+0x18], eax}
    call tell
    large 0xc00083
    user "for level 0", 0, {mov eax, dword ptr [LARGE+0x18]}
    large 0xc00087
    mov eax, LARGE + 0x20
    user "fetch at level 3", 0, {call eax}
    call tell
    large 0xc00086
    try "not present", {mov eax, dword ptr [LARGE+0x18]}
    large 0xc00187              ; G without CR4.PGE
    try "global without PGE", {mov ebx, dword ptr [LARGE+0x10]}
    show ebx
    large 0x800087
    try "another frame", {mov ebx, dword ptr [LARGE+0x10]}
    show ebx
    newline
    mov eax, cr4
    or eax, 0x80
    mov cr4, eax
    large 0xc00187
    try "global", {mov ebx, dword ptr [LARGE+0x10]}
    show ebx
    mov dword ptr [ENTRY], 0x800187
    invlpg byte ptr [LARGE+0x200000]        ; drops a large page wherever it hits it
    mov ebx, dword ptr [LARGE+0x10]
    show ebx
    mov dword ptr [ENTRY], 0xc00187
    mov eax, cr4
    and eax, 0xffffff7f
    mov cr4, eax                            ; drops global translations as well
    mov ebx, dword ptr [LARGE+0x10]
    show ebx
    call tell
    say "its PSE off again: "
    mov eax, cr4
    and eax, 0xffffffef
    mov cr4, eax
    call flush
    mov dword ptr [0x7c], 0x5a5a5a5a
    mov ebx, dword ptr [LARGE+0x7c]         ; page frame 0 by the page table at C00000h
    show ebx
    newline
    jmp finish

tell:
    push eax
    mov eax, dword ptr [ENTRY]
    show eax
    newline
    pop eax
    ret
