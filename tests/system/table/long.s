; Tries one instruction a case in compatibility or 64-bit mode and prints the vector and error code that ended it
.include "wrap/multiboot.inc"

.equ CODE, 0x08
.equ DATA, 0x10
.equ TSS, 0x38
.equ LDT, 0x48
.equ TSS2, 0x58
.equ AREA, 0x20000              ; where the instructions under test and their data lie
.equ STUBS, 0x190000
.equ STACK, 0x180000
.equ STACK0, 0x178000           ; of level 0, entered from level 3
.equ STACK_IST, 0x170000
.equ PML4, 0x200000
.equ TIMER, 0x28
.equ LEAVE, 0x2f
.equ VECTORS, 0x40

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

.macro system selector, base, limit, type
    mov eax, \base
    mov word ptr [gdt+\selector], \limit
    mov dword ptr [gdt+\selector+2], eax
    mov byte ptr [gdt+\selector+5], \type
.endm

multiboot_entry:
    cli
    cld
    mov edi, PML4               ; the first GiB is mapped as it is, for level 3 too
    mov ecx, 0xc00
    xor eax, eax
    rep stosd
    mov dword ptr [PML4], PML4 + 0x1007
    mov dword ptr [PML4+0x1000], PML4 + 0x2007
    mov edi, PML4 + 0x2000
    mov eax, 0x87
    mov ecx, 512
.page:
    mov dword ptr [edi], eax
    add eax, 0x200000
    add edi, 8
    loop .page
    mov eax, 0x20
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    msr 0xc0000080, 0x101, 0
    mov eax, 0x80000011
    mov cr0, eax
    lgdt [gdtr]
    .byte 0xea                  ; ljmp CODE:start
    .long start
    .word CODE
.mode 64
.include "console64.inc"

start:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, STACK
    .include "timer.inc"
    mov esi, blob + 12
    mov edi, AREA
    mov ecx, dword ptr [blob+4]
    rep movsb
    mov qword ptr [current], rsi
    xor ecx, ecx                ; the stubs: push VECTOR; jmp report
    mov esi, STUBS
    mov edi, idt
.stub:
    mov byte ptr [rsi], 0x6a
    mov byte ptr [rsi+1], cl
    mov byte ptr [rsi+2], 0xe9
    mov eax, report - 7
    sub eax, esi
    mov dword ptr [rsi+3], eax
    mov eax, esi
    call write_gate
    add esi, 8
    add edi, 16
    inc ecx
    cmp ecx, VECTORS
    jb .stub
    mov edi, idt + TIMER * 16
    mov eax, timer
    call write_gate
    mov byte ptr [idt+3*16+5], 0xee
    mov byte ptr [idt+4*16+5], 0xee
    mov byte ptr [idt+LEAVE*16+5], 0xee
    mov byte ptr [idt+0x30*16+5], 0xee
    system TSS, tss, 0x88, 0x89
    system TSS2, tss, 0x88, 0x89
    system LDT, gdt, 0x7f, 0x82
    mov edi, tss + 0x68         ; ports 80h to 83h are permitted, and no others
    mov ecx, 0x21
    mov al, 0xff
    rep stosb
    mov byte ptr [tss+0x68+0x10], 0xf0
    mov dword ptr [tss+4], STACK0
    mov dword ptr [tss+0x24], STACK_IST
    mov dword ptr [tss+0x64], 0x680000
    lidt [idtr]
    msr 0x174, CODE, 0
    msr 0x175, STACK, 0
    msr 0x176, leave, 0
    msr 0xc0000081, 0, 0x180008
    msr 0xc0000082, leave, 0
    msr 0xc0000083, leave, 0
    jmp next

write_gate:                     ; RDI: entry, EAX: handler; an interrupt gate of DPL 0 on its own stack
    mov word ptr [rdi], ax
    mov dword ptr [rdi+2], 0x8e010000 + CODE
    shr eax, 16
    mov word ptr [rdi+6], ax
    ret

next:
    dec dword ptr [blob]
    jns .one
    call finish
.one:
    mov rsi, qword ptr [current]
    add qword ptr [current], C_SIZE
    mov byte ptr [gdt+TSS+5], 0x89
    mov byte ptr [gdt+TSS2+5], 0x89
    mov eax, TSS
    ltr ax
    mov eax, dword ptr [rsi+C_CR4]
    mov cr4, rax
    mov eax, 0x400
    mov dr7, rax
    cmp dword ptr [rsi+C_TIMER], 0
    je .quiet
    mov al, 0xfe
    out 0x21, al
.quiet:
    mov eax, dword ptr [rsi+C_SS]
    mov ds, eax
    mov es, eax
    push rax
    mov eax, dword ptr [rsi+C_SP]
    push rax
    mov eax, dword ptr [rsi+C_FLAGS]
    push rax
    mov eax, dword ptr [rsi+C_CS]
    push rax
    mov eax, dword ptr [rsi+C_IP]
    push rax
    mov r11d, 2
    mov eax, dword ptr [rsi+C_EAX]
    mov ecx, dword ptr [rsi+C_ECX]
    mov edx, dword ptr [rsi+C_EDX]
    mov ebx, dword ptr [rsi+C_EBX]
    mov edi, dword ptr [rsi+C_EDI]
    mov esi, dword ptr [rsi+C_ESI]
    iretq

leave:                          ; SYSCALL and SYSENTER arrive here
    mov edx, LEAVE
    xor ecx, ecx
    jmp print

report:
    pop rdx
    xor ecx, ecx
    mov eax, 0x27d00            ; the vectors with error code
    bt eax, edx
    jnc print
    pop rcx
print:                          ; EDX: vector, ECX: error code
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, STACK
    push 2
    popfq
    mov al, 0xff
    out 0x21, al
    push rcx
    mov eax, edx
    mov ecx, 2
    call puthexn
    mov al, ' '
    call putc
    pop rax
    mov ecx, 4
    call puthexn
    mov al, 10
    call putc
    jmp next

timer:
    push rax
    mov al, 0x20
    out 0x20, al
    pop rax
    iretq

.align 8
current:
    .quad 0
gdtr:
    .word 0x7f
    .quad gdt
idtr:
    .word 0x3ff
    .quad idt
.align 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    ; 08, 10: level 0
    .quad 0x00cf93000000ffff
    .quad 0x00cffb000000ffff    ; 18: level 3, 32 bits, where SYSRET and SYSEXIT look for it, as for the next two
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff    ; 28: level 3, 64 bits
    .quad 0x00cf9b000000ffff    ; 30: level 0, 32 bits
    .quad 0, 0                  ; 38: TSS
    .quad 0, 0                  ; 48: LDT
    .quad 0, 0                  ; 58: another TSS
    .quad 0, 0, 0
idt:
    .space 1024
tss:
    .space 0x8a
.align 4
blob:
