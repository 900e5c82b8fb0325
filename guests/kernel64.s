; guest: kernel64
; summary: a kernel that enters long mode and runs a program in user mode, with system calls and demand paging
; format: multiboot
; mode: 32
; org: 0x100000
; tags: system
; note: SDM vol. 3, 6.13: bits 3 and up of the error code are the vector; QEMU 7.2 shifts it by one more
; qemu-line: 10 user: exception 13 error 00000802
; expect:
;   kernel: long mode, 00000d01
;   kernel: high half reads cafe
;   user: hello at privilege level 3
;   user: 8 pages touched, sum 140, demand faults 8
;   user: zero-filled
;   user: exception 13 error 00000000
;   user: exception 13 error 00000000
;   user: exception 13 error 00000000
;   user: exception 13 error 00000000
;   user: exception 13 error 00000402
;   user: exception 13 error 00000008
;   user: exception 13 error 00000000
;   user: exception 14 error 00000007 at 200000
;   user: exception 14 error 00000005 at 200008
;   user: exception 14 error 00000007 at 40000000
;   user: exception 14 error 00000015 at 40010010
;   user: exception 14 error 00000004 at 50000000
;   user: exception 0 error 00000000
;   user: exception 3 error 00000000
;   user: exception 6 error 00000000
;   kernel: exception 14 error 00000000 at 40100000
;   user: bad pointer refused
;   user: unknown call refused
;   user: fs base 1234
;   user: compatibility mode 77
;   user: timer ticks arrived
;   kernel: user program exited with 42
;   kernel: exception 3 error 00000000
;   kernel: exception 0 error 00000000
;   kernel: exception 14 error 00000002 at ffffffff90000000
;   kernel: exception 14 error 00000003 at 40000000
;   kernel: exception 13 error 00000000
;   kernel: exception 8 error 00000000
;   done

.equ PML4, 0x200000
.equ PDPT, 0x201000
.equ KERNEL_DIRECTORY, 0x202000 ; 2 MiB pages for the first 16 MiB
.equ USER_DIRECTORY, 0x203000
.equ USER_TABLE, 0x204000       ; 4 KiB pages for the user program
.equ HIGH_PDPT, 0x205000
.equ TABLES_END, 0x206000
.equ KERNEL_STACK, 0x1f0000     ; of system calls and of faults in user mode
.equ BOOT_STACK, 0x1e0000       ; of the kernel itself
.equ FAULT_STACK, 0x1d0000      ; of double faults
.equ USER_FRAME, 0x300000       ; physical: code of the user program
.equ SHARED_FRAME, 0x301000     ; physical: what the kernel lets the program read
.equ STACK_FRAME, 0x302000
.equ FIRST_FREE_FRAME, 0x310000
.equ USER, 0x40000000
.equ SHARED, USER + 0x1000
.equ USER_STACK, USER + 0x3000  ; one page below
.equ HEAP, USER + 0x10000       ; sixteen pages mapped when they are touched
.equ HEAP_END, USER + 0x20000
.equ HIGH, 0xffffffff80000000

.equ KERNEL_CODE, 0x08
.equ KERNEL_DATA, 0x10
.equ USER_CODE32, 0x1b
.equ USER_DATA, 0x23
.equ USER_CODE, 0x2b
.equ TASK, 0x30

.equ SYS_WRITE, 0               ; RDI: text, RSI: length
.equ SYS_EXIT, 1                ; RDI: status
.equ SYS_RESUME, 2              ; RDI: where the program goes on after its next fault
.equ SYS_NUMBER, 3              ; RDI: number to print
.equ SYS_FAULTS, 4              ; returns the number of demand faults
.equ SYS_TIMER, 5               ; starts the timer
.equ SYS_FS, 6                  ; RDI: new FS base
.equ SYS_COUNT, 7

.include "wrap/multiboot.inc"

.macro say name
    lea rsi, [\name]
    call puts
.endm

; run an instruction that faults in the kernel; the handler goes on behind it
.macro expect_fault instruction
    lea rax, [after_\@]
    mov qword ptr [kernel_resume], rax
    \instruction
after_\@:
.endm

