; Tries one instruction a case in real, virtual-8086 or protected mode and prints the vector and error code that ended it
.include "wrap/multiboot.inc"
.include "console32.inc"

.equ CODE, 0x08
.equ DATA, 0x10
.equ TSS, 0x48
.equ TSS2, 0x58
.equ CODE_LOW, 0x60             ; 16-bit segments over the real-mode part
.equ DATA_LOW, 0x68
.equ LOW, 0x10000               ; where the real-mode part lies
.equ STUBS_LOW, 0x8000          ; the offset of its interrupt stubs
.equ AREA, 0x20000              ; where the instructions under test and their data lie
.equ STUBS, 0x190000
.equ STACK, 0x180000
.equ STACK0, 0x178000           ; of level 0, entered from level 3
.equ TIMER, 0x28
.equ LEAVE, 0x2f
.equ VECTORS, 0x40
.equ VM86, 1
.equ REAL, 2

; Fields of a case, in double words
.equ C_IP, 0
.equ C_CS, 4
.equ C_FLAGS, 8
.equ C_SP, 12
.equ C_SS, 16
.equ C_EAX, 20
.equ C_ECX, 24
.equ C_EDX, 28
.equ C_EBX, 32
.equ C_ESI, 36
.equ C_EDI, 40
.equ C_CR4, 44
.equ C_TIMER, 48
.equ C_SIZE, 52

.macro msr number, low, high
    mov ecx, \number
    mov eax, \low
    mov edx, \high
    wrmsr
.endm

.macro gate number, target, attributes
    mov eax, \target
    mov edi, idt + \number * 8
    call write_gate
    mov byte ptr [idt+\number*8+5], \attributes
.endm

.macro system selector, base, limit, type
    mov eax, \base
    mov word ptr [gdt+\selector], \limit
    mov dword ptr [gdt+\selector+2], eax
    mov byte ptr [gdt+\selector+5], \type
.endm

multiboot_entry:
    cli
    cld
    mov esp, STACK
    lgdt [gdtr]
    ljmp CODE:.reload
.reload:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    .include "timer.inc"
    mov esi, low
    mov edi, LOW
    mov ecx, low_end - low
    rep movsb
    mov esi, blob + 12
    mov edi, AREA
    mov ecx, dword ptr [blob+4]
    rep movsb
    mov dword ptr [current], esi
    xor ecx, ecx                ; the stubs: push VECTOR; jmp report
    mov esi, STUBS
    mov edi, idt
.protected:
    mov byte ptr [esi], 0x6a
    mov byte ptr [esi+1], cl
    mov byte ptr [esi+2], 0xe9
    mov eax, report - 7
    sub eax, esi
    mov dword ptr [esi+3], eax
    mov eax, esi
    call write_gate
    add esi, 8
    add edi, 8
    inc ecx
    cmp ecx, VECTORS
    jb .protected
    gate TIMER, timer, 0x8e
    mov byte ptr [idt+3*8+5], 0xee
    mov byte ptr [idt+4*8+5], 0xee
    mov byte ptr [idt+LEAVE*8+5], 0xee
    mov byte ptr [idt+0x30*8+5], 0xee
    xor ecx, ecx                ; the same for real mode
    xor edi, edi
    mov esi, LOW + STUBS_LOW
.real:
    mov byte ptr [esi], 0x6a
    mov byte ptr [esi+1], cl
    mov byte ptr [esi+2], 0xe9
    mov eax, LOW + report16 - low - 5
    sub eax, esi
    mov word ptr [esi+3], ax
    lea eax, [esi-LOW]
    mov word ptr [edi], ax
    mov word ptr [edi+2], LOW >> 4
    add esi, 8
    add edi, 4
    inc ecx
    cmp ecx, VECTORS
    jb .real
    mov word ptr [TIMER*4], timer16 - low
    lidt [idtr]
    system TSS, tss, 0x88, 0x89
    system TSS2, tss, 0x88, 0x89
    system 0x50, gdt, 0x7f, 0x82
    mov edi, tss + 0x68         ; ports 80h to 83h are permitted, and no others
    mov ecx, 0x21
    mov al, 0xff
    rep stosb
    mov byte ptr [tss+0x68+0x10], 0xf0
    mov dword ptr [tss+4], STACK0
    mov dword ptr [tss+8], DATA
    mov dword ptr [tss+0x64], 0x680000
    msr 0x174, CODE, 0
    msr 0x175, STACK, 0
    msr 0x176, leave, 0
    msr 0xc0000080, 1, 0        ; IA32_EFER.SCE
    msr 0xc0000081, leave, 0x180008 ; of no use on Intel's processors: AMD's have SYSCALL in all protected modes
    jmp next

write_gate:                     ; EDI: entry, EAX: handler; an interrupt gate of DPL 0
    mov word ptr [edi], ax
    mov dword ptr [edi+2], 0x8e000000 + CODE
    shr eax, 16
    mov word ptr [edi+6], ax
    ret

next:
    dec dword ptr [blob]
    jns .one
    call finish
.one:
    mov esi, dword ptr [current]
    add dword ptr [current], C_SIZE
    mov byte ptr [gdt+TSS+5], 0x89
    mov byte ptr [gdt+TSS2+5], 0x89
    mov eax, TSS
    ltr ax
    mov eax, dword ptr [esi+C_CR4]
    mov cr4, eax
    mov eax, 0x400
    mov dr7, eax
    cmp dword ptr [esi+C_TIMER], 0
    je .quiet
    mov al, 0xfe
    out 0x21, al
