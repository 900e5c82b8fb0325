; Addresses that are not canonical (SDM vol. 1, 3.3.7.1; vol. 3, 6.15, #GP and #SS)
.include "env64.inc"

start:
    mov rbx, 0x0000800000000000
    mov r8, 0x00007ffffffffffc
    mov r9, 0xffff7fffffffffff
    mov r10, 0x8000000000000000
    try "load", {mov rax, qword ptr [rbx]}
    try "store", {mov byte ptr [rbx], al}
    try "the last below", {mov al, byte ptr [r9]}
    try "top bit", {mov al, byte ptr [r10]}
    try "read and write", {inc dword ptr [rbx]}
    try "index", {mov rax, qword ptr [rbx+rbx*2]}
    try "LEA", {lea rax, [rbx]}
    try "LODSQ", {call .string}
    try "INVLPG", {invlpg [rbx]}
    try "PREFETCH", {prefetcht0 [rbx]}
    try "32-bit address", {mov eax, dword ptr [ebx]}
    try "SSE load", {movups xmm0, xmmword ptr [rbx]}
    try "x87 load", {fld qword ptr [rbx]}
    try "CMPXCHG8B", {cmpxchg8b qword ptr [rbx]}
    try "XCHG", {xchg rax, qword ptr [rbx]}
    user "load at level 3", 0, {mov rax, qword ptr [rbx]}
    call finish

.string:
    mov rsi, rbx
    lodsq
    ret
