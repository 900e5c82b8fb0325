; Call gates: CALL and JMP to the same and to inner levels, parameters, and broken gates (SDM vol. 3, 5.8.3 to 5.8.5); not from level 3 to conforming code, where QEMU changes CPL
.include "env32.inc"

.equ USE, FREE                  ; the gate
.equ IOPL3, 0x3000

.macro with name, selector, attributes, body
    gate gdt + USE, \selector, target, \attributes
    try \name, {\body}
.endm
.macro with3 name, selector, attributes, body
    gate gdt + USE, \selector, target, \attributes
    user \name, IOPL3, {\body}
.endm
.macro inner name, stack
    mov dword ptr [main_tss+0x0c], STACK3 + 0x2000
    mov dword ptr [main_tss+0x10], \stack
    gate gdt + USE, FREE2, target, 0xec00
    user \name, IOPL3, {lcall USE:0}
.endm
.macro two_parameters
    push 0x11111111
    push 0x22222222
    lcall USE:0
.endm

start:
    segment FREE2, 0, 0xfffff, 0xc0bb       ; code of level 1
    segment FREE3, 0, 0xfffff, 0xc0b3       ; its stack
    segment FREE4, 0, 0xfffff, 0xc09f       ; conforming code
    segment FREE5, 0, 0xfffff, 0xc01b       ; code, not present
    with "CALL at the same level", CODE, 0x8c00, {lcall USE:0x12345678}
    with "CALL with parameters at the same level", CODE, 0x8c02, {two_parameters}
    with "CALL with RPL 3 through a gate of DPL 0", CODE, 0x8c00, {lcall USE + 3:0}
    with "CALL to conforming code", FREE4, 0x8c00, {lcall USE:0}
    with "CALL to outer code", CODE3, 0x8c00, {lcall USE:0}
    with "JMP at the same level", CODE, 0x8c00, {ljmp USE:0}
    with "JMP to outer code", CODE3, 0x8c00, {ljmp USE:0}
    with "gate not present", CODE, 0x0c00, {lcall USE:0}
    with "gate not present by JMP", CODE, 0x0c00, {ljmp USE:0}
    with "to nothing", 0, 0x8c00, {lcall USE:0}
    with "to data", DATA, 0x8c00, {lcall USE:0}
    with "to a TSS", MAIN, 0x8c00, {lcall USE:0}
    with "to code not present", FREE5, 0x8c00, {lcall USE:0}
    with "beyond the GDT", 0x80, 0x8c00, {lcall USE:0}
    with "an interrupt gate", CODE, 0x8e00, {lcall USE:0}
    with "a trap gate by JMP", CODE, 0x8f00, {ljmp USE:0}
    with3 "level 3: CALL, DPL 0", CODE, 0x8c00, {lcall USE:0}
    with3 "level 3: CALL, RPL 0, DPL 2", CODE, 0xcc00, {lcall USE:0}
    with3 "level 3: CALL inwards", CODE, 0xec00, {lcall USE:0}
    with3 "level 3: CALL inwards with RPL 3", CODE, 0xec00, {lcall USE + 3:0}
    with3 "level 3: CALL with parameters", CODE, 0xec02, {two_parameters}
    with3 "level 3: JMP inwards", CODE, 0xec00, {ljmp USE:0}
    with3 "level 3: CALL to level 3", CODE3, 0xec00, {lcall USE:0}
    with3 "level 3: JMP to level 3", CODE3, 0xec00, {ljmp USE:0}
    with3 "level 3: gate not present", CODE, 0x6c00, {lcall USE:0}
    segment FREE6, target16, 0xfffff, 0xc09b
    mov dword ptr [gdt+USE], FREE6 << 16
    mov dword ptr [gdt+USE+4], 0xe402
    user "level 3: 16-bit gate", IOPL3, {two_parameters}
    try "16-bit gate at the same level", {lcall USE:0}
    inner "level 1", FREE3 + 1
    inner "its stack null", 0
    inner "its stack of level 0", DATA
    inner "its stack with RPL 0", FREE3
    inner "its stack beyond the GDT", 0x81
    jmp finish

target16:                       ; the base of FREE6
    ljmp CODE:target

; What a gate led to: CS, SS, ESP and what lies on the stack
target:
    mov ebx, esp
    mov ecx, 6
    push ss
    pop ds
    mov eax, cs
    show eax
    mov eax, ss
    show eax
    show ebx
.next:
    mov eax, dword ptr [ebx]
    add ebx, 4
    show eax
    loop .next
    mov eax, cs
    test al, 3
    jnz .outer
    mov esp, dword ptr [resume_esp]
    call flat_segments
    newline
    jmp dword ptr [resume]
.outer:
    newline
    int LEAVE
