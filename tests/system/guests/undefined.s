; Undefined instructions: UD2, LOCK where it is not allowed, reserved opcodes and forms, 15-byte instructions (SDM vol. 2, LOCK, UD, appendix A; vol. 3, 6.15, #UD); no LOCK of MOV, TEST, shifts, BT, MUL, PUSH and no 8F /1, C6 /1, which QEMU accepts
.include "env32.inc"

.macro bytes2 a, b
    .byte \a, \b
    .byte 0x90, 0x90
.endm
.macro bytes3 a, b, c
    .byte \a, \b, \c
    .byte 0x90, 0x90
.endm
.macro bytes4 a, b, c, d
    .byte \a, \b, \c, \d
    .byte 0x90, 0x90
.endm
.macro long_prefix count
    .space \count, 0x66
    .byte 0x90
.endm
.macro long_seg count
    .space \count, 0x2e
    mov eax, 0x12345678
.endm

start:
    mov ebx, data
    mov ecx, 0
    try "UD2", {ud2}
    try "UD1", {bytes3 0x0f, 0xb9, 0xc0}
    try "LOCK ADD to memory", {bytes3 0xf0, 0x01, 0x0b}
    try "LOCK ADD to a register", {bytes3 0xf0, 0x01, 0xc3}
    try "LOCK ADD from memory", {bytes3 0xf0, 0x03, 0x0b}
    try "LOCK CMP", {bytes3 0xf0, 0x39, 0x0b}
    try "LOCK XCHG", {bytes3 0xf0, 0x87, 0x0b}
    try "LOCK NOP", {bytes2 0xf0, 0x90}
    try "LOCK BTS", {bytes4 0xf0, 0x0f, 0xab, 0x0b}
    try "LOCK NOT", {bytes3 0xf0, 0xf7, 0x13}
    try "LOCK INC", {bytes3 0xf0, 0xff, 0x03}
    try "LOCK XADD", {bytes4 0xf0, 0x0f, 0xc1, 0x0b}
    try "LOCK CMPXCHG", {bytes4 0xf0, 0x0f, 0xb1, 0x0b}
    try "LEA of a register", {bytes2 0x8d, 0xc0}
    try "LES of a register", {bytes2 0xc4, 0xc0}
    try "MOV to CS", {bytes2 0x8e, 0xc8}
    try "MOV to segment register 6", {bytes2 0x8e, 0xf0}
    try "MOV from segment register 7", {bytes2 0x8c, 0xf8}
    try "FE /2", {bytes2 0xfe, 0xd0}
    try "FF /7", {bytes2 0xff, 0xf8}
    try "FF /3 of a register", {bytes2 0xff, 0xd8}
    try "FF /5 of a register", {bytes2 0xff, 0xe8}
    try "0F 01 /5 with memory", {bytes3 0x0f, 0x01, 0x2b}
    try "0F 00 /6", {bytes3 0x0f, 0x00, 0xf3}
    try "0F BA /0", {bytes4 0x0f, 0xba, 0xc0, 1}
    try "0F 04", {bytes2 0x0f, 0x04}
    try "0F 0A", {bytes2 0x0f, 0x0a}
    try "0F 24", {bytes3 0x0f, 0x24, 0xc0}
    try "0F 36", {bytes2 0x0f, 0x36}
    try "0F FF", {bytes3 0x0f, 0xff, 0xc0}
    try "CMPXCHG8B of a register", {bytes3 0x0f, 0xc7, 0xc8}
    try "SYSCALL outside long mode", {bytes2 0x0f, 0x05}
    try "SWAPGS", {bytes3 0x0f, 0x01, 0xf8}
    try "RSM", {bytes2 0x0f, 0xaa}
    try "VMCALL", {bytes3 0x0f, 0x01, 0xc1}
    try "XGETBV", {bytes3 0x0f, 0x01, 0xd0}
    try "15 bytes", {long_prefix 14}
    try "16 bytes", {long_prefix 15}
    try "10 prefixes and 5 bytes", {long_seg 10}
    try "11 prefixes and 5 bytes", {long_seg 11}
    user "UD2 at level 3", 0, {ud2}
    user "LOCK NOP at level 3", 0, {bytes2 0xf0, 0x90}
    jmp finish

data:
    .long 0, 0, 0, 0
