; CR0 and CR4: MOV, LMSW, SMSW and CLTS, bits that stay, and feature bits (SDM vol. 3, 2.5; vol. 2, MOV CRn, LMSW, SMSW); not NW without CD and PG without PE, which QEMU accepts, nor reserved bits of CR4, on which it hangs
.include "env32.inc"

.macro cr0_with bits
    mov eax, cr0
    or eax, \bits
    mov cr0, eax
.endm
.macro cr0_is value
    mov eax, \value
    mov cr0, eax
.endm
.macro cr4_is value
    mov eax, \value
    mov cr4, eax
.endm
.macro lmsw_is value
    mov eax, \value
    lmsw ax
.endm

start:
    mov eax, 0x11
    mov cr0, eax
    call tell
    try "CD", {cr0_with 0x40000000}
    call tell
    try "CD and NW", {cr0_with 0x60000000}
    call tell
    try "ET cannot be cleared", {cr0_is 0x00000001}
    call tell
    try "MP, NE, WP, AM", {cr0_is 0x00050033}
    call tell
    cr0_is 0x11
    try "LMSW sets MP, EM, TS", {lmsw_is 0xffff000f}
    call tell
    try "LMSW clears them, not PE", {lmsw_is 0}
    call tell
    try "LMSW leaves bits 4 and 5", {lmsw_is 0x39}
    call tell
    try "CLTS", {clts}
    call tell
    lmsw_is 1
    try "LMSW from memory", {lmsw word ptr [words]}
    call tell
    clts
    cr0_is 0x00050033
    mov eax, 0xffffffff
    smsw ax
    show eax
    mov eax, 0xffffffff
    smsw eax
    show eax
    smsw word ptr [words]
    show {dword ptr [words]}
    newline
    cr0_is 0x11

    try "CR4: PSE", {cr4_is 0x10}
    call tell
    try "CR4: TSD, DE, PAE, MCE, PGE", {cr4_is 0xec}
    call tell
    try "CR4: PCE, OSFXSR, OSXMMEXCPT", {cr4_is 0x700}
    call tell
    try "CR4: SMEP, UMIP", {cr4_is 0x100800}
    call tell
    try "CR4: FSGSBASE", {cr4_is 0x10000}
    call tell
    cr4_is 0
    mov eax, 0x12345678
    mov cr2, eax
    mov eax, cr2
    show eax
    mov eax, 0x00345fff         ; the bits of CR3 that mean nothing here stay as well
    mov cr3, eax
    mov eax, cr3
    show eax
    newline
    jmp finish

tell:
    mov eax, cr0
    show eax
    mov eax, cr4
    show eax
    newline
    ret

words:
    .word 8, 0xa5a5
