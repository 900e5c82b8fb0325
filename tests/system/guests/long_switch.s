; Address spaces with few pages in the lower half, whose upper halves are alike or not: what a load of CR3 must forget
.include "env64.inc"

.equ HIGH, 0xffff800000000000   ; the first GiB again, in every space
.equ FAR, 0xffff960000001000    ; a page by the root's slot 300, of which each space has its own idea
.equ NEW, 0xffff968000001000    ; one by slot 301
.equ LOW, 0x207000              ; a page table for the first 2 MiB, which all spaces share
.equ X, PAGES + 0x1000
.equ Y, PAGES + 0x2000
.equ A, 0x210000                ; the spaces: root, PDPT, directory and page table each, ...
.equ B, 0x220000
.equ C, 0x230000
.equ FAR1, 0x240000             ; ... PDPT, directory and page table for what slot 300 may lead to
.equ FAR2, 0x250000
.equ FRAMES, 0x700000

.macro enter space
    mov eax, \space
    mov cr3, rax
.endm

.macro look name, where
    try \name, {mov eax, dword ptr [\where]}
    show eax
    newline
.endm

.macro distant name, where
    mov rsi, \where
    try \name, {mov eax, dword ptr [rsi]}
    show eax
    newline
.endm

start:
    mov edi, A
    mov ecx, 0x60000 / 4
    xor eax, eax
    rep stosd
    mov edi, LOW
    mov eax, 7
    mov ecx, 512
.low:
    mov qword ptr [rdi], rax
    add eax, 0x1000
    add edi, 8
    loop .low
    mov edi, FRAMES             ; 512 pages with their numbers
    xor ecx, ecx
.frame:
    mov dword ptr [rdi], ecx
    add edi, 0x1000
    inc ecx
    cmp ecx, 512
    jb .frame
    mov edi, A
.space:
    lea eax, [rdi+0x1007]
    mov qword ptr [rdi], rax
    mov qword ptr [rdi+8*256], PDPT + 7
    lea eax, [rdi+0x2007]
    mov qword ptr [rdi+0x1000], rax
    mov qword ptr [rdi+0x2000], LOW + 7
    lea eax, [rdi+0x3007]
    mov qword ptr [rdi+0x2000+8*3], rax
    add edi, 0x10000
    cmp edi, C
    jbe .space
    mov qword ptr [A+0x3008], FRAMES + 0x1007
    mov qword ptr [B+0x3008], FRAMES + 0x2007
    mov rbx, HIGH

    mov r14d, 3
.round:
    say "round\n"
    enter A
    look "A", X
    enter B
    look "B", X
    enter C
    look "C", X
    dec r14d
    jnz .round

    mov qword ptr [rbx+B+0x3008], FRAMES + 0x3007
    enter B
    look "B, mapped elsewhere while away", X
    mov qword ptr [rbx+A+0x3008], FRAMES + 0x4007
    enter A
    look "A, likewise", X
    mov qword ptr [rbx+A+0x3008], FRAMES + 0x5007
    enter B
    enter A
    look "A, mapped elsewhere before it was left", X
    mov qword ptr [rbx+A+0x3008], 0
    enter C
    enter A
    look "A, taken away", X
    mov qword ptr [rbx+A+0x3008], FRAMES + 0x6007
    look "A, given back", X
    mov qword ptr [rbx+LOW+8*0x1f0], FRAMES + 0x8007
    look "a page of all spaces", 0x1f0000
    enter B
    mov qword ptr [rbx+LOW+8*0x1f0], FRAMES + 0x9007
    enter A
    look "elsewhere", 0x1f0000

    xor ebp, ebp                ; as a kernel patches its code through a space of its own
    xor r12d, r12d
.patch:
    mov eax, ebp
    shl eax, 12
    lea eax, [rax+FRAMES+7]
    mov qword ptr [rbx+C+0x3010], rax
    enter C
    add dword ptr [Y], ebp
    mov qword ptr [rbx+C+0x3010], 0
    enter A
    mov eax, ebp
    shl eax, 12
    add r12d, dword ptr [rbx+rax+FRAMES]
    inc ebp
    cmp ebp, 512
    jb .patch
    show r12d
    newline
    enter C
    look "nothing is left of it", Y

    mov qword ptr [rbx+A+8*300], FAR1 + 7
    mov qword ptr [rbx+FAR1], FAR1 + 0x1007
    mov qword ptr [rbx+FAR1+0x1000], FAR1 + 0x2007
    mov qword ptr [rbx+FAR1+0x2008], FRAMES + 0x11007
    mov qword ptr [rbx+B+8*300], FAR2 + 7
    mov qword ptr [rbx+FAR2], FAR2 + 0x1007
    mov qword ptr [rbx+FAR2+0x1000], FAR2 + 0x2007
    mov qword ptr [rbx+FAR2+0x2008], FRAMES + 0x12007
    mov r14d, 3                 ; the upper halves differ
.far_round:
    say "round\n"
    enter A
    distant "A far", FAR
    enter B
    distant "B far", FAR
    enter C
    distant "C far", FAR
    dec r14d
    jnz .far_round
    mov qword ptr [rbx+FAR1+0x2008], FRAMES + 0x13007
    enter A
    distant "A, mapped elsewhere while away", FAR
    enter B
    mov qword ptr [rbx+A+8*300], FAR2 + 7
    enter A
    distant "A by the tables of B", FAR
    mov qword ptr [rbx+FAR2+0x2008], FRAMES + 0x14007
    enter B
    distant "B after A changed them", FAR
    mov qword ptr [rbx+B+8*300], 0
    enter A
    distant "A, which still has them", FAR
    enter B
    distant "B, which has not", FAR

    mov qword ptr [rbx+A+8*301], FAR1 + 7
    enter A
    distant "A has more", NEW
    enter C
    distant "C has not", NEW
    mov qword ptr [rbx+C+8*301], FAR1 + 7
    distant "C has it too", NEW
    enter A
    mov qword ptr [rbx+FAR1+0x2008], 0
    enter C
    distant "C after A took it away", NEW
    enter A
    distant "A", NEW

    mov ebp, 64                 ; many pages: all are forgotten
.fill:
    mov eax, ebp
    shl eax, 12
    lea ecx, [rax+FRAMES+7]
    mov qword ptr [rbx+A+0x3000+rbp*8], rcx
    lea ecx, [rax+FRAMES+0x64007]
    mov qword ptr [rbx+B+0x3000+rbp*8], rcx
    dec ebp
    jnz .fill
    mov r13d, 4
.switch:
    enter A
    call sum
    enter B
    call sum
    dec r13d
    jnz .switch
    call finish

sum:
    xor r12d, r12d
    mov ecx, 64
.page:
    mov eax, ecx
    shl eax, 12
    add r12d, dword ptr [rax+PAGES]
    loop .page
    show r12d
    newline
    ret