multiboot_entry:
    cli
    cld
    mov esp, BOOT_STACK
    cmp eax, 0x2badb002
    jne bad_loader
    mov edi, PML4
    xor eax, eax
    mov ecx, (TABLES_END - PML4) / 4
    rep stosd
    mov dword ptr [PML4], PDPT + 7
    mov dword ptr [PML4 + 511 * 8], HIGH_PDPT + 3
    mov dword ptr [PDPT], KERNEL_DIRECTORY + 3
    mov dword ptr [PDPT + 8], USER_DIRECTORY + 7
    mov dword ptr [HIGH_PDPT + 510 * 8], KERNEL_DIRECTORY + 3
    mov dword ptr [USER_DIRECTORY], USER_TABLE + 7
    mov eax, 0x183              ; present, writable, 2 MiB, global
    mov edi, KERNEL_DIRECTORY
.directory:
    mov dword ptr [edi], eax
    add edi, 8
    add eax, 0x200000
    cmp eax, 0x1000000
    jb .directory
    mov dword ptr [USER_TABLE], USER_FRAME + 5              ; code: user, read-only
    mov dword ptr [USER_TABLE + 8], SHARED_FRAME + 5
    mov dword ptr [USER_TABLE + 12], 0x80000000             ; bit 63: never executed
    mov dword ptr [USER_TABLE + 16], STACK_FRAME + 7
    mov dword ptr [USER_TABLE + 20], 0x80000000

    mov eax, 0xa0               ; PAE, PGE
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    mov ecx, 0xc0000080         ; EFER: SCE, LME, NXE
    mov eax, 0x901
    xor edx, edx
    wrmsr
    mov eax, 0x80010011         ; PG, WP, ET, PE
    mov cr0, eax
    lgdt [gdtr]
    ljmp KERNEL_CODE:long_mode

bad_loader:
    mov al, 1
    out 0xf4, al
    hlt

.mode 64
long_mode:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, BOOT_STACK
    say text_long
    mov ecx, 0xc0000080
    rdmsr                       ; LMA has joined: d01
    call puthex
    call newline

    mov dword ptr [STACK_FRAME], 0xcafe
    mov rbx, HIGH + STACK_FRAME
    say text_high
    mov eax, dword ptr [rbx]
    mov ecx, 4
    call puthexn
    call newline

    call load_tables
    call start_controllers
    call start_system_calls
    mov esi, user_program
    mov edi, USER_FRAME
    mov ecx, user_end - user_program
    rep movsb
    mov dword ptr [SHARED_FRAME], 0

    mov qword ptr [kernel_rsp], rsp
    push USER_DATA
    mov eax, USER_STACK
    push rax
    push 0x202                  ; IF
    push USER_CODE
    mov eax, USER
    push rax
    iretq

program_exited:                 ; EDI: status; interrupts are off
    mov rsp, qword ptr [kernel_rsp]
    mov al, 0xff
    out 0x21, al
    say text_exited
    mov eax, edi
    call putdec
    call newline

    expect_fault int3
    mov eax, 1
    xor edx, edx
    xor ecx, ecx
    expect_fault {div ecx}
    mov rbx, 0xffffffff90000000
    expect_fault {mov qword ptr [rbx], rax}
    mov ebx, USER
    expect_fault {mov byte ptr [rbx], al}   ; WP keeps the supervisor out, too
    mov rbx, 0x8000000000000000
    expect_fault {mov rax, qword ptr [rbx]} ; not canonical
    mov rsp, 0xffffffff90000000
    expect_fault {push rax}                 ; no stack to deliver the page fault on
    mov rsp, qword ptr [kernel_rsp]
    say text_done
    jmp finish

newline:
    push rax
    mov al, 10
    call putc
    pop rax
    ret

; ---- tables -------------------------------------------------------------------------------------------------

load_tables:
    mov eax, task               ; the base in the TSS descriptor
    mov word ptr [gdt + TASK + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TASK + 4], al
    mov byte ptr [gdt + TASK + 7], ah
    mov eax, TASK
    ltr ax
    mov edi, idt
    lea rsi, [stubs]
    mov ecx, 48
.gates:
    mov eax, dword ptr [rsi]
    mov word ptr [rdi], ax
    mov word ptr [rdi+2], KERNEL_CODE
    mov word ptr [rdi+4], 0x8e00
    shr eax, 16
    mov word ptr [rdi+6], ax
    mov qword ptr [rdi+8], 0
    add rsi, 4
    add rdi, 16
    dec ecx
    jnz .gates
    mov byte ptr [idt + 3 * 16 + 5], 0xee   ; INT3 is everybody's
    mov byte ptr [idt + 8 * 16 + 4], 1      ; double faults on their own stack, IST1
    lidt [idtr]
    ret

