; LAR, LSL, VERR, VERW and ARPL: every type of descriptor, privilege and limits, registers and memory (SDM vol. 2, LAR, LSL, VERR, ARPL; vol. 3, 5.10)
.include "env32.inc"

; ZF and the result, FFFFFFFFh where nothing is loaded
.macro ask instruction
    mov eax, 0xffffffff
    mov ecx, ebp
    \instruction
    call result
.endm
; What all four say about a selector
.macro about name, selector
    say \name
    say ": "
    mov ebp, \selector
    call all_four
.endm
; Bits 19 to 16 of what LAR loads are undefined
.macro rights
    lar eax, ecx
    call defined
.endm
.macro rights_memory
    lar eax, word ptr [selector]
    call defined
.endm
.macro lsl_memory
    .byte 0x0f, 0x03, 0x05
    .long selector
.endm
.macro adjust what, by
    say "ARPL: "
    mov eax, \what
    mov ecx, \by
    arpl ax, cx
    call result
    newline
.endm

start:
    about "null", 0
    about "null with RPL", 3
    about "beyond the GDT", 0x80
    about "no LDT", 0x0c
    about "code", CODE
    about "data", DATA
    about "data with RPL 3", DATA + 3
    about "data of level 3", DATA3 + 3
    mov edi, 0
.each:                          ; every type, present, of level 3
    segment FREE, 0x12345678, 0xabcde, 0xd0e0
    mov eax, edi
    or byte ptr [gdt+FREE+5], al
    mov eax, edi
    show eax
    about "type, 0 to 15 system, 16 to 31 not", FREE
    inc edi
    cmp edi, 32
    jb .each
    segment FREE, 0, 0xfffff, 0x4013
    about "not present", FREE
    segment FREE2, 0, 0, 0xc093
    about "limit 0 in pages", FREE2
    segment FREE2, 0, 0xfffff, 0x0091
    about "limit FFFFFh in bytes", FREE2
    say "of 16 bits: "
    mov ebp, DATA
    ask {lar ax, cx}
    ask {lsl ax, cx}
    newline
    say "from memory: "
    ask {rights_memory}
    ask {lsl_memory}
    ask {verr word ptr [selector]}
    ask {verw word ptr [selector]}
    newline
    segment FREE, 0, 0xfffff, 0xc09a        ; level 3 sees no level 0 but conforming code
    segment FREE2, 0, 0xfffff, 0xc09e
    segment FREE3, 0, 0xfffff, 0xc0f8
    user "level 3", 0x3000, {call level3}
    adjust 0x10, 0x13
    adjust 0x13, 0x10
    adjust 0x12, 0x12
    adjust 0xffff0041, 0x0002
    adjust 0x12340000, 0xffff
    mov ecx, 3
    stc
    arpl word ptr [selector], cx
    pushfd
    pop eax
    show eax                    ; only ZF changes
    movzx eax, word ptr [selector]
    show eax
    newline
    jmp finish

all_four:
    ask {rights}
    ask {lsl eax, ecx}
    ask {verr cx}
    ask {verw cx}
    newline
    ret

defined:
    pushfd
    and eax, 0xfff0ffff
    popfd
    ret

level3:
    about "code of level 0", CODE
    about "code of level 0 that is the caller's", FREE
    about "conforming code", FREE2
    about "execute-only code of level 3", FREE3
    about "data of level 0", DATA
    about "data of level 3", DATA3
    about "data of level 3 with RPL 3", DATA3 + 3
    ret

result:
    pushfd
    show eax
    pop eax
    and eax, 0x40
    shr eax, 6
    add al, '0'
    call putc
    mov al, ' '
    call putc
    ret

selector:
    .word DATA
