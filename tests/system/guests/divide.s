; Divide errors: DIV, IDIV and AAM by zero and with quotients at and beyond the range (SDM vol. 2, DIV, IDIV, AAM; vol. 3, 6.15, #DE); not of the least number by -1, which ends QEMU
.include "env32.inc"

; Divides EDX:EAX with ECX as operand; EAX and EDX behind it, or at the fault
.macro divide name, high, low, by, instruction
    mov edx, \high
    mov eax, \low
    mov ecx, \by
    arm \name, .resume\@
    \instruction
    show eax
    show edx
    say "done\n"
.resume\@:
    call after_fault
.endm

start:
    divide "DIV r8 by 0", 0, 0x1234, 0, {div cl}
    divide "DIV r8 of 255 and 254 over", 0, 0xffff, 0, {div ch}
    divide "DIV r8, largest", 0, 0xfeff, 0xff, {div cl}
    divide "DIV r8, one more", 0, 0xff00, 0xff, {div cl}
    divide "DIV r16 by 0", 0x11, 0x22, 0x10000, {div cx}
    divide "DIV r16, largest", 0x5554, 0xffff, 0x5555, {div cx}
    divide "DIV r16, one more", 0x5555, 0, 0x5555, {div cx}
    divide "DIV r32 by 0", 1, 2, 0, {div ecx}
    divide "DIV r32, largest", 0x7fffffff, 0xffffffff, 0x80000000, {div ecx}
    divide "DIV r32, one more", 0x80000000, 0, 0x80000000, {div ecx}
    divide "IDIV r8 by 0", 0, 0x7f, 0, {idiv cl}
    divide "IDIV r8, -128", 0, 0xff80, 1, {idiv cl}
    divide "IDIV r8, -129", 0, 0xff7f, 1, {idiv cl}
    divide "IDIV r8, 128", 0, 0xff80, 0xff, {idiv cl}
    divide "IDIV r8 of -32768 by -1", 0, 0x8000, 0xff, {idiv cl}
    divide "IDIV r16, -32768", 0xffff, 0x8000, 1, {idiv cx}
    divide "IDIV r16 of -32768 by -1", 0xffff, 0x8000, 0xffff, {idiv cx}
    divide "IDIV r32, remainder negative", 0xffffffff, 0xfffffff9, 3, {idiv ecx}
    divide "IDIV r32, divisor negative", 0, 7, 0xfffffffd, {idiv ecx}
    divide "IDIV r32 of -2147483648 by -1", 0xffffffff, 0x80000000, 0xffffffff, {idiv ecx}
    divide "IDIV r32 of one more than the least", 0x80000000, 1, 0xffffffff, {idiv ecx}
    divide "DIV of memory by 0", 5, 6, 7, {div dword ptr [zero]}
    divide "IDIV of memory by 0", 5, 6, 7, {idiv word ptr [zero]}
    divide "AAM", 0, 0x12345663, 0, {aam}
    divide "AAM 0", 0, 0x12345663, 0, {.byte 0xd4, 0}
    divide "AAM 16", 0, 0x1234565c, 0, {.byte 0xd4, 16}
    divide "AAD 0", 0, 0x12340203, 0, {.byte 0xd5, 0}
    user "DIV at level 3", 0, {div dword ptr [zero]}
    jmp finish

after_fault:
    cmp dword ptr [resume], 0
    mov dword ptr [resume], 0
    je .none
    show_fault R_EAX
    show_fault R_EDX
    show_fault R_ECX
    newline
.none:
    ret

zero:
    .long 0