start_controllers:
    mov al, 0x11                ; both 8259s to vectors 20h and 28h
    out 0x20, al
    out 0xa0, al
    mov al, 0x20
    out 0x21, al
    mov al, 0x28
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    ret

start_system_calls:
    mov ecx, 0xc0000081         ; STAR: SYSCALL loads CS 08h, SS 10h; SYSRET CS 2bh, SS 23h
    xor eax, eax
    mov edx, KERNEL_CODE | (USER_CODE32 << 16)
    wrmsr
    mov ecx, 0xc0000082         ; LSTAR
    mov eax, system_call
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084         ; SFMASK: IF, DF, TF
    mov eax, 0x700
    wrmsr
    mov ecx, 0xc0000102         ; KERNEL_GS_BASE
    mov eax, per_cpu
    wrmsr
    ret

; ---- system calls -------------------------------------------------------------------------------------------

system_call:                    ; RCX: return address, R11: flags
    swapgs
    mov qword ptr gs:[8], rsp
    mov rsp, qword ptr gs:[0]
    push rcx
    push r11
    push rdx
    push rsi
    push rdi
    cmp rax, SYS_COUNT
    jae .unknown
    call qword ptr [rax*8+calls]
    jmp .return
.unknown:
    mov rax, -38
.return:
    pop rdi
    pop rsi
    pop rdx
    pop r11
    pop rcx
    mov rsp, qword ptr gs:[8]
    swapgs
    sysretq

sys_write:
    lea rax, [.refused]
    mov qword ptr [kernel_resume], rax
    mov rdx, rsp
    mov rcx, rsi
.next:
    test rcx, rcx
    jz .done
    mov al, byte ptr [rdi]
    call putc
    inc rdi
    dec rcx
    jmp .next
.done:
    mov rax, rsi
    ret
.refused:                       ; the fault handler comes here when the text cannot be read
    mov rax, -14
    ret

sys_exit:
    swapgs                      ; never to return: GS as it was
    jmp program_exited

sys_resume:
    mov qword ptr [user_resume], rdi
    xor eax, eax
    ret

sys_number:
    mov rax, rdi
    call putdec
    xor eax, eax
    ret

sys_faults:
    mov eax, dword ptr [demand_faults]
    ret

sys_timer:
    mov al, 0x34                ; 8254 counter 0, mode 2, 100 Hz
    out 0x43, al
    mov al, 11932 & 255
    out 0x40, al
    mov al, 11932 >> 8
    out 0x40, al
    mov al, 0xfe
    out 0x21, al
    xor eax, eax
    ret

sys_fs:
    mov ecx, 0xc0000100         ; FS_BASE
    mov eax, edi
    xor edx, edx
    wrmsr
    xor eax, eax
    ret

; ---- exceptions and interrupts ------------------------------------------------------------------------------

.macro stub vector
stub_\vector:
    push 0                      ; in place of an error code
    push \vector
    jmp exception
.endm
.macro error_stub vector
stub_\vector:
    push \vector
    jmp exception
.endm

    stub 0
    stub 1
    stub 2
    stub 3
    stub 4
    stub 5
    stub 6
    stub 7
    error_stub 8
    stub 9
    error_stub 10
    error_stub 11
    error_stub 12
    error_stub 13
    error_stub 14
    stub 15
    stub 16
    error_stub 17
    stub 18
    stub 19
    stub 20

exception:                      ; on the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    cmp qword ptr [rsp+40], 14
    jne .report
    mov rdi, cr2                ; a page of the heap that is not there is made now
    cmp rdi, HEAP
    jb .report
    cmp rdi, HEAP_END
    jae .report
    test byte ptr [rsp+48], 1
    jnz .report
    inc dword ptr [demand_faults]
    mov rdx, qword ptr [free_frame]
    add qword ptr [free_frame], 0x1000
    shr edi, 12
    and edi, 511
    lea rax, [rdx+7]
    bts rax, 63
    mov qword ptr [rdi*8+USER_TABLE], rax
    mov rdi, rdx
    xor eax, eax
    mov ecx, 512
    rep stosq
    jmp .back
.report:
    test byte ptr [rsp+64], 3
    jz .in_kernel
    say text_user
    mov rax, qword ptr [user_resume]
    jmp .where
