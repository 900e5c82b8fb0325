; Accessed and dirty bits of every level (SDM vol. 3, 4.8)
.include "env64.inc"

.macro bits name
    say \name
    say ": "
    show {dword ptr [PML4+8]}
    show {dword ptr [0x205000]}
    show {dword ptr [0x206000]}
    show {dword ptr [0x207000]}
    show {dword ptr [0x207008]}
    newline
.endm
.macro clear
    and byte ptr [PML4+8], 0x9f
    and byte ptr [0x205000], 0x9f
    and byte ptr [0x206000], 0x9f
    and byte ptr [0x207000], 0x9f
    and byte ptr [0x207008], 0x9f
    mov rax, cr3
    mov cr3, rax
.endm

start:
    mov edi, 0x205000
    xor eax, eax
    mov ecx, 0x600
    rep stosq
    mov dword ptr [PML4+8], 0x205007        ; 8000000000h
    mov dword ptr [0x205000], 0x206007
    mov dword ptr [0x206000], 0x207007
    mov dword ptr [0x206008], 0x600087      ; a page of 2 MiB
    mov dword ptr [0x207000], PAGES + 7
    mov dword ptr [0x207008], PAGES + 0x1007
    mov rbx, 0x8000000000
    bits "untouched"
    mov eax, dword ptr [rbx]
    bits "read"
    mov dword ptr [rbx+0x1000], eax
    bits "written"
    clear
    bits "cleared"
    lock add dword ptr [rbx], 0
    bits "read and written"
    clear
    mov dword ptr [rbx+0xffe], 0
    bits "across both pages"
    clear
    invlpg [rbx]
    prefetcht0 [rbx]
    mov al, byte ptr [rbx+0x1fff]
    bits "the second alone"
    mov byte ptr [0x207000], 5
    clear
    mov rax, cr0
    or eax, 0x10000
    mov cr0, rax
    try "write to a read-only page", {mov dword ptr [rbx], eax}
    show {dword ptr [0x207000]}
    show {dword ptr [0x206008]}
    newline
    mov eax, dword ptr [rbx+0x201000]
    show {dword ptr [0x206008]}
    mov dword ptr [rbx+0x201000], eax
    show {dword ptr [0x206008]}
    newline
    clear
    mov dword ptr [rbx+0x1000], 0x40        ; an entry that is written through another mapping
    bits "written once more"
    call finish
