; Page faults of 32-bit paging: error codes and CR2 for reads, writes and fetches at both levels, CR0.WP (SDM vol. 3, 4.6, 4.7); no instructions that read and write, whose fault QEMU calls a read
.include "env32.inc"
.include "paging32.inc"

.macro call_page number
    mov eax, TESTS + \number * 0x1000
    call eax
.endm
.macro wp_on
    mov eax, cr0
    or eax, 0x10000
    mov cr0, eax
.endm
.macro wp_off
    mov eax, cr0
    and eax, 0xfffeffff
    mov cr0, eax
.endm
.macro all name
    say \name
    say "\n"
    try " read", {mov eax, dword ptr [TESTS+0x10]}
    try " write", {mov dword ptr [TESTS+0x10], ecx}
    try " fetch", {call_page 0}
    user " read at 3", 0, {mov eax, dword ptr [TESTS+0x20]}
    user " write at 3", 0, {mov dword ptr [TESTS+0x20], ecx}
    user " fetch at 3", 0, {call_page 0}
    wp_on
    try " write with WP", {mov dword ptr [TESTS+0x30], ecx}
    user " push at 3", 0, {push_there}
    wp_off
.endm
.macro push_there
    mov esp, TESTS + 0x100
    push ecx
.endm

start:
    mov byte ptr [FRAMES], 0xc3             ; ret
    call paging_on
    page 0, FRAMES + 7
    all "everything allowed"
    page 0, FRAMES + 3
    all "for level 0"
    page 0, FRAMES + 5
    all "read-only"
    page 0, FRAMES + 1
    all "read-only for level 0"
    page 0, FRAMES + 6
    all "not present"
    page 0, FRAMES + 7
    mov dword ptr [DIRECTORY+4], TABLE + 5
    call flush
    all "directory read-only"
    mov dword ptr [DIRECTORY+4], TABLE + 3
    call flush
    all "directory for level 0"
    mov dword ptr [DIRECTORY+4], TABLE + 6
    call flush
    all "directory not present"
    mov dword ptr [DIRECTORY+4], TABLE + 7
    call flush
    say "others\n"
    try "the last byte", {mov eax, dword ptr [0xfffffffc]}
    try "CALL", {call dword ptr [0x7ff004]}
    try "JMP to nothing", {jmp 0x7ff008}
    jmp finish
