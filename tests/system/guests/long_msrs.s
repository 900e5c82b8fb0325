; Model-specific registers: EFER, unknown ones, TSC_AUX, PAT (SDM vol. 4; vol. 3, 2.2.1, 11.12)
.include "env64.inc"

.macro try_write name, number, low, high
    try \name, {set \number, \low, \high}
.endm
.macro set number, low, high
    mov ecx, \number
    mov eax, \low
    mov edx, \high
    wrmsr
.endm
.macro get number
    mov ecx, \number
    xor eax, eax
    xor edx, edx
    rdmsr
    show edx
    show eax
    newline
.endm

start:
    get 0xc0000080
    get 0xc0000080
    get 0x277
    try "PAT of memory types", {set 0x277, 0x00070106, 0x04050607}
    get 0x277
    try "TSC_AUX", {set 0xc0000103, 0x12345678, 0}
    rdtscp
    show ecx
    newline
    get 0x174
    try "SYSENTER_EIP", {set 0x176, 0x12345678, 0x1234}
    get 0x176
    try "APIC base", {get 0x1b}
    try "STAR", {set 0xc0000081, 0x11111111, 0x22222222}
    get 0xc0000081
    try "FMASK", {set 0xc0000084, 0x33333333, 0}
    get 0xc0000084
    call finish