.in_kernel:
    say text_kernel
    mov rax, qword ptr [kernel_resume]
.where:
    mov qword ptr [rsp+56], rax
    say text_exception
    mov rax, qword ptr [rsp+40]
    call putdec
    say text_error
    mov rax, qword ptr [rsp+48]
    call puthex
    cmp qword ptr [rsp+40], 14
    jne .end_line
    say text_at
    mov rax, cr2
    mov ecx, 16                 ; without leading zeros, of which there are many
.width:
    mov rdx, rax
    push rcx
    dec ecx
    shl ecx, 2
    shr rdx, cl
    pop rcx
    test rdx, rdx
    jnz .print
    dec ecx
    jmp .width
.print:
    call puthexn
.end_line:
    call newline
.back:
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

irq0:
    push rax
    test byte ptr [rsp+16], 3   ; only ticks in user mode count
    jz .kernel
    inc dword ptr [SHARED_FRAME]
.kernel:
    mov al, 0x20
    out 0x20, al
    pop rax
    iretq

irq_other:                      ; only a spurious interrupt comes here
    iretq

; ---- the user program: runs at USER, so it may only name its own labels, relative to RIP ---------------------

.macro call_kernel number
    mov eax, \number
    syscall
.endm

.macro user_say name, length
    lea rdi, [\name]
    mov esi, \length
    call_kernel SYS_WRITE
.endm

.macro user_fault instruction
    lea rdi, [after_\@]
    call_kernel SYS_RESUME
    \instruction
after_\@:
.endm

.align 16
user_program:
    user_say user_hello, user_hello_end - user_hello
    mov edi, cs
    and edi, 3
    call_kernel SYS_NUMBER
    user_say user_newline, 1

    xor ebx, ebx                ; 0 + 1 + 4 + ... + 49, each in a page of its own
    mov edx, HEAP
.touch:
    mov eax, ebx
    imul eax, eax
    mov dword ptr [rdx+4], eax
    add edx, 4096
    inc ebx
    cmp ebx, 8
    jne .touch
    xor ebx, ebx
    mov edx, HEAP
.sum:
    add ebx, dword ptr [rdx+4]
    add edx, 4096
    cmp edx, HEAP + 8 * 4096
    jne .sum
    user_say user_touched, user_touched_end - user_touched
    mov edi, ebx
    call_kernel SYS_NUMBER
    user_say user_demand, user_demand_end - user_demand
    call_kernel SYS_FAULTS
    mov edi, eax
    call_kernel SYS_NUMBER
    user_say user_newline, 1
    mov edx, HEAP + 9 * 4096    ; a page read before it is written
    xor eax, eax
    mov ecx, 512
    mov ebx, 0
.zeros:
    or rbx, qword ptr [rdx+rcx*8-8]
    dec ecx
    jnz .zeros
    test rbx, rbx
    jnz .not_zero
    user_say user_zero, user_zero_end - user_zero
.not_zero:

    user_fault cli
    user_fault hlt
    user_fault {mov rax, cr0}
    user_fault {in al, 0x60}
    user_fault {int 0x80}
    mov ebx, KERNEL_CODE
    user_fault {mov ds, ebx}
    mov rbx, 0x0000800000000000
    user_fault {mov rax, qword ptr [rbx]}
    mov ebx, PML4
    user_fault {mov qword ptr [rbx], rax}
    user_fault {mov rax, qword ptr [rbx+8]}
    mov ebx, USER
    user_fault {mov byte ptr [rbx], al}
    mov ebx, HEAP + 16
    user_fault {jmp rbx}
    mov ebx, USER + 0x10000000
    user_fault {mov al, byte ptr [rbx]}
    mov eax, 1
    xor edx, edx
    xor ebx, ebx
    lea rdi, [.divided]
    call_kernel SYS_RESUME
    xor edx, edx
    div ebx
.divided:
    user_fault int3
    user_fault ud2

    mov edi, USER + 0x100000    ; a pointer the kernel cannot read
    mov esi, 5
    call_kernel SYS_WRITE
    cmp rax, -14
    jne .not_refused
    user_say user_refused, user_refused_end - user_refused
.not_refused:
    call_kernel 99
    cmp rax, -38
    jne .not_unknown
    user_say user_unknown, user_unknown_end - user_unknown
