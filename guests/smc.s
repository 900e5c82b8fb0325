; guest: smc
; summary: modifies its own code in every distance, from the next instruction to another page
; format: flat
; mode: 64
; org: 0x100000
; tags: system
; note: SDM vol. 3, 12.6: on one linear address, a store is seen by the very next instruction fetch
; expect:
;   same block:       ba667a75
;   next instruction: c714246d
;   next block:       ef20c905
;   another page:     da6ce8d5
;   patched loop:     f66b6985
;   copied code:      16a8d6c5
;   across pages:     05cbce81
;   string store:     62af2315
;   branch target:    b78428a5

; h' = 31 h + EAX in EBX
.macro mix
    imul ebx, ebx, 31
    add ebx, eax
.endm

; print the checksum in EBX behind a name and start the next one
.macro report name
    lea rsi, [\name]
    call puts
    mov eax, ebx
    call puthex
    mov al, 10
    call putc
    mov ebx, 1
.endm

.equ BUFFER, 0x300000
.equ BUFFER2, 0x310ff0          ; the code there runs across a page border
.equ TURNS, 40

_start:
    mov ebx, 1
    xor ebp, ebp

same_block:                     ; the immediate of an instruction two further on, in straight code
    lea ecx, [rbp*8+5]
    mov dword ptr [.patched+1], ecx
    mov edx, ecx
.patched:
    mov eax, 0x11111111
    lea eax, [rax+rdx*2]
    add eax, ebp
    mix
    inc ebp
    cmp ebp, TURNS
    jne same_block
    report text_same

    xor ebp, ebp
next_instruction:               ; the opcode of the very next one: inc eax (ff c0) or dec eax (ff c8)
    mov eax, ebp
    mov ecx, ebp
    and ecx, 1
    shl ecx, 3
    or ecx, 0xc0
    mov byte ptr [.patched+1], cl
.patched:
    inc eax
    mix
    inc ebp
    cmp ebp, TURNS
    jne next_instruction
    report text_next

    xor ebp, ebp
next_block:                     ; behind a taken branch
    imul ecx, ebp, 77
    mov dword ptr [.patched+1], ecx
    test ebp, ebp
    jns .patched
    ud2
.patched:
    mov eax, 0x22222222
    mix
    inc ebp
    cmp ebp, TURNS
    jne next_block
    report text_block

    xor ebp, ebp
other_page:                     ; a routine in another page, patched between calls
    imul ecx, ebp, 1001
    mov dword ptr [far_routine+1], ecx
    call far_routine
    mix
    test ebp, 3
    jnz .keep
    mov byte ptr [far_routine.operation], 0x29      ; sub eax, ecx
    call far_routine
    mix
    mov byte ptr [far_routine.operation], 0x01      ; add eax, ecx
.keep:
    inc ebp
    cmp ebp, TURNS
    jne other_page
    report text_page

    xor ebp, ebp
    mov ecx, TURNS
patched_loop:                   ; every turn adds a constant that the turn before wrote
    mov eax, ebp
.patched:
    add eax, 1
    mov ebp, eax
    add byte ptr [.patched+2], 3
    mix
    dec ecx
    jnz patched_loop
    report text_loop

    xor ebp, ebp
copied:                         ; copied to a buffer, run, changed there, run again
    lea rsi, [template]
    mov edi, BUFFER
    mov ecx, template_end - template
    rep movsb
    mov edx, ebp
    mov eax, BUFFER
    call rax
    mix
    mov dword ptr [BUFFER + template.constant - template + 1], ebp
    mov eax, BUFFER
    call rax
    mix
    mov byte ptr [BUFFER + template.operation - template], 0x31  ; xor eax, edx
    mov eax, BUFFER
    call rax
    mix
    inc ebp
    cmp ebp, TURNS
    jne copied
    report text_copy

    xor ebp, ebp
    lea rsi, [template]
    mov edi, BUFFER2
    mov ecx, template_end - template
    rep movsb
across:                         ; an instruction that straddles two pages, changed on the second of them
    mov edx, ebp
    mov eax, BUFFER2
    call rax
    mix
    mov byte ptr [BUFFER2 + 0x10], bpl
    mov eax, BUFFER2
    call rax
    mix
    inc ebp
    cmp ebp, TURNS
    jne across
    report text_across

    xor ebp, ebp
string_store:                   ; written by a string instruction, onto the code right behind it
    mov dword ptr [constant], ebp
    lea rsi, [constant]
    lea rdi, [.patched+1]
    mov ecx, 4
    rep movsb
.patched:
    mov eax, 0x33333333
    mix
    inc ebp
    cmp ebp, TURNS
    jne string_store
    report text_string

    xor ebp, ebp
branch_target:                  ; the displacement of a branch; both targets are alive
    mov eax, ebp
    and eax, 1
    imul eax, eax, .second - .first
    mov byte ptr [.patched+1], al
.patched:
    jmp .first                  ; eb 00
.first:
    mov eax, 0x55
    jmp .join
.second:
    mov eax, 0xaa
.join:
    mix
    inc ebp
    cmp ebp, TURNS
    jne branch_target
    report text_branch
    jmp finish

template:                       ; EDX: operand; EAX: result
    xor eax, eax
    nop
    nop
    nop
    nop
    nop
    nop
    nop
    nop
    nop
    nop
    nop
.constant:                      ; 13 bytes in: straddles the page border of BUFFER2
    mov eax, 0x01010101
.operation:
    add eax, edx
    lea eax, [rax+rax*2+1]
    ret
template_end:

text_same:
    .asciz "same block:       "
text_next:
    .asciz "next instruction: "
text_block:
    .asciz "next block:       "
text_page:
    .asciz "another page:     "
text_loop:
    .asciz "patched loop:     "
text_copy:
    .asciz "copied code:      "
text_across:
    .asciz "across pages:     "
text_string:
    .asciz "string store:     "
text_branch:
    .asciz "branch target:    "
.align 4, 0
constant:
    .long 0

.include "console64.inc"

.align 4096
far_routine:
    mov eax, 0x44444444
    mov ecx, 7
.operation:
    add eax, ecx
    ret
