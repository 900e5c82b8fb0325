; Hardware task switches: JMP, CALL, IRET and events through TSS descriptors and task gates, and their faults
.include "env32.inc"

; TR, EFLAGS, CR0.TS, the types of both TSS descriptors, and the back link of the other task
state:
    push eax
    xor eax, eax
    str ax
    show eax
    pushfd
    pop eax
    show eax
    mov eax, cr0
    clts
    and eax, 8
    show eax
    xor eax, eax
    mov al, byte ptr [gdt+MAIN+5]
    mov ah, byte ptr [gdt+TASK+5]
    show eax
    movzx eax, word ptr [task_tss]
    show eax
    newline
    pop eax
    ret

; The other task as each test wants it first: EAX is where it starts
new_task:
    pushad
    mov edi, task_tss
    mov ecx, 26
    push eax
    xor eax, eax
    rep stosd
    pop eax
    mov dword ptr [task_tss+0x20], eax
    mov dword ptr [task_tss+0x24], 0x202 - 0x200
    mov dword ptr [task_tss+0x28], 0x11111111
    mov dword ptr [task_tss+0x2c], 0x22222222
    mov dword ptr [task_tss+0x30], 0x33333333
    mov dword ptr [task_tss+0x34], 0x44444444
    mov dword ptr [task_tss+0x38], STACK2
    mov dword ptr [task_tss+0x3c], 0x66666666
    mov dword ptr [task_tss+0x40], 0x77777777
    mov dword ptr [task_tss+0x44], 0x88888888
    mov dword ptr [task_tss+0x48], DATA
    mov dword ptr [task_tss+0x4c], CODE
    mov dword ptr [task_tss+0x50], DATA
    mov dword ptr [task_tss+0x54], DATA
    mov dword ptr [task_tss+0x58], DATA3 + 3
    mov dword ptr [task_tss+0x5c], 0
    mov dword ptr [task_tss+0x64], 0x680000
    mov eax, task_tss
    mov ebx, 0x67
    mov ecx, 0x89
    mov edx, TASK
    call descriptor
    popad
    ret

; Back in the first task after a test that ended in the other one or in a fault of it
again:
    pushfd
    and dword ptr [esp], 0xffffbfff
    popfd
    clts
    mov byte ptr [gdt+MAIN+5], 0x89
    push eax
    mov eax, MAIN
    ltr ax
    xor eax, eax
    lldt ax
    pop eax
    ret

registers:
    show eax
    show ecx
    show edx
    show ebx
    show esp
    show ebp
    show esi
    show edi
    newline
    ret

selectors:
    push eax
    xor eax, eax
    mov ax, cs
    show eax
    mov ax, ss
    show eax
    mov ax, ds
    show eax
    mov ax, es
    show eax
    mov ax, fs
    show eax
    mov ax, gs
    show eax
    sldt ax
    show eax
    newline
    pop eax
    ret

; What the first task left in its TSS: EIP, EFLAGS, some registers and selectors
saved:
    show {dword ptr [main_tss+0x20]}
    push eax
    mov eax, dword ptr [main_tss+0x24]
    and eax, 0xfffeffff         ; RF, as above
    show eax
    pop eax
    show {dword ptr [main_tss+0x28]}
    show {dword ptr [main_tss+0x38]}
    show {dword ptr [main_tss+0x44]}
    show {dword ptr [main_tss+0x4c]}
    show {dword ptr [main_tss+0x5c]}
    show {dword ptr [main_tss+0x60]}
    newline
    ret

jumper:                         ; a task that goes back by JMP
    call state
    call registers
    call selectors
    call saved
    ljmp MAIN:0

returner:                       ; a task that goes back by IRET, again and again
    call state
    call saved
    iretd
    jmp returner

fixer:                          ; the handler of a fault that it steps over; its error code is on the stack
    call state
    show esp
    pop eax
    show eax
    newline
    call saved
    add dword ptr [main_tss+0x20], 2
    iretd
    jmp fixer

.macro prepare entry
    mov eax, \entry
    call new_task
.endm