.quiet:
    cmp dword ptr [blob+8], VM86
    je .virtual
    cmp dword ptr [blob+8], REAL
    je .real
    test dword ptr [esi+C_CS], 3
    jnz .outer
    mov ss, word ptr [esi+C_SS]
    mov esp, dword ptr [esi+C_SP]
    jmp .frame
.outer:
    push dword ptr [esi+C_SS]
    push dword ptr [esi+C_SP]
.frame:
    push dword ptr [esi+C_FLAGS]
    push dword ptr [esi+C_CS]
    push dword ptr [esi+C_IP]
    push dword ptr [esi+C_SS]
    push dword ptr [esi+C_SS]
    mov eax, dword ptr [esi+C_EAX]
    mov ecx, dword ptr [esi+C_ECX]
    mov edx, dword ptr [esi+C_EDX]
    mov ebx, dword ptr [esi+C_EBX]
    mov edi, dword ptr [esi+C_EDI]
    mov esi, dword ptr [esi+C_ESI]
    pop es
    pop ds
    iretd
.virtual:
    push dword ptr [esi+C_SS]   ; GS, FS, DS, ES
    push dword ptr [esi+C_SS]
    push dword ptr [esi+C_SS]
    push dword ptr [esi+C_SS]
    push dword ptr [esi+C_SS]
    push dword ptr [esi+C_SP]
    push dword ptr [esi+C_FLAGS]
    push dword ptr [esi+C_CS]
    push dword ptr [esi+C_IP]
    mov eax, dword ptr [esi+C_EAX]
    mov ecx, dword ptr [esi+C_ECX]
    mov edx, dword ptr [esi+C_EDX]
    mov ebx, dword ptr [esi+C_EBX]
    mov edi, dword ptr [esi+C_EDI]
    mov esi, dword ptr [esi+C_ESI]
    iretd
.real:
    mov edi, LOW + case - low
    mov ecx, C_SIZE / 4
    rep movsd
    .byte 0xea                  ; ljmp CODE_LOW:to_real
    .long to_real - low
    .word CODE_LOW

leave:                          ; SYSENTER arrives here, and on AMD's processors SYSCALL
    mov edx, LEAVE
    xor ecx, ecx
    jmp print

report:
    pop edx
    xor ecx, ecx
    mov eax, 0x27d00            ; the vectors with error code
    bt eax, edx
    jnc print
    pop ecx
print:                          ; EDX: vector, ECX: error code
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, STACK
    push 2
    popfd
    lidt [idtr]
    mov al, 0xff
    out 0x21, al
    push ecx
    mov eax, edx
    mov ecx, 2
    call puthexn
    mov al, ' '
    call putc
    pop eax
    mov ecx, 4
    call puthexn
    mov al, 10
    call putc
    jmp next

timer:
    push eax
    mov al, 0x20
    out 0x20, al
    pop eax
    iretd

.mode 16
low:
to_real:
    mov ax, DATA_LOW
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov eax, 0x10
    mov cr0, eax
    .byte 0xea
    .word .real - low, LOW >> 4
.real:
    mov ax, LOW >> 4
    mov ds, ax
    lidt [ivt-low]
    mov ax, word ptr [case+C_SS-low]
    mov es, ax
    mov ss, ax
    mov sp, word ptr [case+C_SP-low]
    push word ptr [case+C_FLAGS-low]
    push word ptr [case+C_CS-low]
    push word ptr [case+C_IP-low]
    push ax
    mov eax, dword ptr [case+C_EAX-low]
    mov ecx, dword ptr [case+C_ECX-low]
    mov edx, dword ptr [case+C_EDX-low]
    mov ebx, dword ptr [case+C_EBX-low]
    mov esi, dword ptr [case+C_ESI-low]
    mov edi, dword ptr [case+C_EDI-low]
    pop ds
    .byte 0xcf                  ; iret

report16:
    pop dx
    movzx edx, dx
    xor ecx, ecx
    mov eax, 0x11
    mov cr0, eax
    .byte 0x66, 0xea            ; ljmp CODE:print
    .long print
    .word CODE

timer16:
    push ax
    mov al, 0x20
    out 0x20, al
    pop ax
    .byte 0xcf                  ; iret

ivt:
    .word 0x3ff
    .long 0
.align 4
case:
    .space 52
low_end:
.mode 32

current:
    .long 0
gdtr:
    .word 0x7f
    .long gdt
idtr:
    .word 0x1ff
    .long idt
.align 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    ; 08, 10: level 0, flat
    .quad 0x00cf93000000ffff
    .quad 0x00cffb000000ffff    ; 18, 20: level 3, flat
    .quad 0x00cff3000000ffff
    .quad 0x00009b020000ffff    ; 28, 30: level 0, 16 bits, over AREA
    .quad 0x000093020000ffff
    .quad 0x0000fb020000ffff    ; 38, 40: level 3, 16 bits, over AREA
    .quad 0x0000f3020000ffff
    .quad 0, 0, 0               ; 48: TSS, 50: LDT, 58: another TSS
    .quad 0x00009b010000ffff    ; 60, 68: 16 bits, over LOW
    .quad 0x000093010000ffff
    .quad 0, 0
idt:
    .space 512
tss:
    .space 0x8a
.align 4
blob:
