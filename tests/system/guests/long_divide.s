; Divide errors and instructions that 64-bit mode has not (SDM vol. 3, 6.15, #DE; vol. 2, "64-bit mode: invalid")
.include "env64.inc"

start:
    xor ebx, ebx
    try2 "DIV by zero", {mov eax, 1}, {div ebx}
    try3 "DIV r64 too large", {mov rdx, 5}, {mov rcx, 5}, {div rcx}
    try3 "DIV r64", {mov rdx, 4}, {mov rcx, 5}, {div rcx}
    try3 "IDIV r8 too large", {mov eax, 0x4000}, {mov cl, 1}, {idiv cl}
    try3 "IDIV r64 negative", {mov rax, -100}, {cqo}, {idiv rbx}
    mov rax, -100
    cqo
    mov ecx, 7
    idiv rcx
    show64 rax
    show64 rdx
    newline
    try "PUSH ES", {.byte 0x06}
    try "POP SS", {.byte 0x17}
    try "DAA", {.byte 0x27}
    try "AAM", {.byte 0xd4, 0x0a}
    try "PUSHA", {.byte 0x60}
    try "BOUND or EVEX", {.byte 0x62, 0x00}
    try "group 1 alias 82", {.byte 0x82, 0xc0, 0x01}
    try "far CALL", {.byte 0x9a, 0, 0, 0, 0, 8, 0}
    try "far JMP", {.byte 0xea, 0, 0, 0, 0, 8, 0}
    try "INTO", {.byte 0xce}
    try "SALC", {.byte 0xd6}
    user "DIV by zero at level 3", 0, {div ebx}
    user "HLT at level 3", 0, {hlt}
    call finish
