; Virtual-8086 mode (QEMU checks no segment limits, has no INT1 and leaves EXT clear, so these are not here): entry by IRET and by a task switch, IOPL-sensitive and privileged instructions, events, I/O permission
.include "env32.inc"

.equ SEG, 0x2000                ; where the 16-bit code lies, as a paragraph number
.equ AT, SEG * 16

; Runs the 16-bit code from \from on in virtual-8086 mode with these flags; its first exception ends the case
.macro virtual name, from, flags
    say \name
    say ": "
    mov dword ptr [resume], .resume\@
    mov dword ptr [resume_esp], esp
    push 0x6000                 ; GS, FS, DS, ES
    push 0x5000
    push 0x4000
    push 0x3000
    push 0x1000
    push 0x12340ffe
    push 0x20002 + \flags
    push SEG
    push \from - code16
    mov eax, 0xa5a5a5a5
    mov ebx, 0x00000000
    iretd
.resume\@:
    mov dword ptr [resume], 0
    show eax
    newline
.endm

start:
    mov esi, code16
    mov edi, AT
    mov ecx, code16_end - code16
    rep movsb
    ; the I/O permission map of the first task: ports 80h to 87h but 82h are allowed, and what lies beyond is not
    mov byte ptr [main_tss+0x68+0x10], 4
    mov byte ptr [main_tss+0x68+0x11], 0xff
    mov eax, main_tss
    mov ebx, 0x68 + 0x11
    mov ecx, 0x8b
    mov edx, MAIN
    call descriptor
    mov byte ptr [gdt+MAIN+5], 0x89
    mov eax, MAIN
    ltr ax

    virtual "CLI at IOPL 0", v_cli, 0
    virtual "STI at IOPL 0", v_sti, 0
    virtual "PUSHF at IOPL 2", v_pushf, 0x2000
    virtual "POPF at IOPL 0", v_popf, 0
    virtual "IRET at IOPL 0", v_iret, 0
    virtual "INT n at IOPL 0", v_int, 0
    virtual "INT3 at IOPL 0", v_int3, 0
    virtual "INTO at IOPL 0", v_into, 0x800
    virtual "all at IOPL 3", v_all, 0x3000
    virtual "INT n at IOPL 3", v_int, 0x3000
    mov byte ptr [idt+3*8+5], 0xee
    mov byte ptr [idt+4*8+5], 0xee
    mov byte ptr [idt+0x20*8+5], 0xee
    virtual "INT n at IOPL 3, DPL 3", v_int, 0x3000
    virtual "INT n at IOPL 0, DPL 3", v_int, 0
    virtual "INT3, DPL 3", v_int3, 0
    virtual "INTO, DPL 3", v_into, 0x800
    virtual "division", v_div, 0
    virtual "HLT", v_hlt, 0x3000
    virtual "MOV CR0", v_cr, 0x3000
    virtual "MOV DR7", v_dr, 0x3000
    virtual "LGDT", v_lgdt, 0x3000
    virtual "LMSW", v_lmsw, 0x3000
    virtual "SMSW", v_smsw, 0
    virtual "CLTS", v_clts, 0
    virtual "INVLPG", v_invlpg, 0
    virtual "RDMSR", v_rdmsr, 0
    virtual "SLDT", v_sldt, 0
    virtual "STR", v_str, 0
    virtual "LLDT", v_lldt, 0
    virtual "LTR", v_ltr, 0
    virtual "LAR", v_lar, 0
    virtual "LSL", v_lsl, 0
    virtual "VERR", v_verr, 0
    virtual "ARPL", v_arpl, 0
    virtual "SYSEXIT", v_sysexit, 0
    virtual "OUT to a port allowed", v_out, 0
    virtual "OUT to a port forbidden, IOPL 3", v_out82, 0x3000
    virtual "OUT of a word", v_outw, 0x3000
    virtual "IN beyond the map", v_in, 0x3000
    virtual "segments", v_segments, 0
    virtual "the stack", v_stack, 0
    virtual "far jumps and returns", v_far, 0
    virtual "single step", v_nop, 0x100

    say "a 16-bit gate: "
    mov edi, idt + 6 * 8
    mov eax, gate16 - code16
    mov word ptr [edi], ax
    mov word ptr [edi+2], FREE
    mov byte ptr [edi+5], 0x86
    mov word ptr [edi+6], 0
    mov eax, AT
    mov ebx, 0xffff
    mov ecx, 0x9b
    mov edx, FREE
    call descriptor
    mov dword ptr [resume], .back
    mov dword ptr [resume_esp], esp
    push 0x6000
    push 0x5000
    push 0x4000
    push 0x3000
    push 0x1000
    push 0x0ffe
    push 0x20002
    push SEG
    push v_ud - code16
    iretd
.back:
    mov dword ptr [resume], 0
    mov esi, STACK3 - 18
    mov ecx, 9
.word:
    lodsw
    movzx eax, ax
    show eax
    loop .word
    newline
    mov edi, idt + 6 * 8
    mov eax, stub6
    call write_gate

    say "by a task switch: "
    mov edi, task_tss
    mov ecx, 26
    xor eax, eax
    rep stosd
    mov dword ptr [task_tss+4], STACK2
    mov dword ptr [task_tss+8], DATA
    mov dword ptr [task_tss+0x20], v_cli - code16
    mov dword ptr [task_tss+0x24], 0x20002
    mov dword ptr [task_tss+0x28], 0x11111111
    mov dword ptr [task_tss+0x38], 0x0ffe
    mov dword ptr [task_tss+0x48], 0x3000
    mov dword ptr [task_tss+0x4c], SEG
    mov dword ptr [task_tss+0x50], 0x1000
    mov dword ptr [task_tss+0x54], 0x4000
    mov dword ptr [task_tss+0x58], 0xffff
    mov dword ptr [task_tss+0x5c], 0x6000
    mov dword ptr [task_tss+0x64], 0x680000
    mov eax, task_tss
    mov ebx, 0x67
    mov ecx, 0x89
    mov edx, TASK
    call descriptor
    mov dword ptr [resume], .left
    mov dword ptr [resume_esp], esp
    ljmp TASK:0
