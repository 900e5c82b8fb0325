; The accessed and dirty bits of all four levels, also of the levels above the one at which a walk ends in a fault (SDM vol. 3, 4.8)
.include "env64.inc"

.equ PML4E, PML4 + 8*1          ; of the addresses from 8000000000h on
.equ PDPTE, 0x204000            ; their tables
.equ PDE, 0x205000
.equ PTE, 0x206000
.equ TESTS, 0x8000000000

.macro bits name, e4, e3, e2, e1, body
    mov qword ptr [PML4E], \e4
    mov qword ptr [PDPTE], \e3
    mov qword ptr [PDE], \e2
    mov qword ptr [PTE], \e1
    mov rax, cr3
    mov cr3, rax
    movabs rbx, TESTS
    try \name, {\body}
    call tell
.endm
.macro forbidden name, body
    mov qword ptr [PML4E], PDPTE + 7
    mov qword ptr [PDPTE], PDE + 7
    mov qword ptr [PDE], PTE + 7
    mov rax, cr3
    mov cr3, rax
    movabs rbx, TESTS
    user \name, 0, {\body}
    call tell
.endm

start:
    mov rax, cr0
    or eax, 0x10000             ; WP
    mov cr0, rax
    mov byte ptr [PAGES], 0xc3
    bits "read", PDPTE + 7, PDE + 7, PTE + 7, PAGES + 7, {mov al, byte ptr [rbx]}
    bits "write", PDPTE + 7, PDE + 7, PTE + 7, PAGES + 7, {mov byte ptr [rbx+1], al}
    bits "execute", PDPTE + 7, PDE + 7, PTE + 7, PAGES + 7, {call rbx}
    bits "no page", PDPTE + 7, PDE + 7, PTE + 7, 6, {mov al, byte ptr [rbx]}
    bits "no table", PDPTE + 7, PDE + 7, 6, PAGES + 7, {mov al, byte ptr [rbx]}
    bits "no directory", PDPTE + 7, 6, PTE + 7, PAGES + 7, {mov al, byte ptr [rbx]}
    bits "nothing", 6, PDE + 7, PTE + 7, PAGES + 7, {mov al, byte ptr [rbx]}
    bits "a read-only page", PDPTE + 7, PDE + 7, PTE + 7, PAGES + 5, {mov byte ptr [rbx], al}
    bits "a read-only directory", PDPTE + 7, PDE + 5, PTE + 7, PAGES + 7, {mov byte ptr [rbx], al}
    bits "a larger page", PDPTE + 7, PDE + 7, 0x600087, PAGES + 7, {mov byte ptr [rbx+1], al}
    bits "a larger page, read-only", PDPTE + 7, PDE + 7, 0x600085, PAGES + 7, {mov byte ptr [rbx+1], al}
    mov qword ptr [PTE], PAGES + 3
    forbidden "level 3", {mov al, byte ptr [rbx]}
    mov qword ptr [PTE], PAGES + 7
    forbidden "level 3, allowed", {mov al, byte ptr [rbx]}
    movabs rcx, 0x8000000000600007
    mov qword ptr [PTE], rcx
    forbidden "not executable", {call rbx}
    call finish

tell:
    show64 qword ptr [PML4E]
    show64 qword ptr [PDPTE]
    show64 qword ptr [PDE]
    show64 qword ptr [PTE]
    newline
    ret
