; IRETQ: what it checks and restores (SDM vol. 2, IRET)
.include "env64.inc"


.macro bad name, cs, flags, ss
    arm \name, .resume\@
    push \ss
    push STACK3
    push \flags
    push \cs
    push .there\@
    iretq
.there\@:
    int LEAVE
.resume\@:
    mov qword ptr [resume], 0
.endm

start:
    bad "to level 3", CODE3+3, 2, DATA3+3
    bad "same level", CODE, 2, DATA
    bad "same level, null SS", CODE, 2, 0
    bad "null CS", 0, 2, DATA
    bad "CS beyond the table", 0xff8, 2, DATA
    bad "CS data", DATA, 2, DATA
    bad "CS RPL 3 of DPL 0", CODE+3, 2, DATA3+3
    bad "CS RPL 0 of DPL 3", CODE3, 2, DATA
    bad "SS null at level 3", CODE3+3, 2, 0
    bad "SS of the wrong RPL", CODE3+3, 2, DATA3
    bad "SS of the wrong DPL", CODE3+3, 2, DATA+3
    bad "SS code", CODE3+3, 2, CODE3+3
    bad "32-bit null SS at level 3", CODE3_32+3, 2, 0
    mov qword ptr [gdt+FREE], 0
    mov dword ptr [gdt+FREE], 0xffff
    mov dword ptr [gdt+FREE+4], 0x00af7b00
    bad "CS not present", FREE+3, 2, DATA3+3
    mov dword ptr [gdt+FREE+4], 0x00af9f00
    bad "conforming CS at level 3", FREE+3, 2, DATA3+3
    bad "with NT in the image", CODE, 0x4002, DATA
    arm "with NT set", .nested
    pushfq
    or dword ptr [rsp], 0x4000
    popfq
    iretq
.nested:
    mov qword ptr [resume], 0
    push 2
    popfq
    say "flags at level 3: "
    bad "all", CODE3+3, 0x3ed7, DATA3+3
    call finish