start:
    call state

    say "JMP to a TSS\n"
    prepare jumper
    mov eax, 0xaaaaaaaa
    mov edi, 0xdddddddd
    std
    ljmp TASK:0x12345678
    cld
    call state
    call registers

    say "CALL to a TSS, twice\n"
    prepare returner
    lcall TASK:0
    call state
    lcall TASK:0
    call state

    say "task gates in the GDT\n"
    prepare returner
    mov dword ptr [gdt+FREE], TASK << 16
    mov dword ptr [gdt+FREE+4], 0x8500
    lcall FREE:0
    call state
    prepare jumper
    ljmp FREE:0
    call state

    say "task gates in the IDT\n"
    prepare returner
    mov dword ptr [idt+0x20*8], TASK << 16
    mov dword ptr [idt+0x20*8+4], 0x8500
    int 0x20
    call state
    mov dword ptr [idt+3*8], TASK << 16
    mov dword ptr [idt+3*8+4], 0xe500
    int3
    call state
    mov edi, idt + 3 * 8
    mov eax, stub3
    call write_gate
    prepare fixer
    mov dword ptr [idt+13*8], TASK << 16
    mov dword ptr [idt+13*8+4], 0x8500
    mov eax, 0x1230
    mov gs, eax                 ; 2 bytes
    call state
    mov eax, 0x4560
    mov gs, eax
    call state
    prepare fixer
    mov edi, idt + 13 * 8
    mov eax, stub13
    call write_gate
    mov dword ptr [idt+6*8], TASK << 16
    mov dword ptr [idt+6*8+4], 0x8500
    mov dword ptr [task_tss+0x38], STACK2 - 4
    ud2                         ; no error code; the image of EFLAGS has RF
    call state
    mov edi, idt + 6 * 8
    mov eax, stub6
    call write_gate

    say "faults of the first task\n"
    prepare returner
    try "busy", {ljmp MAIN:0}
    try "busy by CALL", {lcall MAIN:0}
    mov byte ptr [gdt+TASK+5], 0x8b
    try "busy through a gate", {ljmp FREE:0}
    try "busy in the IDT", {int 0x20}
    mov byte ptr [gdt+TASK+5], 0x09
    try "not present", {ljmp TASK:0}
    try "not present through a gate", {lcall FREE:0}
    try "not present in the IDT", {int 0x20}
    mov byte ptr [gdt+TASK+5], 0x89
    mov byte ptr [gdt+TASK], 0x66
    try "limit", {lcall TASK:0}
    try "limit through the IDT", {int 0x20}
    mov byte ptr [gdt+TASK], 0x67
    mov byte ptr [gdt+FREE+5], 0x05
    try "gate not present", {ljmp FREE:0}
    mov byte ptr [gdt+FREE+5], 0x85
    mov word ptr [gdt+FREE+2], DATA
    try "gate to a data segment", {ljmp FREE:0}
    mov word ptr [gdt+FREE+2], 0x90
    try "gate beyond the GDT", {lcall FREE:0}
    mov word ptr [gdt+FREE+2], 0
    try "gate to nothing", {ljmp FREE:0}
    mov word ptr [gdt+FREE+2], TASK
    try "RPL", {ljmp TASK+3:0}
    try "RPL of a gate", {ljmp FREE+1:0}
    call state

    say "faults of IRET with NT\n"
.macro nested name
    pushfd
    or dword ptr [esp], 0x4000
    popfd
    try \name, {iretd}
.endm
    mov word ptr [main_tss], TASK
    nested "link to an available TSS"
    mov word ptr [main_tss], DATA
    nested "link to data"
    mov word ptr [main_tss], 0
    nested "link to nothing"
    mov word ptr [main_tss], TASK + 4
    nested "link into the LDT"
    mov word ptr [main_tss], 0x90
    nested "link beyond the GDT"
    mov byte ptr [gdt+TASK+5], 0x0b
    mov word ptr [main_tss], TASK
    nested "link to a TSS not present"
    call again
    call state

    say "faults of the new task\n"
    mov edi, 10                 ; a task for each of #TS, #NP, #SS and #GP
    mov esi, fault_entries
.fault_task:
    mov eax, edi
    sub eax, 10
    imul eax, eax, 104
    add eax, fault_tss
    lea edx, [edi*8]
    sub edx, 80 - 0x48
    mov dword ptr [idt+edi*8+4], 0x8500
    mov word ptr [idt+edi*8+2], dx
    mov ebx, 0x67
    mov ecx, 0x89
    call descriptor
    mov ebx, dword ptr [esi]
    add esi, 4
    mov dword ptr [eax+0x20], ebx
    mov dword ptr [eax+0x24], 2
    mov dword ptr [eax+0x38], STACK3 + 0x2000
    mov dword ptr [eax+0x48], DATA
    mov dword ptr [eax+0x4c], CODE
    mov dword ptr [eax+0x50], DATA
    mov dword ptr [eax+0x54], DATA
    inc edi
    cmp edi, 14
    jb .fault_task
