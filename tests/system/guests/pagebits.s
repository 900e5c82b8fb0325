; The accessed and dirty bits of 32-bit page-table entries, and what INVLPG and CR3 must drop (SDM vol. 3, 4.8, 4.10.4)
.include "env32.inc"
.include "paging32.inc"

; Entries that no access was made through, a body, and what became of them
.macro bits name, entry, body
    mov dword ptr [DIRECTORY+4], TABLE + 7
    mov dword ptr [TABLE], FRAMES + \entry
    mov dword ptr [TABLE+4], FRAMES + 0x1000 + \entry
    call flush
    try \name, {\body}
    call tell
.endm
.macro through_esp
    mov esp, TESTS + 0x20
    push 5
    mov esp, dword ptr [resume_esp]
.endm
.macro fetch
    mov eax, TESTS
    call eax
.endm
.macro compare_exchange
    mov ebx, TESTS
    mov eax, 1
    cmpxchg dword ptr [ebx+8], ecx
.endm
.macro copy
    mov esi, TESTS
    mov edi, TESTS + 0x1000
    movsd
.endm

start:
    mov byte ptr [FRAMES], 0xc3
    call paging_on
    bits "nothing", 7, {nop}
    bits "read", 7, {mov eax, dword ptr [TESTS]}
    bits "write", 7, {mov dword ptr [TESTS+4], eax}
    bits "read-modify-write", 7, {inc dword ptr [TESTS+4]}
    bits "push", 7, {through_esp}
    bits "fetch", 7, {fetch}
    bits "copy", 7, {copy}
    bits "CMPXCHG that does not store a new value", 7, {compare_exchange}
    bits "write across both pages", 7, {mov dword ptr [TESTS+0xffe], eax}
    bits "read across both pages", 7, {mov eax, dword ptr [TESTS+0xffe]}
    bits "write to a read-only page, WP clear", 5, {mov dword ptr [TESTS+4], eax}
    bits "INVLPG", 7, {invlpg byte ptr [TESTS]}
    bits "LEA and a prefetch", 7, {lea eax, [TESTS]}
    say "level 3: "
    mov dword ptr [TABLE], FRAMES + 7
    call flush
    user "read", 0, {mov eax, dword ptr [TESTS]}
    call tell
    user "write", 0, {mov dword ptr [TESTS+4], eax}
    call tell
    mov dword ptr [TABLE], FRAMES + 3
    call flush
    mov dword ptr [DIRECTORY+4], TABLE + 7
    call flush
    user "forbidden", 0, {mov dword ptr [TESTS+4], eax}
    call tell
    bits "nothing there", 0, {mov eax, dword ptr [TESTS]}
    bits "write to nothing", 6, {mov dword ptr [TESTS], eax}
    mov dword ptr [DIRECTORY+4], TABLE + 6
    call flush
    try "no table", {mov eax, dword ptr [TESTS]}
    call tell
    mov dword ptr [DIRECTORY+4], TABLE + 7

    say "a read, then a write: "
    mov dword ptr [TABLE], FRAMES + 7
    call flush
    mov eax, dword ptr [TESTS]
    call tell
    mov dword ptr [TESTS+4], eax
    call tell
    say "accessed and dirty already: "
    mov dword ptr [TABLE], FRAMES + 0x67
    call flush
    mov dword ptr [TESTS+4], eax
    call tell
    say "dirty cleared, CR3 loaded: "
    mov dword ptr [TABLE], FRAMES + 0x27
    call flush
    mov dword ptr [TESTS+4], eax
    call tell
    say "dirty cleared, INVLPG: "
    mov dword ptr [TABLE], FRAMES + 0x27
    invlpg byte ptr [TESTS+0x123]
    mov dword ptr [TESTS+4], eax
    call tell
    say "another frame: "
    mov dword ptr [FRAMES+0x10], 0x11111111
    mov dword ptr [FRAMES+0x2010], 0x22222222
    mov eax, dword ptr [TESTS+0x10]
    show eax
    mov dword ptr [TABLE], FRAMES + 0x2007
    invlpg byte ptr [TESTS]
    mov eax, dword ptr [TESTS+0x10]
    show eax
    call tell
    say "the directory itself, mapped: "
    page 2, DIRECTORY + 7
    mov eax, dword ptr [TESTS+0x2004]
    show eax
    mov dword ptr [TESTS+0x2008], LOW_TABLE + 7
    mov eax, dword ptr [0x800000+STACK]     ; linear 8 MiB by the entry just made
    mov eax, dword ptr [DIRECTORY+8]
    show eax
    call tell
    jmp finish

tell:
    push eax
    mov eax, dword ptr [DIRECTORY+4]
    show eax
    mov eax, dword ptr [TABLE]
    show eax
    mov eax, dword ptr [TABLE+4]
    show eax
    pop eax
    newline
    ret
