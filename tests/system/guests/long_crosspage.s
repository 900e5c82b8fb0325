; Accesses across a page boundary of which one half faults: address, error code, nothing done (SDM vol. 3, 4.7; vol. 1, 3.6)
.include "env64.inc"

.macro before
    mov rax, 0x1122334455667788
    mov dword ptr [PAGES+0xffc], 0x5a5a5a5a
.endm
.macro after
    show {dword ptr [PAGES+0xffc]}
    show64 rax
    newline
.endm
.macro half name, body
    before
    try \name, {\body}
    after
.endm
.macro half_user name, body
    before
    user \name, 0, {\body}
    after
.endm

.macro cases
    mov edi, PAGES + 0xffc
    half "load", {mov rax, qword ptr [rdi]}
    half "store", {mov qword ptr [rdi], rax}
    half_user "store at level 3", {mov qword ptr [rdi], rax}
.endm

start:
    page 1, 0
    say "second absent\n"
    cases
    page 1, PRESENT
    say "second the supervisor's\n"
    half_user "load at level 3", {mov rax, qword ptr [rdi]}
    half_user "store at level 3", {mov qword ptr [rdi], rax}
    page 1, PRESENT+WRITABLE+USER
    say "both there\n"
    cases
    page 1, 0
    arm "PUSH", .pushed
    mov ebx, PAGES + 0x1004
    to_user 0, .user
.user:
    mov rsp, rbx
    push rbx
    int LEAVE
.pushed:
    mov qword ptr [resume], 0
    call finish