.left:
    mov dword ptr [resume], 0
    xor eax, eax
    str ax
    show eax
    newline
    say "and out of it by a task gate: "
    mov byte ptr [gdt+TASK+5], 0x89
    mov dword ptr [task_tss+0x20], v_ud - code16
    mov dword ptr [main_tss+0x20], .out
    mov dword ptr [main_tss+0x24], 2
    mov dword ptr [main_tss+0x38], esp
    mov dword ptr [main_tss+0x48], DATA
    mov dword ptr [main_tss+0x4c], CODE
    mov dword ptr [main_tss+0x50], DATA
    mov dword ptr [main_tss+0x54], DATA
    mov dword ptr [idt+6*8], MAIN << 16
    mov dword ptr [idt+6*8+4], 0x8500
    mov eax, other_tss          ; leave the first task without its TSS being saved
    mov ebx, 0x67
    mov ecx, 0x89
    mov edx, FREE2
    call descriptor
    mov eax, FREE2
    ltr ax
    mov byte ptr [gdt+MAIN+5], 0x89
    ljmp TASK:0
.out:
    pushfd
    pop eax
    show eax
    xor eax, eax
    str ax
    show eax
    movzx eax, word ptr [main_tss]
    show eax
    show {dword ptr [task_tss+0x20]}
    mov eax, dword ptr [task_tss+0x24]
    and eax, 0xfffeffff
    show eax
    movzx eax, word ptr [task_tss+0x4c]
    show eax
    movzx eax, word ptr [task_tss+0x58]
    show eax
    newline
    call finish

.align 4
other_tss:
    .space 104

.mode 16
code16:
v_cli:
    cli
    ud2
v_sti:
    sti
    ud2
v_pushf:
    pushf
    ud2
v_popf:
    popf
    ud2
v_iret:
    .byte 0xcf
v_int:
    .byte 0xcd, 0x20
    ud2
v_int3:
    .byte 0xcc
    ud2
v_into:
    .byte 0xce
    ud2
v_all:
    sti
    pushf
    cli
    pushf
    pop bx
    pop cx
    push cx
    popf
    push bx
    push SEG
    push v_iret_target - code16
    .byte 0xcf
v_iret_target:
    mov ax, bx
    .byte 0x66, 0xc1, 0xe0, 0x10 ; shl eax, 16
    mov ax, cx
    ud2
v_div:
    div bl
    ud2
v_hlt:
    hlt
    ud2
v_cr:
    .byte 0x0f, 0x20, 0xc0
    ud2
v_dr:
    .byte 0x0f, 0x21, 0xf8
    ud2
v_lgdt:
    .byte 0x0f, 0x01, 0x16, 0x00, 0x00
    ud2
v_lmsw:
    .byte 0x0f, 0x01, 0xf0
    ud2
v_smsw:
    .byte 0x0f, 0x01, 0xe0
    ud2
v_clts:
    .byte 0x0f, 0x06
    ud2
v_invlpg:
    .byte 0x0f, 0x01, 0x3e, 0x00, 0x00
    ud2
v_rdmsr:
    .byte 0x0f, 0x32
    ud2
v_sldt:
    .byte 0x0f, 0x00, 0xc0
v_str:
    .byte 0x0f, 0x00, 0xc8
v_lldt:
    .byte 0x0f, 0x00, 0xd0
v_ltr:
    .byte 0x0f, 0x00, 0xd8
v_lar:
    .byte 0x0f, 0x02, 0xc3
v_lsl:
    .byte 0x0f, 0x03, 0xc3
v_verr:
    .byte 0x0f, 0x00, 0xe0
v_arpl:
    .byte 0x63, 0xc3
v_sysexit:
    .byte 0x0f, 0x35
v_out:
    out 0x81, al
v_ud:
    ud2
v_out82:
    out 0x82, al
    ud2
v_outw:
    out 0x81, ax
    ud2
v_in:
    in al, 0x88
    ud2
v_segments:
    mov ax, 0x1234
    mov es, ax
    mov ax, 0xffff
    mov ds, ax
    mov byte ptr [0x10], 0x5a   ; linear 100000h: there is no wrap
    mov al, byte ptr [0x10]
    push fs
    pop gs
    mov ax, gs
    ud2
v_stack:
    mov sp, 2
    push ax
    push bx
    pop ax
    ud2
v_far:
    .byte 0x9a
    .word v_called - code16
    .word SEG
    .byte 0xea
    .word 0x10 + v_nop - code16
    .word SEG - 1
v_called:
    mov ax, cs
    .byte 0xcb
v_nop:
    nop
    nop
    ud2
gate16:                         ; a handler in a 16-bit segment of level 0: on to 32-bit code
    .byte 0x66, 0xea
    .long from16
    .word CODE
code16_end:
.mode 32
from16:
    mov eax, DATA
    mov ds, eax
    mov esp, dword ptr [resume_esp]
    call flat_segments
    jmp dword ptr [resume]
