; guest: nano
; summary: nanobenchmarks as a Linux program, for the bare CPU, or for a virtual one as /init
; format: elf
; mode: 64
; org: 0x400000
; tags: nano
; note: the counts of rounds lie at the program's start, in the order of the tests, and behind them
;   how often all are run; 0 leaves a test out
; expect:
;   begin call-ret
;   empty call-ret
;   event call-ret
;   begin store
;   empty store
;   event store
;   begin syscall
;   empty syscall
;   event syscall
;   begin divzero
;   empty divzero
;   event divzero
;   begin pgfault
;   empty pgfault
;   event pgfault
;   begin fork
;   empty fork
;   event fork
;   begin switch
;   empty switch
;   event switch
;   nano: right

; system calls (arch/x86/entry/syscalls/syscall_64.tbl); RAX: number, clobbers RCX and R11
.equ SYS_READ, 0
.equ SYS_WRITE, 1
.equ SYS_MMAP, 9
.equ SYS_SIGACTION, 13
.equ SYS_SIGRETURN, 15
.equ SYS_PIPE, 22
.equ SYS_FORK, 57
.equ SYS_EXIT, 60
.equ SYS_WAIT, 61
.equ SYS_SET_AFFINITY, 203
.equ SYS_GET_AFFINITY, 204
.equ NO_CALL, 1000              ; answered with -ENOSYS

.equ SIGFPE, 8
.equ SIGSEGV, 11
.equ SA_FLAGS, 0x44000004       ; SA_NODEFER, SA_RESTORER, SA_SIGINFO
.equ RIP_IN_CONTEXT, 168        ; of a ucontext_t: uc_mcontext.gregs[REG_RIP]

; run a system call with up to three arguments in place
.macro call_linux number
    mov eax, \number
    syscall
.endm

; begin a test: EBX gets its rounds; go to the next one where there are none
.macro begin name, next
    mov ebx, dword ptr [count_\name]
    test ebx, ebx
    jz \next
    lea rsi, [begin_\name]
    mov edx, end_\name - begin_\name
    call tell_begin
.endm

.macro empty name
    lea rsi, [begin_\name]
    mov edx, end_\name - begin_\name
    call tell_empty
    mov ebx, dword ptr [count_\name]
.endm

.macro event name
    lea rsi, [begin_\name]
    mov edx, end_\name - begin_\name
    call tell_event
.endm

.macro name_of name, text
begin_\name:
    .ascii \text
    .byte 10
end_\name:
.endm

_start:
    jmp main
.align 8
count_callret:                  ; at offset 8 of the program
    .long 2000
count_store:
    .long 2000
count_syscall:
    .long 2000
count_divzero:
    .long 200
count_pgfault:
    .long 200
count_fork:
    .long 20
count_switch:                   ; an even number
    .long 200
passes:                         ; how often all tests are run
    .long 1

main:
    call stay_on_one_cpu
    mov edi, SIGFPE
    call set_handler
    mov edi, SIGSEGV
    call set_handler

pass:
    begin callret, .store
    call idle
    empty callret
.callret:                       ; eight times a round: once alone is lost in what the loop costs
    call leaf
    call leaf
    call leaf
    call leaf
    call leaf
    call leaf
    call leaf
    call leaf
    dec ebx
    jnz .callret
    event callret

.store:
    begin store, .syscall
    call idle
    empty store
    mov eax, 1
.stores:                        ; eight times, too
    mov qword ptr [scratch], rax
    mov qword ptr [scratch], rbx
    mov qword ptr [scratch], rax
    mov qword ptr [scratch], rbx
    mov qword ptr [scratch], rax
    mov qword ptr [scratch], rbx
    mov qword ptr [scratch], rax
    mov qword ptr [scratch], rbx
    dec ebx
    jnz .stores
    event store

.syscall:
    begin syscall, .divzero
    call idle
    empty syscall
.syscalls:
    call_linux NO_CALL
    dec ebx
    jnz .syscalls
    event syscall

.divzero:
    begin divzero, .pgfault
    call idle
    empty divzero
    xor r12d, r12d
    xor ecx, ecx
.divisions:
    div ecx
    dec ebx
    jnz .divisions
    event divzero
    cmp r12d, dword ptr [count_divzero]
    jne wrong

.pgfault:
    begin pgfault, .fork
    call idle
    empty pgfault
    xor r12d, r12d
    xor esi, esi                ; nothing is mapped at 0
.faults:
    mov al, byte ptr [rsi]
    dec ebx
    jnz .faults
    event pgfault
    cmp r12d, dword ptr [count_pgfault]
    jne wrong

.fork:
    begin fork, .switch
    call idle
    empty fork