.macro broken name, field, value
    prepare returner
    mov dword ptr [task_tss+\field], \value
    try \name, {lcall TASK:0}
    call again
    call state
.endm
    broken "CS null", 0x4c, 0
    broken "CS data", 0x4c, DATA
    broken "CS RPL", 0x4c, CODE + 3
    broken "CS beyond", 0x4c, 0x90
    broken "SS null", 0x50, 0
    broken "SS RPL", 0x50, DATA + 3
    broken "SS DPL", 0x50, DATA3
    broken "SS code", 0x50, CODE
    broken "DS beyond", 0x54, 0x93
    broken "ES system", 0x48, MAIN
    broken "GS null with RPL", 0x5c, 3
    broken "LDT data", 0x60, DATA
    broken "LDT in LDT", 0x60, FREE + 4
    mov dword ptr [gdt+FREE2], 0x0000ffff
    mov dword ptr [gdt+FREE2+4], 0x00cf1b00
    broken "CS not present", 0x4c, FREE2
    mov dword ptr [gdt+FREE2+4], 0x00cf1300
    broken "FS not present", 0x58, FREE2
    mov dword ptr [gdt+FREE2], 0x00000fff
    mov dword ptr [gdt+FREE2+4], 0x00409b00
    broken "EIP", 0x4c, FREE2
    mov dword ptr [gdt+FREE2], 0x00000fff
    mov dword ptr [gdt+FREE2+4], 0x00000200
    broken "LDT not present", 0x60, FREE2

    say "an LDT\n"
    mov eax, ldt
    mov ebx, 15
    mov ecx, 0x82
    mov edx, FREE2
    call descriptor
    prepare jumper
    mov dword ptr [task_tss+0x54], 0x0f ; DS and ES from it
    mov dword ptr [task_tss+0x48], 0x0f
    mov dword ptr [task_tss+0x60], FREE2
    ljmp TASK:0
    call state
    call selectors

    say "DR7\n"
    prepare returner
    mov eax, 0x6ff              ; not LE, which QEMU keeps
    and eax, 0xfffffffc         ; L and G of breakpoints 1 to 3, none of which is met
    mov dr7, eax
    lcall TASK:0
    mov eax, dr7
    show eax
    call state
    xor eax, eax
    mov dr7, eax

    call finish

.macro fault_task number
fault_entry\number:
    push \number
    jmp fault_report
.endm
    fault_task 10
    fault_task 11
    fault_task 12
    fault_task 13

; The stack: vector, error code; the back link leads to the task that faulted
fault_report:
    say "task for #"
    pop eax
    mov ebx, eax
    show eax
    pop eax
    show eax
    show esp
    xor eax, eax
    str ax
    show eax
    imul ebx, ebx, 104
    movzx eax, word ptr [ebx+fault_tss-1040]
    show eax
    newline                     ; not the EIP saved: QEMU's is that of the CALL, against SDM vol. 3, 7.3
    mov eax, dword ptr [task_tss+0x24]
    and eax, 0xfffeffff
    show eax
    show {dword ptr [task_tss+0x38]}
    movzx eax, word ptr [task_tss+0x48]
    show eax
    movzx eax, word ptr [task_tss+0x4c]
    show eax
    movzx eax, word ptr [task_tss+0x50]
    show eax
    movzx eax, word ptr [task_tss+0x54]
    show eax
    movzx eax, word ptr [task_tss+0x5c]
    show eax
    call state
    mov ecx, 4
    mov edx, gdt + 0x48 + 5
.free:
    mov byte ptr [edx], 0x89
    add edx, 8
    loop .free
    mov eax, dword ptr [fault_entries]
    mov dword ptr [fault_tss+0x20], eax
    mov eax, dword ptr [fault_entries+4]
    mov dword ptr [fault_tss+104+0x20], eax
    mov eax, dword ptr [fault_entries+8]
    mov dword ptr [fault_tss+208+0x20], eax
    mov eax, dword ptr [fault_entries+12]
    mov dword ptr [fault_tss+312+0x20], eax
    mov esp, dword ptr [resume_esp]
    jmp dword ptr [resume]

fault_entries:
    .long fault_entry10, fault_entry11, fault_entry12, fault_entry13
.align 8
fault_tss:
    .space 416
ldt:
    .quad 0
    .quad 0x00cff3000000ffff
