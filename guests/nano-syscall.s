; guest: nano-syscall
; summary: nanobenchmark: SYSCALL from user mode to the kernel and SYSRET back
; format: multiboot
; mode: 32
; org: 0x100000
; tags: nano
; scale: offset 32 default 2000 small 50 bench 20000
; expect:
;   begin
;   empty
;   event
;   right
; expect-small:
;   begin
;   empty
;   event
;   right

.equ COUNT, 2000
.equ divide_error, NONE
.equ page_fault, NONE
.include "nano.inc"

prepare:
    ret

; both loops run in user mode; R12 is 1 where the system call shall be made
empty_loop:
    xor r12d, r12d
    jmp to_user
event_loop:
    mov r12d, 1
to_user:                        ; EBX: rounds
    mov qword ptr [kernel_rsp], rsp
    mov ecx, user_code
    mov r11d, 2
    mov esp, USER_STACK
    sysretq

user_code:
    test r12d, r12d
    jnz .calls
.empty:
    dec ebx
    jnz .empty
    jmp .leave
.calls:
    xor eax, eax
.next:
    syscall                     ; clobbers RCX and R11
    dec ebx
    jnz .next
.leave:
    mov eax, 1
    syscall

system_call:                    ; EAX: 0 to return at once, 1 to leave user mode
    test eax, eax
    jnz .leave
    inc r15d
    sysretq
.leave:
    mov rsp, qword ptr [kernel_rsp]
    ret

check:
    cmp r15d, ebx
    ret

.align 8
kernel_rsp:
    .quad 0