.forks:
    call_linux SYS_FORK
    test eax, eax
    js wrong
    jz exit
    mov edi, eax
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    call_linux SYS_WAIT
    test eax, eax
    js wrong
    dec ebx
    jnz .forks
    event fork

.switch:                        ; two processes pass a byte to and fro; without a switch, one passes it to itself
    lea rdi, [there]
    call_linux SYS_PIPE
    lea rdi, [back]
    call_linux SYS_PIPE
    begin switch, right
.alone:
    mov edi, dword ptr [there + 4]
    call write_byte
    mov edi, dword ptr [there]
    call read_byte
    dec ebx
    jnz .alone
    empty switch
    shr ebx, 1                  ; rounds of two switches each
    call_linux SYS_FORK
    test eax, eax
    js wrong
    jz .other
.there:
    mov edi, dword ptr [there + 4]
    call write_byte
    mov edi, dword ptr [back]
    call read_byte
    dec ebx
    jnz .there
    event switch
    jmp right
.other:
    mov edi, dword ptr [there]
    call read_byte
    mov edi, dword ptr [back + 4]
    call write_byte
    dec ebx
    jnz .other
    jmp exit

right:
    dec dword ptr [passes]
    jnz pass
    lea rsi, [text_right]
    mov edx, 12
    call tell
exit:
    xor edi, edi
    call_linux SYS_EXIT
wrong:
    lea rsi, [text_wrong]
    mov edx, 12
    call tell
    mov edi, 1
    call_linux SYS_EXIT

idle:                           ; EBX: rounds of a loop without an event
    dec ebx
    jnz idle
leaf:
    ret

write_byte:                     ; EDI: descriptor
    lea rsi, [scratch]
    mov edx, 1
    call_linux SYS_WRITE
    cmp eax, 1
    jne wrong
    ret

read_byte:                      ; EDI: descriptor
    lea rsi, [scratch]
    mov edx, 1
    call_linux SYS_READ
    cmp eax, 1
    jne wrong
    ret

; a mark and the name behind it (RSI, EDX) as one line, in one piece
tell_begin:
    lea rdi, [text_begin]
    jmp tell_mark
tell_empty:
    lea rdi, [text_empty]
    jmp tell_mark
tell_event:
    lea rdi, [text_event]
tell_mark:
    mov rax, qword ptr [rdi]
    mov qword ptr [line], rax
    lea rdi, [line + 6]
    mov ecx, edx
    rep movsb
    lea rsi, [line]
    add edx, 6
tell:                           ; RSI: text, EDX: length
    mov edi, 1
    call_linux SYS_WRITE
    ret

set_handler:                    ; EDI: signal
    lea rsi, [action]
    xor edx, edx
    mov r10d, 8
    call_linux SYS_SIGACTION
    ret

skip:                           ; RDX: context; R12 is not changed by a signal's return, so it counts in the context
    add qword ptr [rdx+RIP_IN_CONTEXT], 2
    inc dword ptr [rdx+RIP_IN_CONTEXT-96]   ; gregs[REG_R12]
    ret
restore:
    call_linux SYS_SIGRETURN

stay_on_one_cpu:                ; the first one this process may use, as for every other program of a benchmark
    xor edi, edi
    mov esi, 128
    lea rdx, [cpus]
    call_linux SYS_GET_AFFINITY
    test eax, eax
    js .done
    lea rdi, [cpus]
.find:
    mov rax, qword ptr [rdi]
    test rax, rax
    jnz .found
    add rdi, 8
    jmp .find
.found:
    mov rcx, rax
    neg rcx
    and rax, rcx                ; its lowest bit
    mov rcx, rdi
    lea rdi, [cpus]
    mov r8, rax
    xor eax, eax
    mov rsi, rcx
    mov ecx, 16
    rep stosq
    mov qword ptr [rsi], r8
    xor edi, edi
    mov esi, 128
    lea rdx, [cpus]
    call_linux SYS_SET_AFFINITY
.done:
    ret

.align 8
action:                         ; struct sigaction as the kernel has it
    .quad skip
    .quad SA_FLAGS
    .quad restore
    .quad 0
scratch:
    .quad 0
there:                          ; descriptors to read and to write
    .quad 0
back:
    .quad 0
cpus:
    .space 128
line:
    .space 64
text_begin:
    .ascii "begin \0\0"
text_empty:
    .ascii "empty \0\0"
text_event:
    .ascii "event \0\0"
text_right:
    .ascii "nano: right\n"
text_wrong:
    .ascii "nano: wrong\n"
    name_of callret, "call-ret"
    name_of store, "store"
    name_of syscall, "syscall"
    name_of divzero, "divzero"
    name_of pgfault, "pgfault"
    name_of fork, "fork"
    name_of switch, "switch"