.not_unknown:

    mov edi, HEAP
    mov dword ptr [rdi+0x20], 1234
    call_kernel SYS_FS
    user_say user_fs, user_fs_end - user_fs
    mov edi, dword ptr fs:[0x20]
    call_kernel SYS_NUMBER
    user_say user_newline, 1

    user_say user_compatibility, user_compatibility_end - user_compatibility
    mov edi, 70
    push USER_CODE32
    lea rax, [compatible]
    push rax
    retfq
returned:
    call_kernel SYS_NUMBER
    user_say user_newline, 1

    call_kernel SYS_TIMER
    mov rbx, 0x123456789abcdef0
    mov edx, SHARED
.spin:
    mov rax, rbx
    cmp dword ptr [rdx], 3
    jb .spin
    cmp rax, rbx
    jne .lost
    user_say user_ticks, user_ticks_end - user_ticks
.lost:
    mov edi, 42
    call_kernel SYS_EXIT

.mode 32
compatible:                     ; in 64-bit mode these would be REX prefixes
    inc edi
    inc edi
    inc edi
    dec edi
    add edi, 5
    ljmp USER_CODE:USER + returned - user_program
.mode 64

user_newline:
    .ascii "\n"
user_hello:
    .ascii "user: hello at privilege level "
user_hello_end:
user_touched:
    .ascii "user: 8 pages touched, sum "
user_touched_end:
user_demand:
    .ascii ", demand faults "
user_demand_end:
user_zero:
    .ascii "user: zero-filled\n"
user_zero_end:
user_refused:
    .ascii "user: bad pointer refused\n"
user_refused_end:
user_unknown:
    .ascii "user: unknown call refused\n"
user_unknown_end:
user_fs:
    .ascii "user: fs base "
user_fs_end:
user_compatibility:
    .ascii "user: compatibility mode "
user_compatibility_end:
user_ticks:
    .ascii "user: timer ticks arrived\n"
user_ticks_end:
user_end:

; ---- data ---------------------------------------------------------------------------------------------------

.align 16, 0
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    ; KERNEL_CODE
    .quad 0x00cf93000000ffff    ; KERNEL_DATA
    .quad 0x00cffb000000ffff    ; USER_CODE32
    .quad 0x00cff3000000ffff    ; USER_DATA
    .quad 0x00affb000000ffff    ; USER_CODE
    .quad 0x0000890000000067, 0 ; TASK: available 64-bit TSS of 104 bytes
gdtr:
    .word $ - gdt - 1
    .quad gdt
idtr:
    .word 48 * 16 - 1
    .quad idt
.align 16, 0
task:                           ; SDM vol. 3, 8.7: RSP0 at 4, IST1 at 36, I/O map base at 102
    .long 0
    .quad KERNEL_STACK, 0, 0
    .quad 0, FAULT_STACK, 0, 0, 0, 0, 0, 0
    .quad 0
    .word 0, 104
.align 8, 0
per_cpu:
    .quad KERNEL_STACK, 0       ; GS:0 and GS:8 in the kernel: its stack, the program's stack
calls:
    .quad sys_write, sys_exit, sys_resume, sys_number, sys_faults, sys_timer, sys_fs
kernel_rsp:
    .quad 0
kernel_resume:
    .quad 0
user_resume:
    .quad 0
free_frame:
    .quad FIRST_FREE_FRAME
demand_faults:
    .long 0
stubs:
    .long stub_0, stub_1, stub_2, stub_3, stub_4, stub_5, stub_6, stub_7, stub_8, stub_9, stub_10, stub_11
    .long stub_12, stub_13, stub_14, stub_15, stub_16, stub_17, stub_18, stub_19, stub_20
    .long irq_other, irq_other, irq_other, irq_other, irq_other, irq_other
    .long irq_other, irq_other, irq_other, irq_other, irq_other
    .long irq0, irq_other, irq_other, irq_other, irq_other, irq_other, irq_other, irq_other
    .long irq_other, irq_other, irq_other, irq_other, irq_other, irq_other, irq_other, irq_other

text_long:
    .asciz "kernel: long mode, "
text_high:
    .asciz "kernel: high half reads "
text_user:
    .asciz "user: "
text_kernel:
    .asciz "kernel: "
text_exception:
    .asciz "exception "
text_error:
    .asciz " error "
text_at:
    .asciz " at "
text_exited:
    .asciz "kernel: user program exited with "
text_done:
    .asciz "done\n"

.include "console64.inc"

.align 16, 0
idt:
    .space 48 * 16
